"""eda.handling._dispatch and dead letters: stored before anything is acknowledged, and kept until they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import eda
from eda._codec import encode_event
from eda.handling.verdicts import Undecodable
from support.handling.dispatching import Rig, delivery, settle

Make = Callable[..., Rig]
EVENT = eda.Event(id="id-1", type="t", data=eda.JSON({"a": 1}))
TERM = b"+TERM undecodable"


def reject(event: eda.Event) -> None:
    raise eda.Reject("never")


class Grave:
    """A place for dead letters that takes its time."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.asked: list[tuple[int, bytes, BaseException]] = []
        self.answers: list[asyncio.Future[int]] = []
        rig.store_dead_letter = self.store_dead_letter  # type: ignore[method-assign]

    async def store_dead_letter(self, event: eda.Event, payload: bytes, error: BaseException) -> int:
        self.asked.append((event.sequence, payload, error))
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    async def answer(self, delay_ns: int = -1) -> None:
        self.answers[-1].set_result(delay_ns)
        await settle()


async def test_event_when_rejected_is_stored_before_it_is_acknowledged(make: Make) -> None:
    rig = make(reject)
    grave = Grave(rig)
    rig.deliver(1, event=EVENT)
    await settle()
    ((seq, payload, error),) = grave.asked
    assert (seq, payload, str(error)) == (1, encode_event(EVENT), "never")
    assert rig.flush() == []
    assert (rig.dispatcher.n_running, rig.dispatcher.n_held, rig.dispatcher.outcomes.n_dead) == (1, 1, 0)
    await grave.answer()
    assert rig.flush() == [(delivery(1)[1], b"")]
    assert (rig.dispatcher.n_held, rig.dispatcher.outcomes.n_dead, rig.dispatcher.outcomes.n_failed) == (0, 1, 1)
    assert (rig.dispatcher.outcomes.n_handled, rig.dispatcher.outcomes.last_seq) == (0, 0)
    assert rig.dispatcher.outcomes.last_acknowledged() == delivery(1)[1]


async def test_message_when_it_is_no_event_is_stored_before_it_is_terminated(make: Make) -> None:
    rig = make()
    grave = Grave(rig)
    rig.deliver(1, payload=b"\xffnonsense")
    await settle()
    ((seq, payload, error),) = grave.asked
    assert (seq, payload) == (1, b"\xffnonsense")
    assert isinstance(error, Undecodable)
    assert isinstance(error.__cause__, eda.DecodeError)
    assert rig.flush() == []
    await grave.answer()
    assert rig.flush() == [(delivery(1)[1], TERM)]
    assert rig.seen == []
    assert (rig.dispatcher.outcomes.n_dead, rig.dispatcher.intake.n_undecodable, rig.dispatcher.outcomes.n_failed) == (
        1,
        1,
        0,
    )
    assert rig.dispatcher.outcomes.last_acknowledged() is None


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("payload", [None, b"\xff"])
async def test_dead_letter_when_it_can_not_be_stored_is_kept_and_not_handled_again(
    make: Make, ordered: bool, payload: bytes | None
) -> None:
    n_called = 0

    def handle(event: eda.Event) -> None:
        nonlocal n_called
        n_called += 1
        raise eda.Reject("never")

    rig = make(handle, ordered=ordered)
    rig.dead_letter_delay_ns = 10
    rig.deliver(1, payload=payload)
    for _ in range(3):
        await settle()
        assert (rig.dispatcher.n_waiting, rig.dispatcher.n_running, rig.dispatcher.n_held) == (1, 0, 1)
        rig.dispatcher.take_due()
    assert rig.retries == [10 / 1e9] * 3
    assert rig.flush() == []
    assert rig.dispatcher.outcomes.n_dead == 0
    if not ordered:
        assert rig.dispatcher.tick(0.0) == 1  # it keeps its lease
        assert rig.flush() == [(delivery(1)[1], b"+WPI")]
        rig.deliver(1, attempt=2, payload=payload)  # what was on its way when it was renewed
        assert rig.dispatcher.n_held == 1
    rig.dead_letter_delay_ns = -1
    await settle()
    rig.dispatcher.take_due()
    await settle()
    assert n_called == (payload is None)
    assert len(rig.failures) + len(rig.undecodable) == 1  # told once
    assert (rig.dispatcher.n_held, rig.dispatcher.outcomes.n_dead) == (0, 1)
    assert {event.attempt for event, _, _ in rig.dead_letters} == {1}
    if ordered:
        assert rig.dispatcher.position == 1
    else:
        assert rig.flush() == [(delivery(1, 2)[1], b"" if payload is None else TERM)]


async def test_serial_when_an_event_can_not_be_dead_lettered_holds_back_the_others(make: Make) -> None:
    rig = make(
        lambda event: reject(event) if event.sequence == 1 else rig.seen.append(event), ordered=True, serial=True
    )
    rig.dead_letter_delay_ns = 10
    rig.deliver(1, 2)
    await settle()
    assert rig.seqs == []
    rig.dead_letter_delay_ns = -1
    rig.dispatcher.take_due()
    await settle()
    assert rig.seqs == [2]
    assert rig.dispatcher.position == 2


async def test_event_when_a_redelivery_of_it_comes_while_it_runs_is_not_exhausted_by_that(make: Make) -> None:
    rig = make(hold=True, max_attempts=1)
    rig.deliver(1)
    await settle()
    rig.deliver(1, attempt=2)
    rig.release(1)
    await settle()
    assert rig.dead_letters == []
    assert rig.flush() == [(delivery(1, 2)[1], b"")]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("batch", [None, 3])
async def test_worker_when_cancelled_while_it_buries_gives_back_what_is_not_stored(
    make: Make, ordered: bool, batch: int | None
) -> None:
    rig = make(reject, ordered=ordered, batch=batch)
    grave = Grave(rig)
    rig.deliver(1, 2, 3)
    await settle()
    if batch:
        await grave.answer()
        assert [seq for seq, _, _ in grave.asked] == [1, 2]
    rig.flush()
    rig.tasks[0].cancel()
    await settle()
    assert rig.tasks[0].cancelled()
    assert rig.dispatcher.n_running == 0
    assert rig.dispatcher.n_held == {(False, None): 2, (False, 3): 0, (True, None): 3, (True, 3): 2}[ordered, batch]
    if ordered:
        assert rig.dispatcher.position == (1 if batch else 0)
        assert rig.dispatcher.ledger.n_ready() == rig.dispatcher.n_held
    else:
        assert rig.flush() == [(delivery(seq)[1], b"-NAK") for seq in ((2, 3) if batch else (1,))]


async def test_dead_letter_when_it_can_not_be_stored_while_closing_is_given_back(make: Make) -> None:
    rig = make(reject)
    grave = Grave(rig)
    rig.deliver(1, 2)
    await settle()
    rig.dispatcher.stop()
    assert rig.dispatcher.outcomes.give_back_waiting() == 1
    await grave.answer(10**9)
    assert rig.flush() == [(delivery(2)[1], b"-NAK"), (delivery(1)[1], b"-NAK")]
    assert (rig.dispatcher.n_held, rig.retries) == (0, [])
    assert rig.tasks[0].done()


async def test_stop_when_dead_letters_wait_to_be_stored_gives_them_back(make: Make) -> None:
    rig = make(reject)
    rig.dead_letter_delay_ns = 3600 * 10**9
    rig.deliver(2, 1)
    await settle()
    assert rig.dispatcher.n_waiting == 2
    rig.dispatcher.stop()
    assert rig.dispatcher.outcomes.give_back_waiting() == 2
    assert rig.flush() == [(delivery(seq)[1], b"-NAK") for seq in (1, 2)]
    assert rig.dispatcher.n_held == 0


async def test_redelivery_when_it_comes_while_the_dead_letter_is_stored_is_what_is_answered(make: Make) -> None:
    rig = make(reject)
    grave = Grave(rig)
    rig.deliver(1)
    await settle()
    rig.deliver(1, attempt=2)
    await grave.answer()
    assert rig.flush() == [(delivery(1, 2)[1], b"")]
    assert len(grave.asked) == 1


async def test_events_when_the_ledger_grows_while_one_is_stored_are_all_seen_to(make: Make) -> None:
    rig = make(lambda event: reject(event) if event.sequence == 1 else rig.seen.append(event), limit=10**4)
    grave = Grave(rig)
    rig.deliver(1, event=EVENT)
    await settle()
    rig.deliver(*range(2, 2001))
    await grave.answer()
    assert rig.seqs == list(range(2, 2001))
    assert dict(rig.flush()) == {delivery(seq)[1]: b"" for seq in range(1, 2001)}
    assert rig.dispatcher.ledger.n_bytes == 0
