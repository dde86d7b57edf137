"""eda.publishing.waiters: who waits goes in turn, and the time it takes does not grow with the queue."""

from __future__ import annotations

import asyncio
import random

from eda.publishing.waiters import Marks, Turns


async def test_turns_when_left_in_any_order_keep_their_order() -> None:
    turns = Turns()
    queue = [turns.come() for _ in range(100)]
    left = list(queue)
    for turn in random.sample(queue, 100):
        first = turns.leave(turn)
        left.remove(turn)
        assert first is (left[0] if left else None)
        assert bool(turns.queue) == bool(left)
        assert not left or turns.is_first(left[0])


async def test_turns_when_woken_wake_the_first_ones_only() -> None:
    turns = Turns()
    queue = [turns.come() for _ in range(10)]
    for turn in queue:
        turn.woken = asyncio.get_running_loop().create_future()
    turns.wake(3)
    assert [turn.is_awake for turn in queue] == [True] * 3 + [False] * 7
    turns.wake(0)
    assert sum(turn.is_awake for turn in queue) == 3
    turns.wake_all()
    assert all(turn.is_awake for turn in queue)


async def test_marks_when_reached_end_in_order() -> None:
    marks = Marks()
    futures = [asyncio.get_running_loop().create_future() for _ in range(5)]
    for to, future in zip((2, 4, 4, 6, 9), futures, strict=True):
        marks.add(to, future)
    futures[3].cancel()
    assert marks.reached(1) == 2
    assert marks.reached(5) == 9
    assert [future.done() for future in futures] == [True, True, True, True, False]
    marks.end_all()
    assert futures[4].done()
    assert marks.reached(100) == 0
