"""The keyword options of `conn.subscribe` and `conn.events` as TypedDicts, for type checkers and editors.

`SubscriptionOptions` has the same options as a dataclass, which checks their values. A test compares the two.
"""

# Without `from __future__ import annotations`, with which a TypedDict does not find its required keys.

from collections.abc import Callable, Collection, Hashable
from datetime import datetime
from typing import Literal, Required, TypedDict

from eda._event import Event
from eda.options import Retry

__all__ = ["EventsBatchKeywords", "EventsKeywords", "SubscribeBatchKeywords", "SubscribeKeywords"]


class _Keywords(TypedDict, total=False):
    """The options of every subscription. They may all be left out."""

    name: str | None
    """The name under which the position is kept. None: the client's name, if durable. Default: None"""
    backfill: bool
    """Whether to begin with the stream's first event instead of the next new event. Default: False"""
    durable: bool
    """Whether the position is kept across restarts. Default: False"""
    reset: bool
    """Whether the kept position is deleted first. Default: False"""
    serial: bool | Literal["strict"]
    """Whether events (with `batch`, lists of them) are handled one at a time and in order. Default: False"""
    exclusive: bool
    """Whether one member is active while the others stand by. Default: False"""
    timeout_s: float
    """How many seconds a handler may take. Default: 30.0"""
    start: int | datetime | None
    """The stream sequence, or the time (an aware datetime), at which to begin. Default: None"""
    types: Collection[str] | None
    """Only events of these types. None: all. Default: None"""
    aggregate: str | None
    """Only events of this aggregate. None: all. Default: None"""
    on_filter_change: Literal["refuse", "from_here"]
    """What happens if the kept subscription has a different filter. Default: "refuse\""""
    linger_s: float
    """How many seconds to wait at most for a full batch. Default: 0.01"""
    prefetch: int
    """How many events are held in memory at most. Default: 4096"""
    prefetch_bytes: int
    """How many bytes of events are held in memory at most. Default: 32 * 2**20"""
    lease_s: float
    """Shared subscriptions: after how many seconds other members get the events of a killed member. Default: 30.0"""
    circuit: int | None
    """The number of failures in a row after which handling pauses. None: it never pauses. Default: 10"""
    retry: Retry
    """The pauses between attempts, and how many attempts an event has at most. Default: Retry()"""
    dead_letter: str | None
    """The stream for dead letters. None: they are logged and skipped. Default: "{stream}-dead\""""


class EventsKeywords(_Keywords, total=False):
    """The keyword options of `conn.events` without `batch`."""

    key: Literal["aggregate"] | Callable[[Event], Hashable] | None
    """An event's key, its aggregate or a function's result: equal keys are handled in order. Default: None"""
    batch: None
    """How many events are handled together at most. None: the handler gets single events. Default: None"""


class SubscribeKeywords(EventsKeywords, total=False):
    """The keyword options of `conn.subscribe` without `batch`: the handler gets single events."""

    concurrency: int
    """How many handlers run at the same time. Default: 1"""


class EventsBatchKeywords(_Keywords, total=False):
    """The keyword options of `conn.events` with `batch`, which can't be combined with `key`."""

    batch: Required[int]
    """How many events are handled together at most."""
    key: None
    """A batch can't be combined with `key`. Default: None"""


class SubscribeBatchKeywords(EventsBatchKeywords, total=False):
    """The keyword options of `conn.subscribe` with `batch`: the handler gets lists of events."""

    concurrency: int
    """How many handlers run at the same time. Default: 1"""
