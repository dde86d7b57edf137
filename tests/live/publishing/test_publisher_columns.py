"""`send_columns`: the rows of a table as events, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import eda
from helpers import Connect, until
from support.publishing.sent import MODES_AND_PACKS, Outcomes, options_of, stored_ids
from support.transport.faulty_proxy import FaultyProxy

each_mode = pytest.mark.parametrize("mode", MODES_AND_PACKS)


@eda.payload("column-read")
@dataclass(frozen=True)
class Reading:
    celsius: float


def ids_from(n: int, *, start: int = 0) -> list[str]:
    return [f"e{number:07}" for number in range(start, start + n)]


@asynccontextmanager
async def publisher_of(conn: eda.Conn, stream: str, mode: str, **options: Any) -> AsyncIterator[eda.Publisher]:
    await conn.streams.create(stream, eda.StreamOptions(packed="packs" in mode))
    async with conn.publisher(stream, **options_of(mode), **options) as publisher:
        yield publisher


@asynccontextmanager
async def held(
    connect: Connect, server: eda.EmbeddedServer, stream: str, mode: str
) -> AsyncIterator[tuple[FaultyProxy, eda.Conn, eda.Publisher]]:
    """Open a publisher with room for 100 events. After its first event, its connection is held up."""
    async with FaultyProxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        async with publisher_of(conn, stream, mode, max_pending=100) as publisher:
            await publisher.send(eda.Event(id="first"))
            await publisher.flush()
            proxy.hold()
            yield proxy, conn, publisher
        await conn.close()


async def read(conn: eda.Conn, stream: str, n: int) -> list[eda.Event]:
    async with conn.events(stream, backfill=True) as events:
        return [await anext(events) for _ in range(n)]


def table_of(n: int) -> dict[str, Any]:
    """Return columns with data of every kind."""
    data = [b"raw", eda.JSON({"v": 1}), eda.String("é"), None, eda.MsgPack([1])]
    return {
        "type": [f"t{row % 7}" for row in range(n)],
        "aggregate": tuple(f"a {row % 11}" for row in range(n)),
        "data": [data[row % 5] for row in range(n)],
        "time": [row + 1 for row in range(n)],
        "meta": [{"row": str(row)} if row % 3 else None for row in range(n)],
        "cause": "cause",
        "schema": "s",
    }


def events_of(table: dict[str, Any], n: int) -> list[eda.Event]:
    """Return the events that the rows should be."""
    rows = [
        {name: each[row] if isinstance(each, list | tuple) else each for name, each in table.items()}
        for row in range(n)
    ]
    return [
        eda.Event(**row | {"data": eda.Bytes(row["data"]) if isinstance(row["data"], bytes) else row["data"]})
        for row in rows
    ]


@each_mode
async def test_send_columns_stores_the_events_that_send_many_stores(conn: eda.Conn, stream: str, mode: str) -> None:
    table, n = table_of(3000), 3000
    both = []
    for name in (stream, f"{stream}-many"):
        async with publisher_of(conn, name, mode) as pub:
            ids = await (pub.send_columns(**table) if name == stream else pub.send_many(events_of(table, n)))
        events = await read(conn, name, n)
        assert [event.id for event in events] == ids
        both.append(
            [{**event.to_dict(), "id": "", "stream": "", "ack_time": None, "of": event.data.type} for event in events]
        )
        await conn.streams.delete(name)
    assert both[0] == both[1]


@each_mode
async def test_send_columns_when_rows_are_payloads_takes_their_types(conn: eda.Conn, stream: str, mode: str) -> None:
    async with publisher_of(conn, stream, mode) as pub:
        await pub.send_columns(data=[Reading(number / 2) for number in range(100)], aggregate="kitchen")
    events = await read(conn, stream, 100)
    assert {(event.type, event.aggregate) for event in events} == {("column-read", "kitchen")}
    assert [event.payload() for event in events] == [Reading(number / 2) for number in range(100)]


@each_mode
async def test_send_columns_when_there_are_no_rows_sends_nothing(conn: eda.Conn, stream: str, mode: str) -> None:
    async with publisher_of(conn, stream, mode) as pub:
        assert await pub.send_columns(type="t", data=[], aggregate=()) == []
        assert pub.stats().sent == 0


@each_mode
async def test_send_columns_when_there_are_more_rows_than_room_sends_all_in_order(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    outcomes = Outcomes()
    async with publisher_of(conn, stream, mode, max_pending=700, **outcomes.callbacks) as pub:
        first = await pub.send(eda.Event(id="first"))
        ids = await pub.send_columns(id=ids_from(12_000), data=b"x" * 16)
        last = await pub.send(eda.Event(id="last"))
    assert ids == ids_from(12_000)
    outcomes.check([first, *ids, last], await stored_ids(server.url, stream), pub.stats())


@each_mode
async def test_send_columns_when_tasks_call_it_at_once_keeps_the_order_of_each(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    tables = [ids_from(3000, start=number * 3000) for number in range(3)]
    async with publisher_of(conn, stream, mode, max_pending=500) as pub:
        await asyncio.gather(*(pub.send_columns(id=ids) for ids in tables))
    stored = await stored_ids(server.url, stream)
    assert [[each for each in stored if each in set(ids)] for ids in tables] == tables


@each_mode
async def test_send_columns_when_lists_are_emptied_while_it_waits_sends_what_was_in_them(
    connect: Connect, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    async with held(connect, server, stream, mode) as (proxy, conn, pub):
        ids, data = ids_from(1000), [bytes([number % 256]) for number in range(1000)]
        sending = asyncio.create_task(pub.send_columns(id=ids, data=data))
        await until(lambda: pub.stats().pending >= 100)
        ids.clear()
        data.clear()
        assert not sending.done()
        proxy.release()
        assert await sending == ids_from(1000)
        events = await read(conn, stream, 1001)
        assert [event.data.decode() for event in events[1:]] == [bytes([number % 256]) for number in range(1000)]


@each_mode
async def test_send_columns_when_it_is_cancelled_has_sent_the_rows_so_far(
    connect: Connect, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    async with held(connect, server, stream, mode) as (proxy, _, pub):
        sending = asyncio.create_task(pub.send_columns(id=ids_from(1000)))
        await until(lambda: pub.stats().pending == 100)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        proxy.release()
        await pub.send(eda.Event(id="last"))
    assert await stored_ids(server.url, stream) == ["first", *ids_from(100), "last"]


@each_mode
async def test_send_columns_when_a_row_is_wrong_names_it_and_sends_those_before_it(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    ids = ids_from(6000)
    data: list[Any] = [b"x"] * 6000
    data[5432] = "text"
    async with publisher_of(conn, stream, mode) as pub:
        with pytest.raises(eda.ConfigError, match=r"^row 5432: data must be made by .* not str") as caught:
            await pub.send_columns(id=ids, data=data)
        assert caught.value.argument == "data"
        assert pub.stats().sent == 5432
        with pytest.raises(eda.EncodeError) as failed:
            await pub.send_columns(id=["a", "b", "c"], data=[b"", None, eda.JSON(object())])
        assert failed.value.__notes__ == ["row 2"]
        await pub.send(eda.Event(id="last"))
    assert await stored_ids(server.url, stream) == [*ids[:5432], "a", "b", "last"]


async def test_send_columns_when_the_table_is_wrong_sends_nothing(conn: eda.Conn, stream: str) -> None:
    async with conn.publisher(stream) as pub:
        for given in ({"type": "t"}, {"type": ["t"], "data": [None, None]}, {"type": ["t"], "aggregate": iter("a")}):
            with pytest.raises(eda.ConfigError):
                await pub.send_columns(**given)
        with pytest.raises(TypeError):
            await pub.send_columns(["t"])  # type: ignore[misc]
        assert pub.stats().sent == 0


async def test_send_columns_when_the_publisher_is_not_open_raises_closed(conn: eda.Conn, stream: str) -> None:
    publisher = conn.publisher(stream)
    with pytest.raises(eda.Closed):
        await publisher.send_columns(type=["t"])
    async with publisher:
        pass
    with pytest.raises(eda.Closed):
        await publisher.send_columns(type=["t"])


async def test_send_columns_when_the_publisher_is_closed_while_it_waits_raises_closed(
    connect: Connect, server: eda.EmbeddedServer, stream: str
) -> None:
    async with FaultyProxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url), logger=None)
        pub = await conn.publisher(stream, max_pending=100)
        await pub.send(eda.Event())
        await pub.flush()
        proxy.hold()
        sending = asyncio.create_task(pub.send_columns(id=ids_from(1000)))
        await until(lambda: pub.stats().pending == 100)
        await pub.close()
        with pytest.raises(eda.Closed):
            await sending
        proxy.release()
        await conn.close()


async def test_send_columns_when_the_server_refuses_rows_reports_their_events(conn: eda.Conn, stream: str) -> None:
    outcomes = Outcomes()
    await conn.streams.create(stream, eda.StreamOptions(max_events=20, discard="new"))
    async with conn.publisher(stream, **outcomes.callbacks) as pub:
        await pub.send_columns(id=ids_from(30), data=[bytes([row]) for row in range(30)])
    assert sorted(outcomes.acknowledged) == ids_from(20)
    assert [(event.id, event.data.decode()) for event, _ in outcomes.failures] == [
        (each, bytes([row])) for row, each in enumerate(ids_from(30)) if row >= 20
    ]
