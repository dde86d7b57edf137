"""Consuming at volume, each kind of subscription beside a bare socket and nats-py, on the same stream."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import nats
import pytest
import uvloop
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

import bare_reader
import eda
from eda._nuid import next_nuid
from eda.publishing._stream_sender import Destination, frame_of
from macro import delete
from micro.handling.dispatch import make_event

N = 200_000
N_SLOW = 5_000  # for what takes a round trip per event
N_LATENCY = 2_000
STREAM = "consume"


@pytest.fixture(scope="module")
def stream(server: eda.EmbeddedServer) -> Iterator[str]:
    async def fill() -> None:
        async with eda.connect(server.url) as conn, conn.publisher(STREAM) as pub:
            await pub.send_many(make_event(n) for n in range(N))

    asyncio.run(fill())
    yield STREAM
    delete(server, STREAM)


Note = Callable[[str, float], None]


def cpu_us(since: float, n: int) -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime - since) / n * 1e6


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def eda_read_s(
    server: eda.EmbeddedServer, n: int, note: Note | None = None, stream: str = STREAM, **options: Any
) -> float:
    """Handle `n` events; returns the seconds until the position of the last one is confirmed."""
    n_seen = 0
    done = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        nonlocal n_seen
        _ = event.type, event.data
        n_seen += 1
        if n_seen == n:
            done.set()

    async def handle_batch(events: list[eda.Event]) -> None:
        nonlocal n_seen
        for event in events:
            _ = event.type, event.data
        n_seen += len(events)
        if n_seen >= n:
            done.set()

    handler = handle_batch if "batch" in options else handle
    async with eda.connect(server.url) as conn:
        name = f"bench-{next_nuid()}"
        began = cpu_s()
        started = time.perf_counter()
        sub = await conn.subscribe(stream, handler, name=name, durable=True, backfill=True, **options)
        await done.wait()
        await sub.close()
        took = time.perf_counter() - started
        if note is not None:
            note("eda default CPU us", cpu_us(began, n))
        async with conn.subscribe(stream, handler, name=name, durable=True, **options) as again:
            await again.unsubscribe()
    return took


def bare_read_s(server: eda.EmbeddedServer) -> float:
    consumer = f"bare-{next_nuid()}"

    async def create() -> None:
        link = await nats.connect(server.url)
        config = ConsumerConfig(
            durable_name=consumer, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=65_536, ack_wait=30
        )
        await link.jetstream().add_consumer(STREAM, config)
        await link.close()

    async def remove() -> None:
        link = await nats.connect(server.url)
        await link.jetstream().delete_consumer(STREAM, consumer)
        await link.close()

    asyncio.run(create())
    took = bare_reader.read_s(server, STREAM, consumer, N)
    asyncio.run(remove())
    return took


async def nats_push_s(server: eda.EmbeddedServer, n: int, max_ack_pending: int, note: Note | None = None) -> float:
    """A push subscription with a callback that acknowledges, as nats-py's documentation has it."""
    n_seen = 0
    done = asyncio.Event()

    async def handle(msg: Any) -> None:
        nonlocal n_seen
        _ = msg.subject, msg.data
        await msg.ack()
        n_seen += 1
        if n_seen == n:
            done.set()

    link = await nats.connect(server.url)
    js = link.jetstream()
    began = cpu_s()
    started = time.perf_counter()
    sub = await js.subscribe(
        f"{STREAM}.>", durable=f"bench-{next_nuid()}", cb=handle, manual_ack=True, pending_msgs_limit=-1,
        pending_bytes_limit=-1, config=ConsumerConfig(max_ack_pending=max_ack_pending),
    )  # fmt: skip
    await done.wait()
    await link.flush()
    took = time.perf_counter() - started
    if note is not None:
        note("nats-py push CPU us", cpu_us(began, n))
    await sub.unsubscribe()
    await link.close()
    return took


async def nats_fetch_s(server: eda.EmbeddedServer, n: int, note: Note) -> float:
    link = await nats.connect(server.url)
    js = link.jetstream()
    began = cpu_s()
    started = time.perf_counter()
    sub = await js.pull_subscribe(
        f"{STREAM}.>", durable=f"bench-{next_nuid()}", config=ConsumerConfig(max_ack_pending=65_536)
    )
    n_seen = 0
    while n_seen < n:
        for msg in await sub.fetch(500):
            _ = msg.subject, msg.data
            await msg.ack()
            n_seen += 1
    await link.flush()
    took = time.perf_counter() - started
    note("nats-py fetch CPU us", cpu_us(began, n))
    await link.close()
    return took


@pytest.mark.timeout(900)
def test_consume(server: eda.EmbeddedServer, stream: str, duel: Callable[..., None], note: Note) -> None:
    n_push, n_fetch = N // 2, N // 4

    def eda_run(name: str, **options: Any) -> tuple[str, Callable[[], float]]:
        return name, lambda: asyncio.run(eda_read_s(server, N, **options))

    duel(
        ("eda default s", lambda: asyncio.run(eda_read_s(server, N, note))),
        ("bare reader s", lambda: bare_read_s(server)),
        eda_run("eda exclusive s", exclusive=True),
        eda_run("eda exclusive batch s", exclusive=True, batch=500),
        eda_run("eda serial s", serial=True),
        eda_run("eda key s", key="aggregate", concurrency=16),
        ("nats-py push ack s", lambda: asyncio.run(nats_push_s(server, n_push, 65_536, note)) * N / n_push),
        ("nats-py fetch ack s", lambda: asyncio.run(nats_fetch_s(server, n_fetch, note)) * N / n_fetch),
        rounds=5,
    )


@pytest.mark.timeout(300)
def test_consume_one_at_a_time(server: eda.EmbeddedServer, stream: str, duel: Callable[..., None]) -> None:
    duel(
        ("eda strict s", lambda: asyncio.run(eda_read_s(server, N_SLOW, serial="strict"))),
        ("nats-py one at a time s", lambda: asyncio.run(nats_push_s(server, N_SLOW, 1))),
        ("eda serial few s", lambda: asyncio.run(eda_read_s(server, N, serial=True)) * N_SLOW / N),
        rounds=9,
    )


# --- from publish to handler -----------------------------------------------------------------------------------------


async def eda_delivery_us(server: eda.EmbeddedServer, stream: str) -> float:
    took: list[int] = []
    arrived = asyncio.Event()
    started = 0

    async def handle(event: eda.Event) -> None:
        took.append(time.perf_counter_ns() - started)
        arrived.set()

    async with eda.connect(server.url) as out, eda.connect(server.url) as conn:
        await out.publish(stream, make_event(0))
        async with conn.subscribe(stream, handle, name=f"latency-{next_nuid()}", durable=True) as sub:
            for n in range(N_LATENCY):
                arrived.clear()
                event = make_event(n)
                started = time.perf_counter_ns()
                await out.publish(stream, event)
                await arrived.wait()
                await asyncio.sleep(0.0002)
            await sub.unsubscribe()
    return statistics.median(took) / 1000


def bare_delivery_us(server: eda.EmbeddedServer, stream: str) -> float:
    consumer = f"bare-{next_nuid()}"

    async def create() -> None:
        link = await nats.connect(server.url)
        config = ConsumerConfig(
            durable_name=consumer,
            ack_policy=AckPolicy.EXPLICIT,
            max_ack_pending=65_536,
            deliver_policy=DeliverPolicy.NEW,
        )
        await link.jetstream().add_consumer(stream, config)
        await link.close()

    asyncio.run(create())
    target = Destination(stream, 1 << 20)
    events = [make_event(n).replace(id=next_nuid(), client="bench", time=time.time_ns()) for n in range(N_LATENCY)]
    frames = [frame_of(target, event, b"_INBOX.nobody.", seq) for seq, event in enumerate(events, 1)]
    return bare_reader.delivery_latency_us(server, stream, consumer, frames)


def test_delivery_latency(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    stream = "delivery"

    async def create() -> None:
        async with eda.connect(server.url) as conn:
            await conn.streams.create(stream)

    asyncio.run(create())
    duel(
        ("eda delivery us", lambda: asyncio.run(eda_delivery_us(server, stream))),
        ("eda uvloop delivery us", lambda: uvloop.run(eda_delivery_us(server, stream))),
        ("bare delivery us", lambda: bare_delivery_us(server, stream)),
    )
    delete(server, stream)
