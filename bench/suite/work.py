"""What the adapters share: the task, measuring, and the ways of offering load."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eda._codec import encode_event
from eda._data import Bytes
from eda._event import Event
from eda._nuid import next_nuid
from suite.pace import Pace

__all__ = [
    "AT_ONCE",
    "BATCH",
    "PENDING",
    "TYPE",
    "Arrivals",
    "Intake",
    "Meter",
    "Result",
    "Task",
    "ack_pending_of",
    "at_once",
    "data_of",
    "deadline",
    "envelope_of",
    "event_of",
    "main",
    "offer",
    "one_by_one",
    "open_loop",
    "quantile",
    "subject_of",
]

AT_ONCE = 1000  # publishes under way at once, of every contender
PENDING = 4000  # the same at volume
BATCH = 500
MAX_PENDING_BYTES = 32 << 20
TYPE = "reading-recorded"
N_WARM = 500
WARM_PART = 0.2  # of an open loop's time, at its begin
QUANTILES = [*(n / 100 for n in range(100)), 0.995, 0.999, 0.9999, 1.0]
LATE_S = 15.0


@dataclass(frozen=True)
class Task:
    """What a child is to do. `seconds`: how long; `limit`: the most events, of each subscription."""

    url: str
    stream: str
    workload: str
    mode: str
    loop: str
    size: int
    seconds: float
    limit: int
    rate: float = 0.0  # events/s of an open loop; 0: as fast as possible
    consumers: tuple[str, ...] = ()


@dataclass
class Result:
    """What a child did. `n`: events in `seconds`; `n_total`: all that were acknowledged, warm-up and rest included."""

    n: int
    seconds: float
    n_total: int
    cpu_s: float | None = None
    mode: str = ""
    latency_us: list[float] = field(default_factory=list)


def cpu_s() -> float:
    """Return the user and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Meter:
    """Time and CPU time since it was made."""

    def __init__(self) -> None:
        self.cpu = cpu_s()
        self.began = time.perf_counter()

    def result(self, n: int, n_total: int, mode: str = "") -> Result:
        """Return what `n` events took until now."""
        return Result(n, time.perf_counter() - self.began, n_total, cpu_s() - self.cpu, mode)


def deadline(task: Task) -> float:
    """Return when to stop, by the clock of `time.monotonic`."""
    return time.monotonic() + task.seconds


def data_of(size: int) -> bytes:
    """Return a payload of so many bytes, which differ."""
    return bytes(n * 7 & 255 for n in range(size))


def event_of(n: int, data: bytes) -> Event:
    """Return the event that every contender publishes, one of 1,000 aggregates."""
    return Event(type=TYPE, aggregate=f"sensor-{n % 1000}", data=Bytes(data))


def subject_of(stream: str, n: int) -> str:
    """Return the subject of that event."""
    return f"{stream}.{TYPE}.sensor-{n % 1000}"


def envelope_of(size: int) -> bytes:
    """Return the bytes that eda sends for that event: a rival gets them ready-made."""
    return encode_event(event_of(0, data_of(size)), next_nuid(), "bench", time.time_ns())


def ack_pending_of(size: int) -> int:
    """Return what a consumer may have unacknowledged.

    As much as eda holds: nobody is to be measured receiving what it does not come to handle. And few enough bytes: the
    server drops who leaves 64 MB in its buffer unread.
    """
    return min(4096, MAX_PENDING_BYTES // size)


async def one_by_one(task: Task, publish: Callable[[int], Awaitable[Any]]) -> Result:
    """Publish one event after the other, each awaited."""
    n_warm = N_WARM // 10
    for n in range(n_warm):
        await publish(n)
    end = deadline(task)
    meter = Meter()
    n = 0
    while n < task.limit and time.monotonic() < end:
        await publish(n)
        n += 1
    return meter.result(n, n + n_warm)


async def at_once(task: Task, publish: Callable[[int], Awaitable[Any]]) -> Result:
    """Publish with AT_ONCE coroutines, each of which awaits one event after the other."""
    await asyncio.gather(*[publish(n) for n in range(N_WARM)])
    n_done = 0

    async def repeat() -> None:
        nonlocal n_done
        while n_done < task.limit and time.monotonic() < end:
            await publish(n_done)
            n_done += 1

    end = deadline(task)
    meter = Meter()
    await asyncio.gather(*[repeat() for _ in range(AT_ONCE)])
    return meter.result(n_done, n_done + N_WARM)


async def offer(task: Task, send: Callable[[int], Awaitable[Any]], flush: Callable[[], Awaitable[Any]]) -> Result:
    """Hand events over until the time is up; it ends when all are acknowledged."""
    for n in range(N_WARM):
        await send(n)
    await flush()
    meter = Meter()
    end = deadline(task)
    n = 0
    while n < task.limit and (n % 64 or time.monotonic() < end):
        await send(n)
        n += 1
    await flush()
    return meter.result(n, n + N_WARM)


class Intake:
    """Counts what was handled; `done` when all of it was, or the time is up."""

    def __init__(self, task: Task) -> None:
        self.n = 0
        self.stopped = False
        self._limit = task.limit * len(task.consumers)
        self._task = task
        self._done = asyncio.Event()
        self._end = deadline(task)
        self.meter = Meter()
        self.result: Result | None = None

    def add(self, n: int = 1) -> None:
        """Count events that were handled."""
        self.n += n
        if self.n >= self._limit or (self.n & 63 < n and time.monotonic() > self._end):
            self._stop()

    def _stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.result = self.meter.result(self.n, 0)
            self._done.set()

    async def done(self) -> Result:
        """Return when it is over. TimeoutError: events are missing."""
        async with asyncio.timeout(self._task.seconds + LATE_S):
            await self._done.wait()
        assert self.result is not None
        return self.result


class Arrivals:
    """The time of each event from when it was due, which is in its first eight bytes, to its handler."""

    def __init__(self) -> None:
        self.n = 0
        self.all: list[tuple[int, int]] = []
        self.last = 0.0

    def add(self, data: bytes) -> None:
        """Note an event that arrived."""
        now = time.monotonic_ns()
        due = int.from_bytes(data[:8], "big")
        if due:  # 0: the warm-up's
            self.all.append((due, now - due))
        self.n += 1

    async def until(self, n: int) -> None:
        """Return when so many have arrived. TimeoutError: some are missing."""
        async with asyncio.timeout(LATE_S):
            while self.n < n:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def open_loop(
    task: Task,
    arrivals: Arrivals,
    send: Callable[[int, bytes], Awaitable[Any]],
    flush: Callable[[], Awaitable[Any]],
) -> Result:
    """Publish on a schedule that waits for nobody: what is sent late counts from when it was due."""
    rest = data_of(max(task.size, 8))[8:]
    for n in range(N_WARM):
        await send(n, bytes(8) + rest)
    await flush()
    await arrivals.until(N_WARM)
    meter = Meter()
    n = 0
    if task.rate:
        pace = Pace(task.rate)
        n_all = max(20, int(task.rate * task.seconds))
        while n < n_all:
            for due in await pace.due(n_all):
                await send(n, due.to_bytes(8, "big") + rest)
                n += 1
        pace.close()
    else:
        end = deadline(task)
        while n % 64 or time.monotonic() < end:
            await send(n, time.monotonic_ns().to_bytes(8, "big") + rest)
            n += 1
    await flush()
    await arrivals.until(n + N_WARM)
    result = meter.result(n, n + N_WARM)
    arrivals.all.sort()
    counted = sorted(took for _, took in arrivals.all[int(len(arrivals.all) * WARM_PART) :])
    result.latency_us = [counted[min(int(q * len(counted)), len(counted) - 1)] / 1000 for q in QUANTILES]
    return result


def main(**workloads: Callable[[Task], Awaitable[Result]]) -> None:
    """Do the task that stdin has, and print the result."""
    given = json.load(sys.stdin)
    given["consumers"] = tuple(given["consumers"])
    task = Task(**given)
    loop_factory = None
    if task.loop == "uvloop":
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        result = runner.run(workloads[task.workload.partition("-")[0]](task))  # type: ignore[arg-type]
    json.dump(dataclasses.asdict(result), sys.stdout)


def quantile(latency_us: Sequence[float], q: float) -> float:
    """Return one of QUANTILES."""
    return latency_us[QUANTILES.index(q)]
