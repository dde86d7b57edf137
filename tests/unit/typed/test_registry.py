"""eda.payload: what it takes, what it refuses, and what waits until it can be decided."""

from __future__ import annotations

import threading
from dataclasses import dataclass, make_dataclass
from enum import StrEnum
from typing import Any

import msgspec
import pydantic
import pytest
from google.protobuf.wrappers_pb2 import StringValue

import eda
from eda.errors import ConfigError
from eda.typed.registry import MADE_AS, payload_class_for, payload_class_of, payload_classes
from eda.typed.upcasters import check_upcasters


@dataclass
class Paid:
    amount: int


@dataclass
class Sent:
    to: str


class Model(pydantic.BaseModel):
    a: int


class Types(StrEnum):
    PAID = "paid"


def test_class_when_declared_is_found_by_class_type_and_alias() -> None:
    before = payload_classes()
    assert eda.payload("paid", schema="2", aliases=["bought", "payed"])(Paid) is Paid
    declared = payload_class_of(Paid)
    assert declared is not None
    assert (declared.cls, declared.type, declared.schema, declared.encoding) == (Paid, "paid", "2", "json")
    assert (declared.aliases, declared.kind) == (("bought", "payed"), "dataclass")
    assert all(payload_class_for(name) is declared for name in ("paid", "bought", "payed"))
    assert payload_classes() == [*before, declared]
    assert payload_class_of(Sent) is None
    assert payload_class_for("sent") is None
    assert repr(declared) == f"<PayloadClass 'paid': {__name__}.Paid>"


def test_texts_when_of_a_subclass_of_str_become_plain() -> None:
    eda.payload(Types.PAID, schema=Types.PAID, aliases=[Types.PAID + "x"])(Paid)
    declared = payload_class_of(Paid)
    assert declared is not None
    assert {type(declared.type), type(declared.schema), type(eda.Event(data=Paid(1)).type)} == {str}


@pytest.mark.parametrize("name", ["a", "_", "ä.b c*>%", "x" * 2048, "." * 682])
def test_type_when_a_subject_can_carry_it_is_taken(name: str) -> None:
    eda.payload(name, aliases=[f"{name[:-1]}y"])(Paid)
    assert eda.Event(data=Paid(1)).type == name


@pytest.mark.parametrize(
    "name", ["", None, 5, b"paid", "\ud800", "x" * 2049, "." * 683, "é" * 1025, Paid], ids=lambda name: str(name)[:9]
)
def test_type_when_no_event_can_have_it_is_refused(name: Any) -> None:
    for argument, arguments in (("type", {"type": name}), ("aliases", {"type": "t", "aliases": [name]})):
        with pytest.raises(ConfigError) as caught:
            eda.payload(**arguments)
        assert caught.value.argument == argument


def test_decorator_when_it_has_no_type_says_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match=r'write @eda\.payload\("paid"\)'):
        eda.payload(Paid)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "match", "argument"),
    [
        ({"schema": 2}, "schema must be a str", "schema"),
        ({"schema": None}, "schema must be a str", "schema"),
        ({"schema": "\udfff"}, "not valid Unicode", "schema"),
        ({"aliases": "payed"}, "aliases must be a list of types, not 'payed'", "aliases"),
        ({"aliases": 5}, "aliases must be a list", "aliases"),
        ({"aliases": None}, "aliases must be a list", "aliases"),
        ({"aliases": [5]}, "an alias must be a str that is not empty, not 5", "aliases"),
        ({"aliases": [Paid]}, "an alias must be a str that is not empty, not <class", "aliases"),
        ({"aliases": ["paid"]}, "alias 'paid' is the type itself", "aliases"),
        ({"aliases": ["a", "b", "a"]}, "alias 'a' is given twice", "aliases"),
        ({"encoding": ""}, "encoding must be the name", "encoding"),
        ({"encoding": 5}, "encoding must be the name", "encoding"),
        ({"encoding": "proto"}, r"encoding 'proto' does not fit .*Paid, .* json or msgpack", "encoding"),
        ({"encoding": "bytes"}, "encoding 'bytes' does not fit", "encoding"),
        ({"encoding": "string"}, "encoding 'string' does not fit", "encoding"),
        ({"encoding": "nil"}, "encoding 'nil' does not fit", "encoding"),
    ],
)
def test_argument_when_wrong_is_refused(arguments: dict[str, Any], match: str, argument: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        eda.payload("paid", **arguments)(Paid)
    assert caught.value.argument == argument
    assert payload_class_of(Paid) is None


@pytest.mark.parametrize("encoding", ["json", "msgpack", "bytes", "string", "nil"])
def test_encoding_when_it_does_not_fit_a_message_is_refused(encoding: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"encoding '{encoding}' does not fit .*StringValue, .*a protobuf message; it can have proto"
    ):
        eda.payload("text", encoding=encoding)(StringValue)


def test_type_when_another_class_has_it_is_refused_and_the_class_is_named() -> None:
    eda.payload("paid", aliases=["payed"])(Paid)
    for type, aliases, has in (("paid", (), "its type"), ("payed", (), "an alias"), ("x", ("payed",), "an alias")):
        with pytest.raises(ConfigError, match=rf"{__name__}\.Sent: {__name__}\.Paid has it as {has} already"):
            eda.payload(type, aliases=aliases)(Sent)
    assert payload_class_for("x") is None


def test_class_when_declared_twice_is_refused() -> None:
    eda.payload("paid")(Paid)
    with pytest.raises(ConfigError, match="Paid is already declared for type 'paid'; give other types as aliases"):
        eda.payload("payed")(Paid)


# --- what can't be decided yet -------------------------------------------------------------------------------------

DEFINED_LATER = "Line"


@dataclass
class Order:
    total: int
    lines: list[Line] | None = None  # type: ignore[name-defined]  # noqa: F821


class OrderStruct(msgspec.Struct):
    lines: list[Line] | None = None  # type: ignore[name-defined]  # noqa: F821


class OrderModel(pydantic.BaseModel):
    lines: list[Line] | None = None  # type: ignore[name-defined]  # noqa: F821


class NeverModel(pydantic.BaseModel):
    lines: list[Line] | None = None  # type: ignore[name-defined]  # noqa: F821


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda: monkeypatch.setitem(globals(), DEFINED_LATER, Sent)


def made(cls: Any) -> Any:
    if cls is NeverModel:
        return NeverModel.model_construct()
    return Order(3) if cls is Order else cls()


@pytest.mark.parametrize("cls", [Order, OrderStruct, OrderModel])
def test_annotation_when_defined_by_the_first_use_is_decided_then(cls: Any, define: Any) -> None:
    eda.payload("order")(cls)
    assert cls not in MADE_AS
    define()
    assert eda.Event(data=made(cls)).payload() == made(cls)


@pytest.mark.parametrize("cls", [Order, OrderStruct, NeverModel])
def test_annotation_when_never_defined_fails_at_connect_and_at_the_first_use(cls: Any) -> None:
    eda.payload("order")(cls)
    for use in (
        check_upcasters,
        lambda: eda.connect("nats://localhost:1"),
        lambda: eda.Event(data=made(cls)),
        lambda: eda.Event(type="order", data=eda.JSON({})).payload(),
        lambda: eda.Event().replace(data=made(cls)),
    ):
        with pytest.raises(ConfigError, match=rf"{cls.__name__} can't be used: .*(Line|lines)"):
            use()


def test_class_when_it_turns_out_to_be_unfit_is_refused_at_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    eda.payload("order")(Order)
    monkeypatch.setitem(globals(), DEFINED_LATER, threading.Thread)
    with pytest.raises(ConfigError, match="Order can't be a payload class: field 'lines' has the type Thread"):
        eda.connect("nats://localhost:1")


def test_encoding_when_registered_after_the_declaration_works() -> None:
    eda.payload("paid", encoding="later")(Paid)
    with pytest.raises(ConfigError, match="Paid can't be used: its encoding 'later' is not registered"):
        check_upcasters()
    with pytest.raises(ConfigError, match="its encoding 'later' is not registered"):
        eda.Event(data=Paid(1))
    eda.register_encoding("later", lambda paid: b"%d" % paid.amount, lambda data: {"amount": int(data)})
    check_upcasters()
    event = eda.Event(data=Paid(1))
    assert event.data.encode() == b"1"
    assert event.payload() == Paid(1)
    eda.register_encoding("later", lambda paid: b"%d" % -paid.amount, lambda data: Paid(-int(data)))
    assert eda.Event(data=Paid(1)).data.encode() == b"-1"
    assert eda.Event(data=Paid(1)).payload() == Paid(1)


def test_check_when_nothing_was_declared_since_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    eda.payload("paid")(Paid)
    check_upcasters()
    monkeypatch.setattr("eda.typed.upcasters.payload_classes", None)
    check_upcasters()
    eda.payload("sent")(Sent)
    with pytest.raises(TypeError):
        check_upcasters()


def test_threads_when_they_declare_at_once_leave_one_class_for_each_type() -> None:
    classes = [make_dataclass(f"C{i}", [("a", int)]) for i in range(64)]
    outcomes: list[Any] = []
    barrier = threading.Barrier(8)

    def declare(mine: list[Any]) -> None:
        barrier.wait()
        for i, cls in enumerate(mine):
            try:
                eda.payload(f"t{i}", aliases=[f"a{i}"])(cls)
                outcomes.append(cls)
            except ConfigError:
                outcomes.append(None)

    threads = [threading.Thread(target=declare, args=(classes[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 64
    assert sum(each is not None for each in outcomes) == 8
    for i in range(8):
        declared = payload_class_for(f"t{i}")
        assert declared is not None
        assert payload_class_for(f"a{i}") is declared
        assert eda.Event(data=declared.cls(3)).payload() == declared.cls(3)
