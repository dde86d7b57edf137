"""_dispatch under a cursor that is held for a time: leases, fences, new beginnings, and events one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda._clock import read_monotonic_ns
from eda.handling.verdicts import Exhausted
from support.handling.dispatching import Rig, settle

Make = Callable[..., Rig]
HOUR_NS = 3600 * 10**9


# --- the lease -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 10])
async def test_handlers_when_there_is_no_lease_do_not_start_until_there_is_one(make: Make, batch: int | None) -> None:
    seen: list[Any] = []
    rig = make(seen.append, ordered=True, batch=batch)
    rig.dispatcher.lease.extend(0)
    rig.deliver(1, 2)
    await settle()
    assert seen == []
    assert rig.dispatcher.n_waiting == 2
    rig.dispatcher.lease.extend(read_monotonic_ns() - 1)
    await settle()
    assert seen == []
    rig.dispatcher.lease.extend(read_monotonic_ns() + HOUR_NS)
    await settle()
    assert rig.dispatcher.outcomes.n_handled == 2


@pytest.mark.parametrize("batch", [None, 1])
async def test_handlers_when_the_lease_is_over_while_one_runs_do_not_start(make: Make, batch: int | None) -> None:
    def handle(event: Any) -> None:
        seen.append(event)
        while read_monotonic_ns() < rig.dispatcher.lease.until_ns:
            time.sleep(0.001)

    seen: list[Any] = []
    rig = make(handle, ordered=True, batch=batch)
    rig.dispatcher.lease.extend(read_monotonic_ns() + 2 * 10**8)
    rig.deliver(1, 2, 3)
    await settle()
    assert len(seen) == 1
    assert rig.dispatcher.position == 1  # what was done counts
    rig.dispatcher.lease.extend(read_monotonic_ns() + 2 * 10**8)
    await settle()
    assert len(seen) == 2


async def test_lease_when_it_is_extended_in_time_wakes_nobody(make: Make) -> None:
    rig = make(ordered=True, concurrency=3)
    rig.dispatcher.lease.extend(read_monotonic_ns() + HOUR_NS)
    await settle()
    n_futures = 0
    make_future = rig.make_future

    def counting() -> asyncio.Future[None]:
        nonlocal n_futures
        n_futures += 1
        return make_future()

    rig.make_future = counting  # type: ignore[method-assign]
    rig.dispatcher.lease.extend(read_monotonic_ns() + 2 * HOUR_NS)
    await settle()
    assert n_futures == 0
    rig.deliver(1, 2, 3)
    await settle()
    assert rig.seqs == [1, 2, 3]


# --- the fence -------------------------------------------------------------------------------------------------------


async def test_fence_when_handlers_run_cancels_them_and_their_events_come_again_uncounted(make: Make) -> None:
    rig = make(hold=True, ordered=True, concurrency=2)
    rig.dispatcher.lease.extend(read_monotonic_ns() + HOUR_NS)
    rig.deliver(1, 2, 3)
    await settle()
    rig.dispatcher.fence()
    rig.dispatcher.fence()  # the second one finds them cancelled
    await settle()
    assert rig.held == {}
    dispatcher = rig.dispatcher
    assert (dispatcher.n_running, dispatcher.n_waiting, dispatcher.outcomes.n_failed, dispatcher.position) == (
        0,
        3,
        0,
        0,
    )
    assert rig.failures == []
    assert not any(task.done() or task.cancelling() for task in rig.tasks)
    rig.dispatcher.lease.extend(read_monotonic_ns() + HOUR_NS)
    await settle()
    assert (rig.seqs[:2], sorted(rig.seqs[2:])) == ([1, 2], [1, 2])
    assert [event.attempt for event in rig.seen] == [1] * 4
    assert len({id(event) for event in rig.seen}) == 4, "whoever keeps the time of one must not take it for the other"
    rig.release(1, 2)
    await settle()
    rig.release(3)
    await settle()
    assert rig.dispatcher.position == 3


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_fence_when_a_handler_ends_its_own_way_takes_what_it_says(make: Make, how: str) -> None:
    async def handle(event: eda.Event) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if how == "raises":
                raise ValueError("x") from None

    rig = make(handle, ordered=True)
    rig.deliver(1)
    await settle()
    rig.dispatcher.fence()
    await settle()
    assert rig.dispatcher.position == (how == "returns")
    assert (rig.dispatcher.outcomes.n_handled, rig.dispatcher.outcomes.n_failed) == (
        (1, 0) if how == "returns" else (0, 1)
    )
    assert rig.tasks[0].cancelling() == 0


async def test_fence_when_a_batch_runs_gives_all_of_it_back_in_order(make: Make) -> None:
    async def handle(events: list[eda.Event]) -> None:
        seen.append([event.sequence for event in events])
        await asyncio.sleep(3600 if len(seen) == 1 else 0)

    seen: list[list[int]] = []
    rig = make(handle, ordered=True, batch=3)
    rig.deliver(1, 2, 3, 4)
    await settle()
    rig.dispatcher.fence()
    await settle()
    assert rig.dispatcher.n_waiting == 4
    rig.dispatcher.lease.extend(read_monotonic_ns() + HOUR_NS)
    await settle()
    assert seen == [[1, 2, 3], [1, 2, 3], [4]]
    assert rig.dispatcher.position == 4


async def test_time_out_when_the_handler_is_fenced_already_does_not_end_its_worker(make: Make) -> None:
    async def handle(event: eda.Event) -> None:
        seen.append(event.sequence)
        if len(seen) > 1:
            return
        try:
            await asyncio.sleep(3600)
        finally:
            await end.wait()

    end, seen = asyncio.Event(), []
    rig = make(handle, ordered=True)
    rig.deliver(1)
    await settle()
    rig.dispatcher.fence()
    await settle()
    rig.dispatcher.cancel_overdue(0)  # the watch knows nothing of fences
    end.set()
    await settle()
    assert not rig.tasks[0].done()
    assert rig.failures == []
    rig.dispatcher.lease.extend(read_monotonic_ns() + HOUR_NS)
    await settle()
    assert seen == [1, 1]
    assert rig.dispatcher.position == 1
    rig.dispatcher.cancel_overdue(0)  # nothing runs
    rig.deliver(2)
    await settle()
    assert rig.dispatcher.position == 2


# --- new beginnings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["returns", "raises", "dead-lettered", "not dead-lettered", "cancelled"])
async def test_begin_when_a_handler_still_runs_its_outcome_changes_nothing(make: Make, outcome: str) -> None:
    async def handle(event: eda.Event) -> None:
        seen.append(event.sequence)
        if len(seen) == 1:
            await end.wait()
            if outcome not in ("returns", "cancelled"):
                raise ValueError("x") if outcome == "raises" else eda.Reject("x")

    end, seen = asyncio.Event(), []
    rig = make(handle, ordered=True)
    rig.deliver(5, 6)
    await settle()
    rig.dead_letter_delay_ns = 1 if outcome == "not dead-lettered" else -1
    rig.dispatcher.begin_at(3)
    dispatcher = rig.dispatcher
    assert (dispatcher.position, dispatcher.highest, dispatcher.n_held, dispatcher.n_running) == (3, 3, 0, 1)
    rig.deliver(7)  # of the reader of before
    assert dispatcher.intake.n_foreign == 1
    rig.read_anew()
    rig.deliver(4)
    if outcome == "cancelled":
        dispatcher.fence()
        dispatcher.lease.extend(2**64 - 1)
    end.set()
    await settle()
    assert dispatcher.position == 4
    assert seen == [5, 4]
    assert (dispatcher.n_held, dispatcher.n_running, dispatcher.n_waiting) == (0, 0, 0)
    assert dispatcher.ledger.n_bytes == 0


async def test_begin_when_a_handler_of_a_key_still_runs_keeps_that_key_waiting(make: Make) -> None:
    async def handle(event: eda.Event) -> None:
        seen.append(event.sequence)
        if event.sequence == 5:
            await end.wait()

    end, seen = asyncio.Event(), []
    rig = make(handle, ordered=True, key="aggregate", concurrency=3)
    rig.deliver(5, event=eda.Event(aggregate="a"))
    await settle()
    rig.dispatcher.begin_at(1)
    rig.read_anew()
    rig.deliver(2, 3, event=eda.Event(aggregate="a"))
    rig.deliver(4, event=eda.Event(aggregate="b"))
    await settle()
    assert seen == [5, 4]
    end.set()
    await settle()
    assert seen == [5, 4, 2, 3]
    assert rig.dispatcher.position == 4


async def test_begin_when_events_wait_to_be_tried_again_forgets_them(make: Make) -> None:
    def fail(event: eda.Event) -> None:
        raise ValueError

    rig = make(fail, ordered=True)
    rig.deliver(1, 2)
    await settle()
    rig.dispatcher.begin_at(9)
    assert rig.dispatcher.take_due() is None
    await settle()
    assert len(rig.failures) == 2
    assert (rig.dispatcher.n_held, rig.dispatcher.position) == (0, 9)


# --- one by one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["strict", "careful", "careful batch"])
async def test_events_when_each_is_to_be_stored_wait_for_the_one_before(make: Make, kind: str) -> None:
    seen: list[Any] = []
    options: dict[str, Any] = {
        "strict": {"serial": True, "strict": True},
        "careful": {"concurrency": 4},
        "careful batch": {"concurrency": 2, "batch": 10},
    }[kind]
    rig = make(seen.append, ordered=True, limit=3, **options)
    rig.dispatcher.begin_at(0, 0 if kind == "strict" else 1)
    rig.dispatcher.lease.extend(read_monotonic_ns() + HOUR_NS)
    rig.read_anew()
    asked: list[tuple[int, asyncio.Future[None]]] = []

    async def confirmed(position: int, idx: int) -> None:
        asked.append((position, rig.make_future()))
        await asked[-1][1]

    rig.confirmed = confirmed  # type: ignore[method-assign]
    rig.deliver(1, 2, 3, 4, 5)
    # Carefulness is over after as many as may have been on their way.
    n_asked = 5 if kind == "strict" else 3
    for n in range(1, n_asked + 1):
        await settle()
        assert [position for position, _ in asked] == list(range(1, n + 1))
        assert (len(seen), rig.dispatcher.position) == (n, n)
        asked[-1][1].set_result(None)
    await settle()
    assert len(asked) == n_asked
    assert rig.dispatcher.position == 5


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_careful_when_an_event_fails_goes_on_one_by_one(make: Make, concurrency: int) -> None:
    running = 0

    async def handle(event: eda.Event) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        running -= 1
        if event.sequence == 1 and event.attempt < 5:
            raise ValueError("x")

    rig = make(handle, ordered=True, concurrency=concurrency, limit=10)
    rig.dispatcher.begin_at(0, 2)
    rig.dispatcher.lease.extend(read_monotonic_ns() + HOUR_NS)
    rig.read_anew()
    rig.deliver(*range(1, 8))
    for _ in range(5):
        await settle()
        rig.dispatcher.take_due()
    await settle()
    assert rig.dispatcher.position == 7
    assert [(event.sequence, event.attempt) for event, _ in rig.failures] == [(1, 3), (1, 4)]
    assert {str(error) for _, error in rig.failures} == {"x"}


async def test_careful_when_a_handler_from_before_ends_does_not_count_it(make: Make) -> None:
    async def handle(event: eda.Event) -> None:
        if event.sequence == 9:
            await end.wait()

    end = asyncio.Event()
    rig = make(handle, ordered=True, concurrency=2, limit=2)
    rig.deliver(9)
    await settle()
    rig.dispatcher.begin_at(0, 1)
    rig.dispatcher.lease.extend(read_monotonic_ns() + HOUR_NS)
    rig.read_anew()
    rig.deliver(1, 2, 3)
    await settle()
    assert rig.dispatcher.position == 0  # beside nothing that runs
    end.set()
    await settle()
    assert rig.asked == [1, 2]
    assert rig.dispatcher.position == 3


async def test_attempts_when_used_up_by_processes_that_died_the_event_is_exhausted(make: Make) -> None:
    rig = make(ordered=True, max_attempts=3)
    rig.dispatcher.begin_at(4, 3)
    assert rig.dispatcher.intake.first_attempt == 4
    rig.read_anew()
    rig.deliver(5, 6)
    await settle()
    assert rig.seqs == [6]
    assert rig.seen[0].attempt == 1
    ((event, _, error),) = rig.dead_letters
    assert (event.sequence, event.attempt) == (5, 4)
    assert isinstance(error, Exhausted)
    assert (rig.dispatcher.position, rig.dispatcher.outcomes.n_dead, rig.dispatcher.outcomes.n_failed) == (6, 1, 0)
    assert rig.dispatcher.intake.first_attempt == 1


async def test_attempts_when_some_are_left_go_on_from_there(make: Make) -> None:
    rig = make(ordered=True, max_attempts=3)
    rig.dispatcher.begin_at(4, 2)
    rig.read_anew()
    rig.deliver(5, 6)
    await settle()
    assert [event.attempt for event in rig.seen] == [3, 1]
    assert rig.dead_letters == []


# --- progress --------------------------------------------------------------------------------------------------------


async def test_progress_when_asked_for_is_told_once(make: Make) -> None:
    rig = make(ordered=True, types=["t"])
    rig.deliver(1)
    await settle()
    assert rig.positions == []
    rig.dispatcher.lease.tell_progress()
    rig.deliver(2, 3)
    await settle()
    assert rig.positions == [2]
    rig.dispatcher.lease.tell_progress()
    rig.deliver(4, event=eda.Event(type="other"))  # passed over
    assert rig.positions == [2, 4]


async def test_progress_when_events_behind_an_undone_one_are_done_is_told_only_when_the_position_moves(
    make: Make,
) -> None:
    rig = make(ordered=True, hold=True, concurrency=3)
    rig.dispatcher.lease.tell_progress()
    rig.deliver(1, 2, 3)
    await settle()
    rig.release(2)
    rig.release(3)
    await settle()
    assert (rig.positions, rig.dispatcher.position) == ([], 0)
    rig.release(1)
    await settle()
    assert rig.positions == [3]
