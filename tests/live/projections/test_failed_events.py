"""Events that fail in `apply`: found by halving, tried again, dead-lettered, replayed. All others are applied."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

import eda
from helpers import Admin, Connect, Logged, until
from support.projections.memory_sink import MemorySink
from support.projections.read_model import ReadModel, publish_many

SOON = eda.Retry(initial_s=0.01, max_attempts=3)


@eda.payload("failed-paid")
class Paid(msgspec.Struct, frozen=True):
    n: int


@pytest.fixture
def model(tmp_path: Path) -> ReadModel:
    return ReadModel(tmp_path / "read.db")


def projection(conn: eda.Conn, stream: str, model: ReadModel, apply: Any = None, **options: Any) -> eda.Projection:
    given: dict[str, Any] = {"into": model.sink(), "name": "orders", "retry": SOON} | options
    return conn.projection(stream, apply or model.apply, **given)


def failing_at(*sequences: int, error: type[Exception] = ValueError) -> Any:
    def fails(event: eda.Event) -> None:
        if event.sequence in sequences:
            raise error(f"event {event.sequence} is wrong")

    return fails


async def test_event_when_it_always_fails_is_the_only_one_of_its_batch_that_is_not_applied(
    conn: eda.Conn, admin: Admin, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.expect("handler failed for event")
    model.fails = failing_at(321)
    last = await publish_many(conn, stream, 500)
    async with projection(conn, stream, model) as applying:
        await applying.wait_for(last, 20)
        with pytest.raises(eda.NotApplied, match="event 321 is wrong"):
            await applying.wait_for((stream, 321, 0), 1)
    assert model.sequences() == [each for each in range(1, 501) if each != 321]
    assert [each for each in model.attempts if len(each) == 1 and each[0][0] == 321] == [
        [(321, 1)],
        [(321, 2)],
        [(321, 3)],
    ]
    assert len(model.attempts) < 40  # found by halving
    (letter,) = await letters(admin, stream)
    assert letter == {
        "Nats-Msg-Id": "dead:orders-v1:321",
        "Eda-Dead-Reason": "attempts",
        "Eda-Dead-Error": "ValueError: event 321 is wrong",
        "Eda-Dead-Subscription": "orders-v1",
        "Eda-Dead-Attempts": "3",
        "Eda-Dead-Sequence": "321",
        "Eda-Dead-Stream": stream,
    }


async def letters(admin: Admin, stream: str) -> list[dict[str, str]]:
    """Return the headers of all dead letters of a stream, but the time."""
    found = []
    for sequence in range(1, await admin.last_seq(f"{stream}-dead") + 1):
        message = await admin.js.get_msg(f"{stream}-dead", sequence)
        found.append({name: text for name, text in (message.headers or {}).items() if name != "Eda-Dead-Time"})
    return found


async def test_event_when_it_fails_once_is_applied_at_its_place(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.expect("handler failed for event .* it is handled again in 0.01 s")
    failures: list[int] = []

    def fails(event: eda.Event) -> None:
        if event.sequence == 7 and event.attempt < 2:
            failures.append(event.attempt)
            raise ValueError("not yet")

    model.fails = fails
    last = await publish_many(conn, stream, 10)
    async with projection(conn, stream, model) as applying:
        await applying.wait_for(last, 10)
        await applying.wait_for((stream, 7, 0), 1)
    assert model.sequences() == [*range(1, 11)]


async def test_event_when_rejected_is_dead_at_once(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.expect("handler rejected event")
    model.fails = failing_at(2, error=eda.Reject)
    last = await publish_many(conn, stream, 3)
    async with projection(conn, stream, model) as applying:
        await applying.wait_for(last, 10)
    assert model.sequences() == [1, 3]
    assert [each for each in model.attempts if each[0][0] == 2 and len(each) == 1] == [[(2, 1)]]


async def test_events_when_a_partial_failure_names_them_are_tried_again_without_halving(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.expect("handler failed for event")

    def apply(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        model.apply(events, tx)
        wrong = {event: ValueError("wrong") for event in events if event.sequence in (20, 40)}
        if wrong:
            raise eda.PartialFailure(wrong)

    last = await publish_many(conn, stream, 60)
    async with projection(conn, stream, model, apply) as applying:
        await applying.wait_for(last, 10)
    assert model.sequences() == [each for each in range(1, 61) if each not in (20, 40)]
    assert [(each[0][0], each[-1][0]) for each in model.attempts] == [
        *((1, 60), (1, 19), (20, 20), (20, 20), (21, 39), (40, 40), (40, 40), (41, 60)),
    ]


async def test_event_when_its_payload_can_not_be_decoded_is_dead_at_once(
    conn: eda.Conn, admin: Admin, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.expect("the payload of event .* can't be decoded")

    def apply(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        for event in events:
            event.payload()
        model.apply(events, tx)

    for n in range(5):
        data = eda.JSON({"n": n if n != 3 else "three"})
        last = await conn.publish(stream, eda.Event(type="failed-paid", data=data))
    async with projection(conn, stream, model, apply) as applying:
        await applying.wait_for(last, 10)
    assert model.sequences() == [1, 2, 3, 5]
    (letter,) = await letters(admin, stream)
    assert (letter["Eda-Dead-Reason"], letter["Eda-Dead-Subscription"]) == ("undecodable", "orders-v1")


async def test_message_when_it_is_no_event_is_a_dead_letter_and_passed(
    conn: eda.Conn, admin: Admin, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.expect("is not an event")
    await conn.publish(stream)
    await admin.js.publish(stream, b"\xff\xff\xff")
    last = await conn.publish(stream)
    async with projection(conn, stream, model) as applying:
        await applying.wait_for(last, 10)
        await admin.js.publish(stream, b"\xff\xff\xff")
        await applying.wait_for((stream, 4, 0), 10)  # the last message of the stream
    assert model.sequences() == [1, 3]
    found = await letters(admin, stream)
    assert [each["Nats-Msg-Id"] for each in found] == ["dead:orders-v1:2", "dead:orders-v1:4"]


async def test_event_when_dead_letter_is_none_is_logged_and_skipped(
    conn: eda.Conn, admin: Admin, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.expect("handled again", "handler failed for event .* for the last time; it is skipped")
    model.fails = failing_at(2)
    last = await publish_many(conn, stream, 3)
    async with projection(conn, stream, model, dead_letter=None) as applying:
        await applying.wait_for(last, 10)
    assert model.sequences() == [1, 3]
    assert f"{stream}-dead" not in await admin.stream_names()


async def test_dead_letter_when_replayed_reaches_this_version_of_this_projection_only(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged, tmp_path: Path
) -> None:
    logged.expect("handler failed for event")
    model.fails = failing_at(2)
    other = ReadModel(tmp_path / "other.db")
    last = await publish_many(conn, stream, 3)
    async with (
        projection(conn, stream, model) as applying,
        projection(conn, stream, other, name="others") as others,
        projection(conn, stream, model, version=2, dead_letter=None) as second,
    ):
        for each in (applying, others, second):
            await each.wait_for(last, 10)
        model.fails = lambda event: None
        n_before = len(model.sequences())
        assert await conn.replay_dead(stream, "orders-v1") == 1
        for each in (applying, others, second):
            await each.wait_for((stream, 4, 0), 10)
        assert model.sequences()[n_before:] == [4]
        assert other.sequences() == [1, 2, 3]


async def test_dead_letter_stream_when_it_takes_nothing_stops_the_lane_until_it_does(
    conn: eda.Conn, admin: Admin, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.allow("handler rejected event", "did not store event")
    model.fails = failing_at(2, error=eda.Reject)
    await conn.streams.create(f"{stream}-dead", eda.StreamOptions(max_events=1, discard="new"))
    await conn.publish(f"{stream}-dead")
    last = await publish_many(conn, stream, 3)
    applying = await projection(conn, stream, model)
    await until(lambda: logged.find("did not store event"))
    assert model.sequences() == [1]
    await conn.streams.purge(f"{stream}-dead")
    await applying.wait_for(last, 20)
    await applying.close()
    assert model.sequences() == [1, 3]


async def test_apply_when_it_takes_longer_than_its_time_fails_its_event_only(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.expect("handler failed for event")
    slow = asyncio.get_running_loop().time

    def fails(event: eda.Event) -> None:
        end = slow() + 0.4
        while event.sequence == 2 and slow() < end:
            pass

    model.fails = fails
    last = await publish_many(conn, stream, 3)
    retry = eda.Retry(initial_s=0.01, max_attempts=1)
    async with projection(conn, stream, model, timeout_s=0.2, retry=retry) as applying:
        await applying.wait_for(last, 20)
    assert 2 not in model.sequences() or model.sequences() == [1, 2, 3]


async def test_projection_when_the_process_reads_on_keeps_failed_events_apart_for_each_connection(
    connect: Connect, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.allow("handler rejected event")
    model.fails = failing_at(5, error=eda.Reject)
    first, second = await connect(), await connect()
    owner = await projection(first, stream, model)
    standby = await projection(second, stream, model)
    await owner.wait_for(await publish_many(first, stream, 4), 10)
    await owner.close()
    last = await publish_many(first, stream, 4)
    await standby.wait_for(last, 20)
    await standby.close()
    assert model.sequences() == [1, 2, 3, 4, 6, 7, 8]


async def test_apply_when_it_raises_a_cancellation_of_its_own_has_failed(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("handler failed for event")
    sink = MemorySink()

    async def apply(events: list[eda.Event], tx: list[int]) -> None:
        for event in events:
            if event.sequence == 2:
                inner = asyncio.ensure_future(asyncio.sleep(60))
                inner.cancel()
                await inner
            tx.append(event.sequence)

    last = await publish_many(conn, stream, 3)
    async with conn.projection(stream, apply, into=sink, name="orders", retry=SOON) as applying:
        await applying.wait_for(last, 10)
    assert sink.applied == [1, 3]


async def test_wait_when_a_task_is_cancelled_from_outside_raises_that(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("a task of it was cancelled")
    applying = await conn.projection(stream, lambda events, tx: None, into=MemorySink(), name="orders")
    (lane,) = [each for each in asyncio.all_tasks() if "lane 0" in each.get_name()]
    lane.cancel()
    with pytest.raises(eda.Closed, match="a task of it was cancelled"):
        await asyncio.wait_for(applying.wait(), 10)
