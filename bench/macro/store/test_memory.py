"""Memory while commands touch a million aggregates: the cache has a bound."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

import eda
from macro import delete, rss_mb
from macro.store.orders import Place, decider

N_AGGREGATES = int(os.environ.get("EDA_BENCH_AGGREGATES", "1000000"))
N_AT_ONCE = 200
CACHE = 10_000  # the default
N_SAMPLES = 20


async def rss_along_the_way(server: eda.EmbeddedServer, stream: str) -> list[float]:
    """Execute a command on each of many new aggregates; return the resident memory, N_SAMPLES times."""
    along = []
    every = N_AGGREGATES // N_SAMPLES
    numbers = iter(range(N_AGGREGATES))
    async with eda.connect(server.url) as conn:
        store = conn.store(stream, decider(), cache=CACHE)

        async def repeat() -> None:
            for n in numbers:
                await store.execute(f"order-{n}", Place())
                if n % every == every - 1:
                    along.append(rss_mb())

        await asyncio.gather(*[repeat() for _ in range(N_AT_ONCE)])
    return along


@pytest.mark.timeout(900)
def test_memory_of_a_million_aggregates(
    server: eda.EmbeddedServer, benchmark: Any, note: Callable[[str, float], None]
) -> None:
    stream = "touched"
    along = benchmark.pedantic(lambda: asyncio.run(rss_along_the_way(server, stream)), rounds=1)
    note("store rss begin MB", along[0])
    note("store rss end MB", max(along))
    delete(server, stream)
