"""eda.schemas.json_schema: what is written under a class fits its schema, for each kind of class."""

from __future__ import annotations

import datetime
import enum
import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from jsonschema import Draft202012Validator

from eda.encodings import encode_value
from eda.errors import ConfigError
from eda.schemas.json_schema import json_schema

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Card(msgspec.Struct, tag="card"):
    number: str


class Cash(msgspec.Struct, tag="cash", forbid_unknown_fields=True):
    pass


class Point(msgspec.Struct, array_like=True):
    x: float
    y: float = 0.0


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict, total=False):
    deep: bool


class Box(msgspec.Struct, Generic[T]):
    value: T


class Model(pydantic.BaseModel):
    """A model of pydantic."""

    name: str = pydantic.Field(min_length=1)
    price: Decimal
    children: list[Model] = []


@dataclass
class Node:
    """A node
    with nodes."""

    children: list[Node] = field(default_factory=list)


@attrs.define
class Sized:
    width: int = 3


@dataclass
class Everything:
    payment: Card | Cash
    color: Color
    point: Point
    pair: Pair
    node: Node
    sized: Sized
    model: Model
    boxes: tuple[Box[int], Box[str]]
    maybe: int | None
    literal: Literal["a", 1]
    by_number: dict[int, str]
    by_color: dict[Color, Any]
    by_day: dict[datetime.date, float]
    few: Annotated[list[int], msgspec.Meta(min_length=1, max_length=3)]
    code: Annotated[str, msgspec.Meta(pattern="^[a-z]+$", description="A code.", examples=["abc"])]
    several: set[str]
    raw: bytes
    when: datetime.datetime
    aware: Annotated[datetime.datetime, msgspec.Meta(tz=True)]
    day: datetime.date
    clock: datetime.time
    span: datetime.timedelta
    id: uuid.UUID
    exact: Decimal
    options: Options = field(default_factory=lambda: Options())
    nothing: tuple[()] = ()
    anything: Any = None


EVERYTHING = Everything(
    payment=Cash(),
    color=Color.RED,
    point=Point(1.5),
    pair=Pair(1, "a"),
    node=Node([Node()]),
    sized=Sized(),
    model=Model(name="a", price=Decimal("1.5"), children=[Model(name="b", price=Decimal(1))]),
    boxes=(Box(1), Box("a")),
    maybe=None,
    literal=1,
    by_number={-7: "a"},
    by_color={Color.BLUE: [1]},
    by_day={datetime.date(2026, 1, 2): 0.5},
    few=[1],
    code="abc",
    several={"a"},
    raw=b"\x00",
    when=datetime.datetime(2026, 1, 2),
    aware=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    day=datetime.date(2026, 1, 2),
    clock=datetime.time(1, 2),
    span=datetime.timedelta(hours=1),
    id=uuid.UUID(int=1),
    exact=Decimal("0.1"),
    options={"deep": True},
)

WRITTEN = [EVERYTHING, Node([Node()]), Sized(), EVERYTHING.model, Point(1.0, 2.0), Card("1"), Box[int](1)]


@pytest.mark.parametrize("value", WRITTEN, ids=lambda value: type(value).__name__)
def test_payload_when_written_fits_the_schema_of_its_class(value: Any) -> None:
    schema = json_schema(type(value))
    Draft202012Validator.check_schema(schema)
    payload = json.loads(encode_value("json", value))
    assert [error.message for error in Draft202012Validator(schema).iter_errors(payload)] == []


def test_payload_when_a_field_is_wrong_does_not_fit() -> None:
    validator = Draft202012Validator(json_schema(Everything))
    payload = json.loads(encode_value("json", EVERYTHING))
    for change in (
        {"payment": {"type": "cheque"}},
        {"payment": {"type": "cash", "unknown": 1}},
        {"color": "green"},
        {"pair": [1]},
        {"by_number": {"a": "b"}},
        {"few": []},
        {"code": "ABC"},
        {"node": {"children": [{"children": 7}]}},
        {"model": {"name": "", "price": 1}},
        {"nothing": [1]},
    ):
        assert not validator.is_valid({**payload, **change}), change


def test_schema_when_a_class_has_texts_of_its_own_has_them_and_no_module() -> None:
    text = json.dumps(json_schema(Everything))
    assert __name__.rpartition(".")[2] not in text
    assert "A node with nodes." in text
    assert "A model of pydantic." in text
    assert "A code." in text
    assert "Everything(" not in text  # the docstring that Python makes


def test_definitions_when_classes_share_a_name_are_told_apart() -> None:
    def another() -> Any:
        class Inner(pydantic.BaseModel):
            name: str

        return Inner

    one, two = another(), another()
    two.model_fields["name"].annotation = str
    model = pydantic.create_model("Outer", one=(one, ...), two=(two, ...))
    mixed = msgspec.defstruct("Mixed", [("model", model), ("inner", msgspec.defstruct("Inner", [("number", int)]))])
    for cls in (model, mixed):
        schema = json_schema(cls)
        Draft202012Validator.check_schema(schema)
        assert all(name.split("_")[0] in ("Inner", "Outer") for name in schema["$defs"])
    valid = Draft202012Validator(json_schema(mixed)).is_valid
    assert valid({"model": {"one": {"name": "a"}, "two": {"name": "b"}}, "inner": {"number": 1}})
    assert not valid({"model": {"one": {"name": "a"}, "two": {"name": "b"}}, "inner": {"name": "a"}})


def test_schema_when_a_pydantic_field_has_an_alias_has_the_alias() -> None:
    class Aliased(pydantic.BaseModel):
        name: str = pydantic.Field(default="", alias="fullName")

    assert json_schema(Aliased)["properties"].keys() == {"fullName"}


def test_schema_when_a_pydantic_field_is_read_under_several_names_has_the_written_one() -> None:
    class Renamed(pydantic.BaseModel):
        cents: int = pydantic.Field(validation_alias=pydantic.AliasChoices("amount", "cents"))
        note: str = ""

        @pydantic.computed_field
        def euros(self) -> float:
            return self.cents / 100

    for cls in (Renamed, pydantic.create_model("Outer", inner=(Renamed, ...), inners=(list[Renamed], ...))):
        schema = json_schema(cls)
        inner = schema["$defs"]["Renamed"] if "$defs" in schema else schema
        assert list(inner["properties"]) == ["cents", "note", "euros"]
        assert inner["properties"]["euros"]["x-eda-computed"] is True
        assert inner["required"] == ["cents"]


def test_schema_when_a_field_has_a_default_does_not_require_it() -> None:
    assert json_schema(Model)["$defs"]["Model"]["required"] == ["name", "price"]
    assert json_schema(Sized)["required"] == []
    assert json_schema(Sized)["properties"] == {"width": {"type": "integer", "default": 3}}


@pytest.mark.parametrize("type_", [complex, type("Foreign", (), {}), msgspec.msgpack.Ext])
def test_class_when_a_field_cannot_be_described_is_refused(type_: Any) -> None:
    cls = msgspec.defstruct("Holder", [("field", type_)])
    with pytest.raises(ConfigError, match=r"no JSON Schema can be made for the class Holder: TypeError: .*can't be"):
        json_schema(cls)


def test_schema_when_made_in_other_processes_is_the_same() -> None:
    code = (
        "import json, enum, msgspec\nfrom typing import Literal\nfrom eda.schemas.json_schema import json_schema\n"
        "S = msgspec.defstruct('S', [('a', Literal['x', 'y', 'z', 1]), ('b', str | int | None | list[str]), "
        "('c', frozenset[str], frozenset('abcde'))])\n"
        "print(json.dumps(json_schema(S)))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1
