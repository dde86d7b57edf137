"""The names, kinds and sources of all metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from eda.stats import PublisherStats, SubscriptionStats

__all__ = ["LAG", "LAG_S", "OF_CONNECTIONS", "OF_PUBLISHERS", "OF_SUBSCRIPTIONS", "Family", "Kind"]

Kind = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """A metric: `value` takes it from the stats; None: it has its value from elsewhere."""

    name: str
    kind: Kind
    text: str
    value: Callable[[Any], Any] | None

    @property
    def exposed(self) -> str:
        """Its name as Prometheus sees it, of a histogram without the suffixes."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def _published(name: str, kind: Kind, text: str, value: Callable[[PublisherStats], Any]) -> Family:
    return Family(f"eda_publish_{name}", kind, text, value)


def _handled(name: str, kind: Kind, text: str, value: Callable[[SubscriptionStats], Any]) -> Family:
    return Family(f"eda_subscription_{name}", kind, text, value)


OF_CONNECTIONS = (
    Family("eda_connections", "gauge", "Connections that are not closed.", None),
    Family("eda_connections_up", "gauge", "Connections that are connected to a server now.", None),
    Family("eda_connection_reconnects", "counter", "How often connections were lost and came back.", None),
)

# Labels: stream.
OF_PUBLISHERS = (
    _published("events", "counter", "Events that were accepted to be published.", lambda s: s.sent),
    _published("acknowledged_events", "counter", "Events that the stream has stored.", lambda s: s.acknowledged),
    _published("failed_events", "counter", "Events that were not stored.", lambda s: s.failed),
    _published(
        "resent_events", "counter", "Events that were sent again, without an answer before.", lambda s: s.resent
    ),
    _published("packs", "counter", "Messages into which events were packed.", lambda s: s.packs),
    _published("duration_seconds", "histogram", "Time from acceptance to acknowledgement.", lambda s: [s.publishing]),
    _published("pending_events", "gauge", "Events that wait for their acknowledgement.", lambda s: s.pending),
    _published("pending_bytes", "gauge", "Bytes of the pending events.", lambda s: s.pending_bytes),
    _published("window_events", "gauge", "The most pending events of the open publishers.", lambda s: s.max_pending),
    _published(
        "window_bytes", "gauge", "The most pending bytes of the open publishers.", lambda s: s.max_pending_bytes
    ),
    _published("oldest_pending_seconds", "gauge", "Age of the oldest pending event.", lambda s: s.oldest_pending_s),
    _published("publishers", "gauge", "Publishers that are open.", lambda s: s.open),
)

# Labels: stream, subscription. The gauges are there while a subscription of the name is open.
OF_SUBSCRIPTIONS = (
    _handled("handled_events", "counter", "Events whose handler returned.", lambda s: s.handled),
    _handled("failed_attempts", "counter", "Attempts whose handler failed or ran too long.", lambda s: s.failed),
    _handled(
        "retried_attempts", "counter", "Failed attempts after which the event is handled again.", lambda s: s.retried
    ),
    _handled(
        "redelivered_events", "counter", "Deliveries that were not the first of their event.", lambda s: s.redelivered
    ),
    _handled("dead_lettered_events", "counter", "Events that became dead letters.", lambda s: s.dead_lettered),
    _handled(
        "undecodable_events", "counter", "Events given up because they can't be decoded.", lambda s: s.undecodable
    ),
    _handled("passed_over_events", "counter", "Events neither handled nor dead-lettered.", lambda s: s.passed_over),
    _handled("skipped_events", "counter", "Events gone from the stream before their delivery.", lambda s: s.skipped),
    _handled("handler_seconds", "histogram", "Time of handler calls.", lambda s: [s.handling, s.failing]),
    _handled("in_flight_events", "gauge", "Events that handlers have now.", lambda s: s.in_flight),
    _handled("buffered_events", "gauge", "Events that wait for a handler.", lambda s: s.buffered),
    _handled("held_bytes", "gauge", "Bytes of the events that are received and not done.", lambda s: s.held_bytes),
    _handled("prefetch_events", "gauge", "The most events that may be held.", lambda s: s.prefetch),
    _handled("prefetch_bytes", "gauge", "The most bytes that may be held.", lambda s: s.prefetch_bytes),
    _handled("pack_held_seconds", "gauge", "How long the oldest pack has been held.", lambda s: s.pack_held_s),
    _handled("members", "gauge", "Open subscriptions of this name.", lambda s: s.open),
    _handled("active", "gauge", "1 if one of the members gets events.", lambda s: int(s.active)),
    _handled("paused", "gauge", "1 if one of the members is paused.", lambda s: int(s.paused)),
    _handled("circuit_open", "gauge", "1 if the circuit of one of the members is open.", lambda s: int(s.circuit_open)),
)

LAG = Family("eda_subscription_lag_events", "gauge", "Events in the stream that are not done.", None)
LAG_S = Family("eda_subscription_lag_seconds", "gauge", "Age of the oldest event that is not done.", None)
