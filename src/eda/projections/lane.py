"""One lane of a stream: the events that wait for the database, and the task that applies them."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from eda._event import Event
from eda.projections.applying import Applying, Taken
from eda.projections.lane_host import LaneHost
from eda.projections.sink import PositionRow, UpTo

__all__ = ["Lane"]

# A lane is full when so many events, or so many bytes of them, wait. A thread that goes from one transaction to the
# next needs enough of them until the event loop has put more here.
FULL = 8192
FULL_BYTES = 8 * 2**20


class Lane:
    """The events of one lane, in order. One batch is applied, others wait.

    `applying` moves the lane's row, which is `row` at first. `most`: how many events are applied together at most.
    """

    def __init__(self, host: LaneHost, row: PositionRow, most: int) -> None:
        self.applying: Applying = Applying(host, row, self._take, self._make_room)
        self._most = most
        self._lists: deque[tuple[list[Event], list[int], int]] = deque()  # with their bytes
        # Counts of events and bytes. The event loop changes the first two, and whoever takes events the others.
        self._n_put = self._n_bytes_put = 0
        self._n_taken = self._n_bytes_taken = 0
        self._passing: UpTo | None = None
        self._is_working = False
        self._is_stopping = False
        self._loop = asyncio.get_running_loop()
        self._something: asyncio.Future[None] | None = None  # the task waits for events
        self._room: asyncio.Future[None] | None = None  # the subscription waits for room
        self.reached: UpTo = row.up_to  # up to which event all of this lane was put here, or passed

    @property
    def position(self) -> UpTo:
        """Return up to which event of the stream all events of this lane are applied, as far as it was read."""
        return self.applying.row.up_to

    @property
    def is_idle(self) -> bool:
        """Return whether everything that was put here is applied."""
        return not self._is_working and not self._lists and self._passing is None

    @property
    def n_waiting(self) -> int:
        """Return how many events wait here."""
        return self._n_put - self._n_taken

    @property
    def n_bytes_waiting(self) -> int:
        """Return how many bytes these events have."""
        return self._n_bytes_put - self._n_bytes_taken

    # --- in ----------------------------------------------------------------------------------------------------------

    async def put(self, events: list[Event], times: list[int], n_bytes: int) -> None:
        """Take events that follow all earlier ones, with times as a Chunk has them. Waits while this lane is full."""
        while (self.n_waiting >= FULL or self.n_bytes_waiting >= FULL_BYTES) and not self._is_stopping:
            self._room = self._loop.create_future()
            await self._room
        if self._is_stopping:
            return
        self._lists.append((events, times, n_bytes))
        self._n_put += len(events)
        self._n_bytes_put += n_bytes
        self.reached = UpTo(events[-1].sequence, events[-1].index, times[-1])
        self._wake()

    def pass_to(self, up_to: UpTo) -> None:
        """Move the row over messages that are not for this lane, once everything that was put here is applied."""
        if up_to.place > self.reached.place:
            if up_to.sequence == self.reached.sequence and not up_to.is_part:
                up_to = replace(up_to, index=self.reached.index)  # the last event of this lane in the same pack
            self.reached = self._passing = up_to
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
                await self.applying.apply()
                self._is_working = False
            elif self._passing is not None:
                up_to, self._passing = self._passing, None
                if up_to.place > self.position.place:
                    self._is_working = True
                    await self.applying.moving.pass_to(up_to)
                    self._is_working = False
            else:
                self._something = self._loop.create_future()
                await self._something

    def _take(self) -> Taken | None:
        """Return the next events: up to a batch, of lists that wait. The thread of the database may call it."""
        if not self._lists:
            return None
        events, times, n_bytes = self._lists.popleft()
        if self._lists and len(events) + len(self._lists[0][0]) <= self._most:
            events, times = list(events), list(times)
            while self._lists and len(events) + len(self._lists[0][0]) <= self._most:
                more = self._lists.popleft()
                events += more[0]
                times += more[1]
                n_bytes += more[2]
        self._n_taken += len(events)
        self._n_bytes_taken += n_bytes
        return events, times

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def stop(self) -> None:
        """Begin nothing more: `run` returns when the transaction under way has ended, and `put` drops its events."""
        self._is_stopping = self.applying.is_stopping = True
        self._wake()
        self._make_room()
