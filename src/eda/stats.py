"""Counters of subscriptions and publishers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PublisherStats", "SubscriptionStats"]


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
