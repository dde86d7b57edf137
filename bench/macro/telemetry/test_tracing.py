"""What traces cost: a publisher and a subscription at once, beside the same without telemetry, and beside FastStream.

All use the OpenTelemetry SDK with an exporter that drops the spans. In each run a publisher sends events and flushes
after every thousandth, while a subscription to the stream handles them.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from faststream.nats import JStream, NatsBroker
from faststream.nats.opentelemetry import NatsTelemetryMiddleware
from nats.js.api import ConsumerConfig
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBased, Sampler, SamplingResult

import eda
from eda._nuid import next_nuid
from macro import PAYLOAD

N = 200_000
N_TRACED = 10_000
FLUSH = 1000
AT_ONCE = 1000  # how many publishes FastStream has under way

_numbers = itertools.count()


class OneInHundred(Sampler):
    """Samples every hundredth trace. A random sampler would sample another share in each run."""

    def __init__(self) -> None:
        self._n = 0

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        self._n += 1
        return SamplingResult(Decision.RECORD_AND_SAMPLE if self._n % 100 == 50 else Decision.DROP)

    def get_description(self) -> str:
        return "one in a hundred"


class Dropped(SpanExporter):
    """Counts the spans."""

    def __init__(self) -> None:
        self.n = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.n += len(spans)
        return SpanExportResult.SUCCESS


def provider_of(sampler: Sampler) -> tuple[TracerProvider, Dropped]:
    provider, dropped = TracerProvider(sampler=ParentBased(sampler)), Dropped()
    provider.add_span_processor(SimpleSpanProcessor(dropped))
    return provider, dropped


async def eda_s(server: eda.EmbeddedServer, n: int, middleware: list[eda.Middleware]) -> float:
    """Publish and handle `n` events; returns the seconds per 100,000."""
    stream, n_handled = f"traced-{next(_numbers)}", 0
    done = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        nonlocal n_handled
        n_handled += 1
        if n_handled == n:
            done.set()

    async with eda.connect(server.url, client="bench", middleware=middleware) as conn:
        await conn.streams.create(stream, eda.StreamOptions())
        async with conn.subscribe(stream, handle, backfill=True), conn.publisher(stream) as publisher:
            started = time.perf_counter()
            for number in range(1, n + 1):
                await publisher.send(eda.Event(type="reading-recorded", data=eda.Bytes(PAYLOAD)))
                if number % FLUSH == 0:
                    await publisher.flush()
            await publisher.flush()
            await done.wait()
            took = time.perf_counter() - started
        await conn.streams.delete(stream)
    return took / n * 100_000


def traced_s(server: eda.EmbeddedServer, n: int, sampler: Sampler, least: int) -> float:
    provider, dropped = provider_of(sampler)
    took = asyncio.run(eda_s(server, n, [eda.OpenTelemetry(tracer_provider=provider)]))
    assert dropped.n >= least, f"{dropped.n} spans"
    return took


async def faststream_s(server: eda.EmbeddedServer, n: int, provider: trace.TracerProvider) -> float:
    """Publish and handle `n` messages, with many publishes at once; returns the seconds per 100,000."""
    stream, n_handled = f"traced-{next(_numbers)}", 0
    done = asyncio.Event()
    async with eda.connect(server.url) as conn:
        await conn.streams.create(stream, eda.StreamOptions())
    broker = NatsBroker(server.url, logger=None, middlewares=[NatsTelemetryMiddleware(tracer_provider=provider)])

    @broker.subscriber(
        f"{stream}.>",
        stream=JStream(stream, declare=False),
        durable="bench",
        config=ConsumerConfig(max_ack_pending=4096),
        pending_msgs_limit=-1,
        pending_bytes_limit=-1,
    )
    async def handle(body: bytes) -> None:
        nonlocal n_handled
        n_handled += 1
        if n_handled == n:
            done.set()

    async def publish(count: int) -> None:
        for _ in range(count):
            await broker.publish(
                PAYLOAD, f"{stream}.reading", headers={"Nats-Msg-Id": next_nuid()}, stream=stream, timeout=30
            )

    await broker.start()
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(publish(n // AT_ONCE))
    await done.wait()
    took = time.perf_counter() - started
    await broker.stop()
    async with eda.connect(server.url) as conn:
        await conn.streams.delete(stream)
    return took / n * 100_000


@pytest.mark.timeout(900)
def test_one_in_a_hundred_traced(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    duel(
        (
            "eda 1 % traced s",
            lambda: traced_s(server, N, OneInHundred(), N // 100),
        ),
        ("eda untraced s", lambda: asyncio.run(eda_s(server, N, []))),
        rounds=7,
    )


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:The JetStream Push consumer with the `durable` option:RuntimeWarning")
def test_every_event_traced(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    duel(
        ("eda traced s", lambda: traced_s(server, N_TRACED, ALWAYS_ON, N_TRACED)),
        (
            "FastStream traced s",
            lambda: asyncio.run(faststream_s(server, N_TRACED, provider_of(ALWAYS_ON)[0])),
        ),
        rounds=4,
    )
