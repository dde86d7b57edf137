"""What becomes of an event whose handler did not succeed: again after a delay, dead, or passed over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from eda._codec import decode_event
from eda._event import Event
from eda.dead_letters.store import is_transient
from eda.errors import Closed, ConfigError, Timeout
from eda.handlers import PartialFailure, Reject, refuse_result
from eda.handling._dispatch import Dispatcher
from eda.handling._intake import Exhausted, Undecodable
from eda.handling.failure_log import FailureLog
from eda.handling.suspects import Suspects
from eda.names import MAX_NAME
from eda.options import Retry, SubscriptionOptions
from eda.times import NS

__all__ = ["BURIED", "Bury", "DispatcherHost"]

# Store a dead letter: (stream, event, payload, reason, error, sequence, attempts).
Bury = Callable[..., Awaitable[None]]

BURIED = -1  # in place of a delay
BURY_RETRY = Retry(initial_s=0.5, max_s=30.0)


class DispatcherHost:
    """A dispatcher's host: futures, and the judgement over what failed.

    `bury` stores a dead letter; `on_end(error)` is called when none can be stored for good. For an ordered
    subscription, the owner sets `on_progress()`, called when the position has moved, and `confirmed(position)`, which
    waits until the position is stored; for a shared one, the owner sets `suspects`.
    """

    def __init__(
        self,
        logger: logging.Logger,
        stream: str,
        name: str,
        options: SubscriptionOptions,
        bury: Bury,
        on_end: Callable[[Exception], None],
    ) -> None:
        self._logger = logger
        self._fields = {"eda_stream": stream, "eda_subscription": name}
        self._on_end = on_end
        self._stream = stream
        self._name = name
        self._options = options
        self._bury = bury
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._circuit_timer: asyncio.TimerHandle | None = None
        self._dispatcher: Dispatcher | None = None
        self.on_progress: Callable[[], None] = lambda: None
        self.confirmed: Callable[[int], Awaitable[None]] = _at_once
        self.suspects: Suspects | None = None
        self.n_dead = 0
        self.n_discarded = 0
        dead_letter = options.dead_letter
        if dead_letter == "{stream}-dead" and stream.endswith("-dead"):
            dead_letter = None  # the dead letters of dead letters would have no end
        self.dead_letter = None if dead_letter is None else dead_letter.replace("{stream}", stream)
        if self.dead_letter == stream:
            raise ConfigError(
                f"dead_letter={options.dead_letter!r} is the stream {stream!r} itself, so each dead letter would come "
                "back as an event, for ever; name another stream, or None to have such events logged and skipped",
                argument="dead_letter",
            )
        if self.dead_letter is not None and len(self.dead_letter) > MAX_NAME:
            raise ConfigError(
                f"dead_letter {self.dead_letter!r} is too long for a stream: at most {MAX_NAME} characters",
                argument="dead_letter",
            )
        self._log = FailureLog(logger, stream, name, self.dead_letter)
        self._n_refused: dict[int, int] = {}  # how often the dead-letter stream did not take it, by sequence

    def use(self, dispatcher: Dispatcher) -> None:
        """Name the dispatcher whose host this is."""
        self._dispatcher = dispatcher

    def release(self) -> None:
        """Tell the log what it was not told yet: no handler runs any more."""
        self._log.flush()

    def close(self) -> None:
        """Retry nothing more."""
        self._dispatcher = None
        for timer in (self._timer, self._circuit_timer):
            if timer is not None:
                timer.cancel()

    # --- what the dispatcher asks for --------------------------------------------------------------------------------

    def make_future(self) -> asyncio.Future[None]:
        """Return a future for a worker to wait on."""
        return self._loop.create_future()

    def make_future_within(self, seconds: float) -> asyncio.Future[None]:
        """Return a future that is done after `seconds` at the latest."""
        future: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(seconds, _set, future)
        future.add_done_callback(lambda _: timer.cancel())
        return future

    def cancelled_error(self) -> BaseException:
        """Return the error that a worker ends with when it was cancelled from outside."""
        return asyncio.CancelledError()

    def refuse(self, result: object) -> BaseException | None:
        """Return the error of a handler that returned a generator, and so has not run."""
        return refuse_result(result)

    def overdue_error(self, event: Event, error: BaseException | None) -> BaseException:
        """Return the error of a handler that was cancelled for running too long."""
        overdue = Timeout("handler", self._options.timeout_s, event_id=event.id)
        overdue.__cause__ = error
        return overdue

    def on_overrun(self, event: Event, seconds: float) -> None:
        """Tell of a plain function that held up everything for longer than it may take."""
        self._log.tell_overrun(event, seconds, self._options.timeout_s)

    # --- failures ----------------------------------------------------------------------------------------------------

    def errors_of(self, events: list[Event], error: BaseException) -> list[BaseException | None]:
        """Return what each event of a handler call has failed with; None: it was handled."""
        if isinstance(error, PartialFailure) and self._options.batch is not None:
            found = [error.error_of(event) for event in events]
            if not any(each is not None for each in found):
                return [ConfigError("PartialFailure names no event of the batch", argument="failures")] * len(events)
            return found
        return [error] * len(events)

    def on_failures(self, events: Sequence[Event], errors: Sequence[BaseException]) -> list[int]:
        """Say what becomes of the events that one call of the handler has failed, each with its error.

        Returns for each the nanoseconds until it is handled again, or BURIED. The log has one record of all of them.
        """
        delays = [self._delay_ns(event, error) for event, error in zip(events, errors, strict=True)]
        self._log.tell_failed(events, errors, [None if delay < 0 else delay / NS for delay in delays])
        return delays

    def is_failure(self, errors: Sequence[BaseException]) -> bool:
        """Whether a call of the handler that ended with these counts for the circuit: it was not the events' fault."""
        return any(not isinstance(error, Undecodable | Exhausted | Reject) for error in errors)

    def on_circuit(self, n_openings: int) -> None:
        """Have one event tried after a pause, which grows with the openings in a row; 0: the circuit is closed."""
        if self._circuit_timer is not None:
            self._circuit_timer.cancel()
            self._circuit_timer = None
        if n_openings == 0:
            self._logger.info(
                "subscription %s to stream %s: a handler has succeeded, and events are handled again as before",
                self._name, self._stream, extra=self._fields,
            )  # fmt: skip
            return
        pause_s = self._options.retry.delay_s(n_openings)
        log = self._logger.warning if n_openings == 1 else self._logger.info
        log(
            "subscription %s to stream %s: handlers failed for %s events in a row; no handler starts for %g s, then "
            "one event is tried",
            self._name, self._stream, self._options.circuit, pause_s, extra=self._fields,
        )  # fmt: skip
        if self._dispatcher is not None:
            self._circuit_timer = self._loop.call_later(pause_s, self._dispatcher.try_one)

    def _delay_ns(self, event: Event, error: BaseException) -> int:
        if isinstance(error, Undecodable | Exhausted | Reject):
            return BURIED
        most = self._options.retry.max_attempts
        if most is not None and event.attempt >= most:
            return BURIED
        return int(self._options.retry.delay_s(event.attempt) * NS)

    async def bury(self, event: Event, payload: bytes, error: BaseException) -> int:
        """Store a dead letter; returns a negative number, or the nanoseconds after which to try again."""
        if self.dead_letter is None:
            self.n_discarded += 1
            return BURIED
        reason, attempts = "attempts", event.attempt
        if isinstance(error, Undecodable):
            reason, text = "undecodable", str(error.__cause__)
        elif isinstance(error, Reject):
            reason, text = "rejected", str(error)
        elif isinstance(error, Exhausted):
            attempts, text = event.attempt - 1, "no attempt ended: the process died, or its lease did"
        else:
            text = _text_of(error)
        try:
            await self._bury(
                self.dead_letter,
                event_type=event.type,
                aggregate=event.aggregate,
                payload=payload,
                reason=reason,
                error=text,
                stream=self._stream,
                sequence=event.sequence,
                subscription=self._name,
                attempts=attempts,
                subject=event.subject,
                foreign=event.headers,
                event_id=_id_beside(event, payload, error),
            )
        except Exception as problem:  # whatever it is, the event must not go with it
            return self._not_buried(event, problem)
        self._n_refused.pop(event.sequence, None)
        self.n_dead += 1
        return BURIED

    def _not_buried(self, event: Event, problem: Exception) -> int:
        """Return the nanoseconds until another attempt to store a dead letter, if there is to be one."""
        if isinstance(problem, Closed):
            return NS  # the event is given back
        if not is_transient(problem):
            self._log.tell_unstorable(event, problem)
            self._on_end(problem)
            return NS
        n_refused = self._n_refused[event.sequence] = self._n_refused.get(event.sequence, 0) + 1
        delay_s = BURY_RETRY.delay_s(n_refused)
        self._log.tell_not_stored(event, problem, delay_s)
        return int(delay_s * NS)

    # --- suspects ----------------------------------------------------------------------------------------------------

    async def try_on_record(self, event: Event) -> int:
        """Put a suspect on record as begun; see `Suspects.begin`."""
        return await self.suspects.begin(event) if self.suspects is not None else 0

    async def end_record(self, event: Event) -> None:
        """Take it off again."""
        if self.suspects is not None:
            await self.suspects.end(event)

    # --- retries in place --------------------------------------------------------------------------------------------

    def on_retry(self, delay_s: float) -> None:
        """See that what is to be tried again in `delay_s` is."""
        if self._dispatcher is None:
            return
        at = self._loop.time() + delay_s
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self._dispatcher is not None:
            next_s = self._dispatcher.take_due()
            if next_s is not None:
                self.on_retry(next_s)


def _id_beside(event: Event, payload: bytes, error: BaseException) -> str:
    """Return the id that stood in the message's headers alone: the letter has another one there."""
    if not event.id or isinstance(error, Undecodable) or not decode_event(payload).id:
        return event.id
    return ""


def _text_of(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # the user's own class
        return name


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _at_once(position: int) -> None:
    """There is no position to store."""
