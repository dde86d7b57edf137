"""The envelope of a payload that a command has decided on: it is that of the Event with this payload."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import pytest

import eda


@eda.payload("written-json", schema="v2")
class Written(msgspec.Struct, frozen=True):
    value: Any = ""


@eda.payload("written-msgpack", encoding="msgpack")
@dataclass(frozen=True)
class Packed:
    value: int = 1


@eda.payload("written-ä")
class Named(msgspec.Struct):
    value: int = 1


class Dumped:
    """A value that has the encoder call `dump`."""

    def __init__(self, dump: Any) -> None:
        self.dump = dump

    def model_dump(self, **_: Any) -> Any:
        return self.dump()


def store_of(conn: eda.Conn, stream: str) -> eda.EventStore[Any, Any]:
    return conn.store(stream, eda.Decider(0, lambda n, _: n + 1, lambda _, command: command))


def written(event: eda.Event) -> tuple[Any, ...]:
    return event.type, event.schema, event.client, event.aggregate, event.data.type, event.data.encode(), event.meta


PAYLOADS = [
    Written(),
    Written("ä\x00\U0001f600" * 40),
    Written("x" * 100_000),
    Written(None),
    Written("null"),
    Written([1, 2.5, {"a": Decimal("1.50")}]),
    Written(b"\xff" * 2000),
    Packed(7),
    Named(8),
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: str(payload)[:30])
@pytest.mark.parametrize("aggregate", ["a", "ä b.c"])
async def test_execute_when_a_payload_is_decided_stores_what_its_event_would(
    conn: eda.Conn, stream: str, payload: Any, aggregate: str
) -> None:
    store = store_of(conn, stream)
    await store.execute(aggregate, Written("first"))
    for command in payload, eda.Event(data=payload), payload:
        await store.execute(aggregate, command)
    await store.append(aggregate, [payload], expected=4)
    events = await store.history(aggregate)
    assert [event.version for event in events] == [1, 2, 3, 4, 5]
    assert [event.payload() for event in events[1:]] == [events[2].payload()] * 4
    assert [written(event) for event in events[1:]] == [written(events[2])] * 4


@pytest.mark.parametrize("value", [float("nan"), [1, float("-inf")], object(), "\ud800"])
async def test_execute_when_a_payload_can_not_be_encoded_stores_nothing(
    conn: eda.Conn, stream: str, value: Any
) -> None:
    store = store_of(conn, stream)
    await store.execute("a", Written(1))
    with pytest.raises(eda.EncodeError):
        await store.execute("a", Written(value))
    await store.execute("a", Written(2))
    assert [event.payload().value for event in await store.history("a")] == [1, 2]


async def test_execute_when_the_encoder_runs_other_commands_stores_each_payload(conn: eda.Conn, stream: str) -> None:
    store = store_of(conn, stream)
    for aggregate in "a", "b":
        await store.execute(aggregate, Written("first"))

    def dump() -> str:
        other = store.execute("b", Written("other" * 10))
        other.send(None)  # it sends its event now
        other.close()
        return "dumped" * 20

    await store.execute("a", Written([1, Dumped(dump), 2]))
    assert [event.payload().value for event in await store.history("a")] == ["first", [1, "dumped" * 20, 2]]
    assert [event.payload().value for event in await store.history("b")] == ["first", "other" * 10]


async def test_execute_when_the_encoder_raises_midway_stores_later_payloads_whole(conn: eda.Conn, stream: str) -> None:
    store = store_of(conn, stream)
    await store.execute("a", Written("first"))

    def fail() -> str:
        raise LookupError("no")

    for n in range(3):
        with pytest.raises(eda.EncodeError):
            await store.execute("a", Written(["x" * 5000, Dumped(fail)]))
        await store.execute("a", Written(n))
    assert [event.payload().value for event in await store.history("a")] == ["first", 0, 1, 2]
