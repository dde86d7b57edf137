"""Counters of subscriptions and publishers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from eda._durations import BOUNDS_S

__all__ = ["Histogram", "PublisherStats", "SubscriptionStats"]


@dataclass(frozen=True)
class Histogram:
    """How long some work took each time: exact counts in buckets."""

    bounds_s: ClassVar[tuple[float, ...]] = BOUNDS_S
    """the upper ends of the buckets in seconds, ascending from 10 µs to 50 s. A last bucket has everything above"""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)
    """how many durations are in each bucket: those up to its bound that no earlier bucket has"""
    sum_s: float = 0.0
    """the sum of all durations, in seconds"""

    @property
    def count(self) -> int:
        """How many durations there were."""
        return sum(self.counts)

    def __add__(self, other: Histogram) -> Histogram:
        """Return the durations of both together."""
        counts = tuple(mine + others for mine, others in zip(self.counts, other.counts, strict=True))
        return Histogram(counts, self.sum_s + other.sum_s)


@dataclass(frozen=True)
class SubscriptionStats:
    """What a subscription has done since it was opened. Numbers are numbers of events."""

    handled: int
    """their handler returned"""
    failed: int
    """attempts that failed: the handler raised an exception, or ran too long. Payloads that can't be decoded are not
    counted here"""
    redelivered: int
    """deliveries that were not the first one of their event"""
    dead_lettered: int
    """moved to the dead-letter stream"""
    in_flight: int
    """in a handler now"""
    buffered: int
    """received, and waiting for a handler"""
    last_sequence: int
    """the highest stream sequence that was handled"""
    pending: int
    """in the stream and not delivered to any member yet, at the time of the latest delivery. A pack counts as one"""
    passed_over: int
    """neither handled nor dead-lettered, and not delivered again: the filter did not match, or `dead_letter` is None"""
    undecodable: int
    """given up because they can't be decoded: messages that are not events, and events whose handler could not decode
    their payload. Unless `dead_letter` is None, each becomes a dead letter"""
    skipped: int
    """removed from the stream (expired, purged, deleted) before their delivery; always 0 with a filter"""
    active: bool
    """whether this member gets events; False while another member of the exclusive name gets them"""
    paused: bool = False
    """whether the subscription is paused: `pause` was called, and `resume` not yet"""
    circuit_open: bool = False
    """whether the circuit is open: `circuit` events in a row failed, so at most one event is tried at a time"""
    pack_held_s: float = 0.0
    """for how many seconds the oldest pack has been held that is not acknowledged yet, because some of its events are
    not done; 0.0 if no pack is held, and for an ordered subscription"""
    retried: int = 0
    """failed attempts after which the event is handled again"""
    held_bytes: int = field(default=0, compare=False)
    """the bytes that the events take that are received and not done. These events are `in_flight` and `buffered`"""
    prefetch: int = field(default=0, compare=False)
    """the most events that may be held: the option `prefetch`"""
    prefetch_bytes: int = field(default=0, compare=False)
    """the most bytes that may be held: the option `prefetch_bytes`"""
    handling: Histogram = field(default=Histogram(), compare=False)
    """how long each call of the handler took that returned: for an event, or with `batch` for a list"""
    failing: Histogram = field(default=Histogram(), compare=False)
    """how long each call of the handler took that failed"""
    errors: dict[str, int] = field(default_factory=dict, compare=False)
    """the attempts in `failed`, by the type of their error. Types beyond the first 32 are together under "_OTHER\""""
    open: int = field(default=1, compare=False)
    """in `conn.stats()`: how many of the subscriptions are open that these counts belong to. Otherwise 1"""


@dataclass(frozen=True)
class PublisherStats:
    """What became of a publisher's events. `sent` is always `acknowledged` + `failed` + `pending`."""

    sent: int
    """accepted by `send`"""
    acknowledged: int
    """stored: the server acknowledged them"""
    resent: int
    """sent again, because their acknowledgement did not arrive"""
    failed: int
    """not stored: each was reported with its error"""
    pending: int
    """accepted, and neither acknowledged nor failed yet"""
    pending_bytes: int
    """the size of the pending events, in bytes"""
    mode: str
    """how they are published: "fast" (fast-ingest batches) or "window" (one acknowledgement for each event, or pack)"""
    packs: int = 0
    """with `pack=`: how many messages the accepted events were put into. An event alone in its pack counts as one"""
    in_open_pack: int = 0
    """with `pack=`: accepted, and in the pack that is not closed yet"""
    max_pending: int = field(default=0, compare=False)
    """the most events that may be pending. If so many are pending, `send` waits"""
    max_pending_bytes: int = field(default=0, compare=False)
    """the most bytes that may be pending"""
    oldest_pending_s: float = field(default=0.0, compare=False)
    """for how many seconds the oldest pending event has been pending; 0.0 if none is"""
    publishing: Histogram = field(default=Histogram(), compare=False)
    """how long each acknowledged event was pending. An event of a pack counts from when its pack was opened. The time
    of an event that `send` accepts may be 4 ms too long"""
    errors: dict[str, int] = field(default_factory=dict, compare=False)
    """the events in `failed`, by the type of their error. Types beyond the first 32 are together under "_OTHER\""""
    open: int = field(default=1, compare=False)
    """in `conn.stats()`: how many of the publishers are open that these counts belong to. Otherwise 1"""
