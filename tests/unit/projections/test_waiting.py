"""`wait_for` in the process of the projection: which values it takes, and who is resolved by a commit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from eda.projections import waiting
from eda.projections.sink import WHOLE
from eda.projections.waiting import Target, Waiters, target_of, timeout_of


def receipt(sequence: int, stream: str = "orders") -> eda.Receipt:
    return eda.Receipt("id", stream, sequence)


def test_target_when_given_a_receipt_or_its_position_names_the_event() -> None:
    assert target_of(receipt(7)) == target_of(receipt(7).position) == Target("orders", 7, 0)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (None, "no event has no receipt"),
        (7, "not int"),
        ("orders", "not str"),
        (("orders", 7), "not tuple"),
        (("orders", "7", 0), "position of a receipt"),
        (("orders", True, 0), "position of a receipt"),
        (("orders", 7, -1), "position of a receipt"),
        (("orders", 0, 0), "sequence 0"),
        (eda.Appended("a", 1, [eda.Receipt("id", "orders", 7)]), "give its receipt"),
    ],
)
def test_target_when_given_anything_else_is_refused(value: Any, match: str) -> None:
    with pytest.raises(eda.ConfigError, match=match) as caught:
        target_of(value)
    assert caught.value.argument == "position"


@pytest.mark.parametrize("value", [-1, "1", None, True, float("inf"), float("nan")])
def test_timeout_when_it_is_no_number_of_seconds_is_refused(value: Any) -> None:
    with pytest.raises(eda.ConfigError, match="timeout_s"):
        timeout_of(value)


async def test_wait_when_the_event_was_passed_already_returns_at_once() -> None:
    waiters = Waiters("list", 1, ["orders"])
    waiters.advanced("orders", 7)
    await waiters.wait(Target("orders", 7), 0)


async def test_wait_when_the_commit_comes_is_resolved_by_it_alone() -> None:
    wanted: list[str] = []
    waiters = Waiters("list", 1, ["orders", "payments"], wanted.append)
    calls = [asyncio.ensure_future(waiters.wait(Target("orders", each), 10)) for each in (7, 9, 8)]
    await asyncio.sleep(0)
    assert (wanted, waiters.wanted("orders"), waiters.wanted("payments")) == (["orders"] * 3, 9, 0)
    waiters.advanced("payments", 100)
    waiters.advanced("orders", 6)
    await asyncio.sleep(0)
    assert not any(call.done() for call in calls)
    waiters.advanced("orders", 8)
    await asyncio.gather(calls[0], calls[2])
    assert not calls[1].done()
    waiters.advanced("orders", 9)
    await calls[1]
    assert waiters.wanted("orders") == 0


async def test_wait_when_events_are_in_a_pack_waits_for_the_index_too() -> None:
    waiters = Waiters("list", 1, ["orders"])
    waiters.advanced("orders", 7, 1)
    await waiters.wait(Target("orders", 7, 1), 0)
    with pytest.raises(eda.Timeout):
        await waiters.wait(Target("orders", 7, 2), 0)


async def test_wait_when_a_pack_is_partly_applied_ends_with_its_event_and_not_before() -> None:
    waiters = Waiters("list", 1, ["orders"])
    calls = [asyncio.ensure_future(waiters.wait(Target("orders", *place), 10)) for place in ((7, 3), (7, 90), (8, 0))]
    await asyncio.sleep(0)
    for advanced, n_done in (((6,), 0), ((7, 2), 0), ((7, 3), 1), ((7, 89), 1), ((7,), 2), ((8, 0), 3)):
        waiters.advanced("orders", *advanced)
        await asyncio.sleep(0)
        assert [call.done() for call in calls] == [True] * n_done + [False] * (3 - n_done)
    assert waiters.passed("orders") == (8, 0)


def test_is_awaited_when_somebody_waits_for_a_later_event_of_the_pack_is_not() -> None:
    waiters = Waiters("list", 1, ["orders"])
    waiters._streams["orders"].heap.append((7, 3, 1, None))  # type: ignore[arg-type]
    awaited = [waiters.is_awaited("orders", place) for place in ((6, WHOLE), (7, 2), (7, 3), (7, WHOLE))]
    assert awaited == [False, False, True, True]


async def test_wait_when_an_event_of_a_pack_is_meant_says_so() -> None:
    waiters = Waiters("list", 3, ["orders"])
    waiters.advanced("orders", 7, 2)
    with pytest.raises(eda.Timeout, match=r"has applied event 7\.5 of stream 'orders' \(it has applied up to 7\.2\)"):
        await waiters.wait(Target("orders", 7, 5), 0.01)
    waiters.not_applied("orders", 7, 1, "ValueError: no")
    with pytest.raises(eda.NotApplied, match="at sequence 7, index 1, of stream") as caught:
        await waiters.wait(Target("orders", 7, 1), 0)
    assert (caught.value.sequence, caught.value.index) == (7, 1)
    await waiters.wait(Target("orders", 7, 0), 0)


async def test_wait_when_the_time_is_over_says_how_far_the_projection_is() -> None:
    waiters = Waiters("list", 3, ["orders"])
    waiters.advanced("orders", 5)
    with pytest.raises(eda.Timeout, match=r"'list' version 3 has applied event 7 of stream 'orders' .*up to 5"):
        await waiters.wait(Target("orders", 7), 0.01)
    assert waiters.wanted("orders") == 0


async def test_wait_when_another_stream_is_meant_is_refused() -> None:
    with pytest.raises(eda.ConfigError, match="does not read stream 'users'; it reads orders, payments"):
        await Waiters("list", 1, ["payments", "orders"]).wait(Target("users", 7), 1)


async def test_wait_when_the_event_was_given_up_raises_its_reason_before_and_after() -> None:
    waiters = Waiters("list", 1, ["orders"])
    before = asyncio.ensure_future(waiters.wait(Target("orders", 7), 10))
    await asyncio.sleep(0)
    waiters.not_applied("orders", 7, 0, "ValueError: no")
    waiters.advanced("orders", 8)
    for call in (before, waiters.wait(Target("orders", 7), 0)):
        with pytest.raises(eda.NotApplied, match="at sequence 7 of stream 'orders': ValueError: no"):
            await call
    await waiters.wait(Target("orders", 8), 0)


async def test_wait_when_many_events_were_given_up_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_NOT_APPLIED", 2)
    waiters = Waiters("list", 1, ["orders"])
    for each in (1, 2, 3):
        waiters.not_applied("orders", each, 0, "no")
    waiters.advanced("orders", 3)
    await waiters.wait(Target("orders", 1), 0)
    with pytest.raises(eda.NotApplied):
        await waiters.wait(Target("orders", 2), 0)


async def test_wait_when_the_projection_ends_raises_its_error() -> None:
    waiters = Waiters("list", 1, ["orders"])
    waiters.advanced("orders", 3)
    call = asyncio.ensure_future(waiters.wait(Target("orders", 7), 10))
    await asyncio.sleep(0)
    waiters.end(eda.TransactionEnded("list", 1))
    for each in (call, waiters.wait(Target("orders", 8), 1)):
        with pytest.raises(eda.TransactionEnded):
            await each
    await waiters.wait(Target("orders", 3), 0)


async def test_wait_when_callers_give_up_does_not_keep_them() -> None:
    waiters = Waiters("list", 1, ["orders"])
    first = asyncio.ensure_future(waiters.wait(Target("orders", 1), 10))
    await asyncio.sleep(0)
    for each in range(500):
        with pytest.raises(eda.Timeout):
            await waiters.wait(Target("orders", 1000 - each), 0)
    assert len(waiters._streams["orders"].heap) < 130
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert waiters.wanted("orders") == 0
