"""eda.handling._call_times: how long handler calls took, as a dispatcher notes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import eda
from support.handling.dispatching import Rig, settle

Make = Callable[..., Rig]


@pytest.mark.parametrize("ordered", [False, True])
async def test_call_when_the_handler_returns_is_counted_with_its_time(make: Make, ordered: bool) -> None:
    ends = [asyncio.get_running_loop().create_future() for _ in range(2)]

    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(0.02)
        ends[event.sequence - 1].set_result(None)

    rig = make(handle, ordered=ordered)
    rig.deliver(1)
    rig.deliver(2)
    async with asyncio.timeout(10):
        await asyncio.gather(*ends)
    await settle()
    counts, sum_s = rig.dispatcher.outcomes.calls.succeeded.read()
    assert sum(counts) == 2
    assert 0.03 < sum_s < 2.0
    assert sum(rig.dispatcher.outcomes.calls.failed.read()[0]) == 0


async def test_call_when_the_handler_fails_is_counted_apart_with_the_type_of_its_error(make: Make) -> None:
    def handle(event: eda.Event) -> None:
        raise ValueError("no")

    rig = make(handle)
    calls = rig.dispatcher.outcomes.calls
    rig.deliver(1)
    await settle()
    assert sum(calls.failed.read()[0]) == 1
    assert sum(calls.succeeded.read()[0]) == 0
    assert calls.errors.counts == {"ValueError": 1}
    assert 0 < calls.failed.read()[1] < 1
    assert rig.dispatcher.outcomes.n_retried == 1
    assert rig.dispatcher.outcomes.n_failed == 1


async def test_call_of_a_batch_when_it_returns_is_one(make: Make) -> None:
    rig = make(lambda events: None, batch=3)
    rig.deliver(1)
    rig.deliver(2)
    rig.deliver(3)
    await settle()
    assert rig.dispatcher.outcomes.n_handled == 3
    assert sum(rig.dispatcher.outcomes.calls.succeeded.read()[0]) == 1


async def test_event_when_it_is_rejected_is_failed_and_not_retried(make: Make) -> None:
    def handle(event: eda.Event) -> None:
        raise eda.Reject("never")

    rig = make(handle)
    rig.deliver(1)
    await settle()
    assert (rig.dispatcher.outcomes.n_failed, rig.dispatcher.outcomes.n_retried) == (1, 0)
    assert rig.dispatcher.outcomes.calls.errors.counts == {"eda.handlers.Reject": 1}


async def test_message_when_it_is_no_event_is_no_call(make: Make) -> None:
    rig = make(lambda event: None)
    rig.deliver(1, payload=b"\xff")
    await settle()
    assert rig.dispatcher.outcomes.n_handled == 0
    calls = rig.dispatcher.outcomes.calls
    assert [sum(each.read()[0]) for each in (calls.succeeded, calls.failed)] == [0, 0]
