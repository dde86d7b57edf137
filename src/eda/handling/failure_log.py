"""Log records about failed events, at a bounded rate.

While a database is down, a handler can fail thousands of times a second, and each record has a traceback. So each kind
of failure may make only a limited number of records. A summary counts the failures that were not logged one by one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic
from typing import Any

from eda._event import Event
from eda._pack import index_in_pack, place_of
from eda.errors import error_text, printable
from eda.handlers import Reject
from eda.handling.verdicts import Exhausted, Misfit, Undecodable

__all__ = ["FailureLog", "event_text", "fields_of"]

BURST = 10  # records of one kind at once
RECORDS_PER_S = 1.0  # records of one kind in the long run
SUMMARY_S = 5.0  # between the first failure that is not logged and the summary

MAX_TYPE = 200  # characters of a type

SUMMARY = (
    "%s in %.3g s, not logged one by one (stream %s, subscription %s); the last is event %s, sequence %s, attempt %d%s"
)

# The kinds of a handler's failures. The name of a kind is the beginning of its summary.
FAILED = "handler failed for %d more events"
FAILED_LAST = "handler failed, for the last time, for %d more events"
REJECTED = "handler rejected %d more events"
MISFITS = "the payloads of %d more events can't be decoded"


def event_text(event: Event) -> str:
    """Return the event's id and type, escaped for a log line because any publisher may have written them."""
    return f"{printable(event.id)} of type {event.type[:MAX_TYPE]!r}"


def fields_of(stream: str, subscription: str, event: Event) -> dict[str, Any]:
    """Return the fields (`extra=`) of a log record about an event. Only an event of a pack has `eda_index`."""
    return {
        "eda_stream": stream,
        "eda_subscription": subscription,
        **_place_fields(event),
        "eda_event_id": printable(event.id),
        "eda_type": printable(event.type),
        "eda_attempt": event.attempt,
    }


def _place_fields(event: Event, end: str = "") -> dict[str, int]:
    index = index_in_pack(event)
    sequence = {f"eda_{end}sequence": event.sequence}
    return sequence if index is None else sequence | {f"eda_{end}index": index}


class _Kind:
    """One kind of failure: how many records it may still make, and how many failures were not logged."""

    __slots__ = ("budget", "last", "n_left_out", "refilled_at", "since")

    def __init__(self) -> None:
        self.budget = float(BURST)
        self.refilled_at = monotonic()
        self.n_left_out = 0
        self.since = 0.0
        self.last: tuple[Event, str] | None = None

    def take_budget(self, now: float) -> bool:
        """Use up the budget of one record, if there is enough. Return whether there was."""
        self.budget = min(BURST, self.budget + (now - self.refilled_at) * RECORDS_PER_S)
        self.refilled_at = now
        if self.budget < 1:
            return False
        self.budget -= 1
        return True


class FailureLog:
    """Logs the failures of one subscription, at a bounded rate for each kind of failure."""

    def __init__(self, logger: logging.Logger, stream: str, subscription: str, dead_letter: str | None) -> None:
        self._logger = logger
        self._stream = stream
        self._subscription = subscription
        self._dead_letter = dead_letter
        self._fate = (
            "skipped, as dead_letter is None"
            if dead_letter is None
            else f"to be stored in dead-letter stream {dead_letter}"
        )
        self._loop = asyncio.get_running_loop()
        self._kinds: dict[str, _Kind] = {}
        self._timer: asyncio.TimerHandle | None = None

    # --- one method for each kind ------------------------------------------------------------------------------------

    def log_failed(
        self, events: Sequence[Event], errors: Sequence[BaseException], delays_s: Sequence[float | None]
    ) -> None:
        """Log the events of one handler call that have failed, each with its error and the seconds to its next attempt.

        None instead of the seconds means that there is no other attempt. The events whose payloads can't be decoded
        make one record together, the rejected events another one, and all other events a third one.
        """
        misfits = [index for index, error in enumerate(errors) if isinstance(error, Misfit)]
        if misfits:
            self._log_misfits([events[index] for index in misfits], errors[misfits[0]].__cause__)
        rejected = [index for index, error in enumerate(errors) if isinstance(error, Reject)]
        if rejected:
            self._log_rejected([events[index] for index in rejected], errors[rejected[0]])
        failed = [index for index, error in enumerate(errors) if not isinstance(error, Reject | Misfit)]
        if len(failed) > 1:
            self._log_batch(
                [events[index] for index in failed], errors[failed[0]], [delays_s[index] for index in failed]
            )
        elif failed:
            self._log_one(events[failed[0]], errors[failed[0]], delays_s[failed[0]])

    def _log_rejected(self, events: list[Event], error: BaseException) -> None:
        event = events[0]
        name, _, text = error_text(error).partition(": ")
        text = text or name  # a user's class may have no text
        if len(events) > 1:
            self._log_or_count(
                REJECTED,
                events,
                "handler rejected %d events of a batch (stream %s, subscription %s, sequences %s to %s); they are %s; "
                "the first is event %s: %s",
                len(events), self._stream, self._subscription, *_places_of_ends(events), self._fate, event_text(event),
                text,
            )  # fmt: skip
        else:
            self._log_or_count(
                REJECTED,
                events,
                "handler rejected event %s (stream %s, subscription %s, sequence %s, attempt %d), which is %s: %s",
                *self._names(event), self._fate, text, error=error,
            )  # fmt: skip

    def _log_misfits(self, events: list[Event], error: BaseException | None) -> None:
        event, schema = events[0], events[0].schema[:MAX_TYPE]
        if len(events) > 1:
            self._log_or_count(
                MISFITS,
                events,
                "the payloads of %d events of a batch (stream %s, subscription %s, sequences %s to %s) can't be "
                "decoded; they are %s; the first is event %s, schema %r: %s",
                len(events), self._stream, self._subscription, *_places_of_ends(events), self._fate, event_text(event),
                schema, error_text(error), error=error,
            )  # fmt: skip
        else:
            self._log_or_count(
                MISFITS,
                events,
                "the payload of event %s, schema %r (stream %s, subscription %s, sequence %s, attempt %d) can't be "
                "decoded; the event is %s: %s",
                event_text(event), schema, *self._names(event)[1:], self._fate, error_text(error), error=error,
            )  # fmt: skip

    def _log_batch(self, events: list[Event], error: BaseException, delays_s: list[float | None]) -> None:
        n_dead = delays_s.count(None)
        again_s = max((delay_s for delay_s in delays_s if delay_s is not None), default=0.0)
        fate = f"they are handled again in {again_s:g} s"
        if n_dead:
            fate = f"{n_dead} of them for the last time, and {'is' if n_dead == 1 else 'are'} {self._fate}"
            if n_dead < len(events):
                fate += f"; the others are handled again in {again_s:g} s"
        self._log_or_count(
            FAILED_LAST if n_dead else FAILED,
            events,
            "handler failed for %d events of a batch (stream %s, subscription %s, sequences %s to %s); %s; the first "
            "is event %s, attempt %d",
            len(events), self._stream, self._subscription, *_places_of_ends(events), fate, event_text(events[0]),
            events[0].attempt, error=error, traceback=True,
        )  # fmt: skip

    def _log_one(self, event: Event, error: BaseException, delay_s: float | None) -> None:
        if isinstance(error, Undecodable):
            cause = error.__cause__
            self._log_or_count(
                "%d more messages are not events",
                [event],
                "the %s in stream %s, sequence %s is not an event; for subscription %s it is %s: %s",
                "message" if index_in_pack(event) is None else "envelope", self._stream, place_of(event),
                self._subscription, self._fate, error_text(cause), error=cause,
            )  # fmt: skip
        elif isinstance(error, Exhausted):
            self._log_or_count(
                "%d more events were tried by processes that died before they could report a result",
                [event],
                "event %s (stream %s, subscription %s, sequence %s) was tried %d times by processes that died before "
                "they could report a result; it is not tried again, and is %s",
                *self._names(event)[:-1], event.attempt - 1, self._fate,
            )  # fmt: skip
        elif delay_s is None:
            self._log_or_count(
                FAILED_LAST,
                [event],
                "handler failed for event %s (stream %s, subscription %s, sequence %s, attempt %d), for the last time; "
                "it is %s",
                *self._names(event), self._fate, error=error, traceback=True,
            )  # fmt: skip
        else:
            self._log_or_count(
                FAILED,
                [event],
                "handler failed for event %s (stream %s, subscription %s, sequence %s, attempt %d); it is handled "
                "again in %g s",
                *self._names(event), delay_s, error=error, traceback=True,
            )  # fmt: skip

    def log_not_stored(self, event: Event, error: BaseException, delay_s: float) -> None:
        """Log that a dead letter could not be stored, and that this is tried again in `delay_s`."""
        self._log_or_count(
            "the dead-letter stream did not store an event %d more times",
            [event],
            "dead-letter stream %s did not store event %s (stream %s, subscription %s, sequence %s, attempt %d), which "
            "stays where it is: %s; trying again in %g s",
            self._dead_letter, *self._names(event), error_text(error), delay_s, error=error,
        )  # fmt: skip

    def log_unstorable(self, event: Event, error: BaseException) -> None:
        """Log that a dead letter can't be stored, which ends the subscription."""
        self._log_or_count(
            "dead-letter stream can't store %d more events",
            [event],
            "dead-letter stream %s can't store event %s (stream %s, subscription %s, sequence %s, attempt %d), which "
            "stays where it is; the subscription ends: %s",
            self._dead_letter, *self._names(event), error_text(error), error=error,
        )  # fmt: skip

    def log_overrun(self, event: Event, seconds: float, timeout_s: float) -> None:
        """Log that a plain function blocked the event loop for longer than a handler may take."""
        self._log_or_count(
            "the handler took too long for %d more events",
            [event],
            "the handler took %.3g s for event %s (stream %s, subscription %s, sequence %s, attempt %d), over "
            "timeout_s=%g: a plain function can't be cancelled and blocks the event loop; eda.threaded runs it in a "
            "thread",
            seconds, *self._names(event), timeout_s, level=logging.WARNING,
        )  # fmt: skip

    def log_uncancelled(self, event: Event, seconds: float) -> None:
        """Log that a handler still runs although it was cancelled."""
        self._log_or_count(
            "the handler ignores its cancellation for %d more events",
            [event],
            "the handler ignores its cancellation: it has had event %s (stream %s, subscription %s, sequence %s, "
            "attempt %d) for %.3g s, and no other handler gets that event before this one ends",
            *self._names(event), seconds,
        )  # fmt: skip

    def _names(self, event: Event) -> tuple[object, ...]:
        return event_text(event), self._stream, self._subscription, place_of(event), event.attempt

    # --- at a bounded rate -------------------------------------------------------------------------------------------

    def _log_or_count(
        self,
        kind: str,
        events: Sequence[Event],
        message: str,
        *args: object,
        error: BaseException | None = None,
        level: int = logging.ERROR,
        traceback: bool = False,
    ) -> None:
        """Log one record about `events`, or count them for the summary.

        `kind` names the kind of failure. It begins the summary, with %d for the number of events, such as "handler
        failed for %d more events".
        """
        state = self._kinds.get(kind)
        if state is None:
            state = self._kinds[kind] = _Kind()
        now = monotonic()
        if not state.take_budget(now):
            if not state.n_left_out:
                state.since = now
            state.n_left_out += len(events)
            state.last = events[-1], error_text(error) if error is not None else ""
            if self._timer is None:
                self._timer = self._loop.call_later(SUMMARY_S, self.flush)
            return
        extra = fields_of(self._stream, self._subscription, events[0])
        if len(events) > 1:
            first, last = _ends(events)
            extra.pop("eda_index", None)
            extra |= _place_fields(first) | _place_fields(last, "last_") | {"eda_count": len(events)}
        self._logger.log(level, message, *args, exc_info=error if traceback else None, extra=extra)

    def flush(self) -> None:
        """Log a summary of the failures that were not logged one by one since the last summary."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = monotonic()
        for kind, state in self._kinds.items():
            if not state.n_left_out or state.last is None:
                continue
            event, text = state.last
            extra = fields_of(self._stream, self._subscription, event) | {"eda_left_out": state.n_left_out}
            self._logger.error(
                SUMMARY,
                kind % state.n_left_out, now - state.since, self._stream, self._subscription, event_text(event),
                place_of(event), event.attempt, f": {text}" if text else "", extra=extra,
            )  # fmt: skip
            state.n_left_out = 0
            state.last = None


def _ends(events: Sequence[Event]) -> tuple[Event, Event]:
    """Return the first and the last of the events in the order of the stream."""
    return min(events, key=_order_of), max(events, key=_order_of)


def _order_of(event: Event) -> tuple[int, int]:
    return event.sequence, event.index


def _places_of_ends(events: Sequence[Event]) -> tuple[str, str]:
    first, last = _ends(events)
    return place_of(first), place_of(last)
