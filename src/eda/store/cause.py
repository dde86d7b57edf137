"""The cause and the correlation of events that a handler appends: they come from the event that it handles."""

from __future__ import annotations

from collections.abc import Sequence

from eda._event import Event
from eda.handling.running_handler import handled_event

__all__ = ["CORRELATION", "with_cause"]

CORRELATION = "correlation"  # the key in the metadata


def with_cause(events: Sequence[Event], handled: Event | None = None) -> list[Event]:
    """Return the events with a cause and a correlation, unless they have their own.

    `handled` is the event that the caller handles. If it is not given, the calling handler is asked; outside of
    handlers, the events are returned as they are. The cause is the handled event's id. The correlation, in the
    metadata, is the handled event's correlation, or its id if it has none.
    """
    if handled is None:
        handled = handled_event()
    if handled is None or not handled.id:
        return list(events)
    correlation = handled.meta.get(CORRELATION) or handled.id
    return [_with(event, handled.id, correlation) for event in events]


def _with(event: Event, cause: str, correlation: str) -> Event:
    meta = event.meta
    if meta.get(CORRELATION):
        return event if event.cause else event.replace(cause=cause)
    return event.replace(cause=event.cause or cause, meta={**meta, CORRELATION: correlation})
