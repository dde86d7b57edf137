"""Payload classes whose payloads are read back as they were written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

import msgspec
import pytest

import eda
from eda.typed.plain_fields import plain_fields


@eda.payload("plain-all")
class All(msgspec.Struct, frozen=True):
    text: str
    number: int = 1
    share: float = 0.5
    is_paid: bool = False


@eda.payload("plain-changeable")
class Changeable(msgspec.Struct):
    text: str


@eda.payload("plain-list")
class WithList(msgspec.Struct, frozen=True):
    texts: list[str]


@eda.payload("plain-date")
class WithDate(msgspec.Struct, frozen=True):
    day: date


@eda.payload("plain-optional")
class Optional(msgspec.Struct, frozen=True):
    text: str | None = None


@eda.payload("plain-checked")
class Checked(msgspec.Struct, frozen=True):
    number: Annotated[int, msgspec.Meta(ge=0)]


@eda.payload("plain-code")
class WithCode(msgspec.Struct, frozen=True):
    number: int

    def __post_init__(self) -> None:
        pass


@eda.payload("plain-dict")
class WithDict(msgspec.Struct, frozen=True, dict=True):
    number: int


@eda.payload("plain-dataclass")
@dataclass(frozen=True)
class Data:
    number: int


class Undeclared(msgspec.Struct, frozen=True):
    number: int


def test_plain_fields_when_all_are_plain_names_them_with_their_types() -> None:
    fields = plain_fields(All)
    assert fields is not None
    named = [(member.__name__, kind) for member, kind in fields]
    assert named == [("text", str), ("number", int), ("share", float), ("is_paid", bool)]
    assert plain_fields(All) is plain_fields(All)


@pytest.mark.parametrize(
    "cls", [Changeable, WithList, WithDate, Optional, Checked, WithCode, WithDict, Data, Undeclared]
)
def test_plain_fields_when_a_payload_may_be_read_back_otherwise_are_none(cls: type[Any]) -> None:
    assert plain_fields(cls) is None
