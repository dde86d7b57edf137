"""Publishing at volume, beside a bare socket that replays the same bytes, and nats-py."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

import eda
import replay
from eda._nuid import next_nuid
from macro import delete, make_event, rss_mb
from macro.publishing.test_publish import nats_publish_s
from micro.codec import DATA

N = 200_000
N_RIVAL = 50_000
N_MEMORY = 5_000_000

_numbers = itertools.count()


async def eda_publish_s(
    server: eda.EmbeddedServer, mode: str, *, dedup: bool, note: Callable[[str, float], None], name: str
) -> float:
    """Build and send N events; returns the seconds until all are acknowledged."""
    stream = f"volume-{next(_numbers)}"
    async with eda.connect(server.url, client="bench") as conn:
        async with conn.publisher(stream, mode=mode, dedup=dedup) as pub:  # type: ignore[arg-type]
            await pub.send(make_event())
            await pub.flush()
            cpu = time.process_time()
            started = time.perf_counter()
            for _ in range(N):
                await pub.send(eda.Event(type="reading-recorded", data=eda.Bytes(DATA)))
            await pub.flush()
            took = time.perf_counter() - started
            note(f"{name} CPU us", (time.process_time() - cpu) / N * 1e6)
        await conn.streams.delete(stream)
    return took


def bare_publish_s(server: eda.EmbeddedServer, *, fast: bool, dedup: bool) -> float:
    stream = f"volume-{next(_numbers)}"

    async def create() -> None:
        async with eda.connect(server.url) as conn:
            await conn.streams.create(stream)

    asyncio.run(create())
    events = [
        eda.Event(type="reading-recorded", data=eda.Bytes(DATA), id=next_nuid(), client="bench", time=time.time_ns())
        for _ in range(N)
    ]
    took = replay.replay_s(server, replay.record(stream, events, fast=fast, dedup=dedup))
    delete(server, stream)
    return took


def nats_volume_s(server: eda.EmbeddedServer, note: Callable[[str, float], None]) -> float:
    stream = f"volume-{next(_numbers)}"

    async def create() -> None:
        async with eda.connect(server.url) as conn:
            await conn.streams.create(stream)

    asyncio.run(create())
    cpu = time.process_time()
    took: float = asyncio.run(nats_publish_s(server, stream))
    note("nats-py volume CPU us", (time.process_time() - cpu) / N_RIVAL * 1e6)
    delete(server, stream)
    return took * N / N_RIVAL


@pytest.mark.timeout(600)
def test_publisher(server: eda.EmbeddedServer, duel: Callable[..., None], note: Callable[[str, float], None]) -> None:
    def eda_run(name: str, mode: str, *, dedup: bool = True) -> tuple[str, Callable[[], float]]:
        return f"{name} s", lambda: asyncio.run(eda_publish_s(server, mode, dedup=dedup, note=note, name=name))

    duel(
        eda_run("eda fast", "fast"),
        ("bare fast s", lambda: bare_publish_s(server, fast=True, dedup=True)),
        eda_run("eda window", "window"),
        ("bare window s", lambda: bare_publish_s(server, fast=False, dedup=True)),
        eda_run("eda fast no dedup", "fast", dedup=False),
        ("bare fast no dedup s", lambda: bare_publish_s(server, fast=True, dedup=False)),
        ("nats-py publish_async volume s", lambda: nats_volume_s(server, note)),
        rounds=5,
    )


# --- memory ----------------------------------------------------------------------------------------------------------


async def rss_along_the_way(server: eda.EmbeddedServer) -> list[float]:
    along = []
    async with (
        eda.connect(server.url, stream_defaults=eda.StreamOptions(max_events=100_000)) as conn,
        conn.publisher("publisher-memory") as pub,
    ):
        for n in range(N_MEMORY):
            await pub.send(eda.Event(type="reading-recorded", data=eda.Bytes(DATA)))
            if n % 250_000 == 249_999:
                along.append(rss_mb())
    return along


@pytest.mark.timeout(600)
def test_publisher_memory(server: eda.EmbeddedServer, benchmark: Any, note: Callable[[str, float], None]) -> None:
    along = benchmark.pedantic(lambda: asyncio.run(rss_along_the_way(server)), rounds=1)
    note("publisher rss begin MB", along[0])
    note("publisher rss end MB", max(along))
    delete(server, "publisher-memory")
