"""Publishing and subscribing on a real server, beside a bare socket and nats-py."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import nats
import uvloop
from nats.js.api import AckPolicy, ConsumerConfig

import bare
import eda
from eda._codec import encode_event
from eda._nuid import next_nuid

PAYLOAD = bytes(range(128))
N_LATENCY = 3000
N_PUBLISH = 50_000
N_AT_ONCE = 1000
N_SUBSCRIBE = 100_000
N_MEMORY = 1_000_000


def make_event(n: int = 0) -> eda.Event:
    return eda.Event(type="reading-recorded", aggregate=f"sensor-{n % 1000}", data=eda.Bytes(PAYLOAD))


async def fill(server: eda.EmbeddedServer, stream: str, n: int) -> None:
    async with eda.connect(server.url) as conn:
        for begin in range(0, n, N_AT_ONCE):
            await asyncio.gather(
                *[conn.publish(stream, make_event(i)) for i in range(begin, min(begin + N_AT_ONCE, n))]
            )


def delete(server: eda.EmbeddedServer, stream: str) -> None:
    async def run() -> None:
        async with eda.connect(server.url) as conn:
            await conn.streams.delete(stream)

    asyncio.run(run())


# --- publish, one after the other ------------------------------------------------------------------------------------


async def eda_latency_us(server: eda.EmbeddedServer, stream: str) -> float:
    took = []
    async with eda.connect(server.url, client="bench") as conn:
        for n in range(N_LATENCY):
            event = make_event(n)
            started = time.perf_counter_ns()
            await conn.publish(stream, event)
            took.append(time.perf_counter_ns() - started)
    return statistics.median(took) / 1000


def bare_latency_us(server: eda.EmbeddedServer, stream: str) -> float:
    events = [make_event(n).replace(id=next_nuid(), client="bench", time=time.time_ns()) for n in range(N_LATENCY)]
    return bare.publish_latency_us(server, stream, events)


def test_publish_latency(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    stream = "latency"
    asyncio.run(fill(server, stream, 1))
    duel(
        ("eda publish us", lambda: asyncio.run(eda_latency_us(server, stream))),
        ("eda uvloop publish us", lambda: uvloop.run(eda_latency_us(server, stream))),
        ("bare publish us", lambda: bare_latency_us(server, stream)),
    )
    delete(server, stream)


# --- publish, many at once -------------------------------------------------------------------------------------------


async def eda_publish_s(server: eda.EmbeddedServer, stream: str) -> float:
    """N_AT_ONCE tasks, each publishing one event after the other: so many are always under way, as with the rival."""
    async with eda.connect(server.url) as conn:

        async def publish() -> None:
            for n in range(N_PUBLISH // N_AT_ONCE):
                await conn.publish(stream, make_event(n))

        await conn.publish(stream, make_event())
        started = time.perf_counter()
        await asyncio.gather(*[publish() for _ in range(N_AT_ONCE)])
        return time.perf_counter() - started


async def nats_publish_s(server: eda.EmbeddedServer, stream: str) -> float:
    """The same envelope and header, as the documentation of publish_async has it: send, then wait for all."""
    link = await nats.connect(server.url)
    js = link.jetstream(publish_async_max_pending=N_AT_ONCE)
    envelope = encode_event(make_event(), next_nuid(), "bench", time.time_ns())
    started = time.perf_counter()
    for n in range(N_PUBLISH):
        await js.publish_async(
            f"{stream}.reading-recorded.sensor-{n % 1000}", envelope, headers={"Nats-Msg-Id": next_nuid()}
        )
    await js.publish_async_completed()
    took = time.perf_counter() - started
    await link.close()
    return took


def test_concurrent_publish(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    stream = "concurrent"
    asyncio.run(fill(server, stream, 1))
    duel(
        ("eda publish s", lambda: asyncio.run(eda_publish_s(server, stream))),
        ("nats-py publish_async s", lambda: asyncio.run(nats_publish_s(server, stream))),
    )
    delete(server, stream)


# --- subscribe -------------------------------------------------------------------------------------------------------


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


def rss_mb() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 1e6


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
