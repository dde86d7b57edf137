"""`conn.projection`: applies each event once, in order, and goes on where it was."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Connect, Logged, until
from support.projections.read_model import ReadModel, publish_many

SOON = eda.Retry(initial_s=0.01, max_attempts=3)


@pytest.fixture
def model(tmp_path: Path) -> ReadModel:
    return ReadModel(tmp_path / "read.db")


def projection(conn: eda.Conn, stream: str | list[str], model: ReadModel, **options: Any) -> eda.Projection:
    given: dict[str, Any] = {"into": model.sink(), "name": "orders", "retry": SOON} | options
    apply = model.apply_one if options.get("batch", 1) is None else model.apply
    return conn.projection(stream, apply, **given)


async def test_projection_when_events_are_there_and_more_come_applies_all_in_order(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    await publish_many(conn, stream, 1_200)
    async with projection(conn, stream, model) as applying:
        last = await publish_many(conn, stream, 5)
        await applying.wait_for(last, 10)
        assert model.sequences() == [*range(1, 1_206)]
    assert max(len(each) for each in model.attempts) == 500
    assert not any(name == "MainThread" for name in model.threads)


async def test_projection_when_opened_again_applies_nothing_twice(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    for n in range(3):
        async with projection(conn, stream, model) as applying:
            await applying.wait_for(await publish_many(conn, stream, 10), 10)
        assert model.sequences() == [*range(1, 10 * n + 11)]
        assert model.position(stream) == 10 * n + 10


async def test_projection_when_batch_is_none_applies_one_event_in_each_transaction(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    async with projection(conn, stream, model, batch=None) as applying:
        await applying.wait_for(await publish_many(conn, stream, 300), 20)
    assert model.attempts == [[(sequence, 1)] for sequence in range(1, 301)]


async def test_projection_of_several_streams_keeps_a_position_for_each(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    streams = [f"{stream}-{n}" for n in range(3)]
    try:
        async with projection(conn, streams, model, batch=20) as applying:
            receipts = await asyncio.gather(*(publish_many(conn, each, 50) for each in streams))
            for receipt in receipts:
                await applying.wait_for(receipt, 10)
        for each in streams:
            assert model.sequences(each) == [*range(1, 51)]
            assert model.position(each) == 50
    finally:
        for each in streams:
            await conn.streams.delete(each)


async def test_projection_when_types_are_given_applies_those_only_and_passes_the_others(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    async with projection(conn, stream, model, types=["b"]) as applying:
        wanted = await publish_many(conn, stream, 3, type="b")
        others = await publish_many(conn, stream, 3, type="a")
        await applying.wait_for(wanted, 10)
        await applying.wait_for(others, 10)
        assert model.sequences() == [1, 2, 3]
        await until(lambda: model.position(stream) == 6)


async def test_projection_when_another_version_is_opened_begins_with_the_first_event(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    await publish_many(conn, stream, 5)
    async with projection(conn, stream, model) as first, projection(conn, stream, model, version=2) as second:
        last = await publish_many(conn, stream, 5)
        await first.wait_for(last, 10)
        await second.wait_for(last, 10)
    assert sorted(model.sequences()) == sorted([*range(1, 11)] * 2)


async def test_projection_when_it_is_open_already_on_this_connection_is_refused(
    conn: eda.Conn, connect: Connect, stream: str, model: ReadModel
) -> None:
    async with projection(conn, stream, model):
        with pytest.raises(eda.ConfigError, match="has projection 'orders' version 1 open already"):
            await projection(conn, stream, model)
        async with projection(conn, stream, model, version=2):
            pass
    async with projection(conn, stream, model):
        pass


async def test_standby_when_the_owner_closes_goes_on_after_its_position(
    conn: eda.Conn, connect: Connect, stream: str, model: ReadModel
) -> None:
    owner = await projection(conn, stream, model)
    await owner.wait_for(await publish_many(conn, stream, 10), 10)
    standby = await projection(await connect(), stream, model)
    last = await publish_many(conn, stream, 10)
    await standby.wait_for(last, 10)  # it follows the owner's rows
    await owner.close()
    last = await publish_many(conn, stream, 10)
    await standby.wait_for(last, 10)
    await standby.close()
    assert model.sequences() == [*range(1, 31)]


async def test_projection_of_an_event_store_gets_tombstones_whatever_its_types(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    store = await conn.store(stream)
    types: list[str] = []

    def apply(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        types.extend(event.type for event in events)

    applying = await conn.projection(stream, apply, into=model.sink(), name="orders", types=["paid"])
    await store.append("4711", [eda.Event(type="paid"), eda.Event(type="shipped")], expected="new")
    await until(lambda: types == ["paid"])
    await store.forget("4711")
    await until(lambda: types == ["paid", "eda.forgotten"])
    await applying.close()


async def test_wait_when_apply_commits_raises_that_the_transaction_has_ended(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged
) -> None:
    def apply(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        tx.commit()

    logged.expect("projection 'orders' version 1 ends: apply of projection 'orders' version 1 has committed")
    applying = await conn.projection(stream, apply, into=model.sink(), name="orders")
    receipt = await conn.publish(stream)
    with pytest.raises(eda.TransactionEnded):
        await applying.wait()
    with pytest.raises(eda.TransactionEnded):
        await applying.wait_for(receipt, 5)
    assert applying.is_closed


async def test_wait_when_the_stream_was_made_again_raises_that_the_position_is_invalid(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged
) -> None:
    async with projection(conn, stream, model) as applying:
        await applying.wait_for(await publish_many(conn, stream, 3), 10)
    await conn.streams.delete(stream)
    await publish_many(conn, stream, 3)
    with pytest.raises(eda.PositionInvalid, match="was deleted"):
        await projection(conn, stream, model)


async def test_wait_when_the_stream_is_made_again_meanwhile_raises_that_the_position_is_invalid(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.allow("ends: ")
    applying = await projection(conn, stream, model)
    await applying.wait_for(await publish_many(conn, stream, 3), 10)
    await conn.streams.delete(stream)
    await conn.streams.create(stream)
    # The stream may be looked for while it does not exist.
    with pytest.raises((eda.PositionInvalid, eda.StreamNotFound), match=r"was deleted|does not exist"):
        await asyncio.wait_for(applying.wait(), 30)
