"""Callers that append to the same aggregate take turns, so that the writers of one process never conflict."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """Who may append to an aggregate now, and who waits for it, by the aggregate's name."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        # A name is here while somebody has its turn. The callers that wait are in the order in which they came.
        self.taken: dict[str, deque[asyncio.Future[None]] | None] = {}

    def take_now(self, aggregate: str) -> bool:
        """Take the turn if nobody has it. Return whether the caller has it now."""
        if aggregate in self.taken:
            return False
        self.taken[aggregate] = None
        return True

    async def take(self, aggregate: str) -> None:
        """Wait for the aggregate's turn. The caller must `give` it. If it is cancelled meanwhile, it has no turn."""
        if self.take_now(aggregate):
            return
        queue = self.taken[aggregate]
        if queue is None:
            queue = self.taken[aggregate] = deque()
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
        queue = self.taken[aggregate]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self.taken[aggregate]
