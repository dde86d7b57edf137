"""The metrics of OpenTelemetry's semantic conventions for messaging, version 1.44, from the counts of connections."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import cycle, pairwise
from math import nextafter, sqrt
from threading import Lock
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation, get_meter

from eda._version import __version__
from eda.stats import Histogram, PublisherStats, SubscriptionStats
from eda.totals import ConnStats, together

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider

__all__ = ["OtelMetrics", "values_of"]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
RECORD_EVERY_S = 5.0
MOST_VALUES = 20  # of each time series, in this time. Recording one takes the SDK 15 us, as long as 15 events
# What the conventions advise, in seconds.
BOUNDS_S: list[float] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]

Attributes = dict[str, str]


class OtelMetrics:
    """Metrics of all connections that are attached, through the API of OpenTelemetry alone.

    `messaging.client.sent.messages` and `messaging.client.consumed.messages` are exact: their callbacks read the counts
    of the connections. The API has no instrument that takes buckets. So `messaging.client.operation.duration` and
    `messaging.process.duration` get, every 5 s, values in proportion to what the buckets of the connections have got:
    one for each duration, or at most 20 for each stream, and for each subscription.

    `meter_provider`: None is the global one. The connections must belong to event loops of one thread.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        meter = get_meter("eda", __version__, meter_provider, SCHEMA_URL)
        self._lock = Lock()
        self._conns: dict[Any, ConnStats] = {}  # connection > its counts when durations were last recorded
        self._timers: dict[Any, asyncio.TimerHandle] = {}
        self._closed: list[ConnStats] = []  # the sum of all connections that were detached
        self._sent = meter.create_observable_counter(
            "messaging.client.sent.messages",
            [self._observe_sent],
            unit="{message}",
            description="Number of messages producer attempted to send to the broker.",
        )
        self._consumed = meter.create_observable_counter(
            "messaging.client.consumed.messages",
            [self._observe_consumed],
            unit="{message}",
            description="Number of messages that were delivered to the application.",
        )
        self._operations = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=BOUNDS_S,
        )
        self._processing = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="Duration of processing operation.",
            explicit_bucket_boundaries_advisory=BOUNDS_S,
        )

    # --- connections -------------------------------------------------------------------------------------------------

    def attach(self, conn: Any) -> None:
        """Begin to measure an open connection. Call it in the connection's event loop."""
        if conn not in self._conns:
            with self._lock:
                self._conns[conn] = conn.stats()
            self._record_later(conn)

    def detach(self, conn: Any) -> None:
        """Stop measuring a connection, which is closed. Its counts stay in the sums."""
        if conn in self._conns:
            self._timers.pop(conn).cancel()
            self._record(conn)
            with self._lock:
                del self._conns[conn]
                self._closed = [_sum([*self._closed, conn.stats()])]

    def _stats(self) -> list[ConnStats]:
        with self._lock:  # the counts of a connection must not be missing, nor be there twice
            return [*self._closed, *(conn.stats() for conn in self._conns)]

    # --- counters ----------------------------------------------------------------------------------------------------

    def _observe_sent(self, options: CallbackOptions) -> Iterator[Observation]:
        for stream, stats in together(each.publishers for each in self._stats()).items():
            attributes = _attributes("send", stream)
            yield Observation(stats.acknowledged, attributes)
            for name, n in _errors_of(stats.failed, stats.errors):
                yield Observation(n, attributes | {"error.type": name})

    def _observe_consumed(self, options: CallbackOptions) -> Iterator[Observation]:
        for key, stats in together(each.subscriptions for each in self._stats()).items():
            attributes = _attributes("process", *key)
            yield Observation(stats.handled, attributes)
            for name, n in _errors_of(stats.failed, stats.errors):
                yield Observation(n, attributes | {"error.type": name})

    # --- histograms --------------------------------------------------------------------------------------------------

    def _record_later(self, conn: Any) -> None:
        self._timers[conn] = asyncio.get_running_loop().call_later(RECORD_EVERY_S, self._on_timer, conn)

    def _on_timer(self, conn: Any) -> None:
        self._record(conn)
        self._record_later(conn)

    def _record(self, conn: Any) -> None:
        """Record durations of what was done since the last time."""
        before = self._conns[conn]
        now = self._conns[conn] = conn.stats()
        nothing = PublisherStats(0, 0, 0, 0, 0, 0, "")
        for stream, sent in now.publishers.items():
            earlier = before.publishers.get(stream, nothing)
            attributes = _attributes("send", stream)
            for value in values_of(earlier.publishing, sent.publishing):
                self._operations.record(value, attributes)
        for key, handled in now.subscriptions.items():
            self._record_processing(_attributes("process", *key), before.subscriptions.get(key), handled)

    def _record_processing(
        self, attributes: Attributes, before: SubscriptionStats | None, now: SubscriptionStats
    ) -> None:
        none = Histogram()
        for value in values_of(before.handling if before else none, now.handling):
            self._processing.record(value, attributes)
        failed = values_of(before.failing if before else none, now.failing)
        if failed:
            earlier = before.errors if before else {}
            names = [name for name, n in now.errors.items() if n > earlier.get(name, 0)] or ["_OTHER"]
            for value, name in zip(failed, cycle(names), strict=False):
                self._processing.record(value, attributes | {"error.type": name})


def values_of(before: Histogram, now: Histogram) -> list[float]:
    """Return values that stand for the durations between two readings, in seconds: one for each, or at most 20.

    Each is in the bucket of a duration. Within the buckets, they are placed so that their mean is near the true one.
    """
    counts = [later - earlier for earlier, later in zip(before.counts, now.counts, strict=True)]
    n = sum(counts)
    if n <= 0:
        return []
    ends = [0.0, *Histogram.bounds_s, Histogram.bounds_s[-1] * 10]
    middles = [sqrt(max(low, high / 10) * high) for low, high in pairwise(ends)]
    mean_s = (now.sum_s - before.sum_s) / n
    factor = mean_s / (sum(count * middle for count, middle in zip(counts, middles, strict=True)) / n)
    values = []
    share = min(1.0, MOST_VALUES / n)
    n_before = 0
    for count, middle, (low, high) in zip(counts, middles, pairwise(ends), strict=True):
        # The rounded shares of all buckets up to this one, so that no bucket's rest is lost.
        n_values = round((n_before + count) * share) - round(n_before * share)
        n_before += count
        values += [min(max(middle * factor, nextafter(low, high)), high)] * n_values
    return values


def _sum(stats: Iterable[ConnStats]) -> ConnStats:
    given = list(stats)
    return ConnStats(
        "closed",
        sum(each.reconnects for each in given),
        together(each.publishers for each in given),
        together(each.subscriptions for each in given),
    )


def _errors_of(n_failed: int, errors: dict[str, int]) -> list[tuple[str, int]]:
    """Return (type, count) of all failures."""
    rest = n_failed - sum(errors.values())
    found = dict(errors)
    if rest > 0:  # counted a moment ago, while another thread reads
        found["_OTHER"] = found.get("_OTHER", 0) + rest
    return list(found.items())


def _attributes(operation: str, stream: str, group: str | None = None) -> Attributes:
    attributes = {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.destination.name": stream,
    }
    if group is not None:
        attributes["messaging.consumer.group.name"] = group
    return attributes
