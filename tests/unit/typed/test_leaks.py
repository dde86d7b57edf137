"""Payloads give back the memory that they took: many times through each path, errors included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest
from google.protobuf.wrappers_pb2 import StringValue

import eda
from eda._codec import decode_event, encode_event
from eda.errors import EdaError
from eda.typed.registry import payload_class_of
from leaks import MAX_BLOCKS, MAX_RSS, growth

N = 20_000


@dataclass
class Paid:
    amount: int


class Model(pydantic.BaseModel):
    amount: int


@dataclass
class Undeclared:
    amount: int


@pytest.fixture(autouse=True)
def declared() -> None:
    eda.payload("paid", schema="2", aliases=["payed"])(Paid)
    eda.payload("model")(Model)
    eda.payload("text")(StringValue)
    eda.upcast("paid", "1", "2")(lambda data: {"amount": data["sum"]})
    eda.upcast("paid", "0", "1")(lambda data: None)


def envelope(type: str, schema: str, data: eda.Data) -> bytes:
    return encode_event(eda.Event(type=type, schema=schema, data=data), "i1")


def refused(function: Callable[..., Any], **arguments: Any) -> None:
    try:
        function(**arguments)
    except EdaError:
        return
    raise AssertionError("it was not refused")


NEW = envelope("paid", "2", eda.JSON({"amount": 1}))
OLD = envelope("paid", "1", eda.JSON({"sum": 1}))
PACKED = envelope("payed", "2", eda.MsgPack({"amount": 1}))
MODEL = envelope("model", "", eda.JSON({"amount": 1}))
TEXT = envelope("text", "", eda.Proto(StringValue(value="x")))
WRONG = [
    envelope("paid", "2", eda.JSON({"amount": "x"})),
    envelope("paid", "1", eda.JSON({"amount": "x"})),
    envelope("paid", "0", eda.JSON({"amount": "x"})),
    envelope("paid", "9", eda.JSON({"amount": "x"})),
    envelope("nobody's", "", eda.JSON({"amount": "x"})),
    envelope("model", "", eda.JSON({"amount": "x"})),
    envelope("text", "", eda.Bytes(b"\xff")),
    envelope("text", "", eda.Data.from_encoded("proto", b"\xff")),
    envelope("paid", "2", eda.Data.from_encoded("nothing", b"\xff")),
]
PAID = Paid(1)
EVENT = eda.Event(type="x", data=eda.JSON(1))

PATHS: dict[str, Callable[[], Any]] = {
    "made": lambda: eda.Event(data=PAID, aggregate="a"),
    "made-and-encoded": lambda: encode_event(eda.Event(data=Paid(2)), "i"),
    "made-refused-type": lambda: refused(eda.Event, data=PAID, type="x"),
    "made-refused-class": lambda: refused(eda.Event, data=Undeclared(1)),
    "replaced": lambda: EVENT.replace(data=PAID).replace(id="x"),
    "replace-refused": lambda: refused(eda.Event(data=PAID).replace, type="x"),
    "decoded": lambda: decode_event(NEW).payload(),
    "decoded-again": lambda: [eda.Event(data=Paid(2)).payload() for _ in range(2)],
    "decoded-old": lambda: decode_event(OLD).payload(),
    "decoded-packed": lambda: decode_event(PACKED).payload(),
    "decoded-model": lambda: decode_event(MODEL).payload(),
    "decoded-message": lambda: decode_event(TEXT).payload(),
    "decode-refused": lambda: [refused(decode_event(each).payload) for each in WRONG],
    "schemas-that-never-end": lambda: refused(decode_event(envelope("paid", str(next(COUNT)), eda.JSON({}))).payload),
    "types-that-never-end": lambda: refused(decode_event(envelope(str(next(COUNT)), "", eda.JSON({}))).payload),
    "declaration-refused": lambda: refused(lambda: eda.payload("paid")(Undeclared)),
}
COUNT = iter(range(100, 10**9))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_memory_when_a_path_is_taken_many_times_does_not_grow(path: Callable[[], Any]) -> None:
    n = N // 10 if path in (PATHS["decode-refused"], PATHS["declaration-refused"]) else N
    blocks, tracked, size = growth(path, n, n_before=n // 4, shared=(PAID, EVENT, Paid, NEW, payload_class_of(Paid)))
    assert blocks < MAX_BLOCKS / 5
    assert tracked < MAX_BLOCKS / 5
    assert size < MAX_RSS


class Order:
    """An aggregate in the usual style: it keeps its pending events, whose payloads refer to it."""

    def __init__(self) -> None:
        paid = Paid(1)
        paid.order = self  # type: ignore[attr-defined]
        self.pending = [eda.Event(data=paid)]


def test_memory_when_an_events_payload_refers_back_to_it_is_given_back() -> None:
    assert growth(Order, 10_000)[0] < MAX_BLOCKS
