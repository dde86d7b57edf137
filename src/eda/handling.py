"""What becomes of an event whose handler did not succeed: again after a delay, dead, or passed over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from eda._dispatch import Dispatcher
from eda._event import Event
from eda._intake import Exhausted, Undecodable
from eda.errors import ConfigError, Timeout
from eda.handlers import PartialFailure, Reject, refuse_result
from eda.options import Retry, SubscriptionOptions
from eda.suspects import Suspects

__all__ = ["BURIED", "Bury", "Handling"]

# Store a dead letter: (stream, event, payload, reason, error, sequence, attempts).
Bury = Callable[..., Awaitable[None]]

BURIED = -1  # in place of a delay
MAX_STREAM_NAME = 64
BURY_RETRY = Retry(initial_s=0.5, max_s=30.0)
NS = 1_000_000_000


class Handling:
    """A dispatcher's host: futures, and the judgement over what failed.

    `bury` stores a dead letter. What an ordered subscription's offset needs is set by its owner: `on_progress()` when
    the position has moved, `confirmed(position)` to wait until it is stored; `suspects`, for a shared one.
    """

    def __init__(
        self, logger: logging.Logger, stream: str, name: str, options: SubscriptionOptions, bury: Bury
    ) -> None:
        self._logger = logger
        self._stream = stream
        self._name = name
        self._options = options
        self._bury = bury
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
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
        if self.dead_letter is not None and len(self.dead_letter) > MAX_STREAM_NAME:
            raise ConfigError(
                f"dead_letter {self.dead_letter!r} is too long for a stream: at most {MAX_STREAM_NAME} characters",
                argument="dead_letter",
            )
        self._n_refused: dict[int, int] = {}  # how often the dead-letter stream did not take it, by sequence

    def use(self, dispatcher: Dispatcher) -> None:
        """Name the dispatcher whose host this is."""
        self._dispatcher = dispatcher

    def close(self) -> None:
        """Retry nothing more."""
        self._dispatcher = None
        if self._timer is not None:
            self._timer.cancel()

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
        self._logger.warning(
            "the handler of %s took %.3g s for event %s of type %r (sequence %d), over timeout_s=%g: a plain function "
            "can't be cancelled and holds up the event loop; eda.threaded runs it in a thread",
            self._stream, seconds, event.id, event.type, event.sequence, self._options.timeout_s,
        )  # fmt: skip

    # --- failures ----------------------------------------------------------------------------------------------------

    def errors_of(self, events: list[Event], error: BaseException) -> list[BaseException | None]:
        """Return what each event of a handler call has failed with; None: it was handled."""
        if isinstance(error, PartialFailure) and self._options.batch is not None:
            found = [error.error_of(event) for event in events]
            if not any(each is not None for each in found):
                return [ConfigError("PartialFailure names no event of the batch", argument="failures")] * len(events)
            return found
        return [error] * len(events)

    def on_failure(self, event: Event, error: BaseException) -> int:
        """Tell of a failed event; returns the nanoseconds until it comes again, or a negative number: it is dead."""
        if isinstance(error, Undecodable):
            self._logger.error(
                "stream %s, sequence %d is no event and is passed over: %s",
                self._stream, event.sequence, error.__cause__,
            )  # fmt: skip
            return BURIED
        if isinstance(error, Exhausted):
            self._logger.error(
                "event %s of type %r (stream %s, sequence %d) was tried %d times by processes that did not live to say "
                "how it ended, and is not tried again",
                event.id, event.type, self._stream, event.sequence, event.attempt - 1,
            )  # fmt: skip
            return BURIED
        if isinstance(error, Reject):
            self._logger.error(
                "handler rejected event %s of type %r (stream %s, sequence %d): %s",
                event.id, event.type, self._stream, event.sequence, error,
            )  # fmt: skip
            return BURIED
        most = self._options.retry.max_attempts
        if most is not None and event.attempt >= most:
            self._logger.error(
                "handler failed for event %s of type %r (stream %s, sequence %d, attempt %d), for the last time",
                event.id, event.type, self._stream, event.sequence, event.attempt, exc_info=error,
            )  # fmt: skip
            return BURIED
        delay_s = self._options.retry.delay_s(event.attempt)
        self._logger.error(
            "handler failed for event %s of type %r (stream %s, sequence %d, attempt %d); it comes again in %g s",
            event.id, event.type, self._stream, event.sequence, event.attempt, delay_s, exc_info=error,
        )  # fmt: skip
        return int(delay_s * NS)

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
            )
        except Exception as problem:  # whatever it is, the event must not go with it
            self._logger.error(
                "dead-letter stream %s does not take event %s (stream %s, sequence %d), which is kept: %s",
                self.dead_letter, event.id, self._stream, event.sequence, problem,
            )  # fmt: skip
            n_refused = self._n_refused[event.sequence] = self._n_refused.get(event.sequence, 0) + 1
            return int(BURY_RETRY.delay_s(n_refused) * NS)
        self._n_refused.pop(event.sequence, None)
        self.n_dead += 1
        return BURIED

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
    """There is no offset to store."""
