"""Which states a snapshot can keep: those that are read back as they were, with the same types."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import pydantic
import pytest
from google.protobuf.wrappers_pb2 import StringValue

import eda
from eda.store.state_codec import StateCodec, UnfitState


class Status(enum.StrEnum):
    OPEN = "open"
    PAID = "paid"


@dataclass
class Line:
    price: Decimal
    tags: set[str] = field(default_factory=set)


@dataclass
class Order:
    status: Status = Status.OPEN
    lines: list[Line] = field(default_factory=list)
    by_day: dict[int, datetime] = field(default_factory=dict)
    pair: tuple[int, str] | None = None


@dataclass(eq=False)
class WithoutEquality:
    paid: int = 0


@dataclass
class Loose:
    status: str = ""


class Struct(msgspec.Struct, frozen=True, tag=True):
    paid: int = 0


class OtherStruct(msgspec.Struct, frozen=True, tag=True):
    reason: str = ""


@attrs.define
class Attrs:
    paid: int = 0


class Model(pydantic.BaseModel):
    paid: int = 0
    at: datetime | None = None


ORDER = Order(Status.PAID, [Line(Decimal("1.10"), {"a", "b"})], {1: datetime(2026, 1, 1, tzinfo=UTC)}, (1, "x"))


@pytest.mark.parametrize(
    ("state", "state_type", "initial"),
    [
        (ORDER, None, Order()),
        (ORDER, Order, None),
        (WithoutEquality(3), None, WithoutEquality()),
        (Struct(3), None, Struct()),
        (Struct(3), Struct | OtherStruct, Struct()),
        (OtherStruct("x"), Struct | OtherStruct, Struct()),
        (Attrs(3), None, Attrs()),
        (Model(paid=3, at=datetime(2026, 1, 1, tzinfo=UTC)), None, Model()),
        ([Model(paid=3)], list[Model], []),
        (StringValue(value="x"), None, StringValue()),
        ({"a": [1, 2.5, None, True, "é"]}, None, {}),
        ({1: (2, 3)}, dict[int, tuple[int, int]], {}),
        (7, None, 0),
        (b"\x00\xff", bytes, b""),
        (None, None, None),
        ({Status.OPEN: 1}, dict[Status, int], {}),
    ],
)
def test_state_when_it_is_encoded_is_read_back_the_same(state: Any, state_type: Any, initial: Any) -> None:
    codec = StateCodec(state_type, initial)
    data = codec.encode(state)
    read = codec.decode(eda.Data.from_encoded(data.type, data.encode()))
    assert type(read) is type(state)
    if not isinstance(state, WithoutEquality):
        assert read == state


@pytest.mark.parametrize(
    ("state", "state_type", "initial", "why"),
    [
        ({1: 2}, None, {}, r"a dict is read back from its json changed: give Decider\(state=\.\.\.\)"),
        ((1, 2), None, (), "changed"),
        ({"a": {1}}, None, {}, "changed"),
        ({"a": Status.OPEN}, None, {}, "changed"),
        (Status.OPEN, None, Status.OPEN, "changed"),
        (Loose(Status.OPEN), None, Loose(), "a Loose is read back from its json changed$"),
        (OtherStruct("x"), None, Struct(), "cannot decode json"),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, None, {}, "changed"),
        ({"a": float("nan")}, None, {}, "cannot encode"),
        ({"a": object()}, None, {}, "cannot encode"),
        (True, int, 0, "json"),
        (3, StringValue, StringValue(), "cannot encode"),
        ({True: 1}, dict[int, int], {}, "json"),
    ],
)
def test_state_when_it_would_be_read_back_changed_is_refused(
    state: Any, state_type: Any, initial: Any, why: str
) -> None:
    with pytest.raises(UnfitState, match=why):
        StateCodec(state_type, initial).encode(state)


def test_state_when_it_is_nested_too_deeply_is_refused() -> None:
    state: list[Any] = []
    for _ in range(100_000):
        state = [state]
    with pytest.raises(UnfitState):
        StateCodec(None, []).encode(state)


class Plain:
    pass


@pytest.mark.parametrize(
    "state_type", [Plain, dict[int, str] | dict[str, str], "Order", 3], ids=["class", "union", "str", "int"]
)
def test_state_type_when_nothing_can_be_decoded_into_it_is_refused(state_type: Any) -> None:
    with pytest.raises(eda.ConfigError, match="can't be decoded from a snapshot") as caught:
        StateCodec(state_type, None)
    assert caught.value.argument == "state"
