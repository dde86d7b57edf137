"""Storing the dead letters of one subscription: into which stream, with which reason, and how often it is tried."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from eda._codec import decode_event
from eda._event import Event
from eda._pack import index_in_pack, place_of
from eda.dead_letters.store import is_transient
from eda.errors import Closed, ConfigError
from eda.handlers import Reject
from eda.handling.failure_log import FailureLog
from eda.handling.verdicts import Exhausted, Misfit, Undecodable
from eda.names import MAX_NAME
from eda.options import Retry
from eda.times import NS

__all__ = ["DEAD", "DeadLettering", "StoreLetter", "dead_letter_stream"]

# Stores a dead letter, with the arguments of `DeadLetters.store`.
StoreLetter = Callable[..., Awaitable[None]]

DEAD = -1  # instead of a delay: the event is not handled again
STORE_RETRY = Retry(initial_s=0.5, max_s=30.0)


def dead_letter_stream(stream: str, option: str | None) -> str | None:
    """Return the name of the dead-letter stream, or None if there is none. `option` is the option `dead_letter`.

    Raises ConfigError if the name is too long, or is the name of the stream itself.
    """
    if option == "{stream}-dead" and stream.endswith("-dead"):
        return None  # otherwise the dead letters of dead letters would have no end
    if option is None:
        return None
    into = option.replace("{stream}", stream)
    if into == stream:
        raise ConfigError(
            f"dead_letter={option!r} is the stream {stream!r} itself, so each dead letter would come back as an event, "
            "for ever; name another stream, or None to have such events logged and skipped",
            argument="dead_letter",
        )
    if len(into) > MAX_NAME:
        raise ConfigError(
            f"dead_letter {into!r} is too long for a stream: at most {MAX_NAME} characters",
            argument="dead_letter",
        )
    return into


class DeadLettering:
    """Stores the dead letters of subscription `name` to `stream`.

    `into` is the dead-letter stream. If it is None, dead letters are counted but not stored. `store_letter` stores a
    dead letter. `on_end(error)` is called when a dead letter can't be stored at all.
    """

    def __init__(
        self,
        stream: str,
        name: str,
        into: str | None,
        store_letter: StoreLetter,
        failures: FailureLog,
        on_end: Callable[[Exception], None],
    ) -> None:
        self.into = into
        self.n_stored: int = 0
        self.n_discarded: int = 0
        self._stream = stream
        self._name = name
        self._store_letter = store_letter
        self._failures = failures
        self._on_end = on_end
        self._n_tries: dict[str, int] = {}  # failed attempts to store the dead letter, by place of the event

    async def store(self, event: Event, payload: bytes, error: BaseException) -> int:
        """Store a dead letter. Return DEAD when it is stored, else the nanoseconds until the next attempt.

        `payload` is the event's envelope as it was delivered. `error` says why the event is dead.
        """
        if self.into is None:
            self.n_discarded += 1
            return DEAD
        reason, attempts = "attempts", event.attempt
        index = index_in_pack(event)
        if isinstance(error, Undecodable):
            reason, text = "undecodable", _text_of(error.__cause__)
        elif isinstance(error, Reject):
            reason, text = "rejected", _text_of(error)
        elif isinstance(error, Exhausted):
            attempts, text = event.attempt - 1, "no attempt ended: the process died, or its lease expired"
        else:
            text = _name_and_text_of(error)
        try:
            await self._store_letter(
                self.into,
                event_type=event.type,
                aggregate=event.aggregate,
                payload=payload,
                reason=reason,
                error=text,
                stream=self._stream,
                sequence=event.sequence,
                index=index,
                subscription=self._name,
                attempts=attempts,
                subject=event.subject if index is None else "",  # the subject of a pack says little about its events
                foreign=event.headers,
                event_id=_id_in_headers(event, payload, error),
            )
        except Exception as problem:  # no error whatsoever may lose the event
            return self._try_again(event, problem)
        self._n_tries.pop(place_of(event), None)
        self.n_stored += 1
        return DEAD

    def _try_again(self, event: Event, problem: Exception) -> int:
        """Log why a dead letter was not stored, and return the nanoseconds until the next attempt, if there is one."""
        if isinstance(problem, Closed):
            return NS  # the subscription closes, and gives the event back before the next attempt
        if not is_transient(problem):
            self._failures.log_unstorable(event, problem)
            self._on_end(problem)
            return NS
        place = place_of(event)
        n_tries = self._n_tries[place] = self._n_tries.get(place, 0) + 1
        delay_s = STORE_RETRY.delay_s(n_tries)
        self._failures.log_not_stored(event, problem, delay_s)
        return int(delay_s * NS)


def _id_in_headers(event: Event, payload: bytes, error: BaseException) -> str:
    """Return the event's id if `payload` has none. It was in a header that has another id in a dead letter."""
    is_event = not isinstance(error, Undecodable) or isinstance(error, Misfit)
    if event.id and is_event and decode_event(payload).id:
        return ""
    return event.id


def _text_of(error: BaseException | None) -> str:
    """Return the error's text; if it has none, the name of its class."""
    try:
        return str(error)
    except Exception:  # a user's class may fail here
        return type(error).__name__


def _name_and_text_of(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # as above
        return name
