"""The payload that `evolve` gets of an event that was just decided on: as a later load will read it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import eda


@eda.payload("folded-plain")
class Plain(msgspec.Struct, frozen=True):
    text: Any = ""


@eda.payload("folded-number")
class Number(msgspec.Struct, frozen=True):
    number: int
    share: float = 0.5
    text: str = ""


@eda.payload("folded-changeable")
class Changeable(msgspec.Struct):
    number: int


def store_of(conn: eda.Conn, stream: str, folded: list[Any]) -> eda.EventStore[Any, Any]:
    def evolve(n: int, payload: Number | Changeable | Plain) -> int:
        folded.append(payload)
        return n + 1

    return conn.store(stream, eda.Decider(0, evolve, lambda _, command: command))


@pytest.mark.parametrize(
    "number",
    [Number(1), Number(-(2**63), 1e300, "ä\x00"), Number(2**63 - 1, -0.0), Number(7, 0.1, "\U0001f600" * 50)],
)
async def test_evolve_when_a_payload_is_plain_gets_an_equal_one(conn: eda.Conn, stream: str, number: Number) -> None:
    folded: list[Any] = []
    store = store_of(conn, stream, folded)
    for _ in range(2):
        await store.execute("a", number)
    await store_of(conn, stream, folded).load("a")
    assert folded == [number] * 4
    assert [msgspec.json.encode(each) for each in folded] == [msgspec.json.encode(number)] * 4


@pytest.mark.parametrize("wrong", [Number("1"), Number(1.5), Number(1, 2, 3), Number(1, float("nan"))])  # type: ignore[arg-type]
async def test_execute_when_a_payload_can_not_be_read_back_stores_nothing(
    conn: eda.Conn, stream: str, wrong: Number
) -> None:
    store = store_of(conn, stream, [])
    await store.execute("a", Number(1))
    with pytest.raises(eda.CodecError):
        await store.execute("a", wrong)
    assert (await store.load("a")).version == 1


async def test_evolve_when_a_payload_can_be_changed_gets_a_copy(conn: eda.Conn, stream: str) -> None:
    folded: list[Any] = []
    store = store_of(conn, stream, folded)
    await store.execute("a", Number(1))
    given = Changeable(2)
    await store.execute("a", given)
    assert folded[1] == given
    assert folded[1] is not given


async def test_evolve_when_an_int_is_a_float_of_the_class_gets_what_is_stored(conn: eda.Conn, stream: str) -> None:
    folded: list[Any] = []
    store = store_of(conn, stream, folded)
    await store.execute("a", Number(1))
    await store.execute("a", Number(1, 2))
    assert type(folded[1].share) is float
