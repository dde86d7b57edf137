"""One lane of a stream: the events that wait for the database, and the task that applies them."""

from __future__ import annotations

import asyncio
from collections import deque

from eda._event import Event
from eda.projections.applying import Applying

__all__ = ["Lane"]


class Lane:
    """The events of one lane, in order. Up to two batches are in memory: one is applied, one waits.

    `applying` moves the lane's row. `most`: how many events are applied together at most.
    """

    def __init__(self, applying: Applying, most: int) -> None:
        self.applying = applying
        self._most = most
        self._lists: deque[tuple[list[Event], list[int]]] = deque()
        self._n_waiting = 0
        self._passing: tuple[int, int] | None = None
        self._is_working = False
        self._is_stopping = False
        self._loop = asyncio.get_running_loop()
        self._something: asyncio.Future[None] | None = None  # the task waits for events
        self._room: asyncio.Future[None] | None = None  # the subscription waits for room
        self.reached: int = applying.row.sequence  # the last sequence of this lane that was put here, or passed

    @property
    def position(self) -> int:
        """Return up to which sequence of the stream all events of this lane are applied, as far as it was read."""
        return self.applying.row.sequence

    @property
    def is_idle(self) -> bool:
        """Return whether everything that was put here is applied."""
        return not self._is_working and not self._lists and self._passing is None

    @property
    def n_waiting(self) -> int:
        """Return how many events wait here."""
        return self._n_waiting

    # --- in ----------------------------------------------------------------------------------------------------------

    async def put(self, events: list[Event], times: list[int]) -> None:
        """Take events that follow all earlier ones. Waits while a whole batch waits here."""
        while self._n_waiting >= self._most and not self._is_stopping:
            self._room = self._loop.create_future()
            await self._room
        if self._is_stopping:
            return
        self._lists.append((events, times))
        self._n_waiting += len(events)
        self.reached = events[-1].sequence
        self._wake()

    def pass_to(self, sequence: int, time: int) -> None:
        """Move the row over messages that are not for this lane, once everything that was put here is applied."""
        if sequence > self.reached:
            self.reached = sequence
            self._passing = sequence, time
            self._wake()

    def _wake(self) -> None:
        if self._something is not None and not self._something.done():
            self._something.set_result(None)

    # --- out ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Apply what is put here until `stop`. Raises ClaimLost, TransactionEnded, PositionInvalid."""
        while not self._is_stopping:
            if self._lists:
                self._is_working = True
                await self.applying.apply(*self._take())
                self._is_working = False
            elif self._passing is not None:
                (sequence, time), self._passing = self._passing, None
                if sequence > self.position:
                    self._is_working = True
                    await self.applying.pass_to(sequence, time)
                    self._is_working = False
            else:
                self._something = self._loop.create_future()
                await self._something

    def _take(self) -> tuple[list[Event], list[int]]:
        """Return the next events: up to a batch, of lists that wait."""
        events, times = self._lists.popleft()
        if self._lists and len(events) + len(self._lists[0][0]) <= self._most:
            events, times = list(events), list(times)
            while self._lists and len(events) + len(self._lists[0][0]) <= self._most:
                more = self._lists.popleft()
                events += more[0]
                times += more[1]
        self._n_waiting -= len(events)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return events, times

    def stop(self) -> None:
        """Begin nothing more: `run` returns when the transaction under way has ended, and `put` drops its events."""
        self._is_stopping = self.applying.is_stopping = True
        self._wake()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
