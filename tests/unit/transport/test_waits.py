"""_waits: tasks that go on within the read that ends their wait, and that asyncio does not tell from others."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eda.transport._waits import Wait, Waits
from helpers import LOOPS


def new_waits() -> Waits:
    return Waits(asyncio.get_running_loop(), asyncio.current_task, asyncio.CancelledError)


async def read(*ends: Callable[[], object], waits: Waits) -> None:
    """Have a read end waits, as a callback of the loop, where reads are."""
    done = asyncio.get_running_loop().create_future()

    def run() -> None:
        waits.begin_read()
        for end in ends:
            end()
        waits.end_read()
        done.set_result(None)

    asyncio.get_running_loop().call_soon(run)
    await done


async def test_task_when_its_wait_ends_in_a_read_has_gone_on_when_the_read_is_over() -> None:
    waits, seen = new_waits(), list[object]()
    wait: Wait[int] = waits.new()

    async def work() -> None:
        seen.append(await wait)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)

    def end() -> None:
        wait.set_result(5)
        seen.append("understood")  # not before the read is understood whole

    done = asyncio.get_running_loop().create_future()

    def run() -> None:
        waits.begin_read()
        end()
        waits.end_read()
        seen.append("read")
        done.set_result(None)

    asyncio.get_running_loop().call_soon(run)
    await done
    assert seen == ["understood", 5, "read"]
    await task


async def test_tasks_when_several_waits_end_in_a_read_go_on_in_that_order() -> None:
    waits, seen = new_waits(), list[int]()
    all_waits: list[Wait[int]] = [waits.new() for _ in range(5)]

    async def work(wait: Wait[int]) -> None:
        seen.append(await wait)

    tasks = [asyncio.create_task(work(wait)) for wait in all_waits]
    await asyncio.sleep(0)
    await read(*(lambda i=i: all_waits[i].set_result(i) for i in (3, 0, 4, 1, 2)), waits=waits)  # type: ignore[misc]
    assert seen == [3, 0, 4, 1, 2]
    await asyncio.gather(*tasks)


async def test_task_when_its_wait_ends_outside_of_a_read_goes_on_in_the_next_turn() -> None:
    waits = new_waits()
    wait: Wait[str] = waits.new()
    task = asyncio.create_task(awaited(wait))
    await asyncio.sleep(0)
    wait.set_result("x")
    assert not task.done()
    assert await task == "x"


async def test_task_when_its_wait_is_over_before_it_is_awaited_goes_on_at_once() -> None:
    waits = new_waits()
    good: Wait[int] = waits.new()
    bad: Wait[int] = waits.new()
    good.set_result(1)
    bad.set_exception(ValueError("no"))
    assert await good == 1
    assert await good == 1
    with pytest.raises(ValueError, match="no"):
        await bad


@pytest.mark.parametrize("value", [None, 0, (), (1, 2), StopIteration(3), ValueError("a value")])
async def test_result_when_it_is_any_object_is_what_the_task_gets(value: object) -> None:
    waits = new_waits()
    early: Wait[object] = waits.new()
    late: Wait[object] = waits.new()
    task = asyncio.create_task(awaited(late))
    await asyncio.sleep(0)
    early.set_result(value)
    await read(lambda: late.set_result(value), waits=waits)
    assert await early is value
    assert await task is value


async def awaited(wait: Awaitable[Any]) -> Any:
    return await wait


async def test_error_when_a_read_ends_the_wait_with_it_is_raised_in_the_task() -> None:
    waits = new_waits()
    wait: Wait[int] = waits.new()
    task = asyncio.create_task(awaited(wait))
    await asyncio.sleep(0)
    await read(lambda: wait.set_exception(ValueError("no")), waits=waits)
    with pytest.raises(ValueError, match="no"):
        await task


# --- cancellation ----------------------------------------------------------------------------------------------------


async def test_cancel_when_the_task_waits_ends_both() -> None:
    waits = new_waits()
    wait: Wait[int] = waits.new()
    task = asyncio.create_task(awaited(wait))
    await asyncio.sleep(0)
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert wait.done()
    assert not wait.cancel()
    with pytest.raises(asyncio.CancelledError, match="why"):
        wait.result()


async def test_cancel_when_the_wait_has_just_ended_still_cancels_the_task() -> None:
    waits = new_waits()
    first: Wait[int] = waits.new()
    second: Wait[int] = waits.new()
    victim: asyncio.Task[int]

    async def killer() -> None:
        await first
        victim.cancel()

    task = asyncio.create_task(killer())
    victim = asyncio.create_task(awaited(second))
    await asyncio.sleep(0)
    await read(lambda: first.set_result(1), lambda: second.set_result(2), waits=waits)
    await task
    with pytest.raises(asyncio.CancelledError):
        await victim


async def test_timeout_when_nothing_ends_the_wait_ends_it() -> None:
    waits = new_waits()
    for run in (lambda: asyncio.wait_for(awaited(waits.new()), 0.01), lambda: within(waits.new(), 0.01)):
        with pytest.raises(TimeoutError):
            await run()


async def within(wait: Wait[int], seconds: float) -> int:
    async with asyncio.timeout(seconds):
        return await wait


async def test_gather_and_shield_when_given_tasks_that_wait_behave_as_ever() -> None:
    waits = new_waits()
    all_waits: list[Wait[int]] = [waits.new() for _ in range(3)]
    together = asyncio.gather(*(awaited(wait) for wait in all_waits[:2]), asyncio.shield(awaited(all_waits[2])))
    await asyncio.sleep(0)
    await read(*(lambda i=i: all_waits[i].set_result(i) for i in range(3)), waits=waits)  # type: ignore[misc]
    assert await together == [0, 1, 2]


# --- what may go wrong -----------------------------------------------------------------------------------------------


async def test_second_task_when_it_awaits_the_same_wait_is_refused() -> None:
    waits = new_waits()
    wait: Wait[int] = waits.new()
    first, second = asyncio.create_task(awaited(wait)), asyncio.create_task(awaited(wait))
    with pytest.raises(RuntimeError, match="another task waits already"):
        await second
    wait.set_result(1)
    assert await first == 1


async def test_wait_when_it_is_taken_for_a_future_by_others_calls_them_back() -> None:
    waits = new_waits()
    late: Wait[int] = waits.new()
    early: Wait[int] = waits.new()
    early.set_result(1)
    called: list[object] = []
    late.add_done_callback(called.append)
    early.add_done_callback(called.append)
    with pytest.raises(RuntimeError, match="another task waits already"):
        late.add_done_callback(called.append)
    await read(lambda: late.set_result(2), waits=waits)
    await asyncio.sleep(0)
    assert len(called) == 2
    assert all(isinstance(each, asyncio.Future) and each.done() for each in called)


async def test_wait_when_it_is_over_holds_its_task_no_longer() -> None:
    waits = new_waits()
    kept: list[Wait[int]] = [waits.new(), waits.new(), waits.new()]
    tasks = [asyncio.create_task(awaited(wait)) for wait in kept]
    gone = [weakref.ref(task) for task in tasks]
    await asyncio.sleep(0)
    kept[0].set_result(1)
    tasks[1].cancel()
    await read(lambda: kept[2].set_result(1), waits=waits)
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()
    await asyncio.sleep(0.01)  # the loop's own references
    gc.collect()
    assert [task() for task in gone] == [None] * 3


async def test_wait_when_it_is_ended_twice_says_so() -> None:
    wait: Wait[int] = new_waits().new()
    with pytest.raises(RuntimeError, match="not over"):
        wait.result()
    wait.set_result(1)
    with pytest.raises(RuntimeError, match="is over"):
        wait.set_result(2)
    with pytest.raises(RuntimeError, match="is over"):
        wait.set_exception(ValueError())


async def test_read_when_it_is_fed_by_a_task_lets_the_others_go_on_in_the_next_turn() -> None:
    # No task can take a step within another one.
    waits = new_waits()
    wait: Wait[int] = waits.new()
    task = asyncio.create_task(awaited(wait))
    await asyncio.sleep(0)
    waits.begin_read()
    wait.set_result(1)
    waits.end_read()
    assert not task.done()
    assert await task == 1


def test_interrupt_when_a_task_raises_it_within_a_read_stops_the_loop_and_loses_no_other_wait() -> None:
    seen = []
    loop = asyncio.new_event_loop()
    waits = Waits(loop, asyncio.current_task, asyncio.CancelledError)
    first: Wait[int] = waits.new()
    second: Wait[int] = waits.new()

    async def interrupted() -> None:
        await first
        raise KeyboardInterrupt

    async def other() -> None:
        seen.append(await second)

    tasks = [loop.create_task(interrupted()), loop.create_task(other())]
    loop.run_until_complete(asyncio.sleep(0))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(read(lambda: first.set_result(1), lambda: second.set_result(2), waits=waits))
    assert seen == []
    loop.run_until_complete(tasks[1])
    assert seen == [2]
    assert isinstance(tasks[0].exception(), KeyboardInterrupt)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


async def test_context_when_a_task_goes_on_within_a_read_is_its_own() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")
    waits, seen = new_waits(), list[str]()

    async def work(name: str, wait: Wait[int]) -> None:
        variable.set(name)
        await wait
        seen.append(variable.get())
        variable.set("changed")

    all_waits: list[Wait[int]] = [waits.new(), waits.new()]
    tasks = [asyncio.create_task(work(name, wait)) for name, wait in zip("ab", all_waits, strict=True)]
    await asyncio.sleep(0)
    await read(*(lambda wait=wait: wait.set_result(1) for wait in all_waits), waits=waits)  # type: ignore[misc]
    assert (seen, variable.get()) == (["a", "b"], "nobody's")
    await asyncio.gather(*tasks)


async def test_wait_when_task_and_wait_are_dropped_is_freed() -> None:
    waits = new_waits()

    class Held:
        pass

    async def work(held: Held, wait: Wait[int]) -> None:
        await wait

    held = Held()
    gone = weakref.ref(held)
    wait: Wait[int] = waits.new()
    task = asyncio.create_task(work(held, wait))
    await asyncio.sleep(0)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del held, task, wait
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_wait_when_the_loop_is_of_any_kind_gives_the_task_its_result(loop: str, debug: bool) -> None:
    async def main() -> list[int]:
        waits = new_waits()
        got = []
        for i in range(100):
            wait: Wait[int] = waits.new()
            reading = asyncio.create_task(read(lambda i=i, wait=wait: wait.set_result(i), waits=waits))  # type: ignore[misc]
            got.append(await wait)
            await reading
        return got

    with asyncio.Runner(debug=debug, loop_factory=LOOPS[loop]) as runner:
        assert runner.run(main()) == list(range(100))


def test_wait_when_made_without_its_waits_does_nothing() -> None:
    wait: Wait[int] = Wait.__new__(Wait)
    calls: list[Callable[[], object]] = [
        lambda: wait.set_result(1),
        lambda: wait.set_exception(OSError()),
        wait.cancel,
    ]
    for call in calls:
        with pytest.raises(TypeError, match="Waits makes it"):
            call()
    with pytest.raises(AttributeError):
        wait.get_loop()
    assert not wait.done()


async def test_wait_when_asked_as_a_future_names_its_loop() -> None:
    wait: Wait[int] = new_waits().new()
    assert wait.get_loop() is asyncio.get_running_loop()
    assert not wait._asyncio_future_blocking
    wait._asyncio_future_blocking = True
    assert wait._asyncio_future_blocking
    for prefix in ("_asyncio_future", "get"):  # names that are not interned
        assert getattr(wait, f"{prefix}_{'blocking' if prefix != 'get' else 'loop'}")
    assert asyncio.isfuture(wait)
    with pytest.raises(AttributeError):
        wait.other = 1  # type: ignore[attr-defined]
