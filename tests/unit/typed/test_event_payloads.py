"""Events that are made from payloads: what they take from the class, and what contradicts it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest

import eda
from eda._codec import decode_event, encode_event
from eda._data import Data
from eda.errors import ConfigError, EncodeError


@dataclass
class Paid:
    amount: int


@dataclass
class PaidLate(Paid):
    days: int = 0


@dataclass
class Sent:
    to: str


@pytest.fixture(autouse=True)
def declared() -> None:
    eda.payload("paid", schema="2", aliases=["payed"])(Paid)


def test_event_when_made_from_a_payload_has_type_schema_and_encoding_of_its_class() -> None:
    event = eda.Event(data=Paid(30), aggregate="4711", meta={"a": "b"}, id="i")
    assert (event.type, event.schema, event.aggregate, event.data.type) == ("paid", "2", "4711", "json")
    assert event.data.encode() == b'{"amount":30}'
    assert event == eda.Event(
        type="paid", schema="2", data=eda.JSON(Paid(30)), aggregate="4711", meta={"a": "b"}, id="i"
    )
    assert pickle.loads(pickle.dumps(event)) == event


@pytest.mark.parametrize("fields", [{}, {"type": "paid"}, {"schema": "2"}, {"type": "", "schema": ""}])
def test_event_when_the_given_texts_agree_is_made(fields: dict[str, str]) -> None:
    event = eda.Event(data=Paid(30), **fields)
    assert (event.type, event.schema) == ("paid", "2")


@pytest.mark.parametrize(
    ("fields", "argument"),
    [
        ({"type": "sent"}, "type"),
        ({"type": "payed"}, "type"),
        ({"schema": "1"}, "schema"),
        ({"type": "paid", "schema": "1"}, "schema"),
    ],
)
def test_event_when_a_given_text_contradicts_the_class_is_refused(fields: dict[str, str], argument: str) -> None:
    own = {"type": "paid", "schema": "2"}[argument]
    match = f"{argument} {fields[argument]!r} contradicts the data: Paid is declared with {argument} '{own}'"
    for make in (lambda: eda.Event(data=Paid(30), **fields), lambda: eda.Event().replace(data=Paid(30), **fields)):
        with pytest.raises(ConfigError, match=match) as caught:
            make()
        assert caught.value.argument == argument


def test_event_when_the_class_has_no_schema_has_none() -> None:
    eda.payload("sent")(Sent)
    assert eda.Event(data=Sent("a")).schema == ""
    with pytest.raises(ConfigError, match="schema '1' contradicts the data: Sent is declared with schema ''"):
        eda.Event(data=Sent("a"), schema="1")
    received = decode_event(encode_event(eda.Event(type="sent", schema="9", data=eda.JSON({"to": "b"})), "i"))
    assert received.payload() == Sent("b")
    assert received.replace(data=Sent("c")).schema == ""


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (PaidLate(1), r"not PaidLate: it is a subclass of Paid, but only Paid itself is declared\. Declare it, too"),
        (Sent("a"), r'not Sent, which is not declared: write @eda\.payload\("…"\) above class Sent'),
        (Paid, "not type: it is the class Paid, not an instance of it"),
        (5, "not int$"),
        ({"amount": 3}, "not dict$"),
    ],
    ids=repr,
)
def test_event_when_the_class_of_its_data_is_not_declared_is_refused(value: Any, match: str) -> None:
    for make in (lambda: eda.Event(type="paid", data=value), lambda: eda.Event().replace(data=value)):
        with pytest.raises(ConfigError, match=rf"data must be made by eda\.JSON.*{match}") as caught:
            make()
        assert caught.value.argument == "data"


def test_replace_when_given_a_payload_takes_type_and_schema_from_it() -> None:
    eda.payload("sent", schema="s")(Sent)
    received = decode_event(encode_event(eda.Event(data=Paid(1), aggregate="a"), "i", "c", 5))
    changed = received.replace(data=Sent("b"))
    assert (changed.type, changed.schema, changed.id, changed.aggregate) == ("sent", "s", "i", "a")
    assert changed.payload() == Sent("b")
    assert received.replace(data=Sent("b"), type="sent", schema="s") == changed
    assert (received.type, received.payload()) == ("paid", Paid(1))


@pytest.mark.parametrize("fields", [{"type": "x"}, {"schema": "x"}, {"type": ""}, {"schema": ""}, {"type": "payed"}])
def test_replace_when_it_contradicts_the_payload_of_the_event_is_refused(fields: dict[str, str]) -> None:
    event = eda.Event(data=Paid(1))
    with pytest.raises(ConfigError, match="contradicts the data: Paid is declared with"):
        event.replace(**fields)
    assert event.replace(type="paid", schema="2", id="i", aggregate="a").payload() == Paid(1)
    # With other data the event has no payload any more.
    assert event.replace(data=eda.JSON(1), **fields).data.decode() == 1
    assert event.replace(data=None, **fields).data.type == "nil"


def test_replace_when_the_field_is_unknown_or_wrong_says_so() -> None:
    with pytest.raises(ConfigError, match="no field 'nonsense'"):
        eda.Event(data=Paid(1)).replace(nonsense=1)
    with pytest.raises(ConfigError, match="contradicts"):
        eda.Event().replace(data=Paid(1), type=5)


def test_data_when_explicit_stays_untyped() -> None:
    event = eda.Event(type="sent", data=eda.JSON(Paid(1)), schema="7")
    assert event.replace(type="x", schema="y").type == "x"
    assert eda.Event(data=Data("json", Paid(1))).type == ""


def test_event_when_received_may_get_another_type() -> None:
    received = decode_event(encode_event(eda.Event(data=Paid(1)), "i"))
    assert received.replace(type="x", schema="").type == "x"
    assert received.data.decode() == {"amount": 1}
    assert received.replace(type="x").type == "x"


def test_data_when_used_again_has_forgotten_its_payload() -> None:
    for _ in range(3):
        eda.Event(data=Paid(1))
        assert eda.Event(data=eda.JSON(Paid(1))).replace(type="x").type == "x"


def test_event_when_its_payload_can_not_be_encoded_says_so_at_the_publish() -> None:
    event = eda.Event(data=Paid(object()))  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match="cannot encode Paid as json"):
        event.payload()


def test_event_when_filled_twice_is_refused() -> None:
    event = eda.Event(data=Paid(1))
    with pytest.raises(TypeError):
        event.__init__(data=Paid(2))  # type: ignore[misc]
    assert event.payload() == Paid(1)


def test_event_when_made_with_wrong_arguments_raises_type_error() -> None:
    with pytest.raises(TypeError):
        eda.Event(Paid(1))  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        eda.Event(data=Paid(1), nonsense=1)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="type must be a str"):
        eda.Event(data=Paid(1), type=5)  # type: ignore[arg-type]
