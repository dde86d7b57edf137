"""Shared: events that may be what kills the process are handled alone, and on record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda.handling.verdicts import Exhausted
from helpers import until
from support.handling.dispatching import Rig, delivery, settle

Make = Callable[..., Rig]
RECORD = [("begin", 1), ("end", 1)]


@pytest.mark.parametrize(
    ("max_attempts", "attempt", "options", "is_recorded"),
    [
        (3, 1, {}, False),
        (3, 2, {}, False),
        (3, 3, {}, True),
        (3, 4, {}, True),
        (3, 12, {}, True),
        (3, 3, {"concurrency": 2}, False),
        (3, 4, {"concurrency": 2}, True),
        (3, 3, {"batch": 2}, False),
        (3, 4, {"batch": 2}, True),
        (1, 1, {}, False),
        (1, 2, {}, True),
        (0, 12, {}, False),
    ],
)
async def test_event_when_delivered_as_often_as_it_may_be_tried_is_handled_on_record(
    make: Make, max_attempts: int, attempt: int, options: dict[str, Any], is_recorded: bool
) -> None:
    seen: list[Any] = []
    rig = make(seen.append, max_attempts=max_attempts, **options)
    rig.deliver(1, attempt=attempt)
    await settle()
    assert rig.records == RECORD * is_recorded
    (event,) = seen[0] if "batch" in options else seen
    assert (event.sequence, event.attempt) == (1, attempt)
    assert rig.flush() == [(delivery(1, attempt)[1], b"")]
    assert rig.dispatcher.outcomes.n_handled == 1


async def test_suspect_when_on_record_from_before_is_exhausted(make: Make) -> None:
    rig = make(max_attempts=3)
    rig.record_answer = -1
    rig.deliver(1, attempt=4)
    await settle()
    assert rig.seen == []
    ((event, _, error),) = rig.dead_letters
    assert isinstance(error, Exhausted)
    assert event.attempt == 4
    assert rig.records == RECORD
    assert rig.flush() == [(delivery(1, 4)[1], b"")]


async def test_suspect_when_no_record_can_be_kept_for_now_waits_for_it(make: Make) -> None:
    rig = make(max_attempts=3)
    rig.record_answer = 20
    rig.deliver(1, attempt=4)
    rig.deliver(2)
    await settle()
    assert rig.seqs == [2]
    assert rig.retries
    rig.record_answer = 0
    rig.dispatcher.take_due()
    await settle()
    assert rig.seqs == [2, 1]
    assert rig.records == [("begin", 1), *RECORD]
    assert rig.flush() == [(delivery(2)[1], b""), (delivery(1, 4)[1], b"")]


async def test_suspect_when_closing_while_no_record_can_be_kept_is_given_back(make: Make) -> None:
    rig = make(max_attempts=3)
    rig.record_answer = 10**9
    rig.deliver(1, attempt=4)
    for _ in range(20):
        if not rig.records:
            await asyncio.sleep(0)
    assert rig.records == [("begin", 1)]
    rig.dispatcher.stop()
    await settle()
    assert rig.seen == []
    assert rig.flush() == [(delivery(1, 4)[1], b"-NAK")]
    assert rig.tasks[0].done()


@pytest.mark.parametrize("batch", [None, 2])
async def test_suspect_runs_when_nothing_else_does(make: Make, batch: int | None) -> None:
    running: set[int] = set()
    most: dict[int, int] = {}

    async def handle(given: Any) -> None:
        seqs = {event.sequence for event in given} if batch else {given.sequence}
        running.update(seqs)
        for seq in running:
            most[seq] = max(most.get(seq, 0), len(running))
        await asyncio.sleep(0.01)
        running.difference_update(seqs)

    rig = make(handle, concurrency=3, max_attempts=2, batch=batch)
    rig.deliver(1, 2, 3, 4)
    rig.deliver(5, 6, attempt=3)
    rig.deliver(7, 8, 9, 10)
    await until(lambda: rig.dispatcher.outcomes.n_handled == 10)
    assert (most[5], most[6]) == (1, 1)
    assert most[1] > 1
    assert most[7] > 1
    assert rig.records == [("begin", 5), ("end", 5), ("begin", 6), ("end", 6)]


async def test_suspect_when_its_handler_fails_is_off_the_record_before_it_comes_again(make: Make) -> None:
    def fail(event: eda.Event) -> None:
        raise ValueError(event.sequence)

    rig = make(fail, max_attempts=3)
    rig.deliver(1, attempt=3)
    await settle()
    assert rig.records == RECORD
    assert len(rig.failures) == 1
    assert rig.flush() == [(delivery(1, 3)[1], b'-NAK {"delay": 250}')]


async def test_suspect_when_its_handler_is_late_is_cancelled_as_any(make: Make) -> None:
    rig = make(hold=True, max_attempts=3)
    rig.deliver(1, attempt=3)
    await settle()
    rig.dispatcher.cancel_overdue(0)
    await settle()
    assert rig.records == RECORD
    ((_, error),) = rig.failures
    assert isinstance(error, TimeoutError)


async def test_suspect_when_the_worker_is_cancelled_is_given_back_and_off_the_record(make: Make) -> None:
    rig = make(hold=True, max_attempts=3)
    rig.deliver(1, attempt=3)
    await settle()
    rig.tasks[0].cancel()
    await settle()
    assert rig.records == RECORD
    assert rig.tasks[0].cancelled()
    assert rig.flush() == [(delivery(1, 3)[1], b"-NAK")]
    assert rig.dispatcher.n_held == 0


async def test_suspect_when_handled_is_acknowledged_before_the_record_is_waited_for(make: Make) -> None:
    rig = make(max_attempts=3)
    purged = asyncio.Event()
    rig.end_record = lambda *_: purged.wait()  # type: ignore[method-assign, assignment, return-value]
    rig.deliver(1, attempt=3)
    await settle()
    assert rig.flush() == [(delivery(1, 3)[1], b"")]
    rig.tasks[0].cancel()  # as when closing takes too long
    await settle()
    assert rig.tasks[0].cancelled()
    assert rig.flush() == []
    assert (rig.dispatcher.outcomes.n_handled, rig.dispatcher.n_held) == (1, 0)


async def test_suspect_when_the_worker_is_cancelled_before_it_is_begun_is_given_back(make: Make) -> None:
    rig = make(max_attempts=3)
    rig.try_on_record = lambda *_: asyncio.Event().wait()  # type: ignore[method-assign, assignment, return-value]
    rig.deliver(1, attempt=3)
    await settle()
    rig.tasks[0].cancel()
    await settle()
    assert rig.seen == []
    assert rig.flush() == [(delivery(1, 3)[1], b"-NAK")]
