"""Closing a projection: what has begun is finished or rolled back, and what has not begun is left for the next one."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Connect, Logged, until
from support.projections.memory_sink import MemorySink, Outage
from support.projections.read_model import ReadModel, publish_many


@pytest.fixture
def model(tmp_path: Path) -> ReadModel:
    return ReadModel(tmp_path / "read.db")


async def apply(events: list[eda.Event], tx: list[Any]) -> None:
    tx.extend(event.sequence for event in events)


async def test_close_when_a_transaction_runs_finishes_it_and_begins_no_other(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def fails(event: eda.Event) -> None:
        if event.sequence == 20:
            has_begun.set()
            assert may_end.wait(10)

    model.fails = fails
    await publish_many(conn, stream, 1_000)
    applying = await conn.projection(stream, model.apply, into=model.sink(), name="orders", batch=20)
    await until(has_begun.is_set)
    closing = asyncio.ensure_future(applying.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    may_end.set()
    await closing
    assert model.sequences() == [*range(1, 21)]
    assert model.position(stream) == 20


async def test_close_when_an_async_apply_takes_too_long_rolls_it_back(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    sink, cancelled = MemorySink(), []

    async def slow(events: list[eda.Event], tx: list[Any]) -> None:
        await apply(events, tx)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(len(events))
            raise

    await publish_many(conn, stream, 3)
    applying = await conn.projection(stream, slow, into=sink, name="orders")
    await until(lambda: "move" in sink.calls)
    applying.hurry(0.5)
    began = time.monotonic()
    await applying.close()
    assert time.monotonic() - began < 4
    assert cancelled == [3]
    assert sink.applied == []
    assert logged.find("did not end in time, and are given up")


async def test_close_when_the_caller_is_cancelled_ends_within_two_seconds(conn: eda.Conn, stream: str) -> None:
    sink = MemorySink()

    async def slow(events: list[eda.Event], tx: list[Any]) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        async with conn.projection(stream, slow, into=sink, name="orders"):
            await conn.publish(stream)
            await asyncio.sleep(60)

    running = asyncio.ensure_future(main())
    await until(lambda: "move" in sink.calls)
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("what", ["projection", "connection"])
async def test_close_when_apply_calls_it_returns_at_once_and_the_transaction_is_committed(
    connect: Connect, stream: str, what: str
) -> None:
    sink, conn = MemorySink(), await connect()
    closed = asyncio.Event()

    async def closes(events: list[eda.Event], tx: list[Any]) -> None:
        await apply(events, tx)
        await (applying if what == "projection" else conn).close()
        closed.set()

    applying = await conn.projection(stream, closes, into=sink, name="orders")
    await conn.publish(stream)
    await asyncio.wait_for(closed.wait(), 10)
    await until(lambda: applying.is_closed)
    assert sink.applied == [1]


async def test_close_when_apply_in_a_thread_calls_it_returns_at_once(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    loop = asyncio.get_running_loop()

    def closes(event: eda.Event) -> None:
        asyncio.run_coroutine_threadsafe(applying.close(), loop).result(10)

    model.fails = closes
    applying = await conn.projection(stream, model.apply, into=model.sink(), name="orders")
    await conn.publish(stream)
    await until(lambda: applying.is_closed)
    assert model.sequences() == [1]


async def test_connection_when_closed_closes_its_projections_and_releases_their_rows(
    connect: Connect, stream: str, model: ReadModel
) -> None:
    conn = await connect()
    applying = await conn.projection(stream, model.apply, into=model.sink(), name="orders")
    await applying.wait_for(await publish_many(conn, stream, 10), 10)
    waiting = asyncio.ensure_future(applying.wait())
    await conn.close()
    assert applying.is_closed
    await waiting
    assert model.query("SELECT updated, sequence FROM eda_positions") == [(0.0, 10)]
    with pytest.raises(eda.Closed):
        await applying.wait_for((stream, 11, 0), 5)


async def test_close_when_an_event_waits_for_its_next_attempt_does_not_wait(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.expect("handler failed for event")

    def fails(event: eda.Event) -> None:
        raise ValueError("wrong")

    model.fails = fails
    await conn.publish(stream)
    retry = eda.Retry(initial_s=60, max_s=60)
    applying = await conn.projection(stream, model.apply, into=model.sink(), name="orders", retry=retry)
    await until(lambda: logged.find("handled again in 60 s"))
    await asyncio.wait_for(applying.close(), 5)
    assert model.sequences() == []


async def test_close_when_the_database_is_down_does_not_wait_for_it(conn: eda.Conn, stream: str) -> None:
    def fails(method: str) -> None:
        if method in ("move", "release", "touch"):
            raise Outage

    sink = MemorySink()
    applying = await conn.projection(stream, apply, into=sink, name="orders")
    sink.fails = fails
    await publish_many(conn, stream, 2_000)
    await until(lambda: sink.calls.count("move") > 3)
    await asyncio.wait_for(applying.close(), 5)


async def test_close_when_a_thread_never_ends_gives_it_up(
    connect: Connect, stream: str, model: ReadModel, logged: Logged
) -> None:
    may_end = threading.Event()
    model.fails = lambda event: may_end.wait(30) and None
    conn = await connect()
    applying = await conn.projection(stream, model.apply, into=model.sink(), name="orders", timeout_s=0.1)
    await conn.publish(stream)
    await until(lambda: logged.find("still runs, although timeout_s=0.1 is over"))
    applying.hurry(2)
    began = time.monotonic()
    await applying.close()
    assert time.monotonic() - began < 4  # 2 s, and a busy machine
    may_end.set()
