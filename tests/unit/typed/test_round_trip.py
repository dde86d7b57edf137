"""Payload classes of every kind: what is put into an event comes out of its bytes, or the declaration is refused."""

from __future__ import annotations

import abc
import collections
import dataclasses
import enum
import pathlib
import pickle
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, NewType, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue
from pydantic.alias_generators import to_camel

import eda
from eda._codec import decode_event, encode_event
from eda.errors import ConfigError, DecodeError

T = TypeVar("T")
OrderId = NewType("OrderId", str)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2


@dataclass
class Money:
    amount: Decimal
    currency: str = "EUR"


class Line(msgspec.Struct, frozen=True, tag="line"):
    name: str
    price: Money


class Note(msgspec.Struct, frozen=True, tag="note"):
    text: str


class Address(pydantic.BaseModel):
    street: str = pydantic.Field(alias="streetName")


@dataclass
class Everything:
    order: OrderId
    at: datetime
    day: date
    took: timedelta
    number: UUID
    price: Decimal
    raw: bytes
    colour: Colour
    level: Level
    kind: Literal["a", "b"]
    lines: list[Line | Note]
    address: Address
    addresses: dict[str, Address]
    by_number: dict[int, str]
    by_day: dict[date, int]
    tags: set[str]
    pair: tuple[int, str]
    some: Money | None = None
    anything: Any = None
    _private: int = 3
    derived: int = field(default=5, init=False)
    constant: ClassVar[int] = 9


EVERYTHING: dict[str, Any] = {
    "order": OrderId("4711"),
    "at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    "day": date(2026, 1, 2),
    "took": timedelta(seconds=1.5),
    "number": UUID(int=7),
    "price": Decimal("1.20"),
    "raw": b"\x00\xff",
    "colour": Colour.BLUE,
    "level": Level.LOW | Level.HIGH,
    "kind": "b",
    "lines": [Line("x", Money(Decimal(1))), Note("y")],
    "address": Address(streetName="a"),
    "addresses": {"home": Address(streetName="b")},
    "by_number": {1: "one"},
    "by_day": {date(2026, 1, 2): 2},
    "tags": {"a", "b"},
    "pair": (1, "a"),
    "some": Money(Decimal("0.1"), "CHF"),
    "anything": {"a": [1, None, "x"]},
    "_private": 4,
}


@dataclass(slots=True, frozen=True, kw_only=True)
class Frozen:
    a: int
    b: str = "x"


@dataclass(frozen=True)
class Base:
    a: int


@dataclass(frozen=True)
class Derived(Base):
    b: str


class SameFields(Base):
    """A subclass without fields of its own needs no decorator."""


@dataclass
class Box(Generic[T]):
    value: T


@dataclass
class DayBox(Box[date]):
    n: int = 0


@dataclass
class Initialised:
    a: int
    double: int = field(init=False)

    def __post_init__(self) -> None:
        self.double = 2 * self.a


class Camel(msgspec.Struct, rename="camel", tag="camel", omit_defaults=True, forbid_unknown_fields=True):
    first_name: str
    last_name: str = ""


class Array(msgspec.Struct, array_like=True):
    a: int
    b: Colour = Colour.RED


class Private(msgspec.Struct, kw_only=True):
    _a: int
    b: int | msgspec.UnsetType = msgspec.UNSET


class StructBox(msgspec.Struct, Generic[T]):
    value: T


class IntStructBox(StructBox[int]):
    pass


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", alias_generator=to_camel, strict=True)
    first_name: str
    born: date
    home: Address
    homes: list[Address] = []
    tags: set[str] = set()


@dataclass
class HoldsModel:
    model: Model


class Revealed(pydantic.BaseModel):
    token: pydantic.SecretStr

    @pydantic.field_serializer("token")
    def reveal(self, token: pydantic.SecretStr) -> str:
        return token.get_secret_value()


def pair_of(text: Any) -> Any:
    return tuple(int(each) for each in text.split("-")) if isinstance(text, str) else text


WrittenPair = typing.Annotated[
    tuple[int, int],
    pydantic.BeforeValidator(pair_of),
    pydantic.PlainSerializer(lambda pair: f"{pair[0]}-{pair[1]}"),
]


class PairKeys(pydantic.BaseModel):
    a: dict[WrittenPair, str]


class SerializedKeys(pydantic.BaseModel):
    a: dict[tuple[int, int], str]

    @pydantic.field_serializer("a")
    def write(self, a: dict[tuple[int, int], str]) -> dict[str, str]:
        return {f"{one}-{two}": text for (one, two), text in a.items()}

    @pydantic.field_validator("a", mode="before")
    @classmethod
    def read(cls, a: Any) -> Any:
        return {pair_of(key): text for key, text in a.items()}


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    a: int


class Computed(pydantic.BaseModel):
    a: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.a


class Chosen(pydantic.BaseModel):
    a: int = pydantic.Field(validation_alias=pydantic.AliasChoices("b", "c"), serialization_alias="c")
    d: int = pydantic.Field(2, validation_alias="e", serialization_alias="d")
    model_config = pydantic.ConfigDict(validate_by_name=True, validate_by_alias=True)


class Numbers(pydantic.RootModel[list[int]]):
    pass


class ModelBox(pydantic.BaseModel, Generic[T]):
    value: T


def positive(_: Any, __: Any, value: int) -> None:
    if value <= 0:
        raise ValueError("must be positive")


@attrs.define
class Attrs:
    a: int = attrs.field(validator=positive, converter=int)
    day: date = date(2026, 1, 1)
    hidden: int = attrs.field(default=4, init=False)


@attrs.frozen(slots=False, kw_only=True)
class Open2:
    a: int
    aliased: int = attrs.field(alias="given")


@attrs.define(slots=False)
class DerivedAttrs(Attrs):
    more: str = ""


@dataclass
class Node:
    value: int
    next: Node | None = None


ROUND_TRIPS: list[Any] = [
    Everything(**EVERYTHING),
    Frozen(a=1),
    Derived(1, "b"),
    SameFields(3),
    DayBox(date(2026, 1, 2), 3),
    Initialised(4),
    Node(1, Node(2)),
    Camel("A"),
    Array(1, Colour.BLUE),
    Private(_a=3),
    IntStructBox(5),
    Model(firstName="A", born=date(2000, 1, 2), home=Address(streetName="s"), tags={"t"}),
    HoldsModel(Model(firstName="A", born=date(2000, 1, 2), home=Address(streetName="s"), tags={"t"})),
    Revealed(token=pydantic.SecretStr("x")),
    PairKeys(a={(1, 2): "x"}),
    SerializedKeys(a={(1, 2): "x"}),
    Open(a=1, b="more"),
    Computed(a=2),
    Chosen(b=1, e=5),
    Numbers([1, 2]),
    ModelBox[date](value=date(2026, 1, 2)),
    Attrs("5"),  # type: ignore[arg-type]  # the converter makes it an int
    Open2(a=1, given=2),
    DerivedAttrs(1, more="m"),
]


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("value", ROUND_TRIPS, ids=lambda value: type(value).__name__)
def test_payload_when_it_went_through_bytes_is_equal(value: Any, encoding: str) -> None:
    if encoding == "msgpack" and type(value) in (Model, HoldsModel):
        with pytest.raises(ConfigError, match=r"Model can't be a payload class: it is strict"):
            eda.payload("t", encoding=encoding)(type(value))
        return
    eda.payload("t", schema="1", encoding=encoding)(type(value))
    event = eda.Event(data=value)
    assert (event.type, event.schema, event.data.type) == ("t", "1", encoding)
    received = decode_event(encode_event(event, "i"))
    for each in (received, event, pickle.loads(pickle.dumps(event)), pickle.loads(pickle.dumps(received))):
        result = each.payload()
        assert type(result) is type(value)
        assert result == value
        assert result is not value


@pytest.mark.parametrize("value", ROUND_TRIPS, ids=lambda value: type(value).__name__)
def test_payload_when_its_plain_data_went_through_an_upcaster_is_equal(value: Any) -> None:
    eda.payload("t", schema="2")(type(value))
    eda.upcast("t", "1", "2")(lambda plain: plain)
    received = decode_event(encode_event(eda.Event(type="t", schema="1", data=eda.JSON(value)), "i"))
    assert received.payload() == value


@pytest.mark.parametrize(
    "value", [Timestamp(seconds=5), StringValue(value="x"), StringValue()], ids=lambda value: type(value).__name__
)
def test_payload_when_it_is_a_protobuf_message_is_equal_after_its_bytes(value: Any) -> None:
    eda.payload("t", schema="1")(type(value))
    event = eda.Event(data=value)
    assert event.data.type == "proto"
    assert decode_event(encode_event(event, "i")).payload() == value
    assert event.payload() is not value


@pytest.mark.parametrize("value", [*ROUND_TRIPS, StringValue(value="x")], ids=lambda value: type(value).__name__)
def test_bytes_when_written_name_neither_class_nor_module(value: Any) -> None:
    eda.payload("t")(type(value))
    for event in (eda.Event(data=value), decode_event(encode_event(eda.Event(data=value), "i"))):
        envelope = encode_event(event, "i", "c", 5)
        for name in (type(value).__module__, type(value).__qualname__, type(value).__name__):
            assert name.encode() not in envelope, name


def test_model_when_encoded_has_its_aliases_everywhere() -> None:
    model = Address(streetName="s")
    assert eda.JSON(model).encode() == b'{"streetName":"s"}'
    assert eda.JSON([{"a": model}]).encode() == b'[{"a":{"streetName":"s"}}]'
    assert eda.MsgPack(model).decode() == {"streetName": "s"}
    assert eda.MsgPack([Box(model)]).decode() == [{"value": {"streetName": "s"}}]
    assert eda.JSON(model).decode(Address) == model


class Plain:
    pass


@dataclass
class WithPlain:
    first: int
    second: list[Plain]


@dataclass
class Outer:
    inner: dict[str, WithPlain]


@dataclass
class WithInitVar:
    a: int
    b: dataclasses.InitVar[int] = 3

    def __post_init__(self, b: int) -> None:
        self.a += b


@dataclass
class WithText:
    a: datetime | str


@dataclass
class WithTwoClasses:
    a: Money | Frozen


class Untagged(msgspec.Struct):
    a: int


class WithUntagged(msgspec.Struct):
    fine: int
    a: Untagged | Line


@dataclass
class WithTupleKeys:
    a: dict[tuple[int, int], str]


@dataclass
class WithEitherKeys:
    a: dict[int | frozenset[int], str]


@dataclass
class WithFrozenKeys:
    a: dict[Frozen, str]


class TupleKeys(pydantic.BaseModel):
    a: dict[tuple[int, int], str]


class NestedTupleKeys(pydantic.BaseModel):
    a: list[dict[typing.Annotated[tuple[int, ...], "pair"] | str, str] | None]


class FrozenKeys(pydantic.BaseModel):
    a: dict[Frozen, str]


@dataclass
class WithBoolKeys:
    a: dict[bool, str]


@dataclass
class WithMixedKeys:
    a: dict[int | str, str]


@dataclass
class WithPath:
    a: pathlib.Path


@dataclass
class WithDeque:
    a: collections.deque[int]


@dataclass
class WithCallable:
    a: Callable[[int], int]


class Mixed(enum.Enum):
    A = 1
    B = "b"


@dataclass
class WithMixedEnum:
    a: Mixed


@attrs.define
class PrivateAttrs:
    a: int
    _b: int = 1


@dataclass
class WithPrivateAttrs:
    a: PrivateAttrs


@attrs.define
class UntypedAttrs:
    a: int = attrs.field()
    b = attrs.field(default=3)


class Excluded(pydantic.BaseModel):
    a: int
    b: int = pydantic.Field(3, exclude=True)


class TwoNames(pydantic.BaseModel):
    a: int = pydantic.Field(serialization_alias="written")


class ByNameOnly(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(validate_by_name=True, validate_by_alias=False)
    a: int = pydantic.Field(alias="b")


class Nested(pydantic.BaseModel):
    a: list[TwoNames | None]


@dataclass
class WithTwoNames:
    a: TwoNames


class ComputedForbid(Computed):
    model_config = pydantic.ConfigDict(extra="forbid")


class ComputedAllow(Computed):
    model_config = pydantic.ConfigDict(extra="allow")


class Arbitrary(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    a: int
    b: Plain | None = None


class Secret(pydantic.BaseModel):
    a: list[pydantic.SecretStr | None]


class WithJson(pydantic.BaseModel):
    a: pydantic.Json[int] | None = None


@dataclass
class WithExt:
    a: msgspec.msgpack.Ext


@dataclass
class WithRaw:
    a: msgspec.Raw


@dataclass
class WithDict(dict[str, int]):
    a: int


@attrs.define
class AttrsWithDict(dict[str, int]):
    a: int


@dataclass
class WithException(Exception):
    a: int


@dataclass
class WithTuple(tuple[int, ...]):
    a: int = 1


@dataclass
class WithDate(date):
    a: int = 1


@dataclass
class HoldsException:
    a: list[WithException | None]


@pydantic.dataclasses.dataclass
class PydanticDataclass:
    a: int


@dataclass
class WithPydanticDataclass:
    b: PydanticDataclass


REFUSED: list[tuple[type[Any], str]] = [
    (WithPlain, r"WithPlain can't be a payload class: field 'second' has the type Plain"),
    (Outer, r"WithPlain can't be a payload class: field 'second'"),
    (WithInitVar, r"WithInitVar can't be a payload class: field 'b' is an InitVar"),
    (WithText, r"WithText can't be a payload class: field 'a' can't be decoded: Type unions"),
    (WithTwoClasses, r"WithTwoClasses can't be a payload class: field 'a' can't be decoded"),
    (WithUntagged, r"WithUntagged can't be a payload class: field 'a' can't be decoded: .* tagged"),
    (WithTupleKeys, r"WithTupleKeys can't be a payload class: field 'a' has keys that JSON can't have: vartuple|tuple"),
    (WithBoolKeys, r"field 'a' has keys that JSON can't have: bool"),
    (WithMixedKeys, r"field 'a' has keys that JSON can't have: union"),
    (WithPath, r"field 'a' has the type Path"),
    (WithDeque, r"field 'a' has the type deque"),
    (WithCallable, r"field 'a' has the type Callable"),
    (WithMixedEnum, r"WithMixedEnum can't be a payload class: field 'a' can't be decoded: Enums"),
    (PrivateAttrs, r"PrivateAttrs can't be a payload class: field '_b' would not be encoded"),
    (WithPrivateAttrs, r"PrivateAttrs can't be a payload class: field '_b' would not be encoded"),
    (UntypedAttrs, r"UntypedAttrs can't be a payload class: field 'b' has no type annotation"),
    (Excluded, r"Excluded can't be a payload class: field 'b' is not encoded"),
    (TwoNames, r"TwoNames can't be a payload class: field 'a' is written as 'written' and read as 'a'"),
    (ByNameOnly, r"ByNameOnly can't be a payload class: field 'a' is written as 'b' and read as 'a'"),
    (Nested, r"TwoNames can't be a payload class: field 'a' is written"),
    (WithTwoNames, r"TwoNames can't be a payload class: field 'a' is written"),
    (ComputedForbid, r"ComputedForbid can't be a payload class: field 'double' is computed"),
    (ComputedAllow, r"ComputedAllow can't be a payload class: field 'double' is computed"),
    (Arbitrary, r"Arbitrary can't be a payload class: field 'b' has the type"),
    (Secret, r"Secret can't be a payload class: field 'a' is a secret"),
    (WithJson, r"WithJson can't be a payload class: field 'a' is pydantic's Json"),
    (WithExt, r"WithExt can't be a payload class: field 'a' has the type Ext, which can't be encoded"),
    (WithDict, r"WithDict can't be a payload class: it is a subclass of dict"),
    (AttrsWithDict, r"AttrsWithDict can't be a payload class: it is a subclass of dict"),
    (WithException, r"WithException can't be a payload class: it is a subclass of Exception"),
    (WithTuple, r"WithTuple can't be a payload class: it is a subclass of tuple"),
    (WithDate, r"WithDate can't be a payload class: it is a subclass of date"),
    (HoldsException, r"WithException can't be a payload class: it is a subclass of Exception"),
    (PydanticDataclass, r"PydanticDataclass is a dataclass of pydantic"),
    (WithPydanticDataclass, r"PydanticDataclass is a dataclass of pydantic"),
    (Box, r"Box is generic, and T could be any type"),
    (StructBox, r"StructBox is generic, and T could be any type"),
    (ModelBox, r"ModelBox is generic, and T could be any type"),
]


@pytest.mark.parametrize(("cls", "match"), REFUSED, ids=[cls.__name__ for cls, _ in REFUSED])
def test_class_when_it_can_not_make_the_round_trip_is_refused(cls: type[Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        eda.payload("t")(cls)
    # Nothing was kept: the type is free.
    eda.payload("t")(Frozen)


@pytest.mark.parametrize("cls", [WithTupleKeys, WithEitherKeys, WithFrozenKeys, TupleKeys, NestedTupleKeys, FrozenKeys])
def test_keys_when_they_can_not_be_read_back_are_refused_in_each_encoding(cls: type[Any]) -> None:
    with pytest.raises(ConfigError, match=r"field 'a' has keys that can't be read back"):
        eda.payload("t", encoding="msgpack")(cls)
    with pytest.raises(ConfigError, match=r"field 'a' has keys that"):
        eda.payload("t")(cls)


def test_raw_when_the_encoding_is_not_json_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"field 'a' has the type Raw, which can't be encoded"):
        eda.payload("t", encoding="msgpack")(WithRaw)
    eda.payload("t")(WithRaw)
    assert bytes(eda.Event(data=WithRaw(msgspec.Raw(b"[1]"))).payload().a) == b"[1]"


@pytest.mark.parametrize("encoding", ["msgpack"])
@pytest.mark.parametrize("cls", [WithBoolKeys, WithMixedKeys])
def test_keys_when_the_encoding_has_them_are_allowed(cls: type[Any], encoding: str) -> None:
    eda.payload("t", encoding=encoding)(cls)
    value = cls({True: "a"} if cls is WithBoolKeys else {1: "a", "1": "b"})
    assert eda.Event(data=value).payload() == value


def test_validators_when_data_does_not_fit_run() -> None:
    eda.payload("attrs")(Attrs)
    eda.payload("model")(Model)
    with pytest.raises(DecodeError, match="must be positive"):
        eda.Event(type="attrs", data=eda.JSON({"a": -1})).payload()
    with pytest.raises(DecodeError, match="extra_forbidden"):
        home = {"streetName": "s"}
        eda.Event(
            type="model", data=eda.JSON({"firstName": "A", "born": "2000-01-02", "home": home, "more": 1})
        ).payload()


class Cached(msgspec.Struct, dict=True):
    a: int

    @cached_property
    def double(self) -> int:
        return 2 * self.a


def test_cached_property_when_computed_is_not_encoded() -> None:
    eda.payload("t")(Cached)
    value = Cached(1)
    assert value.double == 2
    assert eda.Event(data=value).data.encode() == b'{"a":1}'


# --- kinds ---------------------------------------------------------------------------------------------------------


class WithAnnotations:
    a: int


class WithAttrib:
    a = attrs.field()


@dataclass
class Empty:
    pass


class EmptyStruct(msgspec.Struct):
    pass


class EmptyModel(pydantic.BaseModel):
    pass


class Undecorated(Base):
    b: int


@dataclass
class Abstract(abc.ABC):
    a: int

    @abc.abstractmethod
    def total(self) -> int: ...


class Pair(typing.NamedTuple):
    a: int


class Dict(typing.TypedDict):
    a: int


NO_CLASSES: list[tuple[Any, str]] = [
    (WithAnnotations, "WithAnnotations is not a dataclass.*write @eda.payload above @dataclass or @define"),
    (WithAttrib, "WithAttrib is not a dataclass.*write @eda.payload above @dataclass or @define"),
    (Undecorated, "Undecorated is not a dataclass.*write @eda.payload above @dataclass or @define"),
    (Plain, "Plain is not a dataclass, msgspec.Struct, pydantic model, attrs class or protobuf message$"),
    (Pair, "Pair is not a dataclass"),
    (Dict, "Dict is not a dataclass"),
    (Colour, "Colour is not a dataclass"),
    (int, "int is not a dataclass"),
    (Empty, "Empty has no fields"),
    (EmptyStruct, "EmptyStruct has no fields"),
    (EmptyModel, "EmptyModel has no fields"),
    (msgspec.Struct, "Struct has no fields"),
    (pydantic.BaseModel, "BaseModel has no fields"),
    (Abstract, "Abstract is abstract"),
    (Box[int], r"must stand above a class, not .*Box\[int\].*declare a subclass"),
    (Frozen(a=1), "must stand above a class"),
    (print, "must stand above a class"),
    (None, "must stand above a class"),
    ("Frozen", "must stand above a class"),
]


@pytest.mark.parametrize(("cls", "match"), NO_CLASSES, ids=[str(cls)[:60] for cls, _ in NO_CLASSES])
def test_declaration_when_it_is_no_class_with_fields_is_refused(cls: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        eda.payload("t")(cls)


def test_protobuf_message_when_it_has_no_fields_is_refused() -> None:
    from google.protobuf.empty_pb2 import Empty as EmptyMessage
    from google.protobuf.message import Message

    with pytest.raises(ConfigError, match="has no fields"):
        eda.payload("t")(EmptyMessage)
    with pytest.raises(ConfigError, match="is not a dataclass"):
        eda.payload("t")(Message)
