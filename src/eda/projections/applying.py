"""Applies the events of one lane in order, with retries, halving and dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any

from eda._event import Event
from eda.errors import error_text
from eda.handlers import GivenBack, PartialFailure, Reject, errors_in
from eda.handling._outcome import attempted, envelope_of
from eda.handling.dead_lettering import DEAD
from eda.handling.misfits import find_misfits
from eda.handling.verdicts import Alone, Undecodable
from eda.projection_errors import PositionInvalid, TransactionEnded
from eda.projections.chunks import Chunk, parts_of, split
from eda.projections.lane_host import Attempt, LaneHost
from eda.projections.moving import Moving, NotLanded
from eda.projections.sink import ClaimLost, MovesOn, PositionRow, Work
from eda.times import NS

__all__ = ["Applying", "Taken"]

# Events that follow each other, and when the stream stored each of them, as a Chunk has them.
Taken = tuple[list[Event], list[int]]

_NOT_CALLED, _COMMITTED = object(), object()


class Applying:
    """Applies the events of one lane in order, from `row` onwards.

    `take()` returns the next events, or None while there are none. It is called in the event loop, or in the thread of
    the database while `apply` waits for it; `on_taken()` is called in the event loop afterwards. With `is_stopping`, no
    transaction begins.
    """

    def __init__(
        self,
        host: LaneHost,
        row: PositionRow,
        take: Callable[[], Taken | None],
        on_taken: Callable[[], None],
    ) -> None:
        self.moving: Moving = Moving(host, row, on_taken)
        self.is_stopping: bool = False
        self._host = host
        self._options = options = host.options
        self._sink = host.sink
        self._take = take
        self._on_taken = on_taken
        self._is_single = options.batch is None
        self._left: list[Chunk] = []  # what was taken and is not applied yet, the last first
        self._chunk: Chunk  # the one that is applied
        self._ended: Any = _NOT_CALLED  # how the transaction of the running attempt has ended
        self._attempt: Attempt
        if host.wrap is not None:
            self._attempt = host.wrap(self._transaction)
        elif isinstance(host.sink, MovesOn):
            # The hooks of middleware would run in the event loop, before and after each transaction.
            self._moves_on: MovesOn = host.sink
            self._attempt = self._transactions
        else:
            self._attempt = self._transaction

    @property
    def row(self) -> PositionRow:
        """Return the lane's position as it is stored."""
        return self.moving.row

    # --- one chunk after the other -----------------------------------------------------------------------------------

    async def apply(self) -> None:
        """Apply the events that can be taken, and move the row over them. With `is_stopping`, some may be left out.

        Raises ClaimLost, TransactionEnded, PositionInvalid.
        """
        while (chunk := self._next()) is not None:
            self._on_taken()
            error = chunk.error
            if error is None:
                self._chunk = chunk
                error = await self._tried()
                chunk = self._chunk  # a later one, if the sink has moved on
            if error is not None:
                parts = await self._failed(chunk, error) if len(chunk.events) == 1 else parts_of(chunk, error)
                self._left.extend(reversed(parts))

    def _next(self) -> Chunk | None:
        """Return the next chunk, or None if nothing more should begin now."""
        if self.is_stopping:
            return None
        if not self._left:
            taken = self._take()
            if taken is None:
                return None
            self._left = self._chunks(*taken)
        return self._left.pop()

    def _chunks(self, events: list[Event], times: list[int]) -> list[Chunk]:
        """Return the chunks in which events are applied, the last first."""
        if self._is_single:
            all_events = Chunk(events, times)
            chunks = [all_events.part(number, number + 1) for number in reversed(range(len(events)))]
        else:
            chunks = [Chunk(events, times)]
        return self._without_keys(chunks) if self._host.key_errors and self.row.lane == 0 else chunks

    def _without_keys(self, chunks: list[Chunk]) -> list[Chunk]:
        """Return the chunks, the last first, with each event apart for which the function `key` has failed."""
        errors = self._host.key_errors
        parts: list[Chunk] = []
        for chunk in reversed(chunks):
            found = [errors.get((event.sequence, event.index)) for event in chunk.events]
            parts += split(chunk, found) if any(found) else [chunk]
        return parts[::-1]

    async def _tried(self) -> BaseException | None:
        """Apply the chunk, and perhaps later ones. Return the error with which apply has failed for it, or a hook."""
        n_outages, chunk = 0, self._chunk
        while True:
            self._ended = _NOT_CALLED
            error: BaseException | None = None
            try:
                await self._attempt(self._given(self._chunk))
            except Exception as raised:
                error = raised
            except asyncio.CancelledError as raised:
                if _is_cancelled():
                    raise
                error = raised  # apply has raised it, and nobody has cancelled this task
            ended, self._ended = self._ended, None
            if ended is _COMMITTED:
                if error is not None:
                    self._host.logger.error(
                        "%s: middleware failed for events that are applied and committed; they are not applied again",
                        self._options.label, exc_info=error,
                    )  # fmt: skip
                return None
            if isinstance(ended, ClaimLost | TransactionEnded | PositionInvalid):
                raise ended
            outage = ended.__cause__ if isinstance(ended, NotLanded) else None
            outage = outage or self._outage_in(ended) or self._outage_in(error)
            if outage is not None:
                n_outages = n_outages + 1 if self._chunk is chunk else 1
                chunk = self._chunk
                await self.moving.pause(outage, n_outages)
            elif error is None:
                # A hook has called nothing, or has swallowed the error.
                await self.moving.pass_to(self._chunk.end)
                return None
            else:
                return error

    def _given(self, chunk: Chunk) -> Any:
        """Return what the user's function gets."""
        return chunk.events[0] if self._is_single else chunk.events

    def _outage_in(self, error: object) -> BaseException | None:
        """Return the error of the database in an error, if the database is to blame."""
        if not isinstance(error, BaseException):
            return None
        each: BaseException
        for each in error.failures.values() if isinstance(error, PartialFailure) else [error]:
            if self._sink.is_outage(each):
                return each
        return None

    async def _transaction(self, given: Any) -> None:
        """Apply what the last hook has passed on, in one transaction."""
        # A thread gets the context of this task, so that a close in apply knows where it is called.
        work = _work(copy_context(), self._host.apply, given)
        await self._noted(self.moving.move(self._chunk.end, work, len(self._chunk.events)))

    async def _transactions(self, given: Any) -> None:
        """Apply the chunk, and the next ones if they are ready: the sink begins each as soon as it can."""
        context, apply = copy_context(), self._host.apply

        def next_chunk() -> Chunk | None:
            chunk = self._next()
            if chunk is None:
                return None
            if chunk.error is not None:
                self._left.append(chunk)  # it has failed already, because of its key
                return None
            self._chunk = chunk
            return chunk

        def work_of(chunk: Chunk) -> Work:
            return _work(context.copy(), apply, self._given(chunk))

        await self._noted(self.moving.move_on(self._moves_on, self._chunk, next_chunk, work_of))

    async def _noted(self, moving: Awaitable[None]) -> None:
        """Wait for transactions, and note in `_ended` how the last one has ended."""
        try:
            await moving
        except NotLanded as error:
            self._ended = error
            raise (error.__cause__ or error) from None
        except Exception as error:
            self._ended = error
            raise
        self._ended = _COMMITTED

    # --- failed events -----------------------------------------------------------------------------------------------

    async def _failed(self, chunk: Chunk, error: BaseException) -> list[Chunk]:
        """Wait for the next attempt of an event and return it, or give the event up and return nothing."""
        host, event, time = self._host, chunk.events[0], chunk.times[0]
        (misfit,) = find_misfits([event], error) or (error,)
        if not isinstance(misfit, Alone | GivenBack):
            error = misfit
        if isinstance(error, PartialFailure):
            error = errors_in(error, [event])[0] or error
        host.counts.failed += 1
        delay_s = self._delay_s(event, error)
        host.failures.log_failed([event], [error], [delay_s])
        if delay_s is not None:
            await asyncio.sleep(delay_s)
            return [Chunk([attempted(event, event.attempt + 1)], [time])]
        while True:
            delay_ns = await host.dead_letters.store(event, envelope_of(event), error)
            if delay_ns == DEAD:
                break
            await asyncio.sleep(delay_ns / NS)
        host.counts.dead += host.dead_letters.into is not None
        reason = error_text(error.__cause__ if isinstance(error, Undecodable) else error)
        host.on_dead(event.sequence, event.index, reason)
        await self.moving.pass_to(chunk.end)
        return []

    def _delay_s(self, event: Event, error: BaseException) -> float | None:
        """Return the seconds until the event's next attempt; None: there is none."""
        place = event.sequence, event.index
        if isinstance(error, Reject | Undecodable) or self._host.key_errors.pop(place, None) is not None:
            return None
        most = self._options.retry.max_attempts
        return None if most is not None and event.attempt >= most else self._options.retry.delay_s(event.attempt)


def _is_cancelled() -> bool:
    """Return whether somebody has cancelled the running task."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _work(context: Context, apply: Callable[[Any, Any], object], given: Any) -> Work:
    return lambda tx: context.run(apply, given, tx)
