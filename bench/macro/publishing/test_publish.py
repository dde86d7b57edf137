"""Single and concurrent publishes on a real server, beside a bare socket and nats-py."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

import nats
import uvloop

import bare
import eda
from eda._codec import encode_event
from eda._nuid import next_nuid
from macro import N_AT_ONCE, delete, fill, make_event

N_LATENCY = 3000
N_PUBLISH = 50_000


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
