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
    server: eda.EmbeddedServer, stream: str, aggregates: list[str], version: int, *, with_types: bool = False
) -> float:
    """Load each aggregate, one after the other, with nothing in the cache; return the median microseconds."""
    took = []
    async with eda.connect(server.url) as conn:
        store = conn.store(stream, decider(with_types=with_types), cache=0, snapshot_every=SNAPSHOT_EVERY)
        for aggregate in aggregates[:N_WARM]:
            await store.load(aggregate)
        for aggregate in aggregates:
            started = time.perf_counter_ns()
            order = await store.load(aggregate)
            took.append(time.perf_counter_ns() - started)
            assert order.version == version, order
    return statistics.median(took) / 1000


def bare_us(server: eda.EmbeddedServer) -> float:
    subjects = [f"{LARGE.stream}.order-paid.{aggregate}" for aggregate in LARGE.tens]
    return statistics.median(bare_store.direct_get_times_ns(server, LARGE.stream, subjects)) / 1000


async def make_snapshot(server: eda.EmbeddedServer) -> None:
    """Append to the long aggregate, so that the store writes its snapshot, and wait until it is there."""
    async with eda.connect(server.url) as conn:
        store = conn.store(LARGE.stream, decider(), snapshot_every=SNAPSHOT_EVERY)
        order = await store.load(LARGE.long)
        for _ in range(2000):
            if (await conn.streams.info(f"{LARGE.stream}-snapshots")).events:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"no snapshot of {order.aggregate}, which has {order.version} events")


@pytest.mark.timeout(900)
def test_load(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    def load(filled: Filling, *, with_types: bool = False) -> Callable[[], float]:
        return lambda: asyncio.run(load_us(server, filled.stream, filled.tens, 10, with_types=with_types))

    duel(
        ("eda load us", load(LARGE)),
        ("eda load among few us", load(SMALL)),
        ("eda load with types us", load(LARGE, with_types=True)),
        ("bare direct get us", lambda: bare_us(server)),
    )


@pytest.mark.timeout(300)
def test_load_with_snapshot(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    asyncio.run(make_snapshot(server))
    longs = [LARGE.long] * len(LARGE.tens)
    duel(
        ("eda load long us", lambda: asyncio.run(load_us(server, LARGE.stream, longs, N_LONG))),
        ("eda load ten us", lambda: asyncio.run(load_us(server, LARGE.stream, LARGE.tens, 10))),
    )
