"""Applies the events of one lane: one transaction after the other, with retries, halving and dead letters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from time import monotonic
from typing import Any

from eda._event import Event
from eda.errors import Timeout
from eda.handlers import GivenBack, PartialFailure, Reject, errors_in
from eda.handling._outcome import attempted, envelope_of
from eda.handling.dead_lettering import DEAD, DeadLettering
from eda.handling.failure_log import FailureLog, error_text
from eda.handling.misfits import find_misfits
from eda.handling.verdicts import Alone, Undecodable
from eda.projection_errors import PositionInvalid, TransactionEnded
from eda.projections.options import ProjectionOptions
from eda.projections.outage_log import OutageLog
from eda.projections.sink import ClaimLost, CommitUnknown, PositionRow, Sink, Work
from eda.times import NS

__all__ = ["Applying", "Attempt", "Chunk", "Counts", "Target", "Wrap"]

OUTAGE_MAX_S = 5.0  # the longest pause before a database that is down is tried again

# Makes one attempt to apply events, or one event.
Attempt = Callable[[Any], Awaitable[None]]
# Puts the hooks of middleware around an attempt.
Wrap = Callable[[Attempt], Attempt]

OVERDUE_S = 1.0  # after its time, a transaction that still runs is logged, because it could not be cancelled
LONG_LOOK_S = 1.0  # a look at a row that takes longer tells that the database is to blame for a transaction's time

OVERDUE = (
    "%s: the transaction after event %d of stream %s still runs, although timeout_s=%g is over: a function in a thread "
    "can't be cancelled, and the projection waits until it ends"
)

_NOT_CALLED, _COMMITTED = object(), object()


class _NotLanded(Exception):
    """The database is to blame that a transaction has not landed. `__cause__`: the error as the hooks see it."""


class Chunk:
    """Events of one lane that are applied in one transaction, and when the stream stored each of them.

    `error`: the error with which the one event has failed already.
    """

    __slots__ = ("error", "events", "times")

    def __init__(self, events: list[Event], times: list[int], error: BaseException | None = None) -> None:
        self.events: list[Event] = events
        self.times: list[int] = times
        self.error: BaseException | None = error

    def part(self, first: int, end: int, error: BaseException | None = None) -> Chunk:
        """Return some of the events as a chunk."""
        return Chunk(self.events[first:end], self.times[first:end], error)


class Counts:
    """What a projection has done with a stream so far: transactions, events applied, and failed attempts."""

    __slots__ = ("applied", "dead", "failed", "transactions")

    def __init__(self) -> None:
        self.transactions: int = 0
        self.applied: int = 0
        self.failed: int = 0
        self.dead: int = 0


class Target:
    """What all lanes of a stream share: the sink, the function, and where failures are noted.

    `on_moved()` is called after each commit, `on_dead(sequence, reason)` when an event was given up. `key_errors`: by
    sequence, the errors of the function `key`; such an event belongs to the first lane, and is given up.
    """

    def __init__(
        self,
        sink: Sink,
        options: ProjectionOptions,
        apply: Callable[[Any, Any], object],
        logger: logging.Logger,
        outages: OutageLog,
        failures: FailureLog,
        dead_letters: DeadLettering,
        counts: Counts,
        wrap: Wrap | None,
        on_moved: Callable[[], None],
        on_dead: Callable[[int, str], None],
    ) -> None:
        self.sink = sink
        self.options = options
        self.apply = apply
        self.logger = logger
        self.outages = outages
        self.failures = failures
        self.dead_letters = dead_letters
        self.counts = counts
        self.wrap = wrap
        self.on_moved = on_moved
        self.on_dead = on_dead
        self.key_errors: dict[int, Exception] = {}


class Applying:
    """Applies the events of one lane in order. `row` is the lane's position as it is stored.

    `is_moving`: a transaction is under way, which a cancellation would roll back. With `is_stopping`, no other begins.
    """

    def __init__(self, target: Target, row: PositionRow) -> None:
        self._target = target
        self._options = options = target.options
        self._sink = target.sink
        self._loop = asyncio.get_running_loop()
        self.row: PositionRow = row
        self.is_moving: bool = False
        self.is_stopping: bool = False
        self._is_single = options.batch is None
        self._chunk: Chunk | None = None
        self._ended: Any = _NOT_CALLED  # how the transaction of the running attempt has ended
        self._attempt: Attempt = self._transaction
        if target.wrap is not None:
            self._attempt = target.wrap(self._transaction)

    # --- one chunk after the other -----------------------------------------------------------------------------------

    async def apply(self, events: list[Event], times: list[int]) -> None:
        """Apply events that follow the row, and move it over them. With `is_stopping`, some may be left out.

        Raises ClaimLost, TransactionEnded, PositionInvalid.
        """
        if self._is_single:
            left = [Chunk([event], [time]) for event, time in zip(reversed(events), reversed(times), strict=True)]
        else:
            left = [Chunk(events, times)]
        if self._target.key_errors and self.row.lane == 0:
            left = self._without_keys(left)
        while left and not self.is_stopping:
            chunk = left.pop()
            error = chunk.error or await self._tried(chunk)
            if error is not None:
                parts = await self._failed(chunk, error) if len(chunk.events) == 1 else _parts(chunk, error)
                left.extend(reversed(parts))

    def _without_keys(self, chunks: list[Chunk]) -> list[Chunk]:
        """Return the chunks, the last first, with each event apart for which the function `key` has failed."""
        errors = self._target.key_errors
        parts: list[Chunk] = []
        for chunk in reversed(chunks):
            found = [errors.get(event.sequence) for event in chunk.events]
            parts += _split(chunk, found) if any(found) else [chunk]
        return parts[::-1]

    async def pass_to(self, sequence: int, time: int) -> None:
        """Move the row over messages that are not for this lane. Raises ClaimLost."""
        await self._passed(sequence, time)

    async def _tried(self, chunk: Chunk) -> BaseException | None:
        """Apply a chunk. Return the error with which apply, or a hook of middleware, has failed."""
        n_outages = 0
        while True:
            self._chunk, self._ended = chunk, _NOT_CALLED
            error: BaseException | None = None
            try:
                await self._attempt(chunk.events[0] if self._is_single else chunk.events)
            except Exception as raised:
                error = raised
            except asyncio.CancelledError as raised:
                if _is_cancelled():
                    raise
                error = raised  # apply has raised it, and nobody has cancelled this task
            ended, self._ended = self._ended, None
            if ended is _COMMITTED:
                if error is not None:
                    self._target.logger.error(
                        "%s: middleware failed for events that are applied and committed; they are not applied again",
                        self._options.label, exc_info=error,
                    )  # fmt: skip
                return None
            if isinstance(ended, ClaimLost | TransactionEnded | PositionInvalid):
                raise ended
            outage = ended.__cause__ if isinstance(ended, _NotLanded) else None
            outage = outage or self._outage_in(ended) or self._outage_in(error)
            if outage is not None:
                n_outages += 1
                await self._pause(outage, n_outages)
            elif error is None:
                # A hook has called nothing, or has swallowed the error.
                await self._passed(chunk.events[-1].sequence, chunk.times[-1])
                return None
            else:
                return error

    def _outage_in(self, error: object) -> BaseException | None:
        """Return the error of the database in an error, if the database is to blame."""
        if not isinstance(error, BaseException):
            return None
        each: BaseException
        for each in error.failures.values() if isinstance(error, PartialFailure) else [error]:
            if self._sink.is_outage(each):
                return each
        return None

    async def _pause(self, error: BaseException, n_outages: int) -> None:
        self._target.outages.failed("a transaction", error)
        await asyncio.sleep(min(self._options.retry.delay_s(n_outages), OUTAGE_MAX_S))

    # --- one transaction ---------------------------------------------------------------------------------------------

    async def _transaction(self, given: Any) -> None:
        """Apply what the last hook has passed on, in one transaction. Notes in `_ended` how it has ended."""
        chunk, apply = self._chunk, self._target.apply
        assert chunk is not None
        try:
            # A thread gets the context of this task, so that a close in apply knows where it is called.
            run = copy_context().run
            await self._move(chunk.events[-1].sequence, chunk.times[-1], lambda tx: run(apply, given, tx))
        except _NotLanded as error:
            self._ended = error
            raise (error.__cause__ or error) from None
        except Exception as error:
            self._ended = error
            raise
        self._ended = _COMMITTED
        counts = self._target.counts
        counts.applied += len(chunk.events)
        self._target.on_moved()

    async def _move(self, sequence: int, time: int, work: Work | None) -> None:
        """Move the row in one transaction. After an unknown outcome it is found out whether the row was moved.

        Raises _NotLanded if it was not moved and the database is to blame; Timeout if the work took too long.
        """
        options, row, timeout_s = self._options, self.row, self._options.timeout_s
        unknown: BaseException
        self.is_moving = True
        overdue = self._loop.call_later(timeout_s + OVERDUE_S, self._log_overdue, row)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                self.row = await self._sink.move(
                    options.name,
                    options.version,
                    row,
                    sequence=sequence,
                    index=0,
                    time=time,
                    work=work,
                    timeout_s=timeout_s,
                )
            self._target.counts.transactions += 1
            self._target.outages.works()
            return
        except CommitUnknown as error:
            unknown = error.__cause__ or error
        except TimeoutError as error:
            if not limit.expired():
                raise
            unknown = Timeout(f"a transaction of {options.label}", timeout_s)
            unknown.__cause__ = error
        finally:
            self.is_moving = False
            overdue.cancel()
        began = monotonic()
        if await self._has_landed(row, sequence):
            self._target.counts.transactions += 1
        elif isinstance(unknown, Timeout) and monotonic() - began < LONG_LOOK_S:
            raise unknown
        else:
            raise _NotLanded from unknown

    def _log_overdue(self, row: PositionRow) -> None:
        self._target.logger.warning(OVERDUE, self._options.label, row.sequence, row.stream, self._options.timeout_s)

    async def _has_landed(self, before: PositionRow, sequence: int) -> bool:
        """Return whether the transaction with an unknown outcome has moved the row. Raises ClaimLost."""
        n_outages = 0
        while True:
            try:
                async with asyncio.timeout(self._options.timeout_s):
                    found = await self._sink.find(self._options.name, self._options.version, before)
                break
            except Exception as error:
                if not isinstance(error, TimeoutError) and not self._sink.is_outage(error):
                    raise
                n_outages += 1
                await self._pause(error, n_outages)
        if found is None or found.owner_epoch != before.owner_epoch:
            raise ClaimLost
        self.row = found
        if found.sequence == sequence:
            return True
        if found.sequence != before.sequence:
            raise ClaimLost
        return False

    async def _passed(self, sequence: int, time: int) -> None:
        """Move the row without applying anything, however long the database is down."""
        n_outages = 0
        while True:
            try:
                await self._move(sequence, time, None)
                break
            except (ClaimLost, PositionInvalid):
                raise
            except Exception as error:
                if not isinstance(error, Timeout | _NotLanded) and not self._sink.is_outage(error):
                    raise
                n_outages += 1
                await self._pause(error.__cause__ or error, n_outages)
        self._target.on_moved()

    # --- failed events -----------------------------------------------------------------------------------------------

    async def _failed(self, chunk: Chunk, error: BaseException) -> list[Chunk]:
        """Wait for the next attempt of an event and return it, or give the event up and return nothing."""
        target, event, time = self._target, chunk.events[0], chunk.times[0]
        (misfit,) = find_misfits([event], error) or (error,)
        if not isinstance(misfit, Alone | GivenBack):
            error = misfit
        if isinstance(error, PartialFailure):
            error = errors_in(error, [event])[0] or error
        target.counts.failed += 1
        delay_s = self._delay_s(event, error)
        target.failures.log_failed([event], [error], [delay_s])
        if delay_s is not None:
            await asyncio.sleep(delay_s)
            return [Chunk([attempted(event, event.attempt + 1)], [time])]
        while True:
            delay_ns = await target.dead_letters.store(event, envelope_of(event), error)
            if delay_ns == DEAD:
                break
            await asyncio.sleep(delay_ns / NS)
        target.counts.dead += target.dead_letters.into is not None
        target.on_dead(event.sequence, error_text(error.__cause__ if isinstance(error, Undecodable) else error))
        await self._passed(event.sequence, time)
        return []

    def _delay_s(self, event: Event, error: BaseException) -> float | None:
        """Return the seconds until the event's next attempt; None: there is none."""
        if isinstance(error, Reject | Undecodable) or self._target.key_errors.pop(event.sequence, None) is not None:
            return None
        most = self._options.retry.max_attempts
        return None if most is not None and event.attempt >= most else self._options.retry.delay_s(event.attempt)


def _is_cancelled() -> bool:
    """Return whether somebody has cancelled the running task."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _parts(chunk: Chunk, error: BaseException) -> list[Chunk]:
    """Return the parts of a chunk that failed, in order: by the events that the error names, otherwise the halves."""
    events = chunk.events
    found: list[BaseException | None] | None = None
    if isinstance(error, PartialFailure):
        found = errors_in(error, events)
    else:
        misfits = find_misfits(events, error)
        found = None if misfits is None else [None if isinstance(each, GivenBack) else each for each in misfits]
    if found is None or all(each is found[0] for each in found):  # the failure names no event in particular
        half = len(events) // 2
        return [chunk.part(0, half), chunk.part(half, len(events))]
    return _split(chunk, found)


def _split(chunk: Chunk, found: list[BaseException | None] | list[Exception | None]) -> list[Chunk]:
    """Return the parts of a chunk, in order: each event that has an error is alone."""
    events = chunk.events
    parts: list[Chunk] = []
    first = 0
    for number, each in enumerate(found):
        if each is not None:
            if first < number:
                parts.append(chunk.part(first, number))
            parts.append(chunk.part(number, number + 1, None if isinstance(each, Alone) else each))
            first = number + 1
    if first < len(events):
        parts.append(chunk.part(first, len(events)))
    return parts
