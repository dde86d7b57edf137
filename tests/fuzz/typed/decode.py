"""Fuzz target: bytes of any encoding and schema into payload classes of every kind."""

from __future__ import annotations

import pickle
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
from google.protobuf.timestamp_pb2 import Timestamp

import eda
from eda._codec import decode_event, encode_event
from eda.errors import CodecError, DecodeError, EncodeError, UnknownEncoding, UnknownType

__all__ = ["ENCODINGS", "SCHEMAS", "TYPES", "check"]

TYPES = ["fuzz-record", "fuzz-former", "fuzz-struct", "fuzz-model", "fuzz-packed", "fuzz-message", "fuzz-nobody's"]
SCHEMAS = ["3", "", "1", "2", "broken", "9"]
ENCODINGS = ["json", "msgpack", "proto", "string", "bytes", "nil", "fuzz-none"]


@eda.payload("fuzz-record", schema="3", aliases=["fuzz-former"])
@dataclass
class Record:
    """A class with a chain of upcasters, which can hold another one of its kind."""

    amount: int
    at: datetime | None = None
    prices: dict[int, Decimal] = field(default_factory=dict)
    inner: Record | None = None


@eda.payload("fuzz-struct")
class Tagged(msgspec.Struct, tag=True, array_like=True, forbid_unknown_fields=True):
    """A class that reads every schema."""

    raw: bytes
    ratio: float = 0.0


@eda.payload("fuzz-model", schema="3")
class Model(pydantic.BaseModel):
    """A model that takes a text for a number."""

    model_config = pydantic.ConfigDict(extra="forbid")
    first_name: str = pydantic.Field(alias="firstName")
    parts: list[Model | int] = []


@eda.payload("fuzz-packed", encoding="msgpack")
@dataclass(slots=True)
class Packed:
    """A class whose own encoding is not JSON."""

    tags: set[str]
    at: datetime | None = None


eda.payload("fuzz-message", schema="3")(Timestamp)


@eda.upcast("fuzz-former", "1", "2")
def amount_of_sum(data: Any) -> Any:
    data["amount"] = data.pop("sum")
    return data


@eda.upcast("fuzz-record", "2", "3")
def in_a_record(data: Any) -> Any:
    return {"amount": 1, "inner": data}


@eda.upcast("fuzz-record", "broken", "3")
def nothing(data: Any) -> None:
    return None


eda.upcast("fuzz-model", "1", "3")(lambda data: {"firstName": str(data)})


def check(data: bytes) -> None:
    """The first three bytes choose type, schema and encoding; the rest is the payload."""
    if len(data) < 3:
        return
    type, schema = TYPES[data[0] % len(TYPES)], SCHEMAS[data[1] % len(SCHEMAS)]
    encoding = ENCODINGS[data[2] % len(ENCODINGS)]
    made = eda.Event(type=type, schema=schema, data=eda.Data.from_encoded(encoding, data[3:]))
    event = decode_event(encode_event(made, "i1"))
    payload = decoded(event)
    assert same(decoded(event), payload)
    assert event.data.encode() == data[3:]
    if payload is not None:
        check_again(payload, event)


def decoded(event: eda.Event) -> Any:
    """Return the payload; None if it can't be decoded."""
    try:
        return event.payload()
    except CodecError as error:
        check_refusal(error, event)
        return None


def check_refusal(error: CodecError, event: eda.Event) -> None:
    assert isinstance(error, DecodeError | UnknownType | UnknownEncoding)
    assert error.event_id == "i1"
    assert isinstance(error, UnknownType) == (event.type == TYPES[-1])
    text = str(error)
    assert text.isprintable()
    assert len(text) < 2000
    assert __name__ not in text
    assert str(pickle.loads(pickle.dumps(error))) == text


def check_again(payload: Any, event: eda.Event) -> None:
    """What was decoded is published again as it is."""
    again = event.replace(data=payload)
    assert again.type in TYPES
    with suppress(EncodeError):  # NaN, which MessagePack has and JSON has not
        assert same(decode_event(encode_event(again)).payload(), payload)


def same(one: Any, other: Any) -> bool:
    return one == other or repr(one) == repr(other)  # NaN differs from itself, and the order of a set says nothing
