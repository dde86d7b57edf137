"""What metrics cost while they are on: nothing for each event, but a scrape and records of durations now and then.

A round is what comes with 150,000 handled events: 15 s at 10,000 events/s, hence one scrape by Prometheus, and records
of durations for OpenTelemetry every 5 s. Reading the lags is not in it, as it depends on the server.
"""

from __future__ import annotations

from typing import Any

import prometheus_client
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.exposition import generate_latest

import eda
from eda._durations import Durations
from eda.stats import Histogram, PublisherStats, SubscriptionStats
from eda.telemetry.otel_metrics import RECORD_EVERY_S, OtelMetrics
from eda.totals import ConnStats, Totals
from micro import Maker, Round

__all__ = ["CONTENDERS", "N_EVENTS"]

EVENTS_PER_S = 10_000
SCRAPE_EVERY_S = 15
N_EVENTS = EVENTS_PER_S * SCRAPE_EVERY_S


class _Conn:
    """A connection with one publisher and one subscription, whose events are made up."""

    loop = None
    state = "connected"

    def __init__(self) -> None:
        self.durations = Durations()
        self.n = 0
        self._totals = Totals()
        self._totals.add_publisher("s", _Publisher(self))
        self._totals.add_subscription("s", "n", _Subscription(self))

    def handle(self) -> None:
        """Count a second's events, of which some take long."""
        self.n += EVENTS_PER_S
        for ns, n in ((20_000, 9000), (200_000, 900), (2_000_000, 90), (20_000_000, 10)):
            self.durations.note(ns, n)

    def stats(self) -> ConnStats:
        return self._totals.read(self.state)

    async def lags(self) -> dict[tuple[str, str], eda.Lag]:
        return {}


class _Publisher:
    def __init__(self, conn: _Conn) -> None:
        self._conn = conn

    def stats(self) -> PublisherStats:
        n = self._conn.n
        return PublisherStats(n, n, 0, 0, 0, 0, "fast", publishing=Histogram(*self._conn.durations.read()))


class _Subscription:
    def __init__(self, conn: _Conn) -> None:
        self._conn = conn

    def stats(self) -> SubscriptionStats:
        times = Histogram(*self._conn.durations.read())
        return SubscriptionStats(self._conn.n, 0, 0, 0, 0, 0, self._conn.n, 0, 0, 0, 0, True, handling=times)


def _metrics(conn: _Conn) -> OtelMetrics:
    metrics = OtelMetrics(MeterProvider([InMemoryMetricReader()]))
    metrics._conns[conn] = conn.stats()  # as `attach` does, but without an event loop for its timer
    return metrics


def scraped_and_recorded() -> Round:
    """Return the work of both kinds of metrics."""
    conn: Any = _Conn()
    registry = prometheus_client.CollectorRegistry()
    registry.register(eda.prometheus(conn))
    metrics = _metrics(conn)

    def run() -> bytes:
        for second in range(1, SCRAPE_EVERY_S + 1):
            conn.handle()
            if second % RECORD_EVERY_S == 0:
                metrics._record(conn)
        return generate_latest(registry)

    return Round(run, N_EVENTS)


CONTENDERS: dict[str, Maker] = {"scraped_and_recorded": scraped_and_recorded}
