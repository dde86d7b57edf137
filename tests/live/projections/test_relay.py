"""`conn.relay`: rows of an outbox become events of their streams, in order, and are deleted; in every database."""

from __future__ import annotations

import asyncio

import pytest

import eda
import eda.sql
from helpers import Admin, until
from support.projections.outboxes import Box
from support.projections.sinks import Place


@pytest.fixture
async def box(place: Place) -> Box:
    box = Box(place)
    await box.outbox.create()
    return box


def numbered(numbers: range, n_keys: int = 7) -> list[eda.Event]:
    return [eda.Event(id=f"n{n:05}", type="counted", aggregate=f"a{n % n_keys}", data=eda.JSON(n)) for n in numbers]


async def test_relay_when_transactions_commit_publishes_their_events_in_order_and_deletes_the_rows(
    box: Box, conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await conn.streams.create(stream)
    await box.add(stream, *numbered(range(2500)))
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == 2500)
        await box.add(stream, *numbered(range(2500, 2503)))
        await until(lambda: relay.stats().acknowledged == 2503, timeout_s=4.0)  # it was woken
        assert relay.stats().active
    assert await admin.ids(stream) == [f"n{n:05}" for n in range(2503)]
    assert await box.ids() == []
    assert await box.rows("SELECT * FROM eda_outbox_relay") == []  # nothing is on its way


async def test_relay_when_another_one_is_active_stands_by_and_takes_over(
    box: Box, conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await conn.streams.create(stream)
    first = await conn.relay(box.outbox)
    await until(lambda: first.stats().active)
    second = await conn.relay(box.another().outbox)
    await asyncio.sleep(0.2)
    assert not second.stats().active
    await box.add(stream, *numbered(range(3)))
    await until(lambda: first.stats().acknowledged == 3)
    await first.close()
    await box.add(stream, *numbered(range(3, 5)))
    await until(lambda: second.stats().acknowledged == 2)
    await second.close()
    assert await admin.ids(stream) == [f"n{n:05}" for n in range(5)]


async def test_relay_when_an_event_has_all_fields_publishes_them(box: Box, conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream)
    event = eda.Event(
        id="one", type="placed", aggregate="4711", data=eda.JSON({"n": 1}), time=1_700_000_000_000_000_000,
        schema="s1", cause="zero", client="shop", meta={"k": "v"},
    )  # fmt: skip
    await box.add(stream, event)
    async with conn.relay(box.outbox), conn.events(stream, start=1) as events:
        received = await anext(events)
    fields = ("id", "type", "aggregate", "data", "time_ns", "schema", "cause", "client", "meta")
    assert [getattr(received, name) for name in fields] == [getattr(event, name) for name in fields]
