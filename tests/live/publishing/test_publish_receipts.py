"""The receipts of conn.publish and publish_batch."""

from __future__ import annotations

import asyncio

import pytest

import eda
from helpers import Connect
from support.publishing.sent import numbered
from support.transport.faulty_proxy import FaultyProxy


@pytest.mark.old_server
async def test_publish_when_stored_gives_id_and_place(conn: eda.Conn, stream: str) -> None:
    receipt = await conn.publish(stream, eda.Event(id="a", type="t"))
    assert receipt == eda.Receipt("a", stream, 1, 0, False)
    receipts = await asyncio.gather(*(conn.publish(stream, event) for event in numbered(100)))
    assert [each.id for each in receipts] == [event.id for event in numbered(100)]
    assert sorted(each.sequence for each in receipts) == list(range(2, 102))
    assert all(each.duplicate is False for each in receipts)


@pytest.mark.old_server
async def test_publish_when_the_id_is_known_gives_the_place_of_the_first_copy(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream)
    await conn.publish(stream, eda.Event(id="again"))
    await conn.publish(stream)
    assert await conn.publish(stream, eda.Event(id="again")) == eda.Receipt("again", stream, 2, 0, True)


async def test_publish_when_the_server_has_a_domain_gives_the_same(connect: Connect, stream: str) -> None:
    async with eda.EmbeddedServer(config={"jetstream": {"domain": "hub"}}) as server:
        conn = await connect(server.url)
        assert await conn.publish(stream, eda.Event(id="a")) == eda.Receipt("a", stream, 1, 0, False)
        assert await conn.publish(stream, eda.Event(id="a")) == eda.Receipt("a", stream, 1, 0, True)


async def test_publish_when_its_first_answer_was_lost_is_a_duplicate(
    server: eda.EmbeddedServer, connect: Connect, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eda.publishing.stream_publisher.RESEND_S", 0.2)
    async with FaultyProxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.publish(stream)
        proxy.drop_if = lambda message: b'"seq":2}' in message
        assert await conn.publish(stream, eda.Event(id="a")) == eda.Receipt("a", stream, 2, 0, True)
        await conn.close()


async def test_cause_when_it_is_a_receipt_names_the_event(conn: eda.Conn, stream: str) -> None:
    cause = await conn.publish(stream, eda.Event(type="order-placed"))
    await conn.publish(stream, eda.Event(type="order-paid", cause=cause))
    got: asyncio.Queue[eda.Event] = asyncio.Queue()
    async with conn.subscribe(stream, got.put_nowait, backfill=True, types=["order-paid"]), asyncio.timeout(10):
        assert (await got.get()).cause == cause.id == str(cause)


@pytest.mark.parametrize("server_version", ["current", "2.12.8"], indirect=True)
async def test_batch_when_stored_gives_ids_and_places(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream)
    receipts = await conn.publish_batch(stream, numbered(3))
    assert receipts == [eda.Receipt(event.id, stream, at, 0, False) for at, event in enumerate(numbered(3), 2)]
    (only,) = await conn.publish_batch(stream, [eda.Event()])
    assert (len(only.id), only.sequence) == (22, 5)
