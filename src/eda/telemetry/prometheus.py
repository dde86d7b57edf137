"""`eda.prometheus`: a collector of metrics for the package prometheus-client."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from eda.errors import ConfigError
from eda.stats import Histogram
from eda.telemetry.families import LAG, LAG_S, OF_CONNECTIONS, OF_PUBLISHERS, OF_SUBSCRIPTIONS, Family
from eda.telemetry.lag_watch import LagWatch
from eda.totals import ConnStats, together

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["PrometheusCollector", "prometheus"]

STREAM = ("stream",)
SUBSCRIPTION = ("stream", "subscription")


def prometheus(*conns: Any) -> PrometheusCollector:
    """Return a collector of the metrics of connections, to be registered with the package prometheus-client.

    `prometheus_client.REGISTRY.register(eda.prometheus(conn))`. Give all connections of the process to one collector:
    their counts are added up. The connections may be opened later. Needs the extra `prometheus`.

    A scrape may come in any thread, and never waits for a server. The lags are those that were read last: while scrapes
    come, they are read every 5 s, so the first scrape has none. docs/telemetry.md lists the metrics.

    Raises ConfigError if prometheus-client is not installed, and for anything but connections.
    """
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "eda.prometheus needs the package prometheus-client: install eda-fast[prometheus]", argument="conns"
        ) from error
    if not conns:
        raise ConfigError("eda.prometheus needs at least one connection", argument="conns")
    for index, conn in enumerate(conns):
        if not callable(getattr(conn, "lags", None)):
            raise ConfigError(f"conns[{index}] must be an eda.Conn, not {conn!r}", argument="conns")
        if any(conn is each for each in conns[:index]):
            raise ConfigError(f"conns[{index}] was given twice: its events would count twice", argument="conns")
    return PrometheusCollector(conns)


class PrometheusCollector:
    """The metrics of some connections. `prometheus_client.REGISTRY.register` takes it."""

    def __init__(self, conns: tuple[Any, ...]) -> None:
        self._conns = conns
        self._watches = [LagWatch(conn) for conn in conns]

    def describe(self) -> Iterator[Metric]:
        """Return all metrics without values: the registry refuses a second collector with the same names."""
        for each in OF_CONNECTIONS:
            yield _family(each, ())
        for each in OF_PUBLISHERS:
            yield _family(each, STREAM)
        for each in (*OF_SUBSCRIPTIONS, LAG, LAG_S):
            yield _family(each, SUBSCRIPTION)

    def collect(self) -> Iterator[Metric]:
        """Return all metrics as of now. Any thread may call it, also after the connections are closed."""
        for watch in self._watches:
            watch.want()
        stats = [conn.stats() for conn in self._conns]
        yield from _of_connections(stats)
        publishers = together(each.publishers for each in stats)
        for family in OF_PUBLISHERS:
            metric = _family(family, STREAM)
            for stream, counts in publishers.items():
                _add(metric, family, (stream,), counts)
            yield metric
        subscriptions = together(each.subscriptions for each in stats)
        for family in OF_SUBSCRIPTIONS:
            metric = _family(family, SUBSCRIPTION)
            for key, counts in subscriptions.items():
                if family.kind != "gauge" or counts.open:
                    _add(metric, family, key, counts)
            yield metric
        yield from self._lags({key for key, counts in subscriptions.items() if counts.open})

    def _lags(self, are_open: set[tuple[str, str]]) -> Iterator[Metric]:
        events, seconds = _family(LAG, SUBSCRIPTION), _family(LAG_S, SUBSCRIPTION)
        n_events: dict[tuple[str, str], int] = {}
        ages_s: dict[tuple[str, str], float] = {}
        for watch in self._watches:
            for key, lag in watch.lags.items():
                if key in are_open:
                    if lag.events is not None:
                        n_events[key] = max(lag.events, n_events.get(key, 0))
                    if lag.seconds is not None:
                        ages_s[key] = max(lag.seconds, ages_s.get(key, 0.0))
        for key, n in n_events.items():
            events.add_metric(key, n)
        for key, age_s in ages_s.items():
            seconds.add_metric(key, age_s)
        yield events
        yield seconds


def _of_connections(stats: list[ConnStats]) -> Iterator[Metric]:
    n_open = sum(each.state != "closed" for each in stats)
    n_up = sum(each.state in ("connected", "reconnected") for each in stats)
    for family, value in zip(OF_CONNECTIONS, (n_open, n_up, sum(each.reconnects for each in stats)), strict=True):
        metric = _family(family, ())
        metric.add_metric((), value)
        yield metric


def _family(family: Family, labels: tuple[str, ...]) -> Any:
    """Return a metric without values."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    kinds: dict[str, Any] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    return kinds[family.kind](family.name, family.text, labels=labels)


def _add(metric: Any, family: Family, labels: tuple[str, ...], counts: Any) -> None:
    assert family.value is not None
    value = family.value(counts)
    if family.kind != "histogram":
        metric.add_metric(labels, value)
        return
    whole = sum(value, Histogram())
    ends = [*(f"{bound_s:g}" for bound_s in Histogram.bounds_s), "+Inf"]
    metric.add_metric(labels, list(zip(ends, accumulate(whole.counts), strict=True)), whole.sum_s)
