"""What a connection has published and handled since it was opened, by stream and subscription."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from threading import Lock
from typing import Any, Protocol, TypeVar

from eda.stats import Histogram, PublisherStats, SubscriptionStats

__all__ = ["ConnStats", "HasStats", "Totals", "together"]

_S = TypeVar("_S", PublisherStats, SubscriptionStats)
_K = TypeVar("_K")
_S_co = TypeVar("_S_co", PublisherStats, SubscriptionStats, covariant=True)

# Of a closed publisher or subscription only the counts matter; these say how it is now.
_NOW_OF_PUBLISHER: dict[str, Any] = {
    "open": 0, "pending": 0, "pending_bytes": 0, "in_open_pack": 0, "mode": "",
    "max_pending": 0, "max_pending_bytes": 0, "oldest_pending_s": 0.0,
}  # fmt: skip
_NOW_OF_SUBSCRIPTION: dict[str, Any] = {
    "open": 0, "in_flight": 0, "buffered": 0, "pending": 0, "active": False, "paused": False, "circuit_open": False,
    "pack_held_s": 0.0, "held_bytes": 0, "prefetch": 0, "prefetch_bytes": 0,
}  # fmt: skip
# Of several together the largest one counts.
_LARGEST = {"last_sequence", "pending", "pack_held_s", "oldest_pending_s"}


@dataclass(frozen=True)
class ConnStats:
    """What a connection has done since it was opened. Closed publishers and subscriptions are included."""

    state: str
    """the state of the connection, as `Conn.state` says"""
    reconnects: int
    """how often the connection was lost and is back"""
    publishers: dict[str, PublisherStats]
    """by stream: all that was published, by publishers, `publish`, `publish_batch`, event stores and relays. `open`
    counts the open publishers"""
    subscriptions: dict[tuple[str, str], SubscriptionStats]
    """by stream and name: what the subscriptions and projections of this name have handled. Subscriptions that are not
    durable and have no `name` are together under the name "private\""""


class HasStats(Protocol[_S_co]):
    """A publisher or a subscription."""

    def stats(self) -> _S_co: ...


class _Kind:
    """The open objects of one kind, and what the closed ones have done."""

    def __init__(self, now: dict[str, Any]) -> None:
        self.open: dict[Any, Any] = {}  # object > its key
        self.closed: dict[Any, Any] = {}  # key > stats
        self.now = now


class Totals:
    """Counts what the publishers and subscriptions of a connection do, and remembers those that have closed.

    Any thread may call `read`. The event loop's thread adds and retires objects. A lock makes sure that an object is
    never missing and never counted twice, so counts never go down. The counts themselves need no lock: each is read in
    compiled code in one step.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._publishers = _Kind(_NOW_OF_PUBLISHER)
        self._subscriptions = _Kind(_NOW_OF_SUBSCRIPTION)
        self.n_reconnects: int = 0
        # Returns (stream, counts) of what is published without a Publisher.
        self.others: Callable[[], Iterable[tuple[str, PublisherStats]]] = tuple

    def note_reconnect(self) -> None:
        """Count a reconnect."""
        self.n_reconnects += 1

    # --- what opens and closes ---------------------------------------------------------------------------------------

    def add_publisher(self, stream: str, publisher: HasStats[PublisherStats]) -> None:
        """Begin to count a publisher."""
        self._add(self._publishers, stream, publisher)

    def retire_publisher(self, publisher: HasStats[PublisherStats]) -> None:
        """Keep the counts of a publisher that has closed. Do nothing if it was not added."""
        self._retire(self._publishers, publisher)

    def add_subscription(self, stream: str, name: str, subscription: HasStats[SubscriptionStats]) -> None:
        """Begin to count a subscription."""
        self._add(self._subscriptions, (stream, name), subscription)

    def retire_subscription(self, subscription: HasStats[SubscriptionStats]) -> None:
        """Keep the counts of a subscription that has closed. Do nothing if it was not added."""
        self._retire(self._subscriptions, subscription)

    def _add(self, kind: _Kind, key: object, counted: object) -> None:
        with self._lock:
            kind.open[counted] = key

    def _retire(self, kind: _Kind, counted: HasStats[Any]) -> None:
        with self._lock:
            if counted in kind.open:
                key = kind.open.pop(counted)
                stats = replace(counted.stats(), **kind.now)
                kind.closed[key] = stats if key not in kind.closed else _add_up(kind.closed[key], stats)

    def open_subscriptions(self) -> list[tuple[tuple[str, str], Any]]:
        """Return (stream and name, subscription) of each open subscription, also those of projections."""
        with self._lock:
            return [(key, subscription) for subscription, key in self._subscriptions.open.items()]

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, state: str) -> ConnStats:
        """Return the counts as of now."""
        with self._lock:
            publishers, subscriptions = _read(self._publishers), _read(self._subscriptions)
        for stream, stats in self.others():
            publishers[stream] = stats if stream not in publishers else _add_up(publishers[stream], stats)
        return ConnStats(state, self.n_reconnects, publishers, subscriptions)


def _read(kind: _Kind) -> dict[Any, Any]:
    found = dict(kind.closed)
    for counted, key in kind.open.items():
        stats = counted.stats()
        found[key] = stats if key not in found else _add_up(found[key], stats)
    return found


def together(tables: Iterable[dict[_K, _S]]) -> dict[_K, _S]:
    """Return the counts of several tables, added up by key."""
    found: dict[_K, _S] = {}
    for table in tables:
        for key, stats in table.items():
            found[key] = stats if key not in found else _add_up(found[key], stats)
    return found


def _add_up(first: _S, second: _S) -> _S:
    """Return the counts of both: sums, the larger age, whether one of them is active or paused."""
    values: dict[str, Any] = {}
    for each in fields(first):
        mine, others = getattr(first, each.name), getattr(second, each.name)
        if each.name in _LARGEST:
            values[each.name] = max(mine, others)
        elif isinstance(mine, bool):
            values[each.name] = mine or others
        elif isinstance(mine, dict):
            values[each.name] = {key: mine.get(key, 0) + others.get(key, 0) for key in mine | others}
        elif isinstance(mine, str):
            values[each.name] = mine if mine == others or not others else "" if mine else others
        elif isinstance(mine, int | float | Histogram):
            values[each.name] = mine + others
    return type(first)(**values)
