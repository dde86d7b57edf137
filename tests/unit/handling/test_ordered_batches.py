"""eda.handling._dispatch with serial lists: one at a time, in order, and what comes again of one that fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

import eda
from eda.handlers import GivenBack
from support.handling.dispatching import Rig, settle

Make = Callable[..., Rig]
HOUR_S = 3600.0
Fail = Callable[[list[eda.Event]], BaseException | None]


class Lists:
    """A handler that keeps what it got and raises what `fail` returns; with `hold` it waits until it is let go."""

    def __init__(self, fail: Fail = lambda events: None, *, hold: bool = False) -> None:
        self.seen: list[list[int]] = []
        self.attempts: list[list[int]] = []
        self.fail = fail
        self.hold = hold
        self.held: asyncio.Future[None] | None = None

    async def __call__(self, events: list[eda.Event]) -> None:
        assert self.held is None
        self.seen.append([event.sequence for event in events])
        self.attempts.append([event.attempt for event in events])
        if self.hold:
            self.held = asyncio.get_running_loop().create_future()
            try:
                await self.held
            finally:
                self.held = None
        if (error := self.fail(events)) is not None:
            raise error

    def release(self) -> None:
        assert self.held is not None
        self.held.set_result(None)


def fails(*seqs: int, attempts: int = 1, error: BaseException | None = None) -> Fail:
    """Return a `fail` by which these events fail in their first attempts, and the others of their lists succeed."""

    def fail(events: list[eda.Event]) -> BaseException | None:
        failed = [event for event in events if event.sequence in seqs and event.attempt <= attempts]
        return eda.PartialFailure({event: error or ValueError(event.sequence) for event in failed}) if failed else None

    return fail


def deliver(rig: Rig, *seqs: int) -> None:
    for seq in seqs:
        rig.deliver(seq, event=eda.Event(id=str(seq), type="t"))


async def retry(rig: Rig) -> None:
    rig.dispatcher.take_due()
    await settle()


@pytest.fixture
def make_lists(make: Make) -> Make:
    return lambda handler, **options: make(handler, ordered=True, serial=True, **options)


async def test_lists_when_events_are_there_come_in_order_one_at_a_time(make_lists: Make) -> None:
    handler = Lists(hold=True)
    rig = make_lists(handler, batch=3)
    deliver(rig, *range(1, 9))
    for number in range(3):
        await settle()
        assert handler.seen == [[1, 2, 3], [4, 5, 6], [7, 8]][: number + 1]
        assert rig.dispatcher.position == 3 * number
        handler.release()
    await settle()
    assert rig.dispatcher.position == 8


async def test_lists_when_one_runs_and_events_come_wait_for_it(make_lists: Make) -> None:
    handler = Lists(hold=True)
    rig = make_lists(handler, batch=2)
    deliver(rig, 1)
    await settle()
    deliver(rig, 2, 3)
    await settle()
    assert handler.seen == [[1]]
    handler.release()
    await settle()
    assert handler.seen == [[1], [2, 3]]


async def test_list_when_it_lingers_is_handled_as_soon_as_it_is_full(make_lists: Make) -> None:
    handler = Lists()
    rig = make_lists(handler, batch=3, linger_s=HOUR_S)
    for seq in range(1, 8):
        deliver(rig, seq)
        await settle()
        assert handler.seen == [[1, 2, 3], [4, 5, 6]][: seq // 3]


async def test_list_when_it_fails_comes_again_before_the_next(make_lists: Make) -> None:
    handler = Lists(lambda events: ValueError() if events[0].attempt < 3 else None)
    rig = make_lists(handler, batch=3)
    deliver(rig, *range(1, 5))
    for _ in range(3):
        await settle()
        deliver(rig, rig.dispatcher.highest + 1)
        await settle()
        await retry(rig)
    assert handler.seen[:3] == [[1, 2, 3]] * 3
    assert handler.attempts[:3] == [[1] * 3, [2] * 3, [3] * 3]
    assert handler.seen[3] == [4, 5, 6]


@pytest.mark.parametrize("linger_s", [0.0, HOUR_S])
async def test_list_when_it_fails_in_part_has_only_those_before_the_next(make_lists: Make, linger_s: float) -> None:
    handler = Lists(fails(2, 4, attempts=2))
    rig = make_lists(handler, batch=5, linger_s=linger_s)
    deliver(rig, *range(1, 11))
    await settle()
    assert handler.seen == [[1, 2, 3, 4, 5]]
    assert (rig.dispatcher.position, rig.dispatcher.outcomes.n_handled) == (1, 3)
    await retry(rig)
    assert handler.seen[1:] == [[2, 4]]
    await retry(rig)
    assert handler.seen[1:] == [[2, 4], [2, 4], [6, 7, 8, 9, 10]]
    assert rig.dispatcher.position == 10


async def test_list_when_its_events_are_due_at_different_times_waits_for_the_last(make_lists: Make) -> None:
    handler = Lists(fails(1, 3))
    rig = make_lists(handler, batch=3)
    delays = iter([10**10, 0])
    rig.on_failure = lambda event, error: next(delays)  # type: ignore[method-assign]
    deliver(rig, 1, 2, 3, 4)
    await settle()
    for _ in range(3):
        assert rig.dispatcher.take_due() is not None
        deliver(rig, rig.dispatcher.highest + 1)
        await settle()
    assert handler.seen == [[1, 2, 3]]
    assert rig.dispatcher.ledger.take_due(2**64 - 1) == 1
    rig.dispatcher.gate.pause()
    rig.dispatcher.gate.resume()
    await settle()
    assert handler.seen == [[1, 2, 3], [1, 3], [4, 5, 6], [7]]


async def test_list_when_an_event_is_rejected_goes_on_when_it_is_stored(make_lists: Make) -> None:
    """The dead letter can't be stored at first. Nothing is handled until it is."""
    handler = Lists(fails(2, error=eda.Reject("never")))
    rig = make_lists(handler, batch=3)
    rig.dead_letter_delay_ns = 10
    deliver(rig, 1, 2, 3, 4)
    for _ in range(3):
        await settle()
        assert handler.seen == [[1, 2, 3]]
        assert rig.dispatcher.position == 1
        rig.dispatcher.take_due()
    rig.dead_letter_delay_ns = -1
    await settle()
    await retry(rig)
    assert handler.seen == [[1, 2, 3], [4]]
    assert {event.sequence for event, _, _ in rig.dead_letters} == {2}
    assert rig.dispatcher.position == 4


async def test_list_when_a_payload_can_not_be_decoded_comes_again_without_it(make_lists: Make) -> None:
    def fail(events: list[eda.Event]) -> BaseException | None:
        bad = [event for event in events if event.sequence == 2]
        return eda.DecodeError("json", "wrong", event_id=bad[0].id) if bad else None

    handler = Lists(fail)
    rig = make_lists(handler, batch=3)
    deliver(rig, 1, 2, 3, 4)
    await settle()
    assert handler.seen == [[1, 2, 3], [1, 3], [4]]
    assert handler.attempts == [[1, 1, 1], [1, 1], [1]]
    assert rig.misfits == [2]


async def test_list_when_nobody_knows_which_payload_is_wrong_comes_again_event_by_event(make_lists: Make) -> None:
    def fail(events: list[eda.Event]) -> BaseException | None:
        return eda.DecodeError("json", "wrong") if any(event.sequence == 2 for event in events) else None

    handler = Lists(fail)
    rig = make_lists(handler, batch=3)
    rig.deliver(1, 2, 3, 4)  # without ids
    await settle()
    assert handler.seen == [[1, 2, 3], [1], [2], [3], [4]]
    assert rig.misfits == [2]


@pytest.mark.parametrize("bad", [1, 3, 4])
async def test_list_when_a_message_is_no_event_ends_before_it(make_lists: Make, bad: int) -> None:
    handler = Lists()
    rig = make_lists(handler, batch=4)
    for seq in range(1, 6):
        rig.deliver(seq, payload=b"\xff" if seq == bad else None)
    await settle()
    assert [seq for each in handler.seen for seq in each] == [seq for seq in range(1, 6) if seq != bad]
    assert all(not each[0] < bad < each[-1] for each in handler.seen)
    assert [seq for seq, _ in rig.undecodable] == [bad]
    assert rig.dispatcher.position == 5


async def test_list_when_events_are_given_back_comes_again_as_the_same_attempt(make_lists: Make) -> None:
    """As a router does it: the events after the one that failed were not handled."""

    def fail(events: list[eda.Event]) -> BaseException | None:
        if events[0].sequence > 2 or events[0].attempt > 1:
            return None
        return eda.PartialFailure({events[1]: ValueError(), events[2]: GivenBack()})

    handler = Lists(fail)
    rig = make_lists(handler, batch=3)
    deliver(rig, 1, 2, 3, 4)
    await settle()
    assert handler.seen == [[1, 2, 3]]
    await retry(rig)
    assert handler.seen == [[1, 2, 3], [2, 3], [4]]
    assert handler.attempts == [[1, 1, 1], [2, 1], [1]]


async def test_list_when_it_takes_too_long_comes_again(make_lists: Make) -> None:
    handler = Lists(hold=True)
    rig = make_lists(handler, batch=2)
    deliver(rig, 1, 2, 3)
    await settle()
    rig.dispatcher.cancel_overdue(0)
    await settle()
    assert [str(error) for _, error in rig.failures] == ["overdue", "overdue"]
    assert handler.held is None
    await retry(rig)
    assert handler.seen == [[1, 2], [1, 2]]


async def test_lists_when_strict_wait_for_the_position_of_the_list_before(make_lists: Make) -> None:
    handler = Lists(fails(5))
    rig = make_lists(handler, batch=3, strict=True)
    rig.dispatcher.lease.extend(2**62)
    rig.confirmation.clear()
    deliver(rig, *range(1, 9))
    for seen, asked in (([1, 2, 3], 3), ([4, 5, 6], 4), ([5], 6), ([7, 8], 8)):
        await settle()
        assert handler.seen[-1] == seen
        assert rig.asked[-1] == rig.dispatcher.position == asked
        await retry(rig)
        assert handler.seen[-1] == seen
        rig.confirmation.set()
        rig.confirmation.clear()
    assert handler.seen == [[1, 2, 3], [4, 5, 6], [5], [7, 8]]
    assert rig.asked == [3, 4, 6, 8]


async def test_lists_when_the_first_was_tried_before_have_one_event_at_first(make_lists: Make) -> None:
    handler = Lists()
    rig = make_lists(handler, batch=3, limit=4)
    rig.dispatcher.lease.extend(2**62)
    rig.dispatcher.begin_at(0, 1)
    rig.read_anew()
    deliver(rig, *range(1, 10))
    await settle()
    assert handler.seen == [[1], [2], [3], [4], [5, 6, 7], [8, 9]]
    assert handler.attempts[0] == [2]
    assert rig.asked == [1, 2, 3, 4]


async def test_lists_when_the_lease_is_lost_begin_again_where_the_next_one_does(make_lists: Make) -> None:
    """The handler ignores its cancellation. Nothing else begins before it has ended, though the ledger was dropped."""
    handler = Lists(hold=True)
    rig = make_lists(handler, batch=3)
    deliver(rig, *range(1, 6))
    await settle()
    first = handler.held
    assert first is not None
    rig.dispatcher.begin_at(1)
    rig.read_anew()
    deliver(rig, *range(2, 6))
    await settle()
    assert handler.seen == [[1, 2, 3]]
    first.set_result(None)
    await settle()
    assert handler.seen == [[1, 2, 3], [2, 3, 4]]
    assert rig.dispatcher.position == 1
    handler.release()
    await settle()
    assert rig.dispatcher.position == 4


async def test_lists_when_fenced_begin_again_in_order(make_lists: Make) -> None:
    handler = Lists(hold=True)
    rig = make_lists(handler, batch=3)
    deliver(rig, *range(1, 6))
    await settle()
    rig.dispatcher.fence()
    await settle()
    assert (handler.held, rig.dispatcher.n_running, rig.dispatcher.position) == (None, 0, 0)
    rig.dispatcher.lease.extend(2**62)
    await settle()
    assert handler.seen == [[1, 2, 3], [1, 2, 3]]
    assert handler.attempts[1] == [1, 1, 1]


async def test_lists_when_paused_begin_no_other(make_lists: Make) -> None:
    handler = Lists(hold=True)
    rig = make_lists(handler, batch=2)
    deliver(rig, 1, 2, 3)
    await settle()
    rig.dispatcher.gate.pause()
    handler.release()
    await settle()
    assert handler.seen == [[1, 2]]
    rig.dispatcher.gate.resume()
    await settle()
    assert handler.seen == [[1, 2], [3]]


async def test_circuit_when_lists_fail_is_open_and_then_tries_one_event(make_lists: Make) -> None:
    """The second event of each list is given back: if no event succeeds, the list counts as a failure."""
    is_down = True

    def fail(events: list[eda.Event]) -> BaseException | None:
        return eda.PartialFailure(dict(zip(events, [OSError(), GivenBack()], strict=False))) if is_down else None

    handler = Lists(fail)
    rig = make_lists(handler, batch=2, circuit=3)
    rig.on_failure = lambda event, error: -1  # type: ignore[method-assign]
    deliver(rig, *range(1, 9))
    await settle()
    assert handler.seen == [[1, 2], [2], [3, 4]]
    assert rig.openings == [1]
    is_down = False
    rig.dispatcher.gate.try_one()
    await settle()
    assert handler.seen[3:] == [[4], [5, 6], [7, 8]]
    assert rig.openings == [1, 0]


async def test_stop_when_a_list_runs_lets_it_end_and_begins_no_other(make_lists: Make) -> None:
    handler = Lists(hold=True)
    rig = make_lists(handler, batch=2)
    deliver(rig, 1, 2, 3)
    await settle()
    rig.dispatcher.stop()
    handler.release()
    await settle()
    assert handler.seen == [[1, 2]]
    assert rig.dispatcher.position == 2
    assert all(task.done() for task in rig.tasks)


@pytest.mark.parametrize("linger_s", [0.0, 0.001])
async def test_lists_when_many_fail_in_part_keep_the_order(make_lists: Make, linger_s: float) -> None:
    chance = random.Random(5)
    undone: set[int] = set()  # of the list before
    done: list[int] = []

    def fail(events: list[eda.Event]) -> BaseException | None:
        seqs = [event.sequence for event in events]
        assert seqs == sorted(undone) or (not undone and seqs == list(range(len(done) + 1, len(done) + 1 + len(seqs))))
        undone.clear()
        failed = [event for event in events if chance.random() < 0.3]
        undone.update(event.sequence for event in failed)
        done.extend(event.sequence for event in events if event not in failed)
        return eda.PartialFailure({event: ValueError() for event in failed}) if failed else None

    handler = Lists(fail)
    rig = make_lists(handler, limit=1000, batch=4, linger_s=linger_s)
    rig.on_failure = lambda event, error: chance.randrange(1000)  # type: ignore[method-assign]
    for first in range(1, 201, 10):
        deliver(rig, *range(first, first + 10))
        await asyncio.sleep(0)
    while rig.dispatcher.n_held:
        rig.dispatcher.take_due()
        await asyncio.sleep(0.0005)
    assert sorted(done) == list(range(1, 201))
    assert rig.dispatcher.position == 200
