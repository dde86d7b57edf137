"""The futures, timers and decisions about failed events that a dispatcher asks for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from eda._event import Event
from eda.errors import Timeout
from eda.handlers import PartialFailure, Reject, errors_in, refuse_result
from eda.handling._dispatch import Dispatcher
from eda.handling.dead_lettering import DEAD, DeadLettering, StoreLetter, dead_letter_stream
from eda.handling.failure_log import FailureLog
from eda.handling.misfits import find_misfits
from eda.handling.running_handler import is_overdue
from eda.handling.suspects import Suspects
from eda.handling.verdicts import Alone, Exhausted, Suspect, Undecodable
from eda.log import with_fields
from eda.options import SubscriptionOptions
from eda.times import NS

__all__ = ["DispatcherHost"]


class DispatcherHost:
    """The host of one subscription's dispatcher, as `DispatchHost` in `_dispatch.pyi` describes it.

    `store_letter` stores a dead letter. `on_end(error)` is called when a dead letter can't be stored at all. Raises
    ConfigError if the option `dead_letter` names no suitable stream.

    The owner sets other attributes later. Ordered: `on_progress()` is called when the position has moved, and
    `confirmed(seq, idx)` waits until this position is stored. Shared: `suspects`.
    """

    def __init__(
        self,
        logger: logging.Logger,
        stream: str,
        name: str,
        options: SubscriptionOptions,
        store_letter: StoreLetter,
        on_end: Callable[[Exception], None],
    ) -> None:
        self._logger = with_fields(logger, eda_stream=stream, eda_subscription=name)
        self._stream = stream
        self._name = name
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._retry_timer: asyncio.TimerHandle | None = None
        self._retry_at = 0.0
        self._circuit_timer: asyncio.TimerHandle | None = None
        self._dispatcher: Dispatcher | None = None
        self.on_progress: Callable[[], None] = lambda: None
        self.confirmed: Callable[[int, int], Awaitable[None]] = _return_at_once
        self.suspects: Suspects | None = None
        into = dead_letter_stream(stream, options.dead_letter)
        self._failures = FailureLog(logger, stream, name, into)
        self.dead_letters: DeadLettering = DeadLettering(stream, name, into, store_letter, self._failures, on_end)

    def use(self, dispatcher: Dispatcher) -> None:
        """Set the dispatcher that this is the host of."""
        self._dispatcher = dispatcher

    def close(self) -> None:
        """Stop the timers: nothing is retried any more."""
        self._dispatcher = None
        for timer in (self._retry_timer, self._circuit_timer):
            if timer is not None:
                timer.cancel()

    def release(self) -> None:
        """Log the failures that are not logged yet. Called when no handler runs any more."""
        self._failures.flush()

    # --- futures and errors ------------------------------------------------------------------------------------------

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
        """Return the error with which to end a worker that was cancelled from outside."""
        return asyncio.CancelledError()

    def refuse(self, result: object) -> BaseException | None:
        """Return the error for a handler that returned a generator, so its code has not run."""
        return refuse_result(result)

    def overdue_error(self, event: Event, error: BaseException | None) -> BaseException:
        """Return the error of a handler that was cancelled because it ran too long. `error` is how it ended."""
        overdue = Timeout("handler", self._options.timeout_s, event_id=event.id)
        overdue.__cause__ = error
        return overdue

    def on_overrun(self, event: Event, seconds: float) -> None:
        """Log that a plain function ran longer than a handler may, and blocked the event loop meanwhile."""
        self._failures.log_overrun(event, seconds, self._options.timeout_s)

    # --- failures ----------------------------------------------------------------------------------------------------

    def errors_of(self, events: list[Event], error: BaseException) -> list[BaseException | None]:
        """Return the error of each event of a handler call that has failed; None for an event that was handled.

        If the payload of an event can't be decoded, its error is a Misfit. The other events of the batch have GivenBack
        or Alone, because they are handled again at once.
        """
        found: list[BaseException | None] = [*(find_misfits(events, error) or ())]
        if found:
            return found
        if isinstance(error, PartialFailure) and self._options.batch is not None:
            return _with_misfits(events, errors_in(error, events))
        return [error] * len(events)

    def on_failures(self, events: Sequence[Event], errors: Sequence[BaseException]) -> list[int]:
        """Decide whether to retry the events for which a handler call has failed, and log them with their errors.

        Return for each event the nanoseconds until it is handled again, or DEAD.
        """
        delays = [self._delay_ns(event, error) for event, error in zip(events, errors, strict=True)]
        self._failures.log_failed(events, errors, [None if delay < 0 else delay / NS for delay in delays])
        return delays

    def retry_delay_s(self, event: Event, error: BaseException) -> float | None:
        """Return after how many seconds the event is handled again if its handler fails with this error.

        None: the event becomes a dead letter. 0.0 for an event that is given back.
        """
        failure = self.failure_of(event, error)
        if failure is None:
            return 0.0
        (found,) = self.errors_of([event], failure)
        if found is None or isinstance(found, Alone):
            return 0.0
        delay_ns = self._delay_ns(event, found)
        return None if delay_ns == DEAD else delay_ns / NS

    def failure_of(self, event: Event, error: BaseException) -> BaseException | None:
        """Return the error with which an attempt counts as failed; None if the event is given back.

        A handler may raise CancelledError though nobody has cancelled its task. Then the handler has failed.
        """
        if isinstance(error, Exception):
            return error
        if is_overdue():
            return self.overdue_error(event, error)
        task = asyncio.current_task() if isinstance(error, asyncio.CancelledError) else None
        return error if task is not None and not task.cancelling() else None

    def _delay_ns(self, event: Event, error: BaseException) -> int:
        if isinstance(error, Undecodable | Exhausted | Reject):
            return DEAD
        most = self._options.retry.max_attempts
        if most is not None and event.attempt >= most:
            return DEAD
        return int(self._options.retry.delay_s(event.attempt) * NS)

    def store_dead_letter(self, event: Event, payload: bytes, error: BaseException) -> Awaitable[int]:
        """Store a dead letter; see `DeadLettering.store`."""
        return self.dead_letters.store(event, payload, error)

    # --- the circuit -------------------------------------------------------------------------------------------------

    def is_failure(self, errors: Sequence[BaseException]) -> bool:
        """Return whether a handler call with these errors counts for the circuit.

        It does not count if the events themselves are to blame.
        """
        return any(not isinstance(error, Undecodable | Exhausted | Reject) for error in errors)

    def on_circuit(self, n_openings: int) -> None:
        """Log that the circuit has opened or closed. If it has opened, have one event tried after a pause.

        `n_openings` is how many times in a row it has opened, which makes the pause longer; 0 means that it has closed.
        """
        if self._circuit_timer is not None:
            self._circuit_timer.cancel()
            self._circuit_timer = None
        if n_openings == 0:
            self._logger.info(
                "subscription %s to %s: a handler has succeeded, and events are handled again as before",
                self._name, self._stream,
            )  # fmt: skip
            return
        pause_s = self._options.retry.delay_s(n_openings)
        level = logging.WARNING if n_openings == 1 else logging.DEBUG
        self._logger.log(
            level,
            "subscription %s to %s: handlers failed for %s events in a row; no handler starts for %g s, then "
            "one event is tried",
            self._name, self._stream, self._options.circuit, pause_s,
        )  # fmt: skip
        if self._dispatcher is not None:
            self._circuit_timer = self._loop.call_later(pause_s, self._dispatcher.gate.try_one)

    # --- suspects ----------------------------------------------------------------------------------------------------

    async def try_on_record(self, event: Event, suspect: Suspect) -> int:
        """Put a suspect on record as begun; see `Suspects.begin`."""
        return await self.suspects.begin(event, suspect) if self.suspects is not None else 0

    async def end_record(self, event: Event, suspect: Suspect, is_begun: bool) -> None:
        """Take a suspect off the record; see `Suspects.end`."""
        if self.suspects is not None:
            await self.suspects.end(event, suspect, is_begun=is_begun)

    def end_records(self, sequence: int, is_acknowledged: bool) -> None:
        """Take the events of an acknowledged pack off the record, in the background; see `Suspects.end_pack`."""
        if self.suspects is not None:
            self.suspects.end_pack(sequence, is_acknowledged=is_acknowledged)

    # --- retries that the ledger holds -------------------------------------------------------------------------------

    def on_retry(self, delay_s: float) -> None:
        """Have the dispatcher take due events after `delay_s`, unless the timer is set to an earlier time."""
        if self._dispatcher is None:
            return
        at = self._loop.time() + delay_s
        if self._retry_timer is not None:
            if self._retry_at <= at:
                return
            self._retry_timer.cancel()
        self._retry_at = at
        self._retry_timer = self._loop.call_at(at, self._take_due)

    def _take_due(self) -> None:
        self._retry_timer = None
        if self._dispatcher is not None:
            next_s = self._dispatcher.take_due()
            if next_s is not None:
                self.on_retry(next_s)


def _with_misfits(events: list[Event], errors: list[BaseException | None]) -> list[BaseException | None]:
    """Return the errors of a batch with misfits in place of the errors that say which payloads can't be decoded.

    If several events have the same error, such as those of one call of a router's list handler, they are treated as the
    events of a handler call that raised it.
    """
    found = list(errors)
    numbers_of: dict[int, list[int]] = {}
    for number, error in enumerate(errors):
        if error is not None:
            numbers_of.setdefault(id(error), []).append(number)
    for numbers in numbers_of.values():
        shared = errors[numbers[0]]
        assert shared is not None
        misfits = find_misfits([events[number] for number in numbers], shared) or ()
        for number, misfit in zip(numbers, misfits, strict=False):
            found[number] = misfit
    return found


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _return_at_once(seq: int, idx: int) -> None:
    """Return, because there is no position to store."""
