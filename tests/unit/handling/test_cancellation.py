"""_dispatch when workers are cancelled: by the clock, by somebody else, by both; and what is given back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda.handlers import GivenBack
from helpers import until
from support.handling.dispatching import Rig, delivery, settle

Make = Callable[..., Rig]
NAK = b"-NAK"


class Slow:
    """A handler that, cancelled, takes its time to end, and then ends as told."""

    def __init__(self, ends: str) -> None:
        self.ends = ends
        self.may_end = asyncio.Event()
        self.n_called = 0
        self.n_cancelled = 0

    async def __call__(self, event: Any) -> None:
        self.n_called += 1
        if self.n_called > 1:
            return
        error: BaseException | None = None
        while not self.may_end.is_set():
            try:
                await self.may_end.wait()
            except asyncio.CancelledError as cancelled:
                self.n_cancelled += 1
                error = cancelled
        if self.ends == "cancelled" and error is not None:
            raise error
        if self.ends == "fails":
            raise ValueError("x")
        if self.ends == "interrupted":
            raise SystemExit(3)


@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.parametrize("ends", ["cancelled", "fails", "returns"])
async def test_cancellation_when_it_comes_while_a_timed_out_handler_cleans_up_ends_the_worker(
    make: Make, ends: str, batch: int | None
) -> None:
    handler = Slow(ends)
    rig = make(handler, batch=batch)
    rig.deliver(1)
    await settle()
    rig.dispatcher.cancel_overdue(0)
    await settle()
    assert handler.n_cancelled == 1
    rig.tasks[0].cancel()
    await settle()
    handler.may_end.set()
    await settle()
    assert rig.tasks[0].cancelled()
    assert rig.failures == []
    assert rig.flush() == [(delivery(1)[1], NAK)]
    assert (rig.dispatcher.outcomes.n_failed, rig.dispatcher.n_held, rig.dispatcher.n_running) == (0, 0, 0)


@pytest.mark.parametrize("ends", ["cancelled", "fails", "returns"])
async def test_time_out_when_the_handler_ends_in_any_way_is_a_failure_and_the_worker_goes_on(
    make: Make, ends: str
) -> None:
    handler = Slow(ends)
    rig = make(handler)
    rig.deliver(1)
    await settle()
    rig.dispatcher.cancel_overdue(0)
    rig.dispatcher.cancel_overdue(0)
    await settle()
    assert handler.n_cancelled == 1
    handler.may_end.set()
    rig.deliver(2)
    await settle()
    assert [(event.sequence, str(error)) for event, error in rig.failures] == [(1, "overdue")]
    assert rig.flush() == [(delivery(1)[1], b'-NAK {"delay": 250}'), (delivery(2)[1], b"")]
    assert not rig.tasks[0].done()
    assert rig.tasks[0].cancelling() == 0


async def test_time_out_when_the_handler_wants_the_process_to_end_is_not_in_its_way() -> None:
    handler = Slow("interrupted")
    rig = Rig(handler, start=False)
    work = rig.dispatcher.work(0)
    task = _Cancelling()
    rig.dispatcher.set_task(0, task)  # type: ignore[arg-type]
    rig.deliver(1)
    work.send(None)
    work.send(None)  # into the handler
    rig.dispatcher.cancel_overdue(0)
    assert task.n == 1
    handler.may_end.set()
    with pytest.raises(SystemExit):
        work.throw(asyncio.CancelledError())
    assert rig.flush() == [(delivery(1)[1], NAK)]
    assert rig.failures == []


class _Cancelling:
    """A task as far as a dispatcher needs one."""

    def __init__(self) -> None:
        self.n = 0

    def cancel(self) -> None:
        self.n += 1

    def uncancel(self) -> int:
        self.n -= 1
        return self.n

    def cancelling(self) -> int:
        return self.n


@pytest.mark.parametrize("batch", [None, 1])
async def test_cancellation_when_the_handler_swallows_it_ends_the_worker_after_it(
    make: Make, batch: int | None
) -> None:
    handler = Slow("returns")
    rig = make(handler, batch=batch)
    rig.deliver(1)
    await settle()
    rig.tasks[0].cancel()
    await settle()
    handler.may_end.set()
    await settle()
    assert rig.tasks[0].cancelled()
    assert rig.flush() == [(delivery(1)[1], b"")]


async def test_cancellation_when_swallowed_by_a_handler_that_never_rests_ends_the_worker(make: Make) -> None:
    async def handle(event: eda.Event) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600 if event.sequence == 1 else 0)
        rig.deliver(event.sequence + 1)

    rig = make(handle, limit=10**6)
    rig.deliver(1)
    await settle()
    rig.tasks[0].cancel()
    await asyncio.wait(rig.tasks, timeout=5.0)
    assert rig.tasks[0].cancelled()


@pytest.mark.parametrize("batch", [None, 5])
async def test_worker_when_cancelled_while_it_waits_ends_and_takes_no_event_with_it(
    make: Make, batch: int | None
) -> None:
    rig = make(concurrency=2, batch=batch, linger_s=3600.0)
    await settle()
    rig.tasks[1].cancel()
    await settle()
    assert rig.tasks[1].cancelled()
    rig.deliver(*range(1, 6))
    await settle()
    assert rig.dispatcher.outcomes.n_handled == 5


@pytest.mark.parametrize(
    ("options", "attempt"), [({}, 1), ({"batch": 2}, 1), ({"max_attempts": 2}, 3)], ids=["event", "batch", "suspect"]
)
async def test_worker_when_its_coroutine_is_closed_gives_back_what_its_handler_has(
    make: Make, options: dict[str, Any], attempt: int
) -> None:
    async def handle(given: Any) -> None:
        await asyncio.get_running_loop().create_future()

    rig = make(handle, start=False, **options)
    rig.deliver(1, attempt=attempt)
    work = rig.dispatcher.work(0)
    while rig.dispatcher.running_now() == [None]:
        work.send(None)
    work.close()  # as a loop that is closed does in the end
    assert rig.flush() == [(delivery(1, attempt)[1], NAK)]
    assert rig.dispatcher.running_now() == [None]
    assert (rig.dispatcher.n_running, rig.failures) == (0, [])


@pytest.mark.parametrize("ordered", [True, False])
async def test_given_back_when_raised_has_the_event_come_again_uncounted(make: Make, ordered: bool) -> None:
    async def handle(event: eda.Event) -> None:
        seen.append((event.sequence, event.attempt))
        if len(seen) == 1:
            raise GivenBack

    seen: list[tuple[int, int]] = []
    rig = make(handle, ordered=ordered)
    rig.deliver(1)
    await settle()
    assert seen == ([(1, 1), (1, 1)] if ordered else [(1, 1)])
    assert rig.flush() == ([] if ordered else [(delivery(1)[1], NAK)])
    assert rig.failures == []
    assert (rig.dispatcher.outcomes.n_failed, rig.dispatcher.n_held, rig.dispatcher.n_running) == (0, 0, 0)


async def test_given_back_when_closing_is_not_handed_out_again(make: Make) -> None:
    async def handle(event: eda.Event) -> None:
        await outcome

    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    rig = make(handle, ordered=True)
    rig.deliver(1, 2)
    await settle()
    rig.dispatcher.stop()
    outcome.set_exception(GivenBack())
    await settle()
    assert rig.tasks[0].done()
    assert rig.tasks[0].exception() is None
    assert (rig.dispatcher.position, rig.dispatcher.n_waiting, rig.dispatcher.n_running) == (0, 2, 0)


async def test_time_out_when_the_handler_says_given_back_gives_it_back(make: Make) -> None:
    async def handle(event: eda.Event) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise GivenBack

    rig = make(handle)
    rig.deliver(1)
    await settle()
    rig.dispatcher.cancel_overdue(0)
    await settle()
    assert rig.flush() == [(delivery(1)[1], NAK)]
    assert rig.failures == []
    assert rig.tasks[0].cancelling() == 0
    assert not rig.tasks[0].done()


async def test_handlers_when_they_use_timeouts_and_groups_of_their_own_are_left_alone(make: Make) -> None:
    async def handle(event: eda.Event) -> None:
        assert asyncio.current_task() is rig.tasks[0]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(3600)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        if event.sequence == 2:
            async with asyncio.timeout(3600):
                waiting.set()
                await asyncio.sleep(3600)

    waiting = asyncio.Event()
    rig = make(handle)
    rig.deliver(1, 2, 3)
    async with asyncio.timeout(5):
        await waiting.wait()
    rig.dispatcher.cancel_overdue(0)
    await until(lambda: rig.dispatcher.n_held == 0)
    assert (rig.dispatcher.outcomes.n_handled, rig.dispatcher.outcomes.n_failed) == (2, 1)
    assert [str(error) for _, error in rig.failures] == ["overdue"]


async def test_loop_when_handlers_never_suspend_gets_its_turns(make: Make) -> None:
    def handle(event: eda.Event) -> None:
        rig.deliver(event.sequence + 1)  # there is always another one

    rig = make(handle, limit=10**6)
    rig.deliver(1)
    async with asyncio.timeout(5):
        for _ in range(5):
            await asyncio.sleep(0)
    assert rig.dispatcher.outcomes.n_handled > 5
    rig.dispatcher.stop()
    await settle()
    assert rig.tasks[0].done()


async def test_error_when_a_worker_is_done_with_it_is_let_go(make: Make) -> None:
    class Ours(Exception):
        pass

    async def handle(event: eda.Event) -> None:
        raise Ours

    rig = make(handle)
    rig.deliver(1)
    await settle()
    assert len(rig.failures) == 1
    rig.failures.clear()
    gc.collect()
    assert not any(isinstance(each, Ours) for each in gc.get_objects())
