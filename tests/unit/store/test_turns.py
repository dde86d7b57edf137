"""Turns: one caller at a time for each aggregate, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from eda.store.turns import Turns


async def work(turns: Turns, aggregate: str, name: str, done: list[str], may_end: asyncio.Event) -> None:
    await turns.take(aggregate)
    try:
        done.append(f"{name} begins")
        await may_end.wait()
        done.append(f"{name} ends")
    finally:
        turns.give(aggregate)


async def test_turn_when_others_have_it_comes_in_order() -> None:
    turns, done, may_end = Turns(), [], asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(work(turns, "x", name, done, may_end))
        group.create_task(work(turns, "y", "other", done, may_end))
        await asyncio.sleep(0)
        assert done == ["a begins", "other begins"]
        may_end.set()
    assert [each for each in done if "other" not in each] == [
        f"{name} {what}" for name in "abc" for what in ("begins", "ends")
    ]
    assert not turns.taken


async def test_turn_when_ataken_caller_is_cancelled_goes_to_the_next() -> None:
    turns, done, may_end = Turns(), [], asyncio.Event()
    tasks = [asyncio.create_task(work(turns, "x", name, done, may_end)) for name in "abc"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    may_end.set()
    await asyncio.wait(tasks)
    assert done == ["a begins", "a ends", "c begins", "c ends"]
    assert not turns.taken


async def test_turn_when_its_caller_is_cancelled_as_it_comes_goes_to_the_next() -> None:
    turns, done, may_end = Turns(), [], asyncio.Event()
    await turns.take("x")
    tasks = [asyncio.create_task(work(turns, "x", name, done, may_end)) for name in "ab"]
    await asyncio.sleep(0)
    may_end.set()
    turns.give("x")  # a's turn has come, and a has not run yet
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert done == ["b begins", "b ends"]
    assert not turns.taken


async def test_turn_when_a_waiting_coroutine_is_closed_goes_to_the_next() -> None:
    turns, done, may_end = Turns(), [], asyncio.Event()
    turns.take_now("x")
    waiting = turns.take("x")
    waiting.send(None)
    waiting.close()
    task = asyncio.create_task(work(turns, "x", "b", done, may_end))
    await asyncio.sleep(0)
    may_end.set()
    turns.give("x")
    await asyncio.wait_for(task, 5)
    assert done == ["b begins", "b ends"]
    assert not turns.taken


def test_turn_when_the_loop_is_closed_while_a_caller_waits_raises_nothing() -> None:
    async def wait(turns: Turns) -> Coroutine[Any, Any, None]:
        turns.take_now("x")
        waiting = turns.take("x")
        waiting.send(None).add_done_callback(print)  # as a task does
        return waiting

    asyncio.run(wait(Turns())).close()


async def test_take_now_when_somebody_has_the_turn_takes_nothing() -> None:
    turns = Turns()
    assert turns.take_now("x")
    assert not turns.take_now("x")
    assert turns.take_now("y")
    turns.give("x")
    assert turns.take_now("x")
