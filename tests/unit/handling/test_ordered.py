"""eda.handling._dispatch for ordered subscriptions: order, gaps, what must not overtake what, and retries in place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import eda
from support.handling.dispatching import Rig, settle

Make = Callable[..., Rig]


def again(rig: Rig) -> float | None:
    """Hand out again what waits: the rig's delays are over at once."""
    return rig.dispatcher.take_due()


class Failing:
    """A handler that fails for the given sequences, and then for as many more attempts as said."""

    def __init__(self, *seqs: int, n_times: int = 1) -> None:
        self.left = dict.fromkeys(seqs, n_times)
        self.seen: list[tuple[int, int]] = []

    def __call__(self, event: eda.Event) -> None:
        self.seen.append((event.sequence, event.attempt))
        if self.left.get(event.sequence, 0):
            self.left[event.sequence] -= 1
            raise ValueError(event.sequence)


# --- order and gaps --------------------------------------------------------------------------------------------------


async def test_deliveries_when_they_come_in_order_are_handled_in_order_and_not_answered(make: Make) -> None:
    rig = make(ordered=True)
    seqs = [3, 4, 9, 1000, 2**50]
    rig.deliver(*seqs, pending=7)
    await settle()
    assert rig.seqs == seqs
    assert [event.attempt for event in rig.seen] == [1] * 5
    assert rig.flush() == []
    dispatcher = rig.dispatcher
    assert (dispatcher.position, dispatcher.highest, dispatcher.intake.highest_seen, dispatcher.intake.n_read) == (
        2**50,
        2**50,
        2**50,
        5,
    )
    assert (dispatcher.n_held, dispatcher.intake.n_pending, dispatcher.outcomes.last_seq) == (0, 7, 2**50)
    assert dispatcher.outcomes.last_acknowledged() is None


async def test_position_when_it_moves_has_the_time_at_which_its_event_was_stored(make: Make) -> None:
    rig = make(hold=True, ordered=True)
    dispatcher = rig.dispatcher
    rig.deliver(3, time_ns=30)
    rig.deliver(4, time_ns=40)
    await settle()
    assert (dispatcher.position_ns, dispatcher.highest_ns) == (0, 40)
    rig.release(3)
    await settle()
    assert (dispatcher.position, dispatcher.position_ns) == (3, 30)
    rig.deliver(3, time_ns=31)  # from before where we wanted to begin
    assert (dispatcher.position_ns, dispatcher.highest_ns) == (30, 40)
    dispatcher.begin_at(2, 0, 20)
    assert (dispatcher.position_ns, dispatcher.highest_ns) == (20, 20)


async def test_delivery_when_one_before_it_did_not_come_is_told_and_nothing_is_taken_until_there_is_a_new_reader(
    make: Make,
) -> None:
    rig = make(ordered=True)
    rig.deliver(1, 2)
    rig.n_delivered = 3
    rig.deliver(4, 5)
    rig.n_delivered = 2
    rig.deliver(3)
    await settle()
    assert rig.gaps == [(3, 4)]
    assert rig.seqs == [1, 2]
    assert rig.dispatcher.intake.n_foreign == 2
    rig.read_anew()
    rig.deliver(3, 4, 5)
    await settle()
    assert rig.seqs == [1, 2, 3, 4, 5]
    assert rig.gaps == [(3, 4)]


async def test_delivery_when_it_comes_twice_is_a_gap(make: Make) -> None:
    rig = make(ordered=True)
    rig.deliver(1, 2)
    rig.n_delivered = 1
    rig.deliver(2)
    await settle()
    assert rig.gaps == [(3, 2)]
    assert rig.seqs == [1, 2]


async def test_delivery_when_it_is_from_before_the_place_to_go_on_is_skipped(make: Make) -> None:
    rig = make(ordered=True, limit=4)
    rig.dispatcher.credit.refill()
    rig.deliver(1, 2, 3, 4)
    await settle()
    rig.read_anew()
    rig.deliver(2, 3, 4, 5)
    await settle()
    assert rig.seqs == [1, 2, 3, 4, 5]
    assert rig.gaps == []
    assert rig.dispatcher.intake.n_skipped == 0
    assert rig.dispatcher.credit.n_messages > 0


async def test_delivery_when_there_is_no_reader_is_not_taken(make: Make) -> None:
    rig = make(ordered=True)
    rig.dispatcher.credit.grant(1, 10, 1000)
    rig.dispatcher.intake.use_no_reader()
    rig.deliver(1)
    rig.feed(b"orders.t._", b"$JS.ACK.orders..1.1.1.1.1", b"")
    await settle()
    assert rig.seqs == []
    assert (rig.dispatcher.credit.n_messages, rig.dispatcher.intake.n_foreign) == (0, 2)


@pytest.mark.parametrize(("filter", "n"), [({}, 90), ({"types": ["t"]}, 0), ({"aggregate": ""}, 0)], ids=repr)
async def test_sequences_when_some_are_missing_are_counted_unless_a_filter_explains_them(
    make: Make, filter: dict[str, Any], n: int
) -> None:
    rig = make(ordered=True, **filter)
    rig.dispatcher.begin_at(5)
    rig.read_anew()
    rig.deliver(6, 7, 98)
    await settle()
    assert rig.dispatcher.intake.n_skipped == n
    assert rig.dispatcher.position == 98


async def test_filter_when_the_envelope_does_not_match_passes_over(make: Make) -> None:
    rig = make(ordered=True, types=["t"], hold=True)
    rig.deliver(1, event=eda.Event(type="other"))
    assert rig.dispatcher.position == 1
    rig.deliver(2)
    rig.deliver(3, 4, 5, event=eda.Event(type="other"))
    await settle()
    assert rig.dispatcher.position == 1
    assert rig.dispatcher.highest == 5
    rig.release(2)
    await settle()
    assert rig.dispatcher.position == 5
    assert (rig.dispatcher.intake.n_passed_over, rig.dispatcher.outcomes.n_handled, rig.dispatcher.n_held) == (4, 1, 0)


@pytest.mark.parametrize("ordered", [True, False])
async def test_message_when_it_was_replayed_for_another_is_passed_over(make: Make, ordered: bool) -> None:
    rig = make(ordered=ordered, name="billing")
    headers = [
        b"Eda-Replay-For: other", b"Eda-Replay-For: billing", b"Eda-Replay-For:billing  ", b"Eda-Replay-For: billin",
        b"Eda-Replay-For: billings", b"Eda-Replay-For:", b"Nats-Msg-Id: x\r\nEda-Replay-For: other",
        b"Eda-Replay-Foo: x", b"Eda-Replay-For",
    ]  # fmt: skip
    for seq, header in enumerate(headers, 1):
        rig.deliver(seq, headers=b"NATS/1.0\r\n" + header + b"\r\n\r\n")
    await settle()
    assert rig.seqs == [2, 3, 8, 9]
    assert rig.dispatcher.intake.n_passed_over == 5
    assert len(rig.flush()) == (0 if ordered else 9)
    assert rig.dispatcher.n_held == 0


# --- retries in place ------------------------------------------------------------------------------------------------


async def test_event_when_it_fails_comes_again_in_place_as_another_object(make: Make) -> None:
    seen: list[eda.Event] = []

    def handle(event: eda.Event) -> None:
        seen.append(event)
        if event.attempt < 3:
            raise ValueError(event.attempt)

    rig = make(handle, ordered=True)
    rig.deliver(7, event=eda.Event(id="a", type="t", aggregate="é", data=eda.JSON([1])), time_ns=5)
    for _ in range(3):
        await settle()
        again(rig)
    assert [event.attempt for event in seen] == [1, 2, 3]
    assert len({id(event) for event in seen}) == 3
    assert seen[0] == seen[1] == seen[2]
    for event in seen:
        assert (event.stream, event.sequence, event.ack_time_ns, event.id) == ("orders", 7, 5, "a")
        assert (event.aggregate, event.data.decode()) == ("é", [1])
    assert [event.attempt for event, _ in rig.failures] == [1, 2]
    assert (rig.dispatcher.outcomes.n_failed, rig.dispatcher.outcomes.n_handled, rig.dispatcher.position) == (2, 1, 7)
    assert rig.retries == [250 / 1e9] * 2
    assert rig.flush() == []


async def test_take_due_when_something_waits_says_for_how_long(make: Make) -> None:
    rig = make(Failing(1), ordered=True)
    rig.on_failure = lambda event, error: 3600 * 10**9  # type: ignore[method-assign]
    assert rig.dispatcher.take_due() is None
    rig.deliver(1)
    await settle()
    wait_s = rig.dispatcher.take_due()
    assert wait_s is not None
    assert 3590 < wait_s <= 3600
    assert (rig.dispatcher.n_waiting, rig.dispatcher.n_held, rig.dispatcher.n_running) == (1, 1, 0)


async def test_events_when_one_fails_and_nothing_binds_them_go_on_but_the_position_waits(make: Make) -> None:
    handler = Failing(1)
    rig = make(handler, ordered=True, limit=10)
    rig.dispatcher.credit.refill()
    rig.deliver(*range(1, 11))
    await settle()
    assert handler.seen == [(seq, 1) for seq in range(1, 11)]
    assert (rig.dispatcher.position, rig.dispatcher.n_held) == (0, 10)
    assert rig.dispatcher.credit.n_messages == 0  # what would come again after a crash is bounded
    again(rig)
    await settle()
    assert handler.seen[-1] == (1, 2)
    assert (rig.dispatcher.position, rig.dispatcher.n_held, rig.dispatcher.credit.n_messages) == (10, 0, 10)


# --- serial ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "aggregate"])
async def test_serial_when_an_event_fails_holds_back_all_others(make: Make, key: str | None) -> None:
    handler = Failing(2, n_times=2)
    rig = make(handler, ordered=True, serial=True, key=key)
    for seq in range(1, 6):
        rig.deliver(seq, event=eda.Event(aggregate=str(seq)))
    for _ in range(3):
        await settle()
        again(rig)
    await settle()
    assert handler.seen == [(1, 1), (2, 1), (2, 2), (2, 3), (3, 1), (4, 1), (5, 1)]
    assert rig.dispatcher.position == 5


@pytest.mark.parametrize("concurrency", [1, 5])
async def test_serial_when_there_are_workers_runs_one_at_a_time(make: Make, concurrency: int) -> None:
    running: set[int] = set()

    async def handle(event: eda.Event) -> None:
        assert not running
        running.add(event.sequence)
        await asyncio.sleep(0)
        running.discard(event.sequence)
        seen.append(event.sequence)
        if event.sequence % 7 == 0 and event.attempt == 1:
            raise ValueError("seven")

    seen: list[int] = []
    rig = make(handler=handle, ordered=True, serial=True, concurrency=concurrency)
    rig.deliver(*range(1, 101))
    while rig.dispatcher.n_held:
        again(rig)
        await settle()
    assert seen == sorted([*range(1, 101), *range(7, 101, 7)])
    assert all(str(error) == "seven" for _, error in rig.failures)
    assert rig.dispatcher.position == 100


# --- keys ------------------------------------------------------------------------------------------------------------


def by_type(event: eda.Event) -> str:
    return event.type


@pytest.mark.parametrize("key", ["aggregate", by_type])
async def test_keys_when_one_of_them_fails_the_others_go_on(make: Make, key: Any) -> None:
    handler = Failing(1, 4, n_times=2)
    rig = make(handler, ordered=True, key=key, concurrency=3)
    for seq in range(1, 10):
        rig.deliver(seq, event=eda.Event(aggregate=str(seq % 3), type=str(seq % 3)))
    await settle()
    assert sorted(handler.seen) == [(1, 1), (2, 1), (3, 1), (5, 1), (6, 1), (8, 1), (9, 1)]
    assert rig.dispatcher.position == 0
    for _ in range(5):
        again(rig)
        await settle()
    assert [seen for seen in handler.seen if seen[0] % 3 == 1] == [
        *((1, 1), (1, 2), (1, 3)),
        *((4, 1), (4, 2), (4, 3)),
        (7, 1),
    ]
    assert rig.dispatcher.position == 9


async def test_keys_when_workers_are_free_run_beside_each_other_and_never_with_themselves(make: Make) -> None:
    rig = make(hold=True, ordered=True, key="aggregate", concurrency=4)
    for seq, aggregate in enumerate("aabab", 1):
        rig.deliver(seq, event=eda.Event(aggregate=aggregate))
    await settle()
    assert set(rig.held) == {1, 3}
    rig.release(3)
    await settle()
    assert set(rig.held) == {1, 5}
    rig.release(1)
    await settle()
    assert set(rig.held) == {2, 5}
    assert rig.dispatcher.position == 1
    rig.release(2, 5)
    await settle()
    rig.release(4)
    await settle()
    assert rig.dispatcher.position == 5


class Unfit:
    __hash__ = None  # type: ignore[assignment]


class Odd(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("no key"), Odd(), asyncio.CancelledError(), None], ids=repr)
async def test_key_when_it_can_not_be_had_is_a_failure_of_that_event(make: Make, error: BaseException | None) -> None:
    def key(event: eda.Event) -> object:
        if event.sequence == 2:
            if error is not None:
                raise error
            return Unfit()
        return "a"

    rig = make(ordered=True, key=key)
    rig.deliver(1, 2, 3)
    await settle()
    assert rig.seqs == [1, 3]
    ((event, told),) = rig.failures
    assert event.sequence == 2
    assert told is error or isinstance(told, TypeError)
    assert rig.dispatcher.position == 1
    again(rig)
    await settle()
    assert [event.attempt for event, _ in rig.failures] == [1, 2]
    rig.on_failure = lambda event, error: -1  # type: ignore[method-assign]
    again(rig)
    await settle()
    assert [(event.sequence, event.attempt) for event, _, _ in rig.dead_letters] == [(2, 3)]
    assert rig.dispatcher.position == 3


async def test_keys_when_there_are_10000_keep_their_order(make: Make) -> None:
    rig = make(ordered=True, key="aggregate", limit=10**5, limit_bytes=10**9, start=False, concurrency=8)
    seqs = range(1, 30_001)
    for seq in seqs:
        rig.deliver(seq, event=eda.Event(aggregate=str(seq * 7919 % 10_000)))
    assert rig.dispatcher.ledger.n_ready() == 10_000
    rig.start()
    while rig.dispatcher.n_held:
        await settle()
    assert sorted(rig.seqs) == list(seqs)
    last: dict[str, int] = {}
    for event in rig.seen:
        assert last.get(event.aggregate, 0) < event.sequence
        last[event.aggregate] = event.sequence
    assert rig.dispatcher.position == 30_000
