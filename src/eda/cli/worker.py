"""One side of a run: `python -m eda.cli.worker`. It is a separate process, so that its CPU time can be measured.

Arguments: `publish` or `handle`, the stream, the work as JSON. The first line of stdin is the server's URL, because a
URL with credentials must not show in the list of processes or in the environment. The process writes lines of JSON to
stdout: `{"ready": true}` at the beginning, `{"n": …}` ten times a second, and `{"result": {…}}` or `{"error": "…"}` at
the end. After the publishing side has ended, the parent writes to the handling side's stdin how many events each
publisher published, as a JSON list. The end of stdin means that the parent has gone or has given up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

import eda
from eda.cli.work import Receiver, Work

__all__ = ["main"]

TELL_S = 0.1
# After the last expected event, wait this long for duplicates.
QUIET_S = 0.3
# If events are missing, wait this long for them: longer than the 30 s after which the server delivers an event again.
STALLED_S = 45.0
MAX_SAMPLES = 1_000_000
# The clock is read after this many events, or after this many bytes if they come first.
LOOK_EVERY = 64
LOOK_BYTES = 1 << 20


class Progress:
    """The number of events that this side has finished."""

    def __init__(self) -> None:
        self.n = 0


class Latencies:
    """Times from publish to handler. With many events, only every 2nd, 4th, … is kept, to have at most MAX_SAMPLES."""

    def __init__(self) -> None:
        self.samples_ns: list[int] = []
        self._every = 1
        self._n = 0

    def add(self, latency_ns: int) -> None:
        """Add the time of one event."""
        self._n += 1
        if self._n % self._every == 0:
            self.samples_ns.append(latency_ns)
            if len(self.samples_ns) >= MAX_SAMPLES:
                del self.samples_ns[::2]
                self._every *= 2


async def publish_events(publisher: eda.Publisher, number: int, work: Work, deadline: float, progress: Progress) -> int:
    """Publish one publisher's events until all are published or the time is over, and return their number."""
    n_sent = n_told = 0
    look_every = max(1, min(LOOK_EVERY, LOOK_BYTES // max(work.size, 1)))
    async with publisher:
        for event in work.published_by(number):
            await publisher.send(event)
            n_sent += 1
            if n_sent % look_every == 0:
                stats = publisher.stats()
                progress.n += stats.acknowledged - n_told
                n_told = stats.acknowledged
                # After a failure the stream is probably full. The error is raised when the publisher is left.
                if stats.failed or time.monotonic() >= deadline:
                    break
    progress.n += n_sent - n_told
    return n_sent


async def publish(
    url: str, stream: str, work: Work, progress: Progress, _: asyncio.Future[list[int]]
) -> dict[str, Any]:
    """Publish all events and return the measurements. Raises PublishFailed."""
    async with eda.connect(url, client=work.client, auto_create=False) as conn:
        pack = eda.Pack() if work.packed else None
        publishers = [await conn.publisher(stream, mode=work.mode, pack=pack) for _ in range(work.publishers)]
        tell(ready=True)
        began, cpu_began = time.monotonic(), time.process_time()
        deadline = began + (work.seconds or float("inf"))
        published = await asyncio.gather(
            *(publish_events(each, number, work, deadline, progress) for number, each in enumerate(publishers))
        )
        return {
            "seconds": time.monotonic() - began,
            "cpu_s": time.process_time() - cpu_began,
            "published": published,
            "mode": publishers[0].stats().mode,
            "peak_memory": peak_memory(),
        }


async def handle(
    url: str, stream: str, work: Work, progress: Progress, published: asyncio.Future[list[int]]
) -> dict[str, Any]:
    """Handle all events in each subscription, and return the measurements and the results of the checks."""
    latencies = Latencies()
    receivers = [work.receiver() for _ in range(work.subscriptions)]
    first_ns = last_ns = 0

    def handler_of(receiver: Receiver) -> Callable[[eda.Event], None]:
        take = receiver.take

        def on_event(event: eda.Event) -> None:
            nonlocal first_ns, last_ns
            published_ns = take(event)
            last_ns = time.time_ns()
            latencies.add(last_ns - published_ns)
            if not first_ns:
                first_ns = published_ns
            progress.n += 1

        return on_event

    async with eda.connect(url, client=work.client, auto_create=False) as conn, AsyncExitStack() as stack:
        subs = []
        for number, receiver in enumerate(receivers, 1):
            subs.append(conn.subscribe(stream, handler_of(receiver), work.options(number)))
            # A cursor would outlive the stream, because it is stored in a bucket.
            stack.push_async_callback(subs[-1].unsubscribe)
            await subs[-1]
        tell(ready=True)
        cpu_began = time.process_time()
        await until_quiet(subs, progress, published)
        await asyncio.gather(*(sub.close() for sub in subs))
        cpu_s = time.process_time() - cpu_began
    latencies.samples_ns.sort()
    checks = [receiver.check(published.result()) for receiver in receivers]
    return {
        "seconds": (last_ns - first_ns) / 1e9,
        "cpu_s": cpu_s,
        "p50_ms": percentile(latencies.samples_ns, 0.5) / 1e6,
        "p99_ms": percentile(latencies.samples_ns, 0.99) / 1e6,
        "peak_memory": peak_memory(),
        "check": {name: sum(each[name] for each in checks) for name in checks[0]},
    }


async def until_quiet(subs: list[eda.Subscription], progress: Progress, published: asyncio.Future[list[int]]) -> None:
    """Return when all events were published and no more are delivered. Raises the error that ended a subscription."""
    waits = [asyncio.ensure_future(sub.wait()) for sub in subs]
    seen, since = -1, 0.0
    try:
        while True:
            await asyncio.wait(waits, timeout=TELL_S, return_when=asyncio.FIRST_COMPLETED)
            for sub, ended in zip(subs, waits, strict=True):
                if ended.done():
                    await ended
                    raise eda.Closed(f"subscription to {sub.stream}")
            if progress.n != seen or not published.done():
                seen, since = progress.n, time.monotonic()
                continue
            every = [sub.stats() for sub in subs]
            complete = progress.n >= sum(published.result()) * len(subs)
            complete &= not any(stats.pending or stats.buffered or stats.in_flight for stats in every)
            if time.monotonic() - since > (QUIET_S if complete else STALLED_S):
                return
    finally:
        for ended in waits:
            ended.cancel()


def peak_memory() -> int | None:
    """Return the peak memory of this process in bytes; None if the system does not report it.

    getrusage can't be used, because its value is never less than the parent's memory at the start.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def percentile(ordered: list[int], share: float) -> int:
    """Return the value that this share of all values does not exceed; 0 if there are no values."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0


def tell(**message: Any) -> None:
    """Write a message to the parent."""
    os.write(1, json.dumps(message).encode() + b"\n")


def read_line() -> str:
    """Return the next line of stdin, without reading anything after it."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


def listen(on_line: Callable[[bytes], None]) -> None:
    """Call `on_line` with each line of stdin, and with b"" at its end.

    This runs in a thread, because not every platform's event loop can read a pipe. It reads without a buffer, because
    the interpreter could not exit while a thread holds the buffer's lock.
    """
    rest = b""
    while data := os.read(0, 4096):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            on_line(line)
    on_line(b"")


async def tell_progress(progress: Progress) -> None:
    """Report the progress until cancelled."""
    while True:
        await asyncio.sleep(TELL_S)
        tell(n=progress.n)


async def run(url: str, side: str, stream: str, work: Work) -> None:
    """Do the work of a side and report the result."""
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None
    published: asyncio.Future[list[int]] = loop.create_future()
    progress = Progress()

    def on_line(line: bytes) -> None:
        if not loop.is_closed():
            if line:
                loop.call_soon_threadsafe(published.set_result, json.loads(line))
            else:
                # The parent ends this side on purpose, so warnings about unfinished events would only confuse the user.
                logging.getLogger("eda").setLevel(logging.ERROR)
                loop.call_soon_threadsafe(this.cancel)

    threading.Thread(target=listen, args=(on_line,), daemon=True).start()
    telling = asyncio.ensure_future(tell_progress(progress))
    try:
        result = await (publish if side == "publish" else handle)(url, stream, work, progress, published)
    finally:
        telling.cancel()
    tell(n=progress.n)
    tell(result=result)


def main() -> int:
    """Run the side that the arguments name, with uvloop if it is installed. Return the exit code."""
    side, stream, work = sys.argv[1:]
    url = read_line()
    loop_factory = None
    with suppress(ImportError):
        loop_factory = import_module("uvloop").new_event_loop
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(run(url, side, stream, msgspec.json.decode(work, type=Work)))
    except (eda.EdaError, OSError) as error:
        tell(error=str(error))
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
