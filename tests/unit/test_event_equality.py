"""Events and their data compared, hashed, copied and pickled: also those whose data can't be encoded."""

from __future__ import annotations

import copy
import gc
import pickle
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings

import eda
from eda import JSON, Bytes, Data, Event, MsgPack, Proto, String
from eda._stamp import Stamp
from eda.errors import ConfigError, EncodeError, UnknownEncoding
from support import reference

Make = Callable[[Any], Data]


class Value:
    """No encoding takes it."""


class Broken:
    """It can't even be compared or hashed."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    def __hash__(self) -> int:
        raise RuntimeError("no")


UNENCODABLE: dict[str, Callable[[], Data]] = {
    "json": lambda: JSON(Value()),
    "json-nan": lambda: JSON(float("nan")),
    "msgpack": lambda: MsgPack({1, Value()}),
    "proto": lambda: Proto({}),
    "string": lambda: String("\ud800"),
    "bytes": lambda: Bytes("text"),  # type: ignore[arg-type]
    "nobody": lambda: Data("equality-test-nobody", [1]),
    "broken": lambda: JSON(Broken()),
}
every_unencodable = pytest.mark.parametrize("make", UNENCODABLE.values(), ids=UNENCODABLE)


# --- data that can't be encoded --------------------------------------------------------------------------------------


@every_unencodable
def test_equality_when_data_can_not_be_encoded_raises_nothing(make: Callable[[], Data]) -> None:
    one, other = make(), make()
    for data in (JSON(1), String("x"), Data(one.type, Value()), Data("nil")):
        assert one != data
        assert data != one
        assert Event(data=one) != Event(data=data)
    assert one == one
    assert one in [JSON(1), one]
    assert Event(data=one) == Event(data=one)
    assert (one == other) == (other == one)
    assert one != 5
    assert isinstance(hash(one), int)
    assert hash(Event(data=one)) == hash(Event(data=one))


def test_equality_when_data_can_not_be_encoded_is_that_of_the_values() -> None:
    value = Value()
    for make in (JSON, lambda value: Data("equality-test-nobody", value)):
        assert make(value) == make(value)
        assert hash(make(value)) == hash(make(value))
        assert make([value]) == make([value])
        assert hash(make([value])) == hash(make([value]))
        assert make(value) != make(Value())
    assert Data("equality-test-nobody", 1) == Data("equality-test-nobody", 1.0)
    assert hash(Data("equality-test-nobody", 1)) == hash(Data("equality-test-nobody", 1.0))


def test_equality_when_only_one_can_be_encoded_is_false() -> None:
    values: list[Any] = [1]
    encoded = JSON(values)
    encoded.encode()
    values[0] = Value()
    assert encoded != JSON(values)
    assert JSON(values) != encoded


@every_unencodable
def test_copy_when_data_can_not_be_encoded_is_the_event_itself(make: Callable[[], Data]) -> None:
    event = Event(type="t", data=make())
    assert copy.copy(event) is event
    assert copy.copy(event.data) is event.data


@every_unencodable
@pytest.mark.parametrize("what", [copy.deepcopy, pickle.dumps])
def test_deep_copy_when_data_can_not_be_encoded_says_so(make: Callable[[], Data], what: Callable[[Any], Any]) -> None:
    for it in (make(), Event(data=make())):
        with pytest.raises((EncodeError, UnknownEncoding), match=r"cannot encode .* as \w+|unknown encoding"):
            what(it)


def test_deep_copy_when_the_value_changes_later_has_what_it_was() -> None:
    value = [1]
    event = Event(type="t", data=JSON(value), meta={"a": "b"})
    again = copy.deepcopy([event])[0]
    value.append(2)
    assert again.data.decode() == event.data.decode() == [1]


# --- hashes ----------------------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[int], dict[str, Any]]] = {
    "type": lambda i: {"type": str(i)},
    "schema": lambda i: {"schema": str(i)},
    "cause": lambda i: {"cause": str(i)},
    "client": lambda i: {"client": str(i)},
    "aggregate": lambda i: {"aggregate": str(i)},
    "time": lambda i: {"time": i + 1},
    "meta": lambda i: {"meta": {"i": str(i)}},
    "data": lambda i: {"data": JSON(i)},
    "data-unencodable": lambda i: {"data": Data("equality-test-nobody", i)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_hash_when_events_without_an_id_differ_anywhere_differs(change: Callable[[int], dict[str, Any]]) -> None:
    assert len({hash(Event(**change(i))) for i in range(1000)}) > 990


def test_hash_when_a_set_has_many_events_without_an_id_takes_no_quadratic_time() -> None:
    began = time.process_time()
    assert len({Event(type="x", aggregate=str(i)) for i in range(20_000)}) == 20_000
    assert time.process_time() - began < 2  # 16 s if they were all in one heap


def test_hash_when_events_are_equal_is_equal_whatever_was_read_or_encoded_before() -> None:
    one = Event(type="t", meta={"a": "1", "b": "2"}, data=JSON({"a": 1}))
    other = Event(type="t", meta={"b": "2", "a": "1"}, data=JSON({"a": 1}))
    other.data.encode()
    assert one == other
    assert hash(one) == hash(other)


def test_hash_when_there_is_an_id_is_that_of_the_id() -> None:
    assert hash(Event(id="i1", type="t")) == hash(Event(id="i1", type="u")) == hash("i1")


@given(reference.events)
@settings(deadline=None)
def test_hash_when_an_event_is_unpickled_or_copied_stays(event: Event) -> None:
    for again in (pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event), event.replace()):
        assert again == event
        assert hash(again) == hash(event)


# --- values that refer to their event --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [JSON, MsgPack, Proto, lambda value: Data("csv", value)])
@pytest.mark.parametrize("how", ["made", "changed", "given data", "stamped"])
def test_cycle_when_a_value_refers_to_its_event_is_collected(make: Make, how: str) -> None:
    stamp = Stamp({"k": "v"}, ())
    gone = []
    for _ in range(5000):  # more than are kept for reuse
        value = Value()
        holder: dict[str, Any] = {"value": value}
        event = Event(type="t") if how == "given data" else Event(type="t", data=make(holder))
        if how == "changed":
            event = event.replace(type="u")
        elif how == "given data":
            event = event.replace(data=make(holder))
        elif how == "stamped":
            event = stamp.on(event)
        holder["event"] = event
        gone.append(weakref.ref(value))
        del value, holder, event
    gc.collect()
    assert [ref for ref in gone if ref() is not None] == []


# --- data without a type ---------------------------------------------------------------------------------------------


def test_data_when_it_was_never_initialised_refuses_to_be_used() -> None:
    data = Data.__new__(Data)
    assert data.type is None
    assert repr(data) == "<Data without a type>"
    assert isinstance(hash(data), int)
    assert data != JSON(1)
    for use in (data.encode, data.decode, lambda: pickle.dumps(data), lambda: copy.deepcopy(data)):
        with pytest.raises(TypeError, match="made without a type"):
            use()
    for make in (lambda: Event(data=data), lambda: Event().replace(data=data)):
        with pytest.raises(ConfigError, match="made without a type"):
            make()
    data.__init__("json", 1)  # type: ignore[misc]
    assert (data.type, data.encode()) == ("json", b"1")


def test_event_when_it_was_never_initialised_is_empty() -> None:
    event = Event.__new__(Event)
    assert (event.id, event.type, event.meta, event.data.type, event.version) == ("", "", {}, "nil", 0)
    assert (dict(event.headers), event.subject) == ({}, "")
    assert event == Event()
    assert hash(event) == hash(Event())
    assert eda.Event(type="t") != event
