"""Shared subscriptions of packs: each event has its own outcome, and the message is answered when all have theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda.errors import DecodeError
from eda.handlers import GivenBack
from eda.handling.verdicts import Exhausted, Undecodable
from helpers import until
from support.handling.dispatching import Rig, delivery, settle
from support.packs import envelopes_of, pack_of
from support.reference import bytes_field

Make = Callable[..., Rig]
Place = tuple[int, int]


def events(n: int, kind: str = "t") -> list[eda.Event]:
    return [eda.Event(type=kind, id=f"e{number}") for number in range(n)]


def places(rig: Rig) -> list[Place]:
    return [(event.sequence, event.index) for event in rig.seen]


def ack(seq: int, attempt: int = 1) -> tuple[bytes, bytes]:
    return delivery(seq, attempt)[1], b""


def nak(seq: int, attempt: int = 1) -> tuple[bytes, bytes]:
    return delivery(seq, attempt)[1], b"-NAK"


def held(rig: Rig) -> tuple[int, int, int]:
    """Return how many events, bytes and packs are held."""
    ledger: Any = rig.dispatcher.ledger
    return ledger.n_held, ledger.n_bytes, ledger.packs.n_held


class Scripted:
    """A handler that keeps what it got, and fails for the places in `fails` as often as they say."""

    def __init__(self, fails: dict[Place, int] | None = None, error: type[BaseException] = ValueError) -> None:
        self.fails = dict(fails or {})
        self.error = error
        self.calls: list[tuple[int, int, int]] = []

    async def __call__(self, event: eda.Event) -> None:
        place = (event.sequence, event.index)
        self.calls.append((*place, event.attempt))
        if self.fails.get(place, 0):
            self.fails[place] -= 1
            raise self.error(str(place))


# --- handled ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_pack_when_all_its_events_are_handled_is_acknowledged_once(
    make: Make, concurrency: int, batch: int | None
) -> None:
    seen: list[Any] = []
    rig = make(lambda given: seen.extend(given) if batch else seen.append(given), concurrency=concurrency, batch=batch)
    payload = pack_of(events(5))
    rig.deliver(7, payload=payload)
    assert held(rig) == (5, len(payload) + len(b"orders.t._"), 1)
    rig.deliver(8)
    await settle()
    assert [(event.sequence, event.index, event.attempt) for event in seen] == [
        *((7, index, 1) for index in range(5)),
        (8, 0, 1),
    ]
    assert rig.flush() == [ack(7), ack(8)]
    assert rig.dispatcher.outcomes.n_handled == 6
    assert rig.dispatcher.outcomes.last_acknowledged() == ack(8)[0]
    assert held(rig) == (0, 0, 0)


async def test_pack_when_one_event_is_left_is_not_acknowledged(make: Make) -> None:
    rig = make(hold=True, concurrency=2)
    rig.deliver(7, payload=pack_of(events(2)))
    await settle()
    rig.release((7, 1))
    await settle()
    assert rig.flush() == []
    assert rig.dispatcher.outcomes.last_acknowledged() is None
    assert 0 < rig.dispatcher.pack_held_s() < 100
    rig.release(7)
    await settle()
    assert rig.flush() == [ack(7)]
    assert rig.dispatcher.pack_held_s() == 0.0


async def test_pack_when_it_comes_again_while_held_is_not_handled_twice(make: Make) -> None:
    handler = Scripted({(7, 1): 1})
    rig = make(handler)
    payload = pack_of(events(3))
    rig.deliver(7, payload=payload)
    await settle()
    rig.deliver(7, payload=payload, attempt=2)
    await settle()
    assert handler.calls == [(7, 0, 1), (7, 1, 1), (7, 2, 1)]
    assert rig.flush() == []
    rig.dispatcher.take_due()
    await until(lambda: len(handler.calls) == 4)
    await settle()
    assert handler.calls[-1] == (7, 1, 2)
    assert rig.flush() == [ack(7, 2)], "the latest delivery is acknowledged"
    assert rig.dispatcher.outcomes.last_acknowledged() == ack(7, 2)[0]
    # The acknowledgement is lost, and the lease expires: all of it comes again.
    rig.deliver(7, payload=payload, attempt=3)
    await settle()
    assert handler.calls[4:] == [(7, 0, 1), (7, 1, 1), (7, 2, 1)]
    assert rig.flush() == [ack(7, 3)]


async def test_leases_when_they_are_old_are_extended_once_for_each_message(make: Make) -> None:
    rig = make(hold=True, start=False)
    rig.deliver(7, payload=pack_of(events(50)))
    rig.deliver(8)
    assert rig.dispatcher.tick(0.0) == 2
    assert sorted(rig.flush()) == [(delivery(seq)[1], b"+WPI") for seq in (7, 8)]
    assert rig.dispatcher.tick(100.0) == 0
    rig.deliver(7, payload=pack_of(events(50)), attempt=2)
    assert rig.dispatcher.tick(0.0) == 2
    assert (delivery(7, 2)[1], b"+WPI") in rig.flush()


async def test_pack_when_filtered_has_only_the_events_of_the_filter(make: Make) -> None:
    rig = make(types=["t"])
    rig.deliver(7, payload=pack_of([*events(2, "other"), *events(1), *events(1, "other")]))
    rig.deliver(8, payload=pack_of(events(3, "other")))
    await settle()
    assert places(rig) == [(7, 2)]
    assert rig.flush() == [ack(8), ack(7)]
    assert rig.dispatcher.intake.n_passed_over == 6
    assert held(rig) == (0, 0, 0)


async def test_pack_when_replayed_for_another_subscription_is_acknowledged(make: Make) -> None:
    rig = make()
    headers = b"NATS/1.0\r\nEda-Pack: 3\r\nEda-Replay-For: else\r\n\r\n"
    rig.deliver(7, payload=pack_of(events(3)), headers=headers)
    await settle()
    assert rig.seen == []
    assert rig.flush() == [ack(7)]


# --- failed ----------------------------------------------------------------------------------------------------------


async def test_event_of_a_pack_when_it_fails_is_retried_here_and_alone(make: Make) -> None:
    handler = Scripted({(7, 1): 2})
    rig = make(handler)
    rig.deliver(7, payload=pack_of(events(3)))
    for _ in range(3):
        await settle()
        rig.dispatcher.take_due()
    await settle()
    assert handler.calls == [(7, 0, 1), (7, 1, 1), (7, 2, 1), (7, 1, 2), (7, 1, 3)]
    assert rig.flush() == [ack(7)]
    assert rig.dispatcher.outcomes.n_failed == 2
    assert rig.records == []


async def test_event_of_a_pack_when_rejected_is_a_dead_letter_alone(make: Make) -> None:
    handler = Scripted({(7, 1): 1}, eda.Reject)
    rig = make(handler)
    rig.deliver(7, payload=pack_of(events(3)))
    await settle()
    ((event, payload, error),) = rig.dead_letters
    assert (event.sequence, event.index) == (7, 1)
    assert payload == envelopes_of(events(3))[1]
    assert isinstance(error, eda.Reject)
    assert rig.flush() == [ack(7)]
    assert (rig.dispatcher.outcomes.n_handled, rig.dispatcher.outcomes.n_dead) == (2, 1)


async def test_pack_when_a_dead_letter_is_not_stored_yet_waits_for_it(make: Make) -> None:
    handler = Scripted({(7, 1): 1}, eda.Reject)
    rig = make(handler)
    rig.dead_letter_delay_ns = 10
    rig.deliver(7, payload=pack_of(events(3)))
    await settle()
    assert rig.flush() == []
    rig.dead_letter_delay_ns = -1
    rig.dispatcher.take_due()
    await settle()
    assert len(rig.dead_letters) == 2
    assert len(handler.calls) == 3
    assert rig.flush() == [ack(7)]


async def test_event_of_a_pack_when_its_envelope_is_bad_is_a_dead_letter_alone(make: Make) -> None:
    rig = make()
    good = envelopes_of(events(2))
    payload = b"".join(bytes_field(15, envelope) for envelope in (good[0], b"\xff", good[1]))
    rig.deliver(7, payload=payload)
    await settle()
    assert places(rig) == [(7, 0), (7, 2)]
    ((event, letter, error),) = rig.dead_letters
    assert (event.index, letter) == (1, b"\xff")
    assert isinstance(error, Undecodable)
    assert isinstance(error.__cause__, DecodeError)
    assert rig.flush() == [ack(7)]
    assert rig.dispatcher.intake.n_undecodable == 1


async def test_pack_when_it_can_not_be_read_is_one_dead_letter(make: Make) -> None:
    rig = make()
    payload = pack_of(events(3))[:-1]
    rig.deliver(7, payload=payload)
    await settle()
    assert rig.seen == []
    ((_, letter, _),) = rig.dead_letters
    assert letter == payload
    assert rig.flush() == [(delivery(7)[1], b"+TERM undecodable")]


async def test_batch_when_it_spans_packs_and_fails_in_part_has_these_events_again(make: Make) -> None:
    calls: list[list[tuple[int, int, int]]] = []

    def handle(given: list[eda.Event]) -> None:
        calls.append([(event.sequence, event.index, event.attempt) for event in given])
        failed = [event for event in given if event.attempt == 1 and event.index == 1]
        if failed:
            raise eda.PartialFailure({event: ValueError() for event in failed})

    rig = make(handle, batch=6)
    for seq in (7, 8):
        rig.deliver(seq, payload=pack_of([eda.Event(type="t", id=f"{seq}.{n}") for n in range(2)]))
    rig.deliver(9)
    await settle()
    assert calls == [[(7, 0, 1), (7, 1, 1), (8, 0, 1), (8, 1, 1), (9, 0, 1)]]
    assert rig.flush() == [ack(9)]
    rig.dispatcher.take_due()
    await settle()
    assert calls[1:] == [[(7, 1, 2), (8, 1, 2)]]
    assert rig.flush() == [ack(7), ack(8)]


async def test_batch_when_a_payload_in_it_does_not_fit_has_the_others_again_as_the_same_attempt(make: Make) -> None:
    calls: list[list[tuple[int, int, int]]] = []

    def handle(given: list[eda.Event]) -> None:
        calls.append([(event.sequence, event.index, event.attempt) for event in given])
        for event in given:
            if event.id == "e1":
                raise eda.DecodeError("json", "no", event_id=event.id)

    rig = make(handle, batch=6)
    rig.deliver(7, payload=pack_of(events(3)))
    await settle()
    assert calls == [[(7, 0, 1), (7, 1, 1), (7, 2, 1)], [(7, 0, 1), (7, 2, 1)]]
    assert rig.misfits == [7]
    assert rig.flush() == [ack(7)], "it is not terminated, because its other events were handled"


async def test_circuit_when_events_of_one_pack_fail_in_a_row_opens(make: Make) -> None:
    handler = Scripted({(7, index): 1 for index in range(9)})
    rig = make(handler, circuit=3)
    rig.deliver(7, payload=pack_of(events(9)))
    await settle()
    assert rig.openings == [1]
    assert len(handler.calls) == 3
    rig.dispatcher.gate.try_one()
    await settle()
    assert rig.openings == [1, 2]
    assert len(handler.calls) == 4
    handler.fails.clear()
    rig.dispatcher.gate.try_one()
    await settle()
    assert rig.openings == [1, 2, 0]
    rig.dispatcher.take_due()
    await until(lambda: rig.dispatcher.n_held == 0)
    assert rig.flush() == [ack(7)]


# --- cancelled and given back ----------------------------------------------------------------------------------------


async def test_waiting_packs_when_given_back_are_given_back_whole_unless_begun(make: Make) -> None:
    rig = make(hold=True)
    for seq in (9, 7, 8):
        rig.deliver(seq, payload=pack_of(events(3)))
    rig.deliver(3)
    await settle()
    assert places(rig) == [(9, 0)]
    assert rig.dispatcher.outcomes.give_back_waiting() == 7
    assert rig.flush() == [nak(3), nak(7), nak(8)]
    assert held(rig)[0] == 3
    rig.deliver(8, payload=pack_of(events(3)), attempt=2)
    for n in range(6):
        event = rig.seen[-1]
        rig.release((event.sequence, event.index) if event.index else event.sequence)
        await until(lambda n=n: len(rig.seen) == min(n + 2, 6))  # type: ignore[misc]
    await settle()
    assert places(rig) == [(9, 0), (9, 1), (9, 2), (8, 0), (8, 1), (8, 2)]
    assert rig.flush() == [ack(9), ack(8, 2)]


async def test_pack_when_one_event_waits_for_its_retry_is_not_given_back(make: Make) -> None:
    handler = Scripted({(7, 0): 1})
    rig = make(handler)
    rig.deliver(7, payload=pack_of(events(1)))
    await settle()
    assert rig.dispatcher.outcomes.give_back_waiting() == 0
    rig.dispatcher.take_due()
    await settle()
    assert handler.calls == [(7, 0, 1), (7, 0, 2)]
    assert rig.flush() == [ack(7)]


async def test_event_of_a_pack_when_its_worker_is_cancelled_stays_here(make: Make) -> None:
    rig = make(hold=True, concurrency=2)
    rig.deliver(7, payload=pack_of(events(3)))
    await settle()
    rig.tasks[0].cancel()
    await settle()
    assert rig.tasks[0].cancelled()
    assert rig.flush() == []
    assert rig.dispatcher.n_held == 3
    assert rig.dispatcher.n_waiting == 2


async def test_event_of_a_pack_when_its_handler_gives_it_back_is_handled_again(make: Make) -> None:
    handler = Scripted({(7, 1): 1}, GivenBack)
    rig = make(handler)
    rig.deliver(7, payload=pack_of(events(3)))
    await settle()
    assert handler.calls == [(7, 0, 1), (7, 1, 1), (7, 1, 1), (7, 2, 1)]
    assert rig.flush() == [ack(7)]


# --- closing ---------------------------------------------------------------------------------------------------------


async def test_close_when_a_pack_is_partly_done_finishes_it_and_retries_its_events(make: Make) -> None:
    handler = Scripted({(7, 1): 1})
    go = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        if event.index == 2:
            await go.wait()
        await handler(event)

    rig = make(handle)
    for seq in (7, 8):
        rig.deliver(seq, payload=pack_of(events(5)))
    await settle()
    assert handler.calls == [(7, 0, 1), (7, 1, 1)]
    rig.dispatcher.stop()
    go.set()
    await settle()
    assert len(handler.calls) == 3, "no handler starts before it is known which packs are given back"
    assert rig.dispatcher.outcomes.give_back_waiting() == 5
    assert rig.flush() == [nak(8)]
    rig.dispatcher.finish_packs(10.0)
    await settle()
    assert handler.calls[3:] == [(7, 3, 1), (7, 4, 1)]
    assert not rig.tasks[0].done()
    rig.dispatcher.take_due()
    await settle()
    assert handler.calls[5:] == [(7, 1, 2)]
    assert rig.flush() == [ack(7)]
    assert rig.tasks[0].done()
    assert rig.dispatcher.end_packs() == 0


async def test_close_when_several_workers_finish_packs_ends_them_all(make: Make) -> None:
    rig = make(hold=True, concurrency=3)
    rig.deliver(7, payload=pack_of(events(5)))
    await settle()
    rig.dispatcher.stop()
    rig.dispatcher.outcomes.give_back_waiting()
    rig.dispatcher.finish_packs(10.0)
    rig.release(7, (7, 1), (7, 2))
    await settle()
    assert [task.done() for task in rig.tasks].count(True) == 1, "two events are left"
    rig.release((7, 3), (7, 4))
    await settle()
    assert all(task.done() for task in rig.tasks)
    assert rig.flush() == [ack(7)]


async def test_close_when_a_pack_can_not_be_finished_gives_it_back_whole(make: Make) -> None:
    handler = Scripted({(7, 1): 9})
    rig = make(handler)
    rig.deliver(7, payload=pack_of(events(3)))
    await settle()
    rig.dispatcher.stop()
    rig.dispatcher.outcomes.give_back_waiting()
    rig.dispatcher.finish_packs(10.0)
    await settle()
    assert not rig.tasks[0].done()
    assert rig.flush() == []
    assert rig.dispatcher.end_packs() == 1
    await settle()
    assert rig.tasks[0].done()
    assert rig.flush() == [nak(7)]
    assert held(rig) == (0, 0, 0)
    assert rig.dispatcher.take_due() is None


async def test_close_when_the_next_retry_is_later_than_it_may_take_does_not_wait_for_it(make: Make) -> None:
    rig = make(Scripted({(7, 1): 9}))
    rig.on_failures = lambda events, errors: [10**12] * len(events)  # type: ignore[method-assign, assignment]
    rig.deliver(7, payload=pack_of(events(3)))
    await settle()
    rig.dispatcher.stop()
    rig.dispatcher.outcomes.give_back_waiting()
    rig.dispatcher.finish_packs(10.0)
    await settle()
    assert rig.tasks[0].done()
    assert rig.dispatcher.end_packs() == 1
    assert rig.flush() == [nak(7)]


@pytest.mark.parametrize("why", ["paused", "circuit", "no time"])
async def test_close_when_no_handler_may_start_gives_packs_back_at_once(make: Make, why: str) -> None:
    handler = Scripted({(7, index): 9 for index in range(9)})
    rig = make(handler, circuit=2)
    rig.deliver(7, payload=pack_of(events(9 if why == "circuit" else 1)))
    await settle()
    if why == "paused":
        rig.dispatcher.gate.pause()
    rig.dispatcher.stop()
    rig.dispatcher.outcomes.give_back_waiting()
    rig.dispatcher.finish_packs(0.0 if why == "no time" else 10.0)
    await settle()
    assert rig.tasks[0].done()
    assert rig.dispatcher.end_packs() == 1
    assert rig.flush() == [nak(7)]


async def test_close_when_a_handler_is_late_gives_the_pack_back_when_it_has_ended(make: Make) -> None:
    rig = make(hold=True)
    rig.deliver(7, payload=pack_of(events(3)))
    await settle()
    rig.dispatcher.stop()
    rig.dispatcher.outcomes.give_back_waiting()
    rig.dispatcher.finish_packs(10.0)
    assert rig.dispatcher.end_packs() == 1
    assert rig.flush() == []
    rig.tasks[0].cancel()
    await settle()
    assert rig.flush() == [nak(7)]
    assert held(rig) == (0, 0, 0)


async def test_close_when_an_event_is_given_back_gives_back_its_pack(make: Make) -> None:
    """As an iterator does with what it is offered while it closes."""
    handler = Scripted({(7, 2): 9}, GivenBack)
    go = asyncio.Event()

    async def stop_at_second(event: eda.Event) -> None:
        if event.index == 1:
            rig.dispatcher.stop()
            go.set()
        await handler(event)

    rig = make(stop_at_second)
    rig.deliver(7, payload=pack_of(events(4)))
    await go.wait()
    await settle()
    rig.dispatcher.outcomes.give_back_waiting()
    rig.dispatcher.finish_packs(10.0)
    await settle()
    assert handler.calls[-1] == (7, 2, 1)
    assert rig.tasks[0].done()
    assert rig.flush() == [nak(7)]
    assert held(rig) == (0, 0, 0)


# --- suspects --------------------------------------------------------------------------------------------------------


async def test_pack_when_delivered_again_has_each_event_on_record_and_alone(make: Make) -> None:
    most = 0

    async def handle(event: eda.Event) -> None:
        nonlocal most
        most = max(most, rig.dispatcher.n_running)
        await asyncio.sleep(0)

    rig = make(handle, concurrency=3, max_attempts=3)
    rig.deliver(7, payload=pack_of(events(3)), attempt=2)
    await until(lambda: rig.dispatcher.n_held == 0)
    await settle()
    assert most == 1
    assert [each for each in rig.records if each[0] != "end all"] == [("begin", 7), ("end", 7)] * 3
    assert rig.records.count(("end all", 7)) == 1
    assert rig.flush() == [ack(7, 2)]


async def test_pack_when_delivered_again_without_a_limit_is_handled_as_ever(make: Make) -> None:
    rig = make(concurrency=3)
    rig.deliver(7, payload=pack_of(events(3)), attempt=9)
    await settle()
    assert places(rig) == [(7, 0), (7, 1), (7, 2)]
    assert {event.attempt for event in rig.seen} == {1}
    assert rig.records == []


async def test_event_of_a_pack_when_begun_before_continues_to_count(make: Make) -> None:
    handler = Scripted({(7, 1): 1})
    rig = make(handler, max_attempts=4)
    seen: list[tuple[int, int, bool]] = []

    async def begin(event: eda.Event, suspect: Any) -> int:
        seen.append((event.index, suspect.delivery, suspect.is_alone))
        suspect.n_begun = 2 if event.index == 1 and len(seen) < 3 else 0
        return 0

    rig.try_on_record = begin  # type: ignore[method-assign]
    rig.deliver(7, payload=pack_of(events(3)), attempt=2)
    await settle()
    rig.dispatcher.take_due()
    await settle()
    assert handler.calls == [(7, 0, 1), (7, 1, 3), (7, 2, 1), (7, 1, 4)]
    assert rig.records == [("end", 7), ("end", 7), ("end all", 7), ("end", 7)], "the record of a failed event stays"
    assert seen == [(0, 2, True), (1, 2, True), (2, 2, True), (1, 2, True)]
    assert rig.flush() == [ack(7, 2)]


async def test_event_of_a_pack_when_given_up_by_its_record_is_a_dead_letter_alone(make: Make) -> None:
    rig = make(max_attempts=2)

    async def begin(event: eda.Event, suspect: Any) -> int:
        return -1 if event.index == 1 else 0

    rig.try_on_record = begin  # type: ignore[method-assign]
    rig.deliver(7, payload=pack_of(events(3)), attempt=3)
    await settle()
    ((event, _, error),) = rig.dead_letters
    assert event.index == 1
    assert isinstance(error, Exhausted)
    assert places(rig) == [(7, 0), (7, 2)]
    assert rig.flush() == [ack(7, 3)]


async def test_event_of_a_pack_when_it_fails_has_its_later_attempts_on_record(make: Make) -> None:
    handler = Scripted({(7, 1): 1})
    rig = make(handler, max_attempts=3, concurrency=2)
    seen: list[tuple[int, bool, int]] = []

    async def begin(event: eda.Event, suspect: Any) -> int:
        seen.append((suspect.delivery, suspect.is_alone, event.attempt))
        return 0

    rig.try_on_record = begin  # type: ignore[method-assign]
    rig.deliver(7, payload=pack_of(events(3)))
    await settle()
    assert seen == []
    rig.dispatcher.take_due()
    await settle()
    assert seen == [(1, False, 2)]
    assert handler.calls[-1] == (7, 1, 2)
    assert rig.records == [("end all", 7), ("end", 7)]
    assert rig.flush() == [ack(7)]


async def test_close_when_no_record_can_be_kept_waits_for_it_and_then_gives_the_pack_back(make: Make) -> None:
    rig = make(max_attempts=3)
    rig.record_answer = 10**6
    rig.deliver(7, payload=pack_of(events(2)), attempt=2)
    await settle()
    assert rig.seen == []
    rig.dispatcher.stop()
    rig.dispatcher.outcomes.give_back_waiting()
    rig.dispatcher.finish_packs(10.0)
    await settle()
    assert rig.dispatcher.end_packs() == 1
    await settle()
    assert rig.tasks[0].done()
    assert rig.flush() == [nak(7, 2)]


async def test_circuit_when_the_record_of_the_tried_event_has_to_wait_tries_another(make: Make) -> None:
    handler = Scripted({(7, 0): 1})
    rig = make(handler, max_attempts=5, circuit=1)
    rig.record_answer = 10**12  # nanoseconds until it may be put on record
    rig.deliver(7, payload=pack_of(events(2)))
    await until(lambda: rig.retries == [250 / 1e9])
    await settle()
    assert rig.openings == [1]
    rig.dispatcher.take_due()
    rig.dispatcher.gate.try_one()
    await settle()
    assert rig.retries[1:] == [1000.0], "the failed event comes first"
    assert rig.openings == [1, 0]
    assert handler.calls == [(7, 0, 1), (7, 1, 1)]


async def test_failed_once_names_the_events_whose_failure_is_not_on_record(make: Make) -> None:
    handler = Scripted({(7, 1): 2, (7, 2): 1, (8, 0): 1})
    rig = make(handler, max_attempts=5)
    rig.deliver(7, payload=pack_of(events(4)))
    rig.deliver(8)
    await until(lambda: len(handler.calls) == 5)
    await settle()
    (first, suspect), (second, _) = rig.dispatcher.outcomes.failed_once()
    assert [(event.sequence, event.index, event.attempt) for event in (first, second)] == [(7, 1, 1), (7, 2, 1)]
    assert (suspect.delivery, suspect.is_alone) == (1, False)
    rig.dispatcher.take_due()
    await settle()
    assert handler.calls[5:] == [(7, 1, 2), (7, 2, 2)]
    assert rig.dispatcher.n_held == 1
    assert rig.dispatcher.outcomes.failed_once() == [], "a later attempt is put on record when it begins"


async def test_failed_once_when_attempts_are_not_limited_is_empty(make: Make) -> None:
    rig = make(Scripted({(7, 1): 1}))
    rig.deliver(7, payload=pack_of(events(2)))
    await until(lambda: rig.dispatcher.n_waiting == 1)
    assert rig.dispatcher.outcomes.failed_once() == []


async def test_pack_when_given_back_has_its_records_forgotten_and_not_removed(make: Make) -> None:
    rig = make(Scripted({(7, 1): 9}), max_attempts=5)
    rig.deliver(7, payload=pack_of(events(2)), attempt=2)
    await until(lambda: rig.dispatcher.n_running == 0 and rig.dispatcher.n_held == 1)
    rig.dispatcher.stop()
    assert rig.dispatcher.end_packs() == 1
    assert rig.flush() == [nak(7, 2)]
    assert rig.records[-1] == ("forget all", 7)
    assert ("end all", 7) not in rig.records


# --- when other members may want a pack ------------------------------------------------------------------------------


@pytest.fixture
async def asking(make: Make) -> Rig:
    """A member whose filter leaves out events, and who asks before it acknowledges what it leaves out."""
    rig = make(types=["t"])
    rig.dispatcher.intake.ask_for_unwanted()
    rig.unwanted = []  # type: ignore[attr-defined]
    rig.on_unwanted = lambda seq, reply: rig.unwanted.append((seq, reply))  # type: ignore[attr-defined]
    rig.deliver(7, payload=pack_of([*events(1, "other"), *events(2)]))
    await settle()
    assert places(rig) == [(7, 1), (7, 2)]
    assert rig.unwanted == [(7, b"")]  # type: ignore[attr-defined]
    assert rig.flush() == []
    return rig


async def test_mixed_pack_when_all_its_events_are_done_keeps_its_lease(asking: Rig) -> None:
    assert asking.dispatcher.n_held == 0
    assert asking.dispatcher.tick(0.0) == 1
    assert asking.flush() == [(delivery(7)[1], b"+WPI")]
    asking.dispatcher.intake.pass_over(7, b"")
    assert asking.flush() == [ack(7)]
    assert asking.dispatcher.tick(0.0) == 0


async def test_mixed_pack_when_nobody_wants_the_rest_is_acknowledged(asking: Rig) -> None:
    asking.dispatcher.intake.pass_over(7, b"")
    assert asking.flush() == [ack(7)]
    asking.dispatcher.intake.pass_over(7, b"")
    asking.dispatcher.intake.give_back(7, b"")
    assert asking.flush() == [], "it is not held any more"


async def test_mixed_pack_when_others_want_the_rest_is_given_back(asking: Rig) -> None:
    asking.dispatcher.intake.give_back(7, b"")
    assert asking.flush() == [nak(7)]
    assert held(asking) == (0, 0, 0)


async def test_mixed_pack_when_answered_twice_is_not_acknowledged_too_early(asking: Rig) -> None:
    assert asking.dispatcher.outcomes.give_back_waiting() == 0
    assert asking.dispatcher.outcomes.give_back_rest() == 1
    assert asking.flush() == [nak(7)]
    asking.dispatcher.gate.pause()
    asking.deliver(7, payload=pack_of([*events(1, "other"), *events(2)]), attempt=2)
    asking.dispatcher.intake.pass_over(7, b"")
    asking.dispatcher.intake.pass_over(7, b"")
    assert asking.flush() == []
    assert held(asking)[0] == 2
    asking.dispatcher.gate.resume()
    await settle()
    assert asking.flush() == [ack(7, 2)]


async def test_pack_when_all_of_it_is_unwanted_is_asked_for_as_any_message(make: Make) -> None:
    rig = make(types=["t"])
    rig.dispatcher.intake.ask_for_unwanted()
    unwanted: list[tuple[int, bytes]] = []
    rig.on_unwanted = lambda seq, reply: unwanted.append((seq, reply))  # type: ignore[attr-defined]
    rig.deliver(7, payload=pack_of(events(3, "other")))
    assert unwanted == [(7, delivery(7)[1])]
    assert held(rig) == (0, 0, 0)
    rig.dispatcher.intake.pass_over(*unwanted[0])
    assert rig.flush() == [ack(7)]
