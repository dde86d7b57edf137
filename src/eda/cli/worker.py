"""One side of the demo, in a process of its own so that its CPU time is its own: `python -m eda.cli.worker`.

Arguments: `publish` or `handle`, the stream, the number of events. The first line of stdin is the server's URL: neither
a list of processes nor the environment shows it there. Says how it goes in lines of JSON on stdout: `{"ready": true}`,
`{"n": …}` ten times a second, and `{"result": {…}}` or `{"error": "…"}` at the end. Later the handling side is told
`published` on stdin when all events are in the stream; the end of stdin means that nobody listens any more.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import msgspec

import eda
from eda.cli.check import N_SENSORS, ReadModel, check, sensor_id, value_of

__all__ = ["CLIENT", "EVENT_TYPE", "main"]

EVENT_TYPE = "reading-recorded"
CLIENT = "eda-demo"

TELL_S = 0.1
# Nothing may come any more: a duplicate would have come by then.
QUIET_S = 0.3
# Something is missing: longer than the 30 s after which the server sends an unacknowledged event again.
STALLED_S = 45.0
MAX_SAMPLES = 1_000_000


class Reading(msgspec.Struct):
    """The payload of an event."""

    sensor: str
    value: float
    count: int
    published_ns: int


class Progress:
    """How many events this side is done with."""

    def __init__(self) -> None:
        self.n = 0


async def publish_readings(conn: eda.Conn, stream: str, n_events: int, progress: Progress) -> None:
    """Publish all readings, of one sensor after the other; a publisher keeps their order. Raises PublishFailed."""
    async with conn.publisher(stream) as publisher:
        for number in range(n_events):
            count, sensor = number // N_SENSORS + 1, number % N_SENSORS
            reading = Reading(sensor_id(sensor), value_of(sensor, count), count, time.time_ns())
            await publisher.send(eda.Event(type=EVENT_TYPE, aggregate=reading.sensor, data=eda.JSON(reading)))
            if sensor == 0:
                progress.n = publisher.stats().acknowledged
    progress.n = n_events


async def publish(url: str, stream: str, n_events: int, progress: Progress, _: asyncio.Event) -> dict[str, Any]:
    """Publish, and return what it took."""
    async with eda.connect(url, client=CLIENT, auto_create=False) as conn:
        tell(ready=True)
        began, cpu_began = time.monotonic(), time.process_time()
        await publish_readings(conn, stream, n_events, progress)
        return {"seconds": time.monotonic() - began, "cpu_s": time.process_time() - cpu_began}


async def handle(url: str, stream: str, n_events: int, progress: Progress, published: asyncio.Event) -> dict[str, Any]:
    """Build the read model, and return what it took and whether it is right."""
    model = ReadModel(n_events)
    latencies_ns: list[int] = []
    every = -(-n_events // MAX_SAMPLES)
    first_ns = last_ns = 0

    def on_reading(event: eda.Event) -> None:
        nonlocal first_ns, last_ns
        reading: Reading = event.data.decode(into=Reading)
        model.add(event.aggregate, reading.count, reading.value)
        last_ns = time.time_ns()
        if progress.n % every == 0:
            latencies_ns.append(last_ns - reading.published_ns)
        if not first_ns:
            first_ns = reading.published_ns
        progress.n += 1

    async with eda.connect(url, client=CLIENT, auto_create=False) as conn:
        async with conn.subscribe(stream, on_reading, backfill=True, durable=True) as sub:
            tell(ready=True)
            cpu_began = time.process_time()
            await until_quiet(sub, n_events, progress, published)
        cpu_s = time.process_time() - cpu_began
    latencies_ns.sort()
    return {
        "seconds": (last_ns - first_ns) / 1e9,
        "cpu_s": cpu_s,
        "p50_ms": percentile(latencies_ns, 0.5) / 1e6,
        "p99_ms": percentile(latencies_ns, 0.99) / 1e6,
        "check": check(n_events, model).to_dict(),
    }


async def until_quiet(sub: eda.Subscription, n_events: int, progress: Progress, published: asyncio.Event) -> None:
    """Return when all was published and nothing comes any more. Raises what ended the subscription."""
    ended = asyncio.ensure_future(sub.wait())
    seen, since = -1, 0.0
    try:
        while True:
            await asyncio.wait({ended}, timeout=TELL_S)
            if ended.done():
                await ended
                raise eda.Closed(f"subscription to {sub.stream}")
            stats = sub.stats()
            if progress.n != seen or not published.is_set():
                seen, since = progress.n, time.monotonic()
            complete = progress.n >= n_events and not (stats.pending or stats.buffered or stats.in_flight)
            if time.monotonic() - since > (QUIET_S if complete else STALLED_S):
                return
    finally:
        ended.cancel()


def percentile(ordered: list[int], share: float) -> int:
    """Return the value that this share of all is not above; 0 of none."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0


def tell(**message: Any) -> None:
    """Write a line to the parent."""
    os.write(1, json.dumps(message).encode() + b"\n")


def read_line() -> str:
    """Return the next line of stdin, read with nothing that follows it."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


def listen(on_line: Callable[[bytes], None]) -> None:
    """Call `on_line` with each line of stdin, and with nothing at its end.

    In a thread, since not every platform's loop can read a pipe; unbuffered, since the interpreter's end would trip
    over a thread that holds the buffer's lock.
    """
    rest = b""
    while data := os.read(0, 4096):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            on_line(line)
    on_line(b"")


async def tell_progress(progress: Progress) -> None:
    """Tell how far it is, until cancelled."""
    while True:
        await asyncio.sleep(TELL_S)
        tell(n=progress.n)


async def run(url: str, side: str, stream: str, n_events: int) -> None:
    """Do the work of a side and tell the result."""
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None
    published = asyncio.Event()
    progress = Progress()

    def on_line(line: bytes) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(published.set if line == b"published" else this.cancel)

    threading.Thread(target=listen, args=(on_line,), daemon=True).start()
    telling = asyncio.ensure_future(tell_progress(progress))
    try:
        result = await (publish if side == "publish" else handle)(url, stream, n_events, progress, published)
    finally:
        telling.cancel()
    tell(n=progress.n)
    tell(result=result)


def main() -> int:
    """Run the side that the arguments name; with uvloop where it is installed."""
    side, stream, n_events = sys.argv[1:]
    url = read_line()
    loop_factory = None
    with suppress(ImportError):
        loop_factory = import_module("uvloop").new_event_loop
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(run(url, side, stream, int(n_events)))
    except (eda.EdaError, OSError) as error:
        tell(error=str(error))
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
