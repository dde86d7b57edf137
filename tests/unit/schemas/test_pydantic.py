"""eda.schemas with pydantic: a change is found compatible only if pydantic reads the other release's payloads."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model

from eda.encodings import decode_value, encode_value
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


Either = Annotated[Card | Cash, Field(discriminator="kind")]


def model(**fields: Any) -> type[BaseModel]:
    return create_model("Paid", **fields)


# What changes, the old and the new class, a payload of each, and whether new and old readers go on.
CHANGES: list[tuple[str, Any, Any, Any, Any, bool, bool]] = [
    ("a default", model(a=(int, ...)), model(a=(int, ...), b=(str, "")), {"a": 1}, {"a": 1, "b": "x"}, True, True),
    ("a requirement", model(a=(int, ...)), model(a=(int, ...), b=(str, ...)), {"a": 1}, {"a": 1, "b": ""}, False, True),
    ("a limit", model(a=(int, ...)), model(a=(Annotated[int, Field(ge=0)], ...)), {"a": -1}, {"a": 1}, False, True),
    ("null", model(a=(int, ...)), model(a=(int | None, ...)), {"a": 1}, {"a": None}, True, False),
    ("a variant", model(a=(Card, ...)), model(a=(Either, ...)), {"a": Card(number="1")}, {"a": Cash()}, True, False),
    ("a number", model(a=(int, ...)), model(a=(float, ...)), {"a": 1}, {"a": 1.5}, True, False),
    ("a text", model(a=(datetime.date, ...)), model(a=(str, ...)), {"a": "2026-01-02"}, {"a": "no date"}, True, False),
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
