"""Payload classes on a real server: what is published typed is received typed, whatever kind of class it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import pydantic
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

import eda
from helpers import Connect


@dataclass
class Paid:
    amount: Decimal
    at: datetime


class Sent(msgspec.Struct, tag=True, rename="camel"):
    sent_to: str


class Enrolled(pydantic.BaseModel):
    first_name: str = pydantic.Field(alias="firstName")


@attrs.define
class Moved:
    x: int = attrs.field(validator=attrs.validators.ge(0))


PAYLOADS: list[Any] = [
    Paid(Decimal("1.20"), datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
    Sent("a"),
    Enrolled(firstName="b"),
    Moved(3),
    Timestamp(seconds=5),
]


@pytest.fixture(autouse=True)
def payload_classes(declarations: None) -> None:
    eda.payload("paid", schema="3", aliases=["bought."])(Paid)
    eda.payload("sent *", encoding="msgpack")(Sent)
    eda.payload("_", schema="1")(Enrolled)
    eda.payload("bewegt…")(Moved)
    eda.payload("time", schema="2")(Timestamp)


async def read(connection: eda.Conn, stream: str, n: int) -> list[eda.Event]:
    events: list[eda.Event] = []
    async with asyncio.timeout(20), connection.events(stream, backfill=True) as received:
        async for event in received:
            events.append(event)
            if len(events) == n:
                break
    return events


async def test_payload_when_published_in_every_way_is_received_as_it_was(connect: Connect, stream: str) -> None:
    async with await connect() as connection:
        for payload in PAYLOADS:
            await connection.publish(stream, eda.Event(data=payload, aggregate="a"))
        async with connection.publisher(stream) as publisher:
            await publisher.send_many([eda.Event(data=payload) for payload in PAYLOADS])
        events = await read(connection, stream, 2 * len(PAYLOADS))
        assert [event.payload() for event in events] == PAYLOADS * 2
        types = ["paid", "sent *", "_", "bewegt…", "time"]
        assert [event.type for event in events] == types * 2
        assert [event.schema for event in events[:5]] == ["3", "", "1", "", "2"]
        assert [event.data.type for event in events[:5]] == ["json", "msgpack", "json", "json", "proto"]


async def test_event_when_of_an_old_schema_or_type_is_received_as_the_class_is_now(
    connect: Connect, stream: str
) -> None:
    eda.upcast("paid", "1", "2")(lambda data: {"amount": data["sum"], "at": data["at"]})
    eda.upcast("paid", "2", "3")(lambda data: {**data, "amount": str(data["amount"])})
    old = {"sum": 3, "at": "2026-01-02T03:04:05Z"}
    async with await connect() as connection:
        await connection.publish(stream, eda.Event(type="bought.", schema="1", data=eda.JSON(old)))
        await connection.publish(stream, eda.Event(type="paid", schema="1", data=eda.MsgPack(old)))
        events = await read(connection, stream, 2)
        now = Paid(Decimal(3), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
        assert [event.payload() for event in events] == [now, now]
        # Published again, the payload has the type and schema of today.
        await connection.publish(stream, events[0].replace(data=events[0].payload(), id=""))
        again = (await read(connection, stream, 3))[2]
        assert (again.type, again.schema, again.payload()) == ("paid", "3", now)


async def test_connect_and_subscribe_when_a_chain_has_a_gap_are_refused(connect: Connect, stream: str) -> None:
    async with await connect() as connection:
        eda.upcast("paid", "1", "2")(lambda data: data)
        with pytest.raises(eda.ConfigError, match="does not lead to the schema '3'"):
            connection.subscribe(stream, print)
        with pytest.raises(eda.ConfigError, match="does not lead to the schema '3'"):
            eda.connect("nats://127.0.0.1:1")
        eda.upcast("paid", "2", "3")(lambda data: data)
        async with connection.subscribe(stream, print):
            pass
