"""eda.handling._dispatch with handlers of batches: when one is full, how long one lingers, what fails of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import eda
from helpers import until
from support.handling.dispatching import Rig, delivery, settle

Make = Callable[..., Rig]
HOUR_S = 3600.0


class Batches:
    """A handler that keeps what it got, and with `hold` waits until it is let go."""

    def __init__(self, *, hold: bool = False) -> None:
        self.seen: list[list[int]] = []
        self.errors: list[BaseException] = []
        self.running: list[asyncio.Future[None]] = []
        self.hold = hold

    @property
    def flat(self) -> list[int]:
        return [seq for batch in self.seen for seq in batch]

    async def __call__(self, events: list[eda.Event]) -> None:
        assert type(events) is list
        self.seen.append([event.sequence for event in events])
        if self.errors:
            raise self.errors.pop(0)
        if self.hold:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.running.append(future)
            await future


# --- full ones, and how long one lingers -----------------------------------------------------------------------------


async def test_batches_when_events_are_there_are_full_but_the_last(make: Make) -> None:
    handler = Batches()
    rig = make(handler, batch=10)
    rig.deliver(*range(1, 26))
    await settle()
    assert handler.seen == [[*range(1, 11)], [*range(11, 21)], [*range(21, 26)]]
    assert rig.flush() == [(delivery(seq)[1], b"") for seq in range(1, 26)]
    assert (rig.dispatcher.outcomes.n_handled, rig.dispatcher.outcomes.last_seq) == (25, 25)


async def test_batch_when_it_lingers_is_handled_as_soon_as_it_is_full(make: Make) -> None:
    handler = Batches()
    rig = make(handler, batch=4, linger_s=HOUR_S)
    for seq in range(1, 11):
        rig.deliver(seq)
        await settle()
        assert handler.seen == [[1, 2, 3, 4], [5, 6, 7, 8]][: seq // 4]
    assert rig.dispatcher.n_waiting == 2


async def test_batch_when_it_does_not_become_full_is_handled_after_its_time(make: Make) -> None:
    handler = Batches()
    rig = make(handler, batch=10, linger_s=0.05)
    await settle()
    began = time.monotonic()
    rig.deliver(1, 2)
    await settle()
    rig.deliver(3)
    await until(lambda: handler.seen)
    assert handler.seen == [[1, 2, 3]]
    assert 0.045 < time.monotonic() - began < 5
    rig.deliver(4)
    await until(lambda: len(handler.seen) == 2)
    assert handler.seen[1] == [4]


async def test_batch_when_nothing_more_may_come_does_not_linger(make: Make) -> None:
    handler = Batches()
    rig = make(handler, batch=10, linger_s=HOUR_S, limit=3)
    rig.deliver(1, 2)
    await settle()
    assert handler.seen == []
    rig.deliver(3)
    await settle()
    assert handler.seen == [[1, 2, 3]]


@pytest.mark.parametrize("linger_s", [0.0, 0.01])
async def test_workers_when_there_are_several_share_the_batches(make: Make, linger_s: float) -> None:
    handler = Batches(hold=True)
    rig = make(handler, batch=3, linger_s=linger_s, concurrency=3)
    await settle()
    for seq in range(1, 12):
        rig.deliver(seq)
    await until(lambda: len(handler.running) == 3)
    assert handler.seen == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [len(events) for events in rig.dispatcher.running_now()] == [3, 3, 3]
    handler.running[1].set_result(None)
    await until(lambda: len(handler.seen) == 4)
    assert handler.seen[3] == [10, 11]
    for future in handler.running:
        if not future.done():
            future.set_result(None)
    await until(lambda: rig.dispatcher.n_held == 0)
    assert rig.dispatcher.outcomes.n_handled == 11


async def test_workers_when_one_lingers_and_a_full_batch_comes_to_another_leave_none_behind(make: Make) -> None:
    handler = Batches()
    rig = make(handler, batch=2, linger_s=0.02, concurrency=4, limit=1000)
    seq = 0
    for n in (1, 1, 3, 2, 1, 5, 1, 7, 1):
        rig.deliver(*range(seq + 1, seq + n + 1))
        seq += n
        await asyncio.sleep(0.004 * (n % 3))
    await until(lambda: rig.dispatcher.n_held == 0)
    assert sorted(handler.flat) == list(range(1, seq + 1))
    assert max(len(batch) for batch in handler.seen) == 2


async def test_stop_when_a_batch_lingers_gives_its_events_back(make: Make) -> None:
    handler = Batches()
    rig = make(handler, batch=10, linger_s=HOUR_S, concurrency=2)
    rig.deliver(1, 2)
    await settle()
    rig.dispatcher.stop()
    rig.dispatcher.stop()
    assert rig.dispatcher.outcomes.give_back_waiting() == 2
    await settle()
    assert all(task.done() and task.exception() is None for task in rig.tasks)
    assert handler.seen == []
    assert rig.flush() == [(delivery(1)[1], b"-NAK"), (delivery(2)[1], b"-NAK")]


# --- failures --------------------------------------------------------------------------------------------------------


def again(seq: int) -> tuple[bytes, bytes]:
    return delivery(seq)[1], b'-NAK {"delay": 250}'


async def test_batch_when_it_fails_in_part_acknowledges_the_rest(make: Make) -> None:
    wrong = ValueError("wrong")

    def handle(events: list[eda.Event]) -> None:
        raise eda.PartialFailure({events[1]: wrong, events[3]: eda.Reject("never")})

    rig = make(handle, batch=4)
    for seq in range(1, 5):
        rig.deliver(seq, event=eda.Event(id=str(seq)))
    await settle()
    assert rig.failures[0] == (rig.failures[0][0], wrong)
    assert [event.sequence for event, _ in rig.failures] == [2, 4]
    assert [event.sequence for event, _, _ in rig.dead_letters] == [4]
    assert sorted(rig.flush()) == sorted(
        [(delivery(1)[1], b""), again(2), (delivery(3)[1], b""), (delivery(4)[1], b"")]
    )
    dispatcher = rig.dispatcher
    assert (
        dispatcher.outcomes.n_handled,
        dispatcher.outcomes.n_failed,
        dispatcher.outcomes.n_dead,
        dispatcher.n_held,
    ) == (2, 2, 1, 0)


class Odd(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("x"), Odd(), asyncio.CancelledError()], ids=repr)
async def test_batch_when_it_fails_otherwise_fails_as_a_whole(make: Make, error: BaseException) -> None:
    handler = Batches()
    handler.errors.append(error)
    rig = make(handler, batch=3)
    rig.deliver(1, 2, 3, 4)
    await settle()
    assert [(event.sequence, told) for event, told in rig.failures] == [(seq, error) for seq in (1, 2, 3)]
    assert rig.flush() == [again(1), again(2), again(3), (delivery(4)[1], b"")]


async def test_batch_when_it_fails_in_order_comes_again_in_place(make: Make) -> None:
    handler = Batches()
    handler.errors.append(ValueError("x"))
    rig = make(handler, batch=3, ordered=True)
    rig.deliver(1, 2, 3, 4)
    await settle()
    assert rig.dispatcher.position == 0
    rig.dispatcher.take_due()
    await settle()
    assert handler.seen == [[1, 2, 3], [4], [1, 2, 3]]
    assert rig.dispatcher.position == 4


def generator(events: list[eda.Event]) -> Iterator[int]:
    yield 1


async def async_generator(events: list[eda.Event]) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("handler", [generator, async_generator])
async def test_handler_when_it_gives_a_generator_has_failed(make: Make, handler: Any, batch: int | None) -> None:
    rig = make(handler, batch=batch)
    rig.deliver(1, 2)
    await settle()
    assert [type(error) for _, error in rig.failures] == [TypeError, TypeError]
    assert rig.flush() == [again(1), again(2)]


async def test_handler_when_it_is_a_plain_function_is_enough(make: Make) -> None:
    seen: list[int] = []
    rig = make(lambda events: seen.append(len(events)), batch=2)
    rig.deliver(1, 2, 3)
    await settle()
    assert seen == [2, 1]
    assert rig.dispatcher.outcomes.n_handled == 3


async def test_batch_when_it_takes_too_long_is_cancelled_and_fails_as_a_whole(make: Make) -> None:
    handler = Batches(hold=True)
    rig = make(handler, batch=3, concurrency=2)
    await settle()
    rig.deliver(1, 2, 3, 4, 5)
    await settle()
    assert handler.seen == [[1, 2, 3], [4, 5]]
    index = next(n for n, events in enumerate(rig.dispatcher.running_now()) if len(events) == 3)
    rig.dispatcher.cancel_overdue(index)
    await settle()
    assert [(event.sequence, str(error)) for event, error in rig.failures] == [(n, "overdue") for n in (1, 2, 3)]
    assert rig.flush() == [again(1), again(2), again(3)]
    assert rig.tasks[index].cancelling() == 0
    assert rig.dispatcher.n_held == 2


@pytest.mark.parametrize("bad", [1, 3, 5])
async def test_batch_when_one_of_its_events_can_not_be_read_leaves_it_out(make: Make, bad: int) -> None:
    handler = Batches()
    rig = make(handler, batch=5)
    for seq in range(1, 6):
        rig.deliver(seq, payload=b"\xff" if seq == bad else None)
    await settle()
    assert handler.flat == [seq for seq in range(1, 6) if seq != bad]
    assert [seq for seq, _ in rig.undecodable] == [bad]
    assert dict(rig.flush()) == {delivery(seq)[1]: b"+TERM undecodable" if seq == bad else b"" for seq in range(1, 6)}


async def test_batch_when_one_of_its_events_can_not_be_stored_goes_on_with_the_others(make: Make) -> None:
    """A worker that buries is not one that handles: the next one has the rest."""
    stored = asyncio.Event()

    async def store(event: eda.Event, payload: bytes, error: BaseException) -> int:
        await stored.wait()
        return -1

    handler = Batches()
    rig = make(handler, batch=5, concurrency=2)
    rig.store_dead_letter = store  # type: ignore[method-assign]
    rig.deliver(1, payload=b"\xff")
    rig.deliver(2, 3)
    await settle()
    assert handler.seen == [[2, 3]]
    stored.set()
    await settle()
    assert rig.dispatcher.n_held == 0
