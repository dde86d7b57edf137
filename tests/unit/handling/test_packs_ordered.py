"""eda.handling._dispatch for ordered subscriptions of packs: the position within a pack, and where it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda._clock import read_monotonic_ns
from eda.handling.verdicts import Exhausted
from support.handling.dispatching import Rig, delivery, settle
from support.packs import compressed, pack_of

Make = Callable[..., Rig]

HOUR_NS = 3_600_000_000_000


def pack(n: int) -> bytes:
    """Return a pack of `n` events of types and aggregates that take turns."""
    return pack_of(eda.Event(type="ab"[number % 2], aggregate="xyz"[number % 3]) for number in range(n))


def places(rig: Rig) -> list[tuple[int, int]]:
    return [(event.sequence, event.index) for event in rig.seen]


# --- the position ----------------------------------------------------------------------------------------------------


async def test_position_when_events_of_a_pack_are_done_moves_within_it(make: Make) -> None:
    seen: list[tuple[int, ...]] = []
    rig = make(lambda event: seen.append(rig.dispatcher.position_parts), ordered=True)
    rig.deliver(3, time_ns=30)
    rig.deliver(9, payload=pack(3), time_ns=90)
    rig.deliver(12, payload=pack(1), time_ns=120)
    await settle()
    assert seen == [(0, 0, 0, 0, 0), (3, 30, 0, 0, 0), (3, 30, 1, 9, 90), (3, 30, 2, 9, 90), (9, 90, 0, 0, 0)]
    assert rig.dispatcher.position_parts == (12, 120, 0, 0, 0)
    assert (rig.dispatcher.highest, rig.dispatcher.n_held, rig.dispatcher.intake.has_packs) == (12, 0, True)


async def test_position_when_a_later_event_of_a_pack_is_done_first_waits_for_the_earlier_one(make: Make) -> None:
    failed: list[int] = []

    def handle(event: eda.Event) -> None:
        if event.index in (1, 3) and event.attempt == 1:
            failed.append(event.index)
            raise ValueError("x")

    rig = make(handle, ordered=True)
    rig.deliver(5, payload=pack(5), time_ns=50)
    await settle()
    assert (failed, rig.dispatcher.position_parts) == ([1, 3], (0, 0, 1, 5, 50))
    rig.dispatcher.take_due()
    await settle()
    assert rig.dispatcher.position_parts == (5, 50, 0, 0, 0)
    assert [(event.index, event.attempt) for event, _ in rig.failures] == [(1, 1), (3, 1)]


async def test_events_when_a_filter_leaves_some_of_a_pack_out_move_the_position_over_those(make: Make) -> None:
    rig = make(ordered=True, types=["a"], hold=False)
    rig.dispatcher.lease.tell_progress()
    rig.deliver(5, payload=pack(6), time_ns=50)
    rig.deliver(6, payload=pack_of([eda.Event(type="c")] * 3), time_ns=60)
    await settle()
    assert places(rig) == [(5, 0), (5, 2), (5, 4)]
    assert rig.dispatcher.intake.n_passed_over == 6
    assert rig.dispatcher.position_parts == (6, 60, 0, 0, 0)
    assert rig.positions  # told


async def test_credit_when_all_of_a_pack_is_passed_over_is_asked_for_again(make: Make) -> None:
    rig = make(ordered=True, types=["c"], limit=10)
    rig.dispatcher.credit.refill()
    n_pulls = len(rig.pulls)
    for seq in range(1, 20):
        rig.deliver(seq, payload=pack(2))
    assert len(rig.pulls) > n_pulls
    assert rig.dispatcher.position == 19


SUBJECT, _ = delivery(1)
A, B = eda.Event(type="a", aggregate="x"), eda.Event(type="b", aggregate="x")
OTHER = eda.Event(type="a", aggregate="y")


@pytest.mark.parametrize("first", [[A, B], [A, OTHER], [B, A, B, B]], ids=["passed over", "done early", "several"])
async def test_position_when_a_filter_leaves_out_the_start_of_the_next_pack_keeps_the_end_of_the_one_before(
    make: Make, first: list[eda.Event]
) -> None:
    options: dict[str, Any] = {"ordered": True, "types": ["a"], "key": "aggregate"}
    rig = make(hold=True, concurrency=2, **options)
    rig.deliver(7, payload=pack_of(first), time_ns=70)
    await settle()
    if first[1] is OTHER:
        rig.release((7, 1))
        await settle()
    rig.deliver(8, payload=pack_of([B, B, A, B]), time_ns=80)
    rig.deliver(9, payload=pack_of([B, B]), time_ns=90)
    rig.deliver(10, payload=pack_of([B, A]), time_ns=100)
    await settle()
    assert places(rig)[-1][0] == 7
    rig.release(*[place for place in rig.held if place in (7, (7, 1))])
    await settle()
    assert rig.dispatcher.position_parts == (7, 70, 2, 8, 80)
    position, stored_ns, *part = rig.dispatcher.position_parts
    other = make(max_attempts=5, **options)  # it takes over
    other.dispatcher.begin_at(position, 2, stored_ns, *part)
    other.read_anew()
    other.deliver(8, payload=pack_of([B, B, A, B]), time_ns=80)
    other.deliver(9, payload=pack_of([B, B]), time_ns=90)
    other.deliver(10, payload=pack_of([B, A]), time_ns=100)
    await settle()
    assert [(event.sequence, event.index, event.attempt) for event in other.seen] == [(8, 2, 3), (10, 1, 1)]
    rig.release((8, 2))
    await settle()
    assert rig.dispatcher.position_parts == (9, 90, 1, 10, 100)


async def test_confirmation_when_strict_and_a_filter_leaves_events_out_is_of_the_place_behind_the_event(
    make: Make,
) -> None:
    rig = make(hold=True, ordered=True, serial=True, strict=True, types=["a"])
    rig.dispatcher.lease.extend(read_monotonic_ns() + HOUR_NS)
    rig.deliver(7, payload=pack_of([A, B]))
    rig.deliver(8, payload=pack_of([B, A]))
    await settle()
    rig.release(7)
    await settle()
    rig.release((8, 1))
    await settle()
    assert rig.asked_places == [(7, 1), (8, 0)]


async def test_ledger_when_a_filter_leaves_whole_packs_out_holds_no_more_for_each_of_them(make: Make) -> None:
    rig = make(hold=True, ordered=True, types=["a"])
    rig.deliver(1, payload=pack_of([A, B]))
    for seq in range(2, 50):
        rig.deliver(seq, payload=pack_of([B, B, B]))
    await settle()
    assert rig.dispatcher.n_held == 2
    rig.release(1)
    await settle()
    assert (rig.dispatcher.place, rig.dispatcher.n_held) == ((49, 0), 0)


# --- memory ----------------------------------------------------------------------------------------------------------


async def test_bytes_when_a_filter_leaves_most_of_a_pack_out_are_those_of_the_whole_pack_until_its_last_event_is_done(
    make: Make,
) -> None:
    rig = make(hold=True, ordered=True, types=["a"], key="aggregate", concurrency=2)
    payload = pack_of([B, A, *[B] * 50, OTHER])
    kept = len(payload) + len(SUBJECT)
    rig.deliver(1, payload=payload)
    await settle()
    for place in [(1, 52), (1, 1)]:
        assert rig.dispatcher.ledger.n_bytes == kept
        rig.release(place)
        await settle()
    assert rig.dispatcher.ledger.n_bytes == 0


async def test_bytes_when_the_ledger_is_dropped_in_a_pack_count_until_its_handler_ends(make: Make) -> None:
    rig = make(hold=True, ordered=True)
    rig.deliver(5, payload=pack(3), time_ns=50)
    await settle()
    kept = rig.dispatcher.ledger.n_bytes
    rig.dispatcher.begin_at(4)
    assert rig.dispatcher.ledger.n_bytes == kept > 0
    rig.release(5)
    await settle()
    assert rig.dispatcher.ledger.n_bytes == 0


async def test_pulls_when_a_filter_leaves_most_of_each_pack_out_bring_no_more_bytes_than_allowed(make: Make) -> None:
    payload = pack_of([*[B] * 99, A])
    limit_bytes = 20 * len(payload)
    rig = make(hold=True, ordered=True, types=["a"], limit=1000, limit_bytes=limit_bytes)
    credit = rig.dispatcher.credit
    credit.expect_packs()
    credit.refill()
    seq = number = 0
    while number < len(rig.pulls):  # the server delivers what each pull admits, and ends the pull
        n, n_bytes = rig.pulls[number]
        number += 1
        while n and n_bytes > 0:
            seq += 1
            n_bytes -= rig.deliver(seq, payload=payload)
            n -= 1
        credit.revoke(number, n)
        credit.refill()
    await settle()
    kept = rig.dispatcher.ledger.n_bytes
    assert seq * len(payload) <= kept == seq * (len(payload) + len(SUBJECT))
    assert limit_bytes / 2 < kept < limit_bytes * 1.3


async def test_size_when_events_are_of_packs_is_that_of_the_packs(make: Make) -> None:
    lists: list[list[eda.Event]] = []
    rig = make(lists.append, ordered=True, serial=True, batch=10, types=["a"])
    rig.deliver(1, payload=pack_of([A, B, A, *[B] * 50]))
    rig.deliver(2, event=A)
    rig.deliver(3, payload=pack_of([B, A]))
    kept = rig.dispatcher.ledger.n_bytes
    await settle()
    (events,) = lists
    assert [(event.sequence, event.index) for event in events] == [(1, 0), (1, 2), (2, 0), (3, 1)]
    assert rig.dispatcher.ledger.size_of(events) == kept  # type: ignore[attr-defined]


# --- going on in the middle of a pack --------------------------------------------------------------------------------


async def test_pack_when_partly_done_is_continued_behind_that(make: Make) -> None:
    rig = make(ordered=True)
    rig.dispatcher.begin_at(4, 0, 40, 3, 5, 50)
    rig.read_anew()
    assert rig.dispatcher.position_parts == (4, 40, 3, 5, 50)
    rig.deliver(5, payload=pack(6), time_ns=50)
    await settle()
    assert places(rig) == [(5, 3), (5, 4), (5, 5)]
    assert (rig.parts_gone, rig.dispatcher.position) == ([], 5)
    rig.deliver(6, payload=pack(6), time_ns=60)
    await settle()
    assert len(rig.seen) == 9


@pytest.mark.parametrize(
    ("seq", "time_ns", "n"), [(5, 51, 6), (6, 50, 6), (5, 50, 3), (5, 50, 2), (9, 90, 6)],
    ids=["stored at another time", "next", "as many", "fewer", "later"],
)  # fmt: skip
async def test_pack_when_it_is_not_the_one_that_was_partly_done_is_handled_whole(
    make: Make, seq: int, time_ns: int, n: int
) -> None:
    rig = make(ordered=True)
    rig.dispatcher.begin_at(4, 2, 40, 3, 5, 50)
    rig.read_anew()
    rig.deliver(seq, payload=pack(n), time_ns=time_ns)
    assert rig.parts_gone == [4]
    assert rig.dispatcher.position_parts == (4, 40, 0, 0, 0)
    await settle()
    assert places(rig) == [(seq, index) for index in range(n)]
    assert {event.attempt for event in rig.seen} == {1}  # the processes did not die at one of these
    assert rig.dispatcher.position == seq


async def test_message_when_an_ordinary_one_is_in_place_of_the_pack_is_handled(make: Make) -> None:
    rig = make(ordered=True)
    rig.dispatcher.begin_at(4, 0, 40, 3, 5, 50)
    rig.read_anew()
    rig.deliver(5, 6, time_ns=50)
    await settle()
    assert places(rig) == [(5, 0), (6, 0)]
    assert rig.dispatcher.position_parts == (6, 50, 0, 0, 0)


async def test_messages_before_the_pack_when_a_wider_filter_brings_them_leave_it_partly_done(make: Make) -> None:
    rig = make(ordered=True, max_attempts=9)
    rig.dispatcher.begin_at(4, 2, 40, 3, 9, 90)
    rig.read_anew()
    rig.deliver(5, time_ns=50)
    rig.deliver(7, payload=pack(2), time_ns=70)
    await settle()
    assert rig.dispatcher.position_parts == (7, 70, 3, 9, 90)
    rig.deliver(9, payload=pack(5), time_ns=90)
    await settle()
    assert places(rig) == [(5, 0), (7, 0), (7, 1), (9, 3), (9, 4)]
    assert [event.attempt for event in rig.seen] == [1, 1, 1, 3, 1]  # the tries were those of 9.3
    assert (rig.parts_gone, rig.dispatcher.position_parts) == ([], (9, 90, 0, 0, 0))


async def test_pack_when_it_is_replayed_for_another_subscription_is_passed_over_also_if_partly_done(make: Make) -> None:
    rig = make(ordered=True, name="mine")
    rig.dispatcher.begin_at(4, 0, 40, 3, 5, 50)
    rig.read_anew()
    rig.deliver(5, payload=pack(6), time_ns=50, headers=b"NATS/1.0\r\nEda-Replay-For: other\r\n\r\n")
    await settle()
    assert (places(rig), rig.dispatcher.position_parts) == ([], (5, 50, 0, 0, 0))


async def test_pack_when_it_can_not_be_read_is_one_event_with_a_verdict(make: Make) -> None:
    rig = make(ordered=True)
    payload = compressed(pack(5), size=3)
    rig.deliver(5, payload=payload, time_ns=50)
    rig.deliver(6, time_ns=60)
    await settle()
    assert places(rig) == [(6, 0)]
    assert [seq for seq, _ in rig.undecodable] == [5]
    ((event, letter, _),) = rig.dead_letters
    assert (event.sequence, letter) == (5, payload)
    assert rig.dispatcher.position == 6


async def test_reader_when_it_begins_too_early_brings_no_event_of_a_pack_twice(make: Make) -> None:
    rig = make(ordered=True, hold=True)
    rig.deliver(5, payload=pack(4), time_ns=50)
    await settle()
    rig.read_anew()
    rig.deliver(5, payload=pack(4), time_ns=50)
    rig.deliver(6, time_ns=60)
    await settle()
    assert rig.dispatcher.n_held == 5


async def test_handlers_when_the_ledger_is_dropped_in_a_pack_have_no_effect_and_the_rest_comes_again(
    make: Make,
) -> None:
    rig = make(ordered=True, hold=True, concurrency=1)
    rig.deliver(5, payload=pack(3), time_ns=50)
    await settle()
    rig.dispatcher.begin_at(4, 0, 40, 0, 0, 0)
    rig.read_anew()
    rig.deliver(5, payload=pack(3), time_ns=50)
    rig.release(5)
    await settle()
    assert rig.dispatcher.position_parts == (4, 40, 0, 0, 0)
    assert places(rig) == [(5, 0), (5, 0)]


# --- attempts, one by one --------------------------------------------------------------------------------------------


async def test_attempts_when_processes_died_in_a_pack_count_for_the_first_event_not_done(make: Make) -> None:
    rig = make(ordered=True, max_attempts=3)
    rig.dispatcher.begin_at(4, 2, 40, 3, 5, 50)
    rig.read_anew()
    rig.deliver(5, payload=pack(6), time_ns=50)
    await settle()
    assert [(event.index, event.attempt) for event in rig.seen] == [(3, 3), (4, 1), (5, 1)]


async def test_attempts_when_used_up_in_a_pack_give_up_that_event_alone(make: Make) -> None:
    rig = make(ordered=True, max_attempts=3)
    rig.dispatcher.begin_at(4, 3, 40, 3, 5, 50)
    rig.read_anew()
    rig.deliver(5, payload=pack(6), time_ns=50)
    await settle()
    assert [event.index for event in rig.seen] == [4, 5]
    ((event, _, error),) = rig.dead_letters
    assert (event.sequence, event.index, event.attempt) == (5, 3, 4)
    assert isinstance(error, Exhausted)
    assert rig.dispatcher.position == 5


@pytest.mark.parametrize("kind", ["strict", "careful", "careful batch"])
async def test_events_of_a_pack_when_each_is_to_be_stored_wait_for_the_one_before(make: Make, kind: str) -> None:
    options: dict[str, Any] = {
        "strict": {"serial": True, "strict": True},
        "careful": {"concurrency": 4, "limit": 4},
        "careful batch": {"concurrency": 2, "batch": 10, "limit": 4},
    }[kind]
    seen: list[Any] = []
    rig = make(seen.append, ordered=True, **options)
    rig.dispatcher.begin_at(4, 0 if kind == "strict" else 1, 40, 2, 5, 50)
    rig.dispatcher.lease.extend(read_monotonic_ns() + HOUR_NS)
    rig.read_anew()
    asked: list[tuple[tuple[int, int], asyncio.Future[None]]] = []

    async def confirmed(seq: int, idx: int) -> None:
        asked.append(((seq, idx), rig.make_future()))
        await asked[-1][1]

    rig.confirmed = confirmed  # type: ignore[method-assign]
    rig.deliver(5, payload=pack(4), time_ns=50)
    rig.deliver(6, payload=pack(2), time_ns=60)
    expected = [(4, 3), (5, 0), (5, 1), (6, 0)]
    for n in range(1, 5):
        await settle()
        assert [place for place, _ in asked] == expected[:n]
        assert len(seen) == n
        asked[-1][1].set_result(None)
    await settle()
    assert rig.dispatcher.position == 6


# --- order -----------------------------------------------------------------------------------------------------------


async def test_lists_when_serial_span_packs_and_wait_for_the_whole_list_before(make: Make) -> None:
    lists: list[list[tuple[int, int]]] = []

    def handle(events: list[eda.Event]) -> None:
        lists.append([(event.sequence, event.index) for event in events])
        failed = {event: ValueError("x") for event in events if event.index == 2 and event.attempt == 1}
        if failed:
            raise eda.PartialFailure(failed)

    rig = make(handle, ordered=True, serial=True, batch=4)
    rig.deliver(1, payload=pack(3))
    rig.deliver(2, payload=pack(3))
    rig.deliver(3)
    await settle()
    assert lists == [[(1, 0), (1, 1), (1, 2), (2, 0)]]
    rig.dispatcher.take_due()
    await settle()
    assert lists[1:] == [[(1, 2)], [(2, 1), (2, 2), (3, 0)]]
    assert rig.dispatcher.position_parts == (1, 1, 2, 2, 1)
    rig.dispatcher.take_due()
    await settle()
    assert lists[3:] == [[(2, 2)]]
    assert rig.dispatcher.place == (3, 0)


async def test_keys_when_events_of_a_pack_have_them_keep_the_order_of_each(make: Make) -> None:
    failed = False

    def handle(event: eda.Event) -> None:
        nonlocal failed
        if event.aggregate == "x" and not failed:
            failed = True
            raise ValueError("x")
        done.append((event.aggregate, event.sequence, event.index))

    done: list[tuple[str, int, int]] = []
    rig = make(handle, ordered=True, key="aggregate", concurrency=3)
    rig.deliver(1, payload=pack(7))
    rig.deliver(2, payload=pack(3))
    await settle()
    assert not any(key == "x" for key, _, _ in done)
    rig.dispatcher.take_due()
    await settle()
    assert len(done) == 10
    for key in "xyz":
        mine = [each[1:] for each in done if each[0] == key]
        assert mine == sorted(mine)


async def test_key_function_when_it_fails_for_an_event_of_a_pack_fails_that_event_alone(make: Make) -> None:
    def key(event: eda.Event) -> str:
        if event.index == 1 and event.attempt == 1:
            raise ValueError("no key")
        return event.aggregate

    rig = make(ordered=True, key=key)
    rig.deliver(1, payload=pack(4))
    await settle()
    assert [event.index for event in rig.seen] == [0, 2, 3]
    assert rig.dispatcher.place == (0, 1)
    rig.dispatcher.take_due()
    await settle()
    assert [event.index for event in rig.seen] == [0, 2, 3, 1]
    assert rig.dispatcher.place == (1, 0)


async def test_key_function_when_interrupted_in_a_pack_ends_the_subscription_and_nothing_is_passed_over(
    make: Make,
) -> None:
    def key(event: eda.Event) -> str:
        if event.index == 2:
            raise KeyboardInterrupt
        return ""

    rig = make(ordered=True, key=key)
    with pytest.raises(KeyboardInterrupt):
        rig.deliver(1, payload=pack(4))
    rig.deliver(2)
    await settle()
    assert [event.index for event in rig.seen] == [0, 1]
    assert rig.dispatcher.place == (0, 2)
    assert len(rig.unreadable) == 1


async def test_key_function_when_interrupted_for_a_message_lets_no_later_one_be_taken_before_it(make: Make) -> None:
    interrupts = [KeyboardInterrupt()]

    def key(event: eda.Event) -> str:
        if interrupts:
            raise interrupts.pop()
        return ""

    rig = make(ordered=True, key=key)
    with pytest.raises(KeyboardInterrupt):
        rig.deliver(1)
    rig.deliver(2)
    await settle()
    assert (places(rig), rig.dispatcher.highest) == ([], 0)
    rig.read_anew()
    rig.deliver(1, 2)
    await settle()
    assert places(rig) == [(1, 0), (2, 0)]


async def test_workers_when_a_pack_comes_are_woken_for_as_many_events_as_it_has(make: Make) -> None:
    rig = make(ordered=True, concurrency=4, hold=True)
    rig.deliver(1, payload=pack(3))
    await settle()
    running = [event.index for event in rig.dispatcher.running_now() if event is not None]
    assert sorted(running) == [0, 1, 2]
