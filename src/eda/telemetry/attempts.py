"""What a span tells of an operation that has failed, and of what becomes of its events."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from opentelemetry.trace import Span, StatusCode

from eda._event import Event
from eda._pack import place_of
from eda.error_counts import name_of
from eda.errors import printable
from eda.handlers import GivenBack, PartialFailure
from eda.subscribing.subscription import Subscription
from eda.telemetry.conventions import (
    ATTEMPT,
    DEAD_LETTER,
    DELAY_S,
    ERROR_TYPE,
    GIVEN_BACK,
    MESSAGE_ID,
    N_FAILED,
    PLACE,
    RETRY,
)

__all__ = ["note_attempt", "note_error"]

MAX_NOTES = 64  # how many failed events of a batch are noted one by one; the SDK keeps 128 events of a span


def note_error(span: Span, error: BaseException) -> None:
    """Let a span tell with which error its operation has failed."""
    if not span.is_recording():
        return
    name = name_of(error)
    span.set_attribute(ERROR_TYPE, name)
    try:
        text = printable(str(error))
    except Exception:  # a user's class may fail here
        text = name
    span.set_status(StatusCode.ERROR, text)
    with suppress(Exception):  # it calls the user's `__str__`; the span has the type of the error all the same
        span.record_exception(error)


def note_attempt(span: Span, error: BaseException, events: Sequence[Event], subscription: Subscription) -> None:
    """Let the span of an attempt tell how it has failed, and what becomes of each event.

    An event that is given back is not a failure: the handler was stopped because the subscription closes, or because
    another member handles the event.
    """
    if not span.is_recording():
        return
    failure = None if isinstance(error, GivenBack) else subscription.failure_of(events[0], error)
    if failure is None:
        span.add_event(GIVEN_BACK, {ATTEMPT: events[0].attempt})
        return
    errors = _errors_of(failure, events)
    note_error(span, failure)
    if len(events) > 1:
        span.set_attribute(N_FAILED, len(errors))
    for event, each in errors[:MAX_NOTES]:
        delay_s = subscription.retry_delay_s(event, each)
        told: dict[str, Any] = {ATTEMPT: event.attempt, ERROR_TYPE: name_of(each)}
        if len(events) > 1:
            told |= {MESSAGE_ID: event.id, PLACE: place_of(event)}
        if delay_s is None:
            span.add_event(DEAD_LETTER, told)
        else:
            span.add_event(RETRY, {**told, DELAY_S: delay_s})


def _errors_of(error: BaseException, events: Sequence[Event]) -> list[tuple[Event, BaseException]]:
    """Return the events that have failed, and their errors."""
    if not isinstance(error, PartialFailure):
        return [(event, error) for event in events]
    found = [(event, error.error_of(event)) for event in events]
    return [(event, each) for event, each in found if each is not None]
