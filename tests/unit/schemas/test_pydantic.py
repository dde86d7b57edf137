"""eda.schemas with pydantic: a change is found compatible only if pydantic reads the other release's payloads."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NaiveDatetime,
    PastDate,
    computed_field,
    create_model,
)

from eda.encodings import decode_value, encode_value
from eda.errors import DecodeError
from eda.schemas.coverage import coverage_gaps
from eda.schemas.json_schema import json_schema


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = ""


class Sum(BaseModel):
    cents: int

    @computed_field
    def euros(self) -> float:
        return self.cents / 100


Either = Annotated[Card | Cash, Field(discriminator="kind")]


DAY = "2020-01-01"
AWARE, NAIVE = "2026-01-02T03:04:05Z", "2026-01-02T03:04:05"
SINCE = Annotated[datetime.date, Field(ge=datetime.date(2020, 1, 1))]
CENTS = Annotated[Decimal, Field(max_digits=10, decimal_places=2)]
KEYED = dict[int | bool, int]


def model(**fields: Any) -> type[BaseModel]:
    return create_model("Paid", **fields)


def one(type_: Any) -> type[BaseModel]:
    return model(a=(type_, ...))


CLOSED = create_model("Sum", __base__=Strict, cents=(int, ...))

# What changes, the old and the new class, a payload of each, and whether new and old readers go on.
CHANGES: list[tuple[str, Any, Any, Any, Any, bool, bool]] = [
    ("a default", model(a=(int, ...)), model(a=(int, ...), b=(str, "")), {"a": 1}, {"a": 1, "b": "x"}, True, True),
    ("a requirement", model(a=(int, ...)), model(a=(int, ...), b=(str, ...)), {"a": 1}, {"a": 1, "b": ""}, False, True),
    ("a limit", model(a=(int, ...)), model(a=(Annotated[int, Field(ge=0)], ...)), {"a": -1}, {"a": 1}, False, True),
    ("null", model(a=(int, ...)), model(a=(int | None, ...)), {"a": 1}, {"a": None}, True, False),
    ("a variant", model(a=(Card, ...)), model(a=(Either, ...)), {"a": Card(number="1")}, {"a": Cash()}, True, False),
    ("a number", model(a=(int, ...)), model(a=(float, ...)), {"a": 1}, {"a": 1.5}, True, False),
    ("a text", model(a=(datetime.date, ...)), model(a=(str, ...)), {"a": "2026-01-02"}, {"a": "no date"}, True, False),
    ("an offset", one(datetime.datetime), one(AwareDatetime), {"a": NAIVE}, {"a": AWARE}, False, True),
    ("no offset", one(datetime.datetime), one(NaiveDatetime), {"a": AWARE}, {"a": NAIVE}, False, True),
    ("the past", one(datetime.date), one(PastDate), {"a": "2999-01-01"}, {"a": DAY}, False, True),
    ("the same day", one(SINCE), model(a=(SINCE, ...), b=(int, 1)), {"a": DAY}, {"a": DAY}, True, True),
    ("a first day", one(datetime.date), one(SINCE), {"a": "2019-01-01"}, {"a": DAY}, False, True),
    ("digits", one(Decimal), one(CENTS), {"a": "1.234"}, {"a": "1.23"}, False, True),
    ("a Decimal", one(int), one(Decimal), {"a": 1}, {"a": "1.5"}, True, False),
    ("keys", one(dict[str, int]), one(dict[int, int]), {"a": {"x": 1}}, {"a": {1: 1}}, False, True),
    ("more keys", one(dict[int, int]), one(KEYED), {"a": {1: 1}}, {"a": {"true": 1}}, True, False),
    ("a computed field", Sum, model(cents=(int, ...), euros=(str, "")), {"cents": 1}, {"cents": 1}, False, True),
    ("computed and refused", Sum, CLOSED, {"cents": 1}, {"cents": 1}, False, True),
    ("strictness", Strict, create_model("Strict", __base__=Strict, more=(str, "")), {}, {"more": "x"}, True, False),
    (
        "another name that is read",
        model(amount=(int, ...)),
        model(cents=(int, Field(validation_alias=AliasChoices("amount", "cents")))),
        {"amount": 1},
        {"cents": 1},
        False,  # the schema can't say that there are two names
        False,
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "stored", "sent", "new_reads", "old_reads"),
    [row[1:] for row in CHANGES],
    ids=[row[0] for row in CHANGES],
)
def test_change_when_compared_is_compatible_where_pydantic_reads(
    old: Any, new: Any, stored: Any, sent: Any, new_reads: bool, old_reads: bool
) -> None:
    assert (not coverage_gaps(json_schema(old), json_schema(new))) == new_reads
    assert (not coverage_gaps(json_schema(new), json_schema(old))) == old_reads
    if new_reads:
        decode_value("json", encode_value("json", old(**stored)), new)
    if old_reads:
        decode_value("json", encode_value("json", new(**sent)), old)


@pytest.mark.parametrize(
    "row", [row for row in CHANGES if row[0] != "another name that is read"], ids=lambda row: row[0]
)
def test_change_when_called_breaking_breaks_pydantic(row: tuple[str, Any, Any, Any, Any, bool, bool]) -> None:
    _, old, new, stored, sent, new_reads, old_reads = row
    for reads, writer, reader, fields in ((new_reads, old, new, stored), (old_reads, new, old, sent)):
        if not reads:
            with pytest.raises(DecodeError):
                decode_value("json", encode_value("json", writer(**fields)), reader)


def test_text_when_it_becomes_a_decimal_breaks_new_readers() -> None:
    assert coverage_gaps(json_schema(one(str)), json_schema(one(Decimal)))
    assert not coverage_gaps(json_schema(one(Decimal)), json_schema(one(Decimal | None)))
