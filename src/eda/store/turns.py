"""Callers that append to the same aggregate take turns, so that the writers of one process never conflict."""

from __future__ import annotations

import asyncio
import sys
from collections import deque

from eda.errors import ConfigError

__all__ = ["Turns"]


class Turns:
    """Who may append to an aggregate now, and who waits for it, by the aggregate's name.

    A function that takes a turn has two local variables: `turns` is this object, and `aggregate` is the name. By them,
    `take` finds a caller that waits for itself.
    """

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
        """Wait for the aggregate's turn. The caller must `give` it. If it is cancelled meanwhile, it has no turn.

        Raises ConfigError if one of the functions that await the caller has the turn, so that it would never be given.
        """
        if self.take_now(aggregate):
            return
        self._check_not_own(aggregate)
        queue = self.taken[aggregate]
        if queue is None:
            queue = self.taken[aggregate] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except BaseException:  # cancelled, or its coroutine was closed
            if turn.done() and not turn.cancelled():
                self.give(aggregate)  # the turn came together with the cancellation
            elif not turn.done():
                queue.remove(turn)
            raise

    def _check_not_own(self, aggregate: str) -> None:
        """Raise ConfigError if the caller of `take` waits for itself: if `decide` has called the store.

        While a coroutine runs, the frames of all coroutines that await it are below its own. So those who have a turn
        need not note their tasks.
        """
        frame = sys._getframe(2).f_back  # `_getframe(2)` is the caller of `take`, which has the same local variables
        while frame is not None:
            if "turns" in frame.f_code.co_varnames:
                variables = frame.f_locals
                if variables.get("turns") is self and variables.get("aggregate") == aggregate:
                    raise ConfigError(
                        f"aggregate {aggregate!r}: `decide` calls the store for the same aggregate, and would wait "
                        "for itself for ever. Return all events from `decide` instead, or execute the second command "
                        "when the first one is done",
                        argument="aggregate",
                    )
            frame = frame.f_back

    def give(self, aggregate: str) -> None:
        """Give the turn to the caller that has waited longest."""
        queue = self.taken[aggregate]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self.taken[aggregate]
