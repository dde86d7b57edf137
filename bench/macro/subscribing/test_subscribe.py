"""A shared subscription on a real server beside nats-py's two ways, and memory while events pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import nats
from nats.js.api import AckPolicy, ConsumerConfig

import eda
from eda._nuid import next_nuid
from macro import delete, fill, rss_mb

N_SUBSCRIBE = 100_000
N_MEMORY = 1_000_000


async def eda_subscribe_s(server: eda.EmbeddedServer, stream: str) -> float:
    n = 0
    done = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        nonlocal n
        _ = event.type, event.data
        n += 1
        if n == N_SUBSCRIBE:
            done.set()

    async with eda.connect(server.url) as conn:
        started = time.perf_counter()
        async with conn.subscribe(stream, handle, name=f"bench-{next_nuid()}", durable=True, backfill=True) as sub:
            await done.wait()
            await sub.unsubscribe()
            return time.perf_counter() - started


async def nats_push_s(server: eda.EmbeddedServer, stream: str) -> float:
    n = 0
    done = asyncio.Event()

    async def handle(msg: Any) -> None:
        nonlocal n
        _ = msg.subject, msg.data
        await msg.ack()
        n += 1
        if n == N_SUBSCRIBE:
            done.set()

    link = await nats.connect(server.url)
    js = link.jetstream()
    started = time.perf_counter()
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=65_536)
    sub = await js.subscribe(
        f"{stream}.>", durable=f"bench-{next_nuid()}", cb=handle, manual_ack=True, config=config,
        pending_msgs_limit=-1, pending_bytes_limit=-1,
    )  # fmt: skip
    await done.wait()
    await sub.unsubscribe()
    await link.flush()
    took = time.perf_counter() - started
    await link.close()
    return took


async def nats_fetch_s(server: eda.EmbeddedServer, stream: str) -> float:
    link = await nats.connect(server.url)
    js = link.jetstream()
    started = time.perf_counter()
    config = ConsumerConfig(max_ack_pending=65_536)
    sub = await js.pull_subscribe(f"{stream}.>", durable=f"bench-{next_nuid()}", config=config)
    n = 0
    while n < N_SUBSCRIBE:
        for msg in await sub.fetch(500):
            _ = msg.subject, msg.data
            await msg.ack()
            n += 1
    await link.flush()
    took = time.perf_counter() - started
    await link.close()
    return took


def test_subscribe(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    stream = "subscribe"
    asyncio.run(fill(server, stream, N_SUBSCRIBE))
    duel(
        ("eda subscribe s", lambda: asyncio.run(eda_subscribe_s(server, stream))),
        ("nats-py push s", lambda: asyncio.run(nats_push_s(server, stream))),
        ("nats-py fetch s", lambda: asyncio.run(nats_fetch_s(server, stream))),
        rounds=3,
    )
    delete(server, stream)


# --- memory ----------------------------------------------------------------------------------------------------------


async def rss_along_the_way(server: eda.EmbeddedServer, stream: str) -> list[float]:
    """The resident memory after each 50,000 events."""
    n = 0
    done = asyncio.Event()
    along = []

    async def handle(event: eda.Event) -> None:
        nonlocal n
        _ = event.type, event.data
        n += 1
        if n % 50_000 == 0:
            along.append(rss_mb())
        if n == N_MEMORY:
            done.set()

    async with eda.connect(server.url) as conn, conn.subscribe(stream, handle, backfill=True, name="m", durable=True):
        await done.wait()
    return along


def test_memory_while_events_pass(
    server: eda.EmbeddedServer, benchmark: Any, note: Callable[[str, float], None]
) -> None:
    stream = "memory"
    asyncio.run(fill(server, stream, N_MEMORY))
    along = benchmark.pedantic(lambda: asyncio.run(rss_along_the_way(server, stream)), rounds=1)
    note("rss begin MB", along[0])
    note("rss end MB", max(along))
    delete(server, stream)
