"""A router as `apply`: payloads with the transaction, its types as the filter, events that fail."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

import eda
from helpers import Logged
from support.projections.memory_sink import MemorySink
from support.projections.read_model import ReadModel

SOON = eda.Retry(initial_s=0.01, max_attempts=2)


@eda.payload("applied-paid", aliases=("applied-payed",))
class Paid(msgspec.Struct, frozen=True):
    n: int


@eda.payload("applied-shipped")
class Shipped(msgspec.Struct, frozen=True):
    n: int


@pytest.fixture
def model(tmp_path: Path) -> ReadModel:
    return ReadModel(tmp_path / "read.db")


async def publish(conn: eda.Conn, stream: str, *payloads: Any) -> eda.Receipt:
    for each in payloads:
        event = eda.Event(type=each, data=eda.JSON({"n": 0})) if isinstance(each, str) else eda.Event(data=each)
        receipt = await conn.publish(stream, event)
    return receipt


async def test_router_when_its_handlers_are_plain_applies_in_the_thread_and_asks_for_its_types(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    router = eda.Router()

    @router.on
    def paid(order: Paid, tx: sqlite3.Connection) -> None:
        tx.execute("INSERT INTO applied VALUES ('paid', ?, '')", (order.n,))

    @router.on
    def shipped(order: Shipped, event: eda.Event, tx: sqlite3.Connection) -> None:
        tx.execute("INSERT INTO applied VALUES ('shipped', ?, ?)", (event.sequence, event.id))

    last = await publish(conn, stream, Paid(10), "other", Shipped(20), "applied-payed")
    async with conn.projection(stream, router, into=model.sink(), name="orders") as applying:
        await applying.wait_for(last, 10)
        runner = applying._runners[stream]
        assert runner.reading is not None
        assert runner.reading.subscription.stats().handled == 3
    assert (model.sequences("paid"), model.sequences("shipped")) == ([10, 0], [3])


async def test_router_when_its_handlers_are_async_awaits_them_in_order(conn: eda.Conn, stream: str) -> None:
    router, sink = eda.Router(unknown="raw"), MemorySink()

    @router.on
    async def paid(order: Paid, tx: list[Any]) -> None:
        tx.append(order)

    @router.on
    async def shipped(orders: list[Shipped], tx: list[Any]) -> None:
        tx.append(orders)

    @router.otherwise
    async def other(event: eda.Event, tx: list[Any]) -> None:
        tx.append(event.type)

    last = await publish(conn, stream, Paid(1), Shipped(2), Shipped(3), "x", Shipped(4), Paid(5))
    async with conn.projection(stream, router, into=sink, name="orders") as applying:
        await applying.wait_for(last, 10)
    assert sink.applied == [Paid(1), [Shipped(2), Shipped(3)], "x", [Shipped(4)], Paid(5)]


async def test_router_when_one_event_fails_names_it_so_that_no_halving_is_needed(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("handler failed for event")
    router, sink, calls = eda.Router(), MemorySink(), []

    @router.on
    def paid(order: Paid, tx: list[Any]) -> None:
        calls.append(order.n)
        if order.n == 50:
            raise ValueError("wrong")
        tx.append(order.n)

    last = await publish(conn, stream, *map(Paid, range(100)))
    async with conn.projection(stream, router, into=sink, name="orders", retry=SOON) as applying:
        await applying.wait_for(last, 10)
    assert sink.applied == [each for each in range(100) if each != 50]
    # All up to the failing one, those before it again, that one again, and those after it.
    assert calls == [*range(51), *range(50), 50, *range(51, 100)]


async def test_router_when_a_payload_can_not_be_decoded_makes_its_event_a_dead_letter(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("the payload of event .* can't be decoded")
    router, sink = eda.Router(), MemorySink()

    @router.on
    def paid(order: Paid, tx: list[Any]) -> None:
        tx.append(order.n)

    await publish(conn, stream, Paid(1))
    await conn.publish(stream, eda.Event(type="applied-paid", data=eda.JSON({"n": "two"})))
    last = await publish(conn, stream, Paid(3))
    async with conn.projection(stream, router, into=sink, name="orders", retry=SOON) as applying:
        await applying.wait_for(last, 10)
        assert (await applying.stats()).dead_lettered == 1
    assert sink.applied == [1, 3]


async def test_router_when_unknown_is_raise_makes_events_of_other_types_dead_letters(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("event")
    router, sink = eda.Router(unknown="raise"), MemorySink()

    @router.on
    def paid(order: Paid, tx: list[Any]) -> None:
        tx.append(order.n)

    last = await publish(conn, stream, Paid(1), "x", Paid(3))
    async with conn.projection(stream, router, into=sink, name="orders", retry=SOON) as applying:
        await applying.wait_for(last, 10)
        with pytest.raises(eda.NotApplied, match="UnknownType"):
            await applying.wait_for((stream, 2, 0), 1)
    assert sink.applied == [1, 3]


async def test_router_when_a_handler_takes_no_transaction_is_refused(conn: eda.Conn, stream: str) -> None:
    router = eda.Router()

    @router.on
    def paid(order: Paid, event: eda.Event) -> None: ...

    with pytest.raises(eda.ConfigError, match=r"takes no transaction: .* must be `tx`"):
        conn.projection(stream, router, into=MemorySink(), name="orders")


async def test_router_when_a_handler_takes_lists_and_batch_is_none_is_refused(conn: eda.Conn, stream: str) -> None:
    router = eda.Router()

    @router.on
    def paid(orders: list[Paid], tx: list[Any]) -> None: ...

    with pytest.raises(eda.ConfigError, match="takes lists, so the projection needs batch"):
        conn.projection(stream, router, into=MemorySink(), name="orders", batch=None)


async def test_router_when_its_handlers_take_a_transaction_can_not_be_subscribed(conn: eda.Conn, stream: str) -> None:
    router = eda.Router()

    @router.on
    def paid(order: Paid, tx: list[Any]) -> None: ...

    with pytest.raises(eda.ConfigError, match="takes a transaction, tx, which only a projection has"):
        conn.subscribe(stream, router)


async def test_router_when_a_handler_is_async_for_sqlite_is_refused(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    router = eda.Router()

    @router.on
    async def paid(order: Paid, tx: sqlite3.Connection) -> None: ...

    with pytest.raises(eda.ConfigError, match="SQLAlchemy"):
        conn.projection(stream, router, into=model.sink(), name="orders")
