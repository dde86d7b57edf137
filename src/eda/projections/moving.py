"""Moves the row of one lane: every transaction has its time, and a lost answer of the database is looked up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic

from eda.errors import Timeout
from eda.projection_errors import PositionInvalid
from eda.projections.chunks import Chunk
from eda.projections.lane_host import LaneHost
from eda.projections.sink import ClaimLost, CommitUnknown, Move, MovesOn, PositionRow, UpTo, Work, place_text

__all__ = ["Moving", "NotLanded"]

OUTAGE_MAX_S = 5.0  # the longest pause before a database that is down is tried again
LOOK_S = 0.02  # how late the event loop notes a commit, unless somebody waits for it
OVERDUE_S = 1.0  # after its time, a transaction that still runs is logged, because it could not be cancelled
LONG_LOOK_S = 1.0  # a look at a row that takes longer tells that the database is to blame for a transaction's time

OVERDUE = (
    "%s: the transaction after event %s of stream %s still runs, although timeout_s=%g is over: a function in a thread "
    "can't be cancelled, and the projection waits until it ends"
)


class NotLanded(Exception):
    """The database is to blame that a transaction has not landed. `__cause__`: the error as the hooks see it."""


class _Aim:
    """Where the transaction under way moves the row, and over how many events."""

    def __init__(self, up_to: UpTo, n_events: int) -> None:
        self.up_to = up_to
        self.n_events = n_events


class Moving:
    """The row of one lane as it is stored, and the transactions that move it.

    `is_moving`: a transaction is under way, which a cancellation would roll back. `on_taken()` is called in the event
    loop when a sink may have taken chunks that were ready.
    """

    def __init__(self, host: LaneHost, row: PositionRow, on_taken: Callable[[], None]) -> None:
        self.row: PositionRow = row
        self.is_moving: bool = False
        self._host = host
        self._options = host.options
        self._sink = host.sink
        self._on_taken = on_taken
        self._loop = asyncio.get_running_loop()
        self._committed: deque[tuple[PositionRow, int]] = deque()  # by a sink that moves on; the loop notes them later
        self._limit: asyncio.Timeout
        self._limit_s = host.options.timeout_s
        self._overdue: asyncio.TimerHandle
        self._look: asyncio.TimerHandle

    # --- one transaction ---------------------------------------------------------------------------------------------

    async def move(self, up_to: UpTo, work: Work | None, n_events: int) -> None:
        """Do the work and move the row, in one transaction.

        After an unknown outcome it is found out whether the row was moved. Raises NotLanded if it was not moved and the
        database is to blame; Timeout if the work took too long; ClaimLost, TransactionEnded, and what the work raises.
        """
        self._limit_s = self._options.timeout_s
        await self._bounded(self._move(up_to, work, n_events), _Aim(up_to, n_events))

    async def _move(self, up_to: UpTo, work: Work | None, n_events: int) -> None:
        options = self._options
        row = await self._sink.move(
            options.name,
            options.version,
            self.row,
            sequence=up_to.sequence,
            index=up_to.index,
            time=up_to.time,
            work=work,
            timeout_s=options.timeout_s,
        )
        self._note(row, 1, n_events)

    async def pass_to(self, up_to: UpTo) -> None:
        """Move the row without applying anything, however long the database is down. Raises ClaimLost."""
        n_outages = 0
        while True:
            try:
                await self.move(up_to, None, 0)
                break
            except (ClaimLost, PositionInvalid):
                raise
            except Exception as error:
                if not isinstance(error, Timeout | NotLanded) and not self._sink.is_outage(error):
                    raise
                n_outages += 1
                await self.pause(error.__cause__ or error, n_outages)

    async def pause(self, error: BaseException, n_outages: int) -> None:
        """Wait after a failure of the database; `n_outages` says how many have followed each other."""
        self._host.outages.failed("a transaction", error)
        await asyncio.sleep(min(self._options.retry.delay_s(n_outages), OUTAGE_MAX_S))

    # --- one transaction after the other -----------------------------------------------------------------------------

    async def move_on(
        self, sink: MovesOn, first: Chunk, next_chunk: Callable[[], Chunk | None], work_of: Callable[[Chunk], Work]
    ) -> None:
        """Apply a chunk, and others until `next_chunk` returns None. The functions are called in the sink's thread.

        Raises what `move` raises, for the last chunk that was begun, or for the first if none was.
        """
        moves = _Moves(self, first, next_chunk, work_of)
        self._limit_s = self._options.timeout_s + LOOK_S
        self._look = self._loop.call_later(LOOK_S, self._look_again)
        try:
            await self._bounded(sink.move_on(self._options.name, self._options.version, self.row, moves), moves.aim)
        finally:
            self._look.cancel()

    def committed(self, row: PositionRow, n_events: int) -> None:
        """Note a commit, in the sink's thread."""
        self._committed.append((row, n_events))
        if self._host.is_awaited(row.up_to.place):
            with suppress(RuntimeError):  # the event loop was closed meanwhile
                self._loop.call_soon_threadsafe(self.note_commits)

    def note_commits(self) -> None:
        """Note in the event loop what the sink has committed until now. The next transaction gets its own time."""
        committed, n, n_events = self._committed, 0, 0
        row = self.row
        while committed:
            row, n_more = committed.popleft()
            n, n_events = n + 1, n_events + n_more
        self._on_taken()
        if not n:
            return
        self._note(row, n, n_events)
        if self.is_moving:
            if not self._limit.expired():
                self._limit.reschedule(self._loop.time() + self._limit_s)
            self._overdue.cancel()
            self._overdue = self._loop.call_later(self._limit_s + OVERDUE_S, self._log_overdue)

    def _look_again(self) -> None:
        # The sink does not wake the event loop for each commit: a thread and the loop disturb each other.
        self._look = self._loop.call_later(LOOK_S, self._look_again)
        self.note_commits()

    # --- the time of a transaction, and its outcome ------------------------------------------------------------------

    async def _bounded(self, moving: Awaitable[None], aim: _Aim) -> None:
        unknown: BaseException
        limit_s = self._limit_s
        self.is_moving = True
        self._overdue = self._loop.call_later(limit_s + OVERDUE_S, self._log_overdue)
        try:
            async with asyncio.timeout(limit_s) as self._limit:
                await moving
            return
        except CommitUnknown as error:
            unknown = error.__cause__ or error
        except TimeoutError as error:
            if not self._limit.expired():
                raise
            unknown = Timeout(f"a transaction of {self._options.label}", self._options.timeout_s)
            unknown.__cause__ = error
        finally:
            self.is_moving = False
            self._overdue.cancel()
            self.note_commits()
        if self.row.up_to == aim.up_to:
            return  # the time was over after the last commit
        began = monotonic()
        found = await self._landed(aim.up_to)
        if found is not None:
            self._note(found, 1, aim.n_events)
        elif isinstance(unknown, Timeout) and monotonic() - began < LONG_LOOK_S:
            raise unknown
        else:
            raise NotLanded from unknown

    def _note(self, row: PositionRow, n_transactions: int, n_events: int) -> None:
        self.row = row
        host = self._host
        host.counts.transactions += n_transactions
        host.counts.applied += n_events
        host.outages.works()
        host.on_moved()

    def _log_overdue(self) -> None:
        row = self.row
        place = place_text(row.up_to.place)
        self._host.logger.warning(OVERDUE, self._options.label, place, row.stream, self._options.timeout_s)

    async def _landed(self, up_to: UpTo) -> PositionRow | None:
        """Return the row if the transaction with an unknown outcome has moved it there. Raises ClaimLost."""
        n_outages, before = 0, self.row
        while True:
            try:
                async with asyncio.timeout(self._options.timeout_s):
                    found = await self._sink.find(self._options.name, self._options.version, before)
                break
            except Exception as error:
                if not isinstance(error, TimeoutError) and not self._sink.is_outage(error):
                    raise
                n_outages += 1
                await self.pause(error, n_outages)
        if found is None or found.owner_epoch != before.owner_epoch:
            raise ClaimLost
        if found.up_to == up_to:
            return found
        if found.up_to != before.up_to:
            raise ClaimLost
        self.row = found
        return None


class _Moves:
    """The chunks of a lane as a sink asks for them. It implements `Moves`."""

    def __init__(
        self, lane: Moving, first: Chunk, next_chunk: Callable[[], Chunk | None], work_of: Callable[[Chunk], Work]
    ) -> None:
        self.aim = _Aim(first.end, len(first.events))
        self._first: Chunk | None = first
        self._lane = lane
        self._next_chunk = next_chunk
        self._work_of = work_of
        self._n_events: deque[int] = deque()  # of the moves under way

    def next(self) -> Move | None:
        chunk, self._first = self._first or self._next_chunk(), None
        if chunk is None:
            return None
        up_to = chunk.end
        self.aim.up_to, self.aim.n_events = up_to, len(chunk.events)
        self._n_events.append(len(chunk.events))
        return Move(up_to.sequence, up_to.index, up_to.time, self._work_of(chunk))

    def moved(self, row: PositionRow) -> None:
        self._lane.committed(row, self._n_events.popleft())
