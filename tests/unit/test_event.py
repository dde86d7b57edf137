"""eda._event.Event: construction, immutability, equality and pickling."""

from __future__ import annotations

import copy
import enum
import gc
import pickle
import weakref
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eda._codec import decode_fields as decode_event
from eda._codec import encode_event
from eda._data import JSON, Bytes, String
from eda._event import Event
from eda.errors import ConfigError
from support import reference
from support.reference import EVENT_NAMES, FULL, INT64_MAX, INT64_MIN, TEXTS, delivered, received

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# One other value for each field that equality looks at.
OTHER: dict[str, Any] = dict.fromkeys(TEXTS, "other") | {"data": JSON(2), "time": 5, "meta": {"k": "w"}}
EVENT_FIELDS = [*TEXTS, "data", "time", "meta", "stream"]


class Kind(enum.StrEnum):
    ENROLLED = "subject-enrolled"


both_kinds = pytest.mark.parametrize("make", [Event, received], ids=["made", "received"])


# --- construction ----------------------------------------------------------------------------------------------------


def test_event_when_made_without_arguments_has_defaults() -> None:
    event = Event()
    assert [getattr(event, name) for name in (*TEXTS, "stream")] == [""] * 7
    assert (event.time, event.time_ns, event.ack_time, event.ack_time_ns) == (None, 0, None, 0)
    assert (event.meta, event.sequence, event.attempt, event.data.type) == ({}, 0, 0, "nil")


@both_kinds
def test_event_when_made_with_everything_has_it(make: Any) -> None:
    event = make(**FULL)
    assert {name: getattr(event, EVENT_NAMES[name]) for name in FULL} == FULL


@pytest.mark.parametrize("name", [*TEXTS, "stream"])
@pytest.mark.parametrize("value", [None, 5, b"x", ["x"]])
def test_event_when_a_text_is_no_str_names_the_field(name: str, value: Any) -> None:
    message = f"{name} must be a str, not {type(value).__name__}"
    for make in (Event, Event().replace):
        with pytest.raises(ConfigError) as caught:
            make(**{name: value})
        assert (str(caught.value), caught.value.argument) == (message, name)


@pytest.mark.parametrize("value", [b"x", "x", {}, 5])
def test_event_when_data_is_no_data_names_the_field(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"data must be made by eda\.JSON.*not " + type(value).__name__) as caught:
        Event(data=value)
    assert caught.value.argument == "data"


@pytest.mark.parametrize("value", [True, False, 1.5, "2024-01-01", b"", timedelta(1), EPOCH.date()])
def test_event_when_time_is_no_time_names_the_field(value: Any) -> None:
    with pytest.raises(ConfigError, match=f"time must be .* not {type(value).__name__}$") as caught:
        Event(time=value)
    assert caught.value.argument == "time"


def test_event_when_time_is_naive_is_refused() -> None:
    with pytest.raises(ConfigError, match="time must be an aware datetime") as caught:
        Event(time=datetime(2024, 1, 1))  # noqa: DTZ001, RUF100
    assert caught.value.argument == "time"


@pytest.mark.parametrize(
    "value",
    [
        INT64_MIN - 1,
        INT64_MAX + 1,
        10**30,
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
        EPOCH + timedelta(microseconds=INT64_MAX // 1000 + 1),
    ],
)
def test_event_when_time_is_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="time does not fit into 64-bit nanoseconds") as caught:
        Event(time=value)
    assert caught.value.argument == "time"


@pytest.mark.parametrize("value", [{1: "a"}, {"a": 1}, {"a": None}, {b"a": "b"}, {"ok": "ok", "a": b"b"}])
def test_event_when_meta_has_other_entries_than_texts_names_the_field(value: Any) -> None:
    with pytest.raises(ConfigError, match="meta must map str to str; the entry ") as caught:
        Event(meta=value)
    assert caught.value.argument == "meta"


@pytest.mark.parametrize("value", [5, "text", ["ab", "c"], [1]])
def test_event_when_meta_is_no_mapping_names_the_field(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Event(meta=value)
    assert caught.value.argument == "meta"


def test_event_when_given_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="sequence"):
        Event(sequence=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", [*TEXTS, "stream"])
def test_event_when_a_text_is_of_a_subclass_takes_it_as_str(name: str) -> None:
    for event in (Event(**{name: Kind.ENROLLED}), Event().replace(**{name: Kind.ENROLLED})):
        assert type(getattr(event, name)) is str
        assert getattr(event, name) == "subject-enrolled"


# --- immutability and replace ----------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("name", [*EVENT_FIELDS, "time_ns", "ack_time", "ack_time_ns", "sequence", "attempt", "other"])
def test_event_when_an_attribute_is_set_or_deleted_refuses(make: Any, name: str) -> None:
    event = make(**FULL)
    with pytest.raises(AttributeError):
        setattr(event, name, "x")
    with pytest.raises(AttributeError):
        delattr(event, name)


def test_event_when_checking_it_makes_it_meanwhile_refuses_to_change_it() -> None:
    class Zone(tzinfo):
        def utcoffset(self, at: datetime | None) -> timedelta:
            if not event.type:
                event.__init__(type="first", id="i1")  # type: ignore[misc]
            return timedelta()

    event = Event.__new__(Event)
    with pytest.raises(TypeError, match="can't be changed"):
        event.__init__(type="second", time=datetime(2026, 1, 1, tzinfo=Zone()))  # type: ignore[misc]
    assert (event.type, event.id) == ("first", "i1")


def test_event_when_it_was_refused_is_empty() -> None:
    event = Event.__new__(Event)
    with pytest.raises(ConfigError, match="stream"):
        event.__init__(type="t", data=Bytes(b"x"), meta={"a": "b"}, stream=5)  # type: ignore[misc, arg-type]
    assert event == Event()


def test_event_when_the_meta_passed_in_changes_keeps_its_own() -> None:
    meta = {"k": "v"}
    event = Event(meta=meta)
    meta["k"] = "changed"
    assert event.meta == {"k": "v"}


@both_kinds
def test_event_when_the_meta_given_out_changes_keeps_its_own(make: Any) -> None:
    event = make(**FULL)
    event.meta["k"] = "changed"
    event.to_dict()["meta"]["k"] = "changed"
    assert event.meta == {"k": "v"}


class Text(str):
    """A text on which anything may hang."""


def test_event_when_its_meta_is_of_subclasses_has_plain_texts_and_makes_no_cycle() -> None:
    text = Text("v")
    event = Event(meta={Text("k"): text})
    text.event = event  # type: ignore[attr-defined]
    gone = weakref.ref(text)
    assert [(type(key), type(value)) for key, value in event.meta.items()] == [(str, str)]
    del text, event
    gc.collect()
    assert gone() is None


def test_event_when_subclassed_refuses() -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Other", (Event,), {})


@both_kinds
@pytest.mark.parametrize("name", [*OTHER, "stream"])
def test_replace_when_given_one_field_changes_only_that(make: Any, name: str) -> None:
    event = make(**FULL)
    value = OTHER.get(name, "other")
    changed = event.replace(**{name: value})
    for other in EVENT_FIELDS:
        attribute = EVENT_NAMES.get(other, other)
        assert getattr(changed, attribute) == (value if other == name else getattr(event, attribute))
    assert event == make(**FULL)


def test_replace_when_the_event_was_delivered_keeps_the_marks() -> None:
    changed = delivered(received(ack_time_ns=9, **FULL), "s", 7, 2).replace(type="t")
    assert (changed.stream, changed.sequence, changed.attempt, changed.ack_time_ns) == ("s", 7, 2, 9)


@pytest.mark.parametrize("name", ["sequence", "attempt", "ack_time", "time_ns", "nonsense"])
def test_replace_when_given_an_unknown_field_names_it(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no field '{name}' to replace") as caught:
        Event().replace(**{name: 1})
    assert caught.value.argument == name


def test_replace_when_given_nothing_is_an_equal_copy() -> None:
    event = received(**FULL)
    assert event.replace() == event
    assert event.replace() is not event


@both_kinds
def test_is_type_when_asked_tells_whether_one_matches(make: Any) -> None:
    event = make(**FULL)
    assert event.is_type("other", "subject-enrolled")
    assert not event.is_type("other")
    assert not event.is_type()


# --- equality, hash, pickle ------------------------------------------------------------------------------------------


@given(reference.events)
@settings(deadline=None)
def test_equality_when_an_event_was_encoded_and_decoded_holds(event: Event) -> None:
    again = decode_event(encode_event(event))
    assert again == event
    assert hash(again) == hash(event)


@both_kinds
@pytest.mark.parametrize("name", OTHER)
def test_equality_when_one_field_differs_does_not_hold(make: Any, name: str) -> None:
    assert make(**FULL) != make(**FULL | {name: OTHER[name]})


def test_equality_when_only_ack_time_differs_does_not_hold() -> None:
    assert received(ack_time_ns=1, **FULL) != received(ack_time_ns=2, **FULL)


def test_equality_when_only_the_encoding_differs_does_not_hold() -> None:
    assert Event(data=Bytes(b"x")) != Event(data=String("x"))


def test_equality_when_only_stream_or_delivery_differ_holds() -> None:
    assert delivered(Event(**FULL), "s", 7, 2) == Event(**FULL)


@pytest.mark.parametrize("other", [None, 1, "subject-enrolled", FULL])
def test_equality_when_compared_with_something_else_does_not_hold(other: Any) -> None:
    assert Event(**FULL) != other


def test_hash_when_events_share_an_id_is_equal() -> None:
    assert hash(Event(id="i")) == hash(received(id="i", type="other"))
    assert len({Event(**FULL), received(**FULL), Event(id="i2")}) == 2


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@both_kinds
def test_pickle_when_restored_keeps_everything(make: Any, protocol: int) -> None:
    event = delivered(make(**FULL), "s", 7, 2)
    again = pickle.loads(pickle.dumps(event, protocol))
    assert again == event
    assert (again.stream, again.sequence, again.attempt) == ("s", 7, 2)
    assert again.data.decode() == {"id": 1}


@given(reference.events)
@settings(deadline=None)
def test_pickle_when_given_any_event_keeps_its_fields_and_bytes(event: Event) -> None:
    for original in (event, decode_event(encode_event(event))):
        again = pickle.loads(pickle.dumps(original))
        assert again == event
        assert encode_event(again) == encode_event(event)


@both_kinds
def test_copy_when_made_is_equal(make: Any) -> None:
    event = make(**FULL)
    assert copy.copy(event) == copy.deepcopy(event) == event


@given(reference.messages, st.permutations(list(reference.NUMBERS)))
@settings(deadline=None)
def test_fields_when_read_in_any_order_and_twice_are_the_same(message: Any, order: list[str]) -> None:
    event = decode_event(message.SerializeToString())
    expected = reference.fields_of_message(message)
    for name in order * 2:
        if name == "encoding":
            assert event.data.type == expected[name]
        elif name == "data":
            assert event.data.encode() == expected[name]
        else:
            assert getattr(event, EVENT_NAMES[name]) == expected[name]
