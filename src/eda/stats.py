"""What subscriptions and publishers tell of themselves."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PublisherStats", "SubscriptionStats"]


@dataclass(frozen=True)
class SubscriptionStats:
    """What a subscription has done since it was opened, in events."""

    handled: int
    """done after their handler returned"""
    failed: int
    """handled without success: the handler raised, or ran too long"""
    redelivered: int
    """deliveries by the server that were not the event's first"""
    dead_lettered: int
    """moved to the dead-letter stream"""
    in_flight: int
    """being handled now"""
    buffered: int
    """received, waiting for a handler"""
    last_sequence: int
    """the highest stream sequence handled"""
    pending: int
    """in the stream, not delivered to any member yet, as of the latest delivery"""
    passed_over: int
    """done without a handler: the filter did not match their envelope, or `dead_letter` is None and they were dead"""
    undecodable: int
    """no envelope"""
    skipped: int
    """gone from the stream (expired, purged, deleted) before they were delivered; 0 with a filter, which hides them"""
    active: bool
    """whether this member gets events; False while another member of an exclusive name does"""
    paused: bool = False
    """whether `pause` was called, and `resume` was not yet"""
    circuit_open: bool = False
    """whether `circuit` handlers in a row failed and none has succeeded since: at most one event is tried at a time"""


@dataclass(frozen=True)
class PublisherStats:
    """What became of a publisher's events. `sent` = `acknowledged` + `failed` + `pending`, always."""

    sent: int
    acknowledged: int
    resent: int
    failed: int
    pending: int
    pending_bytes: int
    mode: str
