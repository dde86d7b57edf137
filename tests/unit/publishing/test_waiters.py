"""eda.publishing.waiters: senders send in turn, and the time for each does not grow with the queue."""

from __future__ import annotations

import asyncio
import random

from eda.publishing.waiters import FlushWaiters, SenderQueue


async def test_senders_when_left_in_any_order_keep_their_order() -> None:
    senders = SenderQueue()
    queue = [senders.join() for _ in range(100)]
    left = list(queue)
    for sender in random.sample(queue, 100):
        first = senders.leave(sender)
        left.remove(sender)
        assert first is (left[0] if left else None)
        assert bool(senders.queue) == bool(left)
        assert not left or senders.is_first(left[0])


async def test_senders_when_woken_wake_the_first_ones_only() -> None:
    senders = SenderQueue()
    queue = [senders.join() for _ in range(10)]
    for sender in queue:
        sender.woken = asyncio.get_running_loop().create_future()
    senders.wake(3)
    assert [sender.is_awake for sender in queue] == [True] * 3 + [False] * 7
    senders.wake(0)
    assert sum(sender.is_awake for sender in queue) == 3
    senders.wake_all()
    assert all(sender.is_awake for sender in queue)


async def test_flushes_when_their_events_are_settled_end_in_order() -> None:
    flushes = FlushWaiters()
    futures = [asyncio.get_running_loop().create_future() for _ in range(5)]
    for to, future in zip((2, 4, 4, 6, 9), futures, strict=True):
        flushes.add(to, future)
    futures[3].cancel()
    assert flushes.settled_to(1) == 2
    assert flushes.settled_to(5) == 9
    assert [future.done() for future in futures] == [True, True, True, True, False]
    flushes.end_all()
    assert futures[4].done()
    assert flushes.settled_to(100) == 0
