"""Consuming packs: each kind of subscription beside the same one on a stream without packs, and latency."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eda
from eda._nuid import next_nuid
from macro import delete
from macro.subscribing.test_consume import eda_read_s
from micro.handling.dispatch import make_event

sys.path.insert(0, str(Path(__file__).parents[2]))
from suite.pace import Pace

N_PACKED = 1_000_000
N_UNPACKED = 250_000
N_IDLE = 1_000
RATE = 150_000  # events per second
N_AT_RATE = 600_000
N_WARM_UP = 150_000
PACK = eda.Pack()
PACKED, UNPACKED = "consume-packed", "consume-unpacked"

Note = Callable[[str, float], None]


@pytest.fixture(scope="module")
def streams(server: eda.EmbeddedServer) -> Iterator[None]:
    async def fill() -> None:
        async with eda.connect(server.url) as conn:
            for stream, pack, n in ((PACKED, PACK, N_PACKED), (UNPACKED, None, N_UNPACKED)):
                await conn.streams.create(stream, eda.StreamOptions(packed=pack is not None))
                async with conn.publisher(stream, pack=pack) as publisher:
                    await publisher.send_many(make_event(i) for i in range(n))

    asyncio.run(fill())
    yield
    delete(server, PACKED)
    delete(server, UNPACKED)


async def read_s(server: eda.EmbeddedServer, stream: str, **options: Any) -> float:
    """Handle all events of a stream; returns the seconds, for N_PACKED events, until the last position is confirmed."""
    n = N_PACKED if stream == PACKED else N_UNPACKED
    return await eda_read_s(server, n, stream=stream, **options) * N_PACKED / n


@pytest.mark.timeout(900)
def test_consume_packs(server: eda.EmbeddedServer, streams: None, duel: Callable[..., None]) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "exclusive batch": {"exclusive": True, "batch": 500},
        "default": {},
        "serial": {"serial": True},
        "key": {"key": "aggregate", "concurrency": 16},
    }
    runs = [
        (f"{stream} {kind} s", lambda stream=stream, options=options: asyncio.run(read_s(server, stream, **options)))
        for kind, options in kinds.items()
        for stream in (PACKED, UNPACKED)
    ]
    duel(*runs, rounds=5)


# --- from publish to handler -----------------------------------------------------------------------------------------


async def idle_us(server: eda.EmbeddedServer, pack: eda.Pack | None) -> float:
    """Return the median microseconds from `send` to the handler, one event at a time."""
    stream = f"idle-{next_nuid()}"
    took: list[int] = []
    arrived = asyncio.Event()
    started = 0

    async def handle(event: eda.Event) -> None:
        took.append(time.perf_counter_ns() - started)
        arrived.set()

    async with eda.connect(server.url) as out, eda.connect(server.url) as conn:
        await out.streams.create(stream, eda.StreamOptions(packed=pack is not None))
        async with (
            conn.subscribe(stream, handle, name="latency", durable=True),
            out.publisher(stream, pack=pack) as publisher,
        ):
            for n in range(N_IDLE):
                arrived.clear()
                event = make_event(n)
                started = time.perf_counter_ns()
                await publisher.send(event)
                await arrived.wait()
                await asyncio.sleep(0.0002)
        await out.streams.delete(stream)
    return statistics.median(took) / 1000


def test_idle_latency(server: eda.EmbeddedServer, duel: Callable[..., None], note: Note) -> None:
    duel(
        ("packs idle us", lambda: asyncio.run(idle_us(server, PACK))),
        ("unpacked idle us", lambda: asyncio.run(idle_us(server, None))),
        ("unpacked idle and linger us", lambda: asyncio.run(idle_us(server, None)) + PACK.linger_s * 1e6),
    )


async def p99_us(server: eda.EmbeddedServer, pack: eda.Pack | None) -> float:
    """Return the 99th percentile of the microseconds from when an event was due to its handler, at RATE."""
    stream = f"rate-{next_nuid()}"
    took: list[int] = []
    done = asyncio.Event()
    due: list[int] = []
    n_seen = 0

    def handle(events: list[eda.Event]) -> None:
        nonlocal n_seen
        now = time.monotonic_ns()
        for _ in events:
            if n_seen >= N_WARM_UP:
                took.append(now - due[n_seen])
            n_seen += 1
        if n_seen >= N_AT_RATE:
            done.set()

    async with eda.connect(server.url) as out, eda.connect(server.url) as conn:
        await out.streams.create(stream, eda.StreamOptions(packed=pack is not None))
        options: dict[str, Any] = {"exclusive": True, "batch": 500, "linger_s": 0}
        async with (
            conn.subscribe(stream, handle, name="latency", durable=True, **options),
            out.publisher(stream, pack=pack) as publisher,
        ):
            pace = Pace(RATE)
            try:
                while len(due) < N_AT_RATE:
                    times = await pace.due(N_AT_RATE)
                    events = [make_event(len(due) + i) for i in range(len(times))]
                    due += times
                    await publisher.send_many(events)
                await done.wait()
            finally:
                pace.close()
        await out.streams.delete(stream)
    return statistics.quantiles(took, n=100)[98] / 1000


@pytest.mark.timeout(600)
def test_latency_at_a_rate(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    duel(
        ("packs p99 us", lambda: asyncio.run(p99_us(server, PACK))),
        ("unpacked p99 us", lambda: asyncio.run(p99_us(server, None))),
        rounds=3,
    )
