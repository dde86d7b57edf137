"""handled_event(): which event the calling handler handles."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda.handling import running_handler
from eda.handling.running_handler import handled_event
from helpers import until
from support.handling.dispatching import Rig, settle

Make = Callable[..., Rig]


def sequence() -> int | None:
    event = handled_event()
    return None if event is None else event.sequence


async def test_handled_event_when_called_outside_of_handlers_is_none(make: Make) -> None:
    make()
    assert handled_event() is None


def test_handled_event_when_no_loop_runs_is_none() -> None:
    assert handled_event() is None


@pytest.mark.parametrize("is_async", [False, True])
async def test_handled_event_when_a_handler_calls_it_is_the_event_of_this_handler(make: Make, is_async: bool) -> None:
    got: list[tuple[int, int | None]] = []

    def plain(event: eda.Event) -> None:
        got.append((event.sequence, sequence()))

    async def handler(event: eda.Event) -> None:
        for _ in range(event.sequence):
            await asyncio.sleep(0)
        plain(event)

    rig = make(handler if is_async else plain, concurrency=3)
    rig.deliver(1, 2, 3, 4, 5)
    await settle()
    assert sorted(got) == [(number, number) for number in range(1, 6)]
    assert handled_event() is None


async def test_handled_event_when_a_handler_starts_other_code_is_none_there(make: Make) -> None:
    got: dict[str, int | None] = {}

    def note(name: str) -> None:
        got[name] = sequence()

    async def note_in_a_task(name: str) -> None:
        note(name)

    async def handler(event: eda.Event) -> None:
        loop = asyncio.get_running_loop()
        note("before")
        loop.call_soon(note, "callback")
        loop.call_later(0, note, "timer")
        await asyncio.create_task(note_in_a_task("task"))
        await asyncio.gather(note_in_a_task("gather"))
        await asyncio.to_thread(note, "thread")
        thread = threading.Thread(target=lambda: asyncio.run(note_in_a_task("loop of a thread")))
        thread.start()
        await asyncio.to_thread(thread.join)
        async with asyncio.timeout(10):
            await note_in_a_task("timeout")
        note("after")

    rig = make(handler)
    rig.deliver(7)
    await until(lambda: "after" in got)
    assert {name for name, found in got.items() if found == 7} == {"before", "after", "timeout"}
    assert set(got) >= {"callback", "timer", "task", "gather", "thread", "loop of a thread"}


async def test_handled_event_when_a_task_outlives_its_handler_is_none_there(make: Make) -> None:
    got: list[int | None] = []
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        await asyncio.sleep(0.01)
        got.append(sequence())

    async def handler(event: eda.Event) -> None:
        if event.sequence == 1:
            tasks.append(asyncio.create_task(later()))
        else:
            await asyncio.wait(tasks)

    rig = make(handler)
    rig.deliver(1, 2)
    await until(lambda: got)
    assert got == [None]


@pytest.mark.parametrize(("n", "expected"), [(1, [1]), (3, [None])])
async def test_handled_event_when_in_a_batch_is_that_of_a_batch_of_one(
    make: Make, n: int, expected: list[int | None]
) -> None:
    got: list[int | None] = []
    rig = make(lambda events: got.append(sequence()), batch=10)
    rig.deliver(*range(1, n + 1))
    await settle()
    assert got == expected


@pytest.mark.parametrize("batch", [None, 10])
async def test_handled_event_when_a_suspect_is_handled_is_the_suspect(make: Make, batch: int | None) -> None:
    got: list[int | None] = []
    rig = make(lambda given: got.append(sequence()), batch=batch, max_attempts=3)
    rig.deliver(9, attempt=4)
    await settle()
    assert got == [9]


@pytest.mark.parametrize("options", [{}, {"serial": True}, {"strict": True}])
async def test_handled_event_when_the_subscription_is_ordered_is_the_event(make: Make, options: Any) -> None:
    got: list[int | None] = []
    rig = make(lambda event: got.append(sequence()), ordered=True, **options)
    rig.deliver(1, 2)
    await settle()
    assert got == [1, 2]


async def test_table_when_a_dispatcher_is_gone_keeps_neither_it_nor_its_tasks() -> None:
    gc.collect()
    n_before = len(running_handler.WORKERS)
    rig = Rig()
    task, dispatcher = weakref.ref(rig.tasks[0]), weakref.ref(rig.dispatcher)
    assert len(running_handler.WORKERS) == n_before + 1
    rig.dispatcher.stop()
    await settle()
    rig.tasks[0].cancel()
    await settle()
    del rig
    gc.collect()
    assert (task(), dispatcher()) == (None, None)
    assert len(running_handler.WORKERS) == n_before
