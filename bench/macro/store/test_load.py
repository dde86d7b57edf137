"""Loads from a stream of a million aggregates, beside a stream of a thousand, and beside a bare socket's direct get."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Iterator

import pytest

import bare_store
import eda
from macro.store import filling
from macro.store.filling import Filling
from macro.store.orders import decider

N_AGGREGATES = int(os.environ.get("EDA_BENCH_AGGREGATES", "1000000"))
N_LONG = min(10_000, N_AGGREGATES // 100)
LARGE = Filling("large", N_AGGREGATES, 3 * N_AGGREGATES, n_long=N_LONG)
SMALL = Filling("small", 1000, 3000)
SNAPSHOT_EVERY = 100
N_WARM = 20
N_AT_ONCE = 200
N_TIMES = 20


@pytest.fixture(scope="module")
def server() -> Iterator[eda.EmbeddedServer]:
    """A server of these benchmarks' own: it ends with them, and with it the streams."""
    server = eda.EmbeddedServer()
    asyncio.run(server.start())
    try:
        for each in (SMALL, LARGE):
            filling.fill(server, each)
        yield server
    finally:
        asyncio.run(server.stop())


async def load_us(
    server: eda.EmbeddedServer, stream: str, aggregates: list[str], version: int, *, snapshot_every: int | None = None
) -> float:
    """Load each aggregate, one after the other; return the median microseconds."""
    took = []
    async with eda.connect(server.url) as conn:
        store = conn.store(stream, decider(), cache=0, snapshot_every=snapshot_every)
        for aggregate in aggregates[:N_WARM]:
            await store.load(aggregate)
        for aggregate in aggregates:
            started = time.perf_counter_ns()
            order = await store.load(aggregate)
            took.append(time.perf_counter_ns() - started)
            assert order.version == version, order
    return statistics.median(took) / 1000


async def load_at_once_us(server: eda.EmbeddedServer, filled: Filling) -> float:
    """Load each aggregate of ten events several times, in many tasks; return the microseconds of each load."""
    names = iter(filled.tens * N_TIMES)
    async with eda.connect(server.url) as conn:
        store = conn.store(filled.stream, decider(), cache=0)
        await store.load(filled.tens[0])

        async def repeat() -> None:
            for name in names:
                await store.load(name)

        started = time.perf_counter()
        await asyncio.gather(*[repeat() for _ in range(N_AT_ONCE)])
        return (time.perf_counter() - started) / (len(filled.tens) * N_TIMES) * 1e6


def bare_load_us(server: eda.EmbeddedServer, sequences: list[list[int]]) -> float:
    names = zip(LARGE.tens, sequences, strict=True)
    return statistics.median(bare_store.load_times_ns(server, LARGE.stream, names)) / 1000


async def sequences_of(server: eda.EmbeddedServer, filled: Filling) -> list[list[int]]:
    """Return the sequences of all events but the last of each aggregate of ten."""
    async with eda.connect(server.url) as conn:
        store = conn.store(filled.stream)
        return [[event.sequence for event in (await store.history(name))[:-1]] for name in filled.tens]


def bare_us(server: eda.EmbeddedServer) -> float:
    subjects = [f"{LARGE.stream}.order-paid.{aggregate}" for aggregate in LARGE.tens]
    return statistics.median(bare_store.direct_get_times_ns(server, LARGE.stream, subjects)) / 1000


async def make_snapshot(server: eda.EmbeddedServer) -> None:
    """Load the long aggregate, so that the store writes its snapshot."""
    async with (
        eda.connect(server.url) as conn,
        conn.store(LARGE.stream, decider(), snapshot_every=SNAPSHOT_EVERY) as store,
    ):
        await store.load(LARGE.long)


@pytest.mark.timeout(900)
def test_load(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    sequences = asyncio.run(sequences_of(server, LARGE))

    def load(filled: Filling) -> Callable[[], float]:
        return lambda: asyncio.run(load_us(server, filled.stream, filled.tens, 10))

    duel(
        ("eda load us", load(LARGE)),
        ("eda load among few us", load(SMALL)),
        ("bare direct get us", lambda: bare_us(server)),
        ("bare load us", lambda: bare_load_us(server, sequences)),
        ("eda load at once us", lambda: asyncio.run(load_at_once_us(server, LARGE))),
        ("eda load at once among few us", lambda: asyncio.run(load_at_once_us(server, SMALL))),
    )


@pytest.mark.timeout(300)
def test_load_with_snapshot(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    asyncio.run(make_snapshot(server))
    longs = [LARGE.long] * len(LARGE.tens)

    def long_us() -> float:
        return asyncio.run(load_us(server, LARGE.stream, longs, N_LONG, snapshot_every=SNAPSHOT_EVERY))

    duel(
        ("eda load long us", long_us),
        ("eda load ten us", lambda: asyncio.run(load_us(server, LARGE.stream, LARGE.tens, 10))),
    )
