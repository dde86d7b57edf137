"""Callers that append to the same aggregate take turns, so that the writers of one process never conflict."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

__all__ = ["Turns"]


class Turns:
    """Who may append to an aggregate now, and who waits for it, by the aggregate's name."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        # A name is here while somebody has its turn. The callers that wait are in the order in which they came.
        self._waiting: dict[str, deque[asyncio.Future[None]] | None] = {}

    async def take(self, aggregate: str) -> None:
        """Wait for the aggregate's turn. If the caller is cancelled, it has no turn."""
        if aggregate not in self._waiting:
            self._waiting[aggregate] = None
            return
        queue = self._waiting[aggregate]
        if queue is None:
            queue = self._waiting[aggregate] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(aggregate)  # the turn came together with the cancellation
            raise

    def give(self, aggregate: str) -> None:
        """Give the turn to the caller that has waited longest."""
        queue = self._waiting[aggregate]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[aggregate]

    def turn(self, aggregate: str) -> Turn:
        """Return a context in which the caller has the aggregate's turn."""
        return Turn(self, aggregate)


class Turn:
    """The turn of one caller, as a context."""

    __slots__ = ("_aggregate", "_turns")

    def __init__(self, turns: Turns, aggregate: str) -> None:
        self._turns = turns
        self._aggregate = aggregate

    async def __aenter__(self) -> None:
        await self._turns.take(self._aggregate)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._turns.give(self._aggregate)
