"""A thread for a plain connection: order, errors, cancellation, and its end."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator

import pytest

from eda.projections.database_threads import DatabaseThread
from eda.projections.sql_steps import Unreachable

NAME = "eda-test"


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


@pytest.fixture
async def thread() -> AsyncIterator[DatabaseThread]:
    thread = DatabaseThread(NAME)
    yield thread
    await thread.close(lambda: None)
    assert threads() == []


async def test_call_when_several_wait_does_them_in_order_in_one_thread(thread: DatabaseThread) -> None:
    done: list[tuple[int, int]] = []
    await asyncio.gather(
        *(thread.call(lambda job, n=n: done.append((n, threading.get_ident())), lambda: None) for n in range(20))
    )
    assert [n for n, _ in done] == list(range(20))
    assert len({ident for _, ident in done} - {threading.get_ident()}) == 1


async def test_call_when_the_work_raises_raises_the_same(thread: DatabaseThread) -> None:
    for error in (ValueError("no"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()):

        def work(job: object, error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)) as raised:
            await thread.call(work, lambda: None)
        assert raised.value is error
    assert await thread.call(lambda job: 1, lambda: None) == 1


async def test_call_when_the_work_raises_stop_iteration_does_not_hang(thread: DatabaseThread) -> None:
    def work(job: object) -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(thread.call(work, lambda: None), 20)


async def test_call_when_cancelled_before_it_begins_never_begins(thread: DatabaseThread) -> None:
    go_on = threading.Event()
    done: list[str] = []
    interrupted: list[str] = []
    first = asyncio.create_task(thread.call(lambda job: go_on.wait(20), lambda: interrupted.append("first")))
    second = asyncio.create_task(thread.call(lambda job: done.append("second"), lambda: interrupted.append("second")))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await second
    assert isinstance(raised.value.__cause__, Unreachable)  # so that a time-out is not blamed on the events
    go_on.set()
    assert await first
    await thread.call(lambda job: None, lambda: None)
    assert (done, interrupted) == ([], [])


async def test_call_when_cancelled_while_it_runs_waits_for_its_end(thread: DatabaseThread) -> None:
    has_begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    ended: list[bool] = []

    def work(job: object) -> None:
        loop.call_soon_threadsafe(has_begun.set)
        go_on.wait(20)
        ended.append(job.is_cancelled)  # type: ignore[attr-defined]

    interrupted: list[int] = []
    call = asyncio.create_task(thread.call(work, lambda: interrupted.append(1)))
    await has_begun.wait()
    call.cancel()
    await asyncio.sleep(0.05)
    assert not call.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (ended, interrupted) == ([True], [1])


async def test_call_when_cancelled_twice_leaves_a_function_that_does_not_end() -> None:
    """Otherwise a function that never returns would keep its program from ending."""
    thread = DatabaseThread(NAME)
    has_begun, go_on = threading.Event(), threading.Event()

    def work(job: object) -> None:
        has_begun.set()
        go_on.wait(60)

    call = asyncio.create_task(thread.call(work, lambda: None))
    await asyncio.to_thread(has_begun.wait, 20)
    closing = asyncio.create_task(thread.close(lambda: None))
    for task in (call, closing):
        for _ in range(2):
            await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    left = threads()
    assert [each.daemon for each in left] == [True]
    go_on.set()
    await asyncio.to_thread(left[0].join, 20)
    assert threads() == []


async def test_interrupt_when_the_job_has_ended_is_not_called(thread: DatabaseThread) -> None:
    """A cancellation that arrives together with the end of a job must not hit the next job."""
    interrupted: list[int] = []
    ended = threading.Event()
    call = asyncio.create_task(thread.call(lambda job: None, lambda: interrupted.append(1)))
    other = asyncio.create_task(thread.call(lambda job: ended.set(), lambda: None))
    await asyncio.sleep(0)
    assert ended.wait(20)  # the event loop stands still, so it does not know yet
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await other
    assert interrupted == []


async def test_close_when_jobs_wait_does_them_first() -> None:
    thread = DatabaseThread(NAME)
    done: list[int] = []
    calls = [asyncio.create_task(thread.call(lambda job, n=n: done.append(n), lambda: None)) for n in range(5)]
    await asyncio.sleep(0)
    await thread.close(lambda: done.append(99))
    await asyncio.gather(*calls)
    assert done == [0, 1, 2, 3, 4, 99]
    assert threads() == []


async def test_close_when_cancelled_still_ends_the_thread() -> None:
    thread = DatabaseThread(NAME)
    go_on = threading.Event()
    call = asyncio.create_task(thread.call(lambda job: go_on.wait(20), lambda: None))
    await asyncio.sleep(0)
    closing = asyncio.create_task(thread.close(lambda: None))
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.sleep(0.01)
    assert not closing.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await call
    assert threads() == []


async def test_thread_when_idle_holds_nothing_of_its_last_job(thread: DatabaseThread) -> None:
    class Big:
        pass

    async def use() -> weakref.ref[Big]:
        big = Big()

        def work(job: object) -> None:
            assert big
            raise ValueError(big)

        with pytest.raises(ValueError, match="Big"):
            await thread.call(work, lambda: None)
        return weakref.ref(big)

    seen = await use()
    for _ in range(100):
        gc.collect()
        if seen() is None:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the job is still held")


def test_job_when_the_loop_was_closed_ends_without_an_error() -> None:
    go_on, has_begun = threading.Event(), threading.Event()
    thread = None

    def work(job: object) -> None:
        has_begun.set()
        go_on.wait(20)

    async def leave() -> None:
        nonlocal thread
        thread = DatabaseThread(NAME)
        call = asyncio.ensure_future(thread.call(work, lambda: None))
        await asyncio.sleep(0)
        assert has_begun.wait(20)
        call._log_destroy_pending = False  # type: ignore[attr-defined]

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    go_on.set()
    assert thread is not None

    async def close() -> None:
        await thread.close(lambda: None)

    asyncio.run(close())
    assert threads() == []
