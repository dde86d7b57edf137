"""OpenTelemetry's metrics for messaging on a real server, read by an SDK's in-memory reader."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import eda
import eda.telemetry.otel_metrics
from eda.telemetry.otel_metrics import OtelMetrics
from helpers import Connect, Logged, until

SENT = "messaging.client.sent.messages"
CONSUMED = "messaging.client.consumed.messages"
OPERATION = "messaging.client.operation.duration"
PROCESS = "messaging.process.duration"


class Meter:
    """An SDK with a reader in memory."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])
        self.units: dict[str, str] = {}

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Return (attributes, point) of a metric's data points."""
        data = self.reader.get_metrics_data()
        metrics = [each for of in data.resource_metrics for scope in of.scope_metrics for each in scope.metrics]
        self.units |= {each.name: each.unit for each in metrics}
        return [
            (dict(point.attributes), point) for each in metrics if each.name == name for point in each.data.data_points
        ]

    def values(self, name: str) -> dict[str | None, int]:
        """Return the values of a counter by error.type."""
        return {attributes.get("error.type"): point.value for attributes, point in self.points(name)}


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    monkeypatch.setattr(eda.telemetry.otel_metrics, "RECORD_EVERY_S", 0.05)
    made = Meter()
    yield made
    made.provider.shutdown()


async def test_metrics_when_events_flow_are_those_of_the_conventions(conn: eda.Conn, stream: str, meter: Meter) -> None:
    metrics = OtelMetrics(meter.provider)
    metrics.attach(conn)
    async with conn.publisher(stream) as pub:
        await pub.send_many([eda.Event(type="a") for _ in range(10)])
    async with conn.subscribe(stream, lambda event: None, name="n", backfill=True) as sub:
        await until(lambda: sub.stats().handled == 10)
    metrics.detach(conn)
    common = {"messaging.system": "nats", "messaging.destination.name": stream}
    sending = common | {"messaging.operation.name": "send"}
    processing = common | {"messaging.operation.name": "process", "messaging.consumer.group.name": "n"}
    assert [(attributes, point.value) for attributes, point in meter.points(SENT)] == [(sending, 10)]
    assert [(attributes, point.value) for attributes, point in meter.points(CONSUMED)] == [(processing, 10)]
    for name, wanted in ((OPERATION, sending), (PROCESS, processing)):
        ((attributes, point),) = meter.points(name)
        assert attributes == wanted
        assert point.count == 10
        assert point.sum > 0
        assert point.explicit_bounds[:2] == (0.005, 0.01)
    assert meter.units == {SENT: "{message}", CONSUMED: "{message}", OPERATION: "s", PROCESS: "s"}


async def test_metrics_when_handlers_and_publishes_fail_name_the_error(
    conn: eda.Conn, stream: str, meter: Meter, logged: Logged
) -> None:
    logged.allow("handler failed", "dead letter")

    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(0.02)
        raise ValueError("no")

    metrics = OtelMetrics(meter.provider)
    metrics.attach(conn)
    await conn.publish_batch(stream, [eda.Event(id="x", type="a")])
    with pytest.raises(eda.ServerError):
        await conn.publish_batch(stream, [eda.Event(id="x", type="a")])
    retry = eda.Retry(initial_s=0.01, max_attempts=2)
    async with conn.subscribe(stream, handle, name="n", backfill=True, retry=retry, dead_letter=None) as sub:
        await until(lambda: sub.stats().failed == 2)
    metrics.detach(conn)
    assert meter.values(SENT) == {None: 1, "eda.errors.ServerError": 1}
    assert meter.values(CONSUMED) == {None: 0, "ValueError": 2}
    ((attributes, point),) = meter.points(PROCESS)
    assert attributes["error.type"] == "ValueError"
    assert point.count == 2
    assert point.min > 0.02


async def test_metrics_of_two_connections_add_up_and_stay_after_they_have_closed(
    connect: Connect, stream: str, meter: Meter
) -> None:
    metrics = OtelMetrics(meter.provider)
    for n in (1, 2):
        conn = await connect()
        metrics.attach(conn)
        await conn.publish(stream, eda.Event(type="a"))
        assert meter.values(SENT) == {None: n}
        await conn.close()
        metrics.detach(conn)
        metrics.detach(conn)
        assert meter.values(SENT) == {None: n}


async def test_durations_when_far_more_events_come_than_are_recorded_are_few(
    conn: eda.Conn, stream: str, meter: Meter
) -> None:
    metrics = OtelMetrics(meter.provider)
    metrics.attach(conn)
    async with conn.publisher(stream) as pub:
        await pub.send_many([eda.Event(type="a") for _ in range(3000)])
        await pub.flush()
    metrics.detach(conn)
    ((_, point),) = meter.points(OPERATION)
    assert 1 <= point.count < 3000
    assert meter.values(SENT) == {None: 3000}


async def test_attach_when_the_connection_was_used_before_counts_all_and_times_only_what_follows(
    conn: eda.Conn, stream: str, meter: Meter
) -> None:
    await conn.publish(stream, eda.Event(type="a"))
    metrics = OtelMetrics(meter.provider)
    metrics.attach(conn)
    metrics.attach(conn)
    await conn.publish(stream, eda.Event(type="a"))
    metrics.detach(conn)
    assert meter.values(SENT) == {None: 2}
    ((_, point),) = meter.points(OPERATION)
    assert point.count == 1
