"""What a publisher's callers wait in: senders for room in the window, flushes for events to be settled."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice

__all__ = ["FlushWaiters", "QueuedSender", "SenderQueue"]


class QueuedSender:
    """One sender in the queue."""

    __slots__ = ("has_left", "woken")

    def __init__(self) -> None:
        self.woken: asyncio.Future[None] | None = None  # None: the sender is not asleep
        self.has_left = False

    @property
    def is_awake(self) -> bool:
        """Return whether the sender will check for room without being woken."""
        return self.woken is None or self.woken.done()

    def wake(self) -> None:
        """Let the sender check for room."""
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)


class SenderQueue:
    """Senders in the order in which they came; only the first one may send.

    Joining, leaving and waking take the same time however long the queue is.
    """

    def __init__(self) -> None:
        # Not empty while a sender waits. A sender that has left stays in it until all before it have left.
        self.queue: deque[QueuedSender] = deque()

    def join(self) -> QueuedSender:
        """Add a sender at the end."""
        sender = QueuedSender()
        self.queue.append(sender)
        return sender

    def is_first(self, sender: QueuedSender) -> bool:
        """Return whether all senders that came before have left."""
        return self.queue[0] is sender

    def leave(self, sender: QueuedSender) -> QueuedSender | None:
        """Remove a sender; return the one that is first now, None if the queue is empty."""
        queue = self.queue
        sender.has_left = True
        while queue and queue[0].has_left:
            queue.popleft()
        while queue and queue[-1].has_left:
            queue.pop()
        return queue[0] if queue else None

    def wake(self, n: int) -> None:
        """Wake the first `n`, at least one."""
        for sender in islice(self.queue, max(n, 1)):
            sender.wake()

    def wake_all(self) -> None:
        """Wake all."""
        self.wake(len(self.queue))


class FlushWaiters:
    """Flushes that wait until all events before a sequence are settled. They come in the order of their sequences."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def add(self, to: int, waiter: asyncio.Future[None]) -> None:
        """Add a flush that waits for the events before `to`."""
        while self._waiting and self._waiting[-1][1].done():
            self._waiting.pop()  # cancelled
        self._waiting.append((to, waiter))

    def settled_to(self, seq: int) -> int:
        """End the flushes that wait for events before `seq`; return what the next flush waits for, 0 if none waits."""
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
