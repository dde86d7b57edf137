"""Queues of a publisher's callers: senders wait for room in the window, flushes wait until events are settled."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice

__all__ = ["FlushWaiters", "QueuedSender", "SenderQueue"]


class QueuedSender:
    """One sender in the queue."""

    __slots__ = ("has_left", "woken")

    def __init__(self) -> None:
        self.woken: asyncio.Future[None] | None = None  # None: the sender has not begun to wait
        self.has_left: bool = False

    @property
    def is_awake(self) -> bool:
        """Return whether the sender runs, or will run without another `wake`."""
        return self.woken is None or self.woken.done()

    def wake(self) -> None:
        """Wake the sender, which then checks for room."""
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)


class SenderQueue:
    """Senders in the order in which they came; only the first one may send.

    The time to join, leave or wake one sender does not depend on the length of the queue.
    """

    def __init__(self) -> None:
        # Not empty while a sender waits. A sender that leaves between two others stays here, marked by `has_left`.
        self.queue: deque[QueuedSender] = deque()

    def join(self) -> QueuedSender:
        """Add a new sender at the end, and return it."""
        sender = QueuedSender()
        self.queue.append(sender)
        return sender

    def is_first(self, sender: QueuedSender) -> bool:
        """Return whether all senders before this one have left."""
        return self.queue[0] is sender

    def leave(self, sender: QueuedSender) -> QueuedSender | None:
        """Remove a sender, and return the first sender now; None if the queue is empty."""
        queue = self.queue
        sender.has_left = True
        while queue and queue[0].has_left:
            queue.popleft()
        while queue and queue[-1].has_left:
            queue.pop()
        return queue[0] if queue else None

    def wake(self, n: int) -> None:
        """Wake the first `n` senders, at least one."""
        for sender in islice(self.queue, max(n, 1)):
            sender.wake()

    def wake_all(self) -> None:
        """Wake all senders."""
        self.wake(len(self.queue))


class FlushWaiters:
    """Flushes that wait until all events before a sequence are settled, in the order of these sequences."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def add(self, to: int, waiter: asyncio.Future[None]) -> None:
        """Add a flush that waits for the events before `to`."""
        while self._waiting and self._waiting[-1][1].done():
            self._waiting.pop()  # its caller was cancelled
        self._waiting.append((to, waiter))

    def settled_to(self, seq: int) -> int:
        """End the flushes whose events are all before `seq`. Return the sequence of the next flush; 0 if none waits."""
        waiting = self._waiting
        while waiting and (waiting[0][0] <= seq or waiting[0][1].done()):
            waiter = waiting.popleft()[1]
            if not waiter.done():
                waiter.set_result(None)
        return waiting[0][0] if waiting else 0

    def end_all(self) -> None:
        """End all flushes."""
        while self._waiting:
            waiter = self._waiting.popleft()[1]
            if not waiter.done():
                waiter.set_result(None)
