"""eda.deadline: waits that share a deadline, which may be moved closer."""

from __future__ import annotations

import asyncio
import time

import pytest

from eda.deadline import Deadline


async def never() -> None:
    await asyncio.sleep(3600)


async def test_wait_when_all_is_done_returns_nothing() -> None:
    done = asyncio.ensure_future(asyncio.sleep(0.01))
    assert await Deadline(5).wait({done}) == set()
    assert await Deadline(0).wait({done}) == set()
    assert await Deadline().wait([]) == set()


@pytest.mark.parametrize(("deadline_s", "at_most_s", "keeps_s"), [(0.1, 9, 0), (9, 0.1, 0), (3, 9, 2.9)])
async def test_wait_when_time_is_up_returns_what_is_not_done(
    deadline_s: float, at_most_s: float, keeps_s: float
) -> None:
    task = asyncio.create_task(never())
    begin = time.monotonic()
    assert await Deadline(deadline_s).wait({task}, at_most_s, keeps_s=keeps_s) == {task}
    assert 0.05 < time.monotonic() - begin < 2.8
    assert not task.done()
    task.cancel()


async def test_wait_when_there_is_no_deadline_to_keep_time_of_sets_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is left is for ever as well: what is neither sooner nor later disturbs the loop's other timers."""
    loop, done, timers = asyncio.get_running_loop(), asyncio.Event(), []
    monkeypatch.setattr(loop, "call_later", lambda delay_s, *_: timers.append(delay_s), raising=False)
    task, deadline = asyncio.create_task(done.wait()), Deadline()
    loop.call_soon(done.set)
    assert await deadline.wait({task}, keeps_s=deadline.left_s / 2) == set()
    assert not timers


async def test_shorten_when_somebody_waits_wakes_it_in_time() -> None:
    task, deadline = asyncio.create_task(never()), Deadline()
    assert deadline.left_s == float("inf")
    asyncio.get_running_loop().call_later(0.02, deadline.shorten, 0.05)
    async with asyncio.timeout(10):
        assert await deadline.wait({task}) == {task}
    task.cancel()


async def test_shorten_when_more_was_to_be_kept_leaves_half_to_the_wait() -> None:
    task, deadline = asyncio.create_task(never()), Deadline()
    asyncio.get_running_loop().call_later(0.02, deadline.shorten, 2.0)
    begin = time.monotonic()
    assert await deadline.wait({task}, keeps_s=5.0) == {task}
    assert time.monotonic() - begin > 0.9
    assert deadline.left_s > 0.1
    task.cancel()


async def test_shorten_when_the_wait_is_about_to_begin_leaves_half_to_the_wait() -> None:
    """In the very turn in which `run` begins the work: more was to be kept than there is by then."""
    deadline = Deadline()
    asyncio.get_running_loop().call_soon(deadline.shorten, 1.5)
    assert await deadline.run(asyncio.sleep(0.05, 7), keeps_s=2.0) == 7
    assert deadline.left_s < 1.5


async def test_shorten_when_it_would_be_longer_has_no_effect() -> None:
    deadline = Deadline(0.5)
    deadline.shorten(60)
    assert deadline.left_s <= 0.5


async def test_run_when_in_time_returns_the_result_and_raises_the_error() -> None:
    async def work(error: Exception | None) -> int:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return 7

    assert await Deadline(5).run(work(None)) == 7
    with pytest.raises(KeyError):
        await Deadline(5).run(work(KeyError()))


async def test_run_when_late_cancels_it_after_its_first_step() -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("begun")
        try:
            await never()
        finally:
            steps.append("ended")

    assert await Deadline(0).run(work()) is None
    await asyncio.sleep(0)
    assert steps == ["begun", "ended"]


async def test_run_when_its_caller_is_cancelled_cancels_it() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await never()
        finally:
            ended.set()

    running = asyncio.create_task(Deadline().run(work()))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.wait_for(ended.wait(), 10)
