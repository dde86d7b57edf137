"""Waiting in turn: for room in a window, and for what was sent to be settled."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice

__all__ = ["Marks", "Turn", "Turns"]


class Turn:
    """A place in the queue."""

    __slots__ = ("gone", "woken")

    def __init__(self) -> None:
        self.woken: asyncio.Future[None] | None = None  # None: it is not waiting
        self.gone = False

    @property
    def is_awake(self) -> bool:
        """Whether it will look again without being woken."""
        return self.woken is None or self.woken.done()

    def wake(self) -> None:
        """Have it look again."""
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)


class Turns:
    """A queue whose first one acts when it may. Coming, leaving and waking take the same time however long it is."""

    def __init__(self) -> None:
        self.queue: deque[Turn] = deque()  # not empty while somebody waits; those that are gone may be in between

    def come(self) -> Turn:
        """Take the last place."""
        turn = Turn()
        self.queue.append(turn)
        return turn

    def is_first(self, turn: Turn) -> bool:
        """Whether all who came before are gone."""
        return self.queue[0] is turn

    def leave(self, turn: Turn) -> Turn | None:
        """Give the place up; returns the first one that is left."""
        queue = self.queue
        turn.gone = True
        while queue and queue[0].gone:
            queue.popleft()
        while queue and queue[-1].gone:
            queue.pop()
        return queue[0] if queue else None

    def wake(self, n: int) -> None:
        """Wake the first `n`."""
        for turn in islice(self.queue, max(n, 1)):
            turn.wake()

    def wake_all(self) -> None:
        """Wake all."""
        self.wake(len(self.queue))


class Marks:
    """Futures that end when a count, which only grows, has reached theirs. They come in the order of the count."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def add(self, to: int, mark: asyncio.Future[None]) -> None:
        """Add one that ends at `to`."""
        while self._waiting and self._waiting[-1][1].done():
            self._waiting.pop()  # cancelled
        self._waiting.append((to, mark))

    def reached(self, count: int) -> int:
        """End those that are reached; returns where the next one ends, 0 if there is none."""
        waiting = self._waiting
        while waiting and (waiting[0][0] <= count or waiting[0][1].done()):
            mark = waiting.popleft()[1]
            if not mark.done():
                mark.set_result(None)
        return waiting[0][0] if waiting else 0

    def end_all(self) -> None:
        """End all."""
        while self._waiting:
            mark = self._waiting.popleft()[1]
            if not mark.done():
                mark.set_result(None)
