"""eda._event.Event as others see it: times, to_dict and repr."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eda._codec import decode_fields as decode_event
from eda._data import JSON, Bytes, MsgPack, Proto, String
from eda._event import Event
from eda.errors import ConfigError, DecodeError
from support import reference
from support.reference import FULL, INT64_MAX, INT64_MIN, Envelope, delivered, received

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The names of the JSON tags of the Go library.
TAGS = ["stream", "id", "type", "time", "ack_time", "data", "schema", "client", "cause", "aggregate"]

both_kinds = pytest.mark.parametrize("make", [Event, received], ids=["made", "received"])


# --- times -----------------------------------------------------------------------------------------------------------

MIN_TIME, MAX_TIME = EPOCH.replace(year=1678), EPOCH.replace(year=2262)
zones = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))


@given(
    st.datetimes(MIN_TIME.replace(tzinfo=None), MAX_TIME.replace(tzinfo=None), timezones=zones).filter(
        lambda time: time != EPOCH
    )
)
@settings(deadline=None)
def test_time_when_a_datetime_goes_in_the_same_instant_comes_out(time: datetime) -> None:
    event = Event(time=time)
    assert event.time_ns == (time - EPOCH) // timedelta(microseconds=1) * 1000
    assert event.time == time
    assert event.time is not None
    assert event.time.tzinfo is UTC


@given(reference.times_ns.filter(bool))
@settings(deadline=None)
def test_time_when_nanoseconds_go_in_they_come_out(time_ns: int) -> None:
    for event in (Event(time=time_ns), received(time=time_ns)):
        assert event.time_ns == time_ns
        assert event.time == EPOCH + timedelta(microseconds=time_ns // 1000)


@pytest.mark.parametrize("time", [EPOCH, EPOCH.astimezone(timezone(timedelta(hours=5))), 0], ids=str)
def test_time_when_it_is_the_one_that_stands_for_none_is_refused(time: Any) -> None:
    for make in (lambda: Event(time=time), lambda: Event(time=5).replace(time=time)):
        with pytest.raises(ConfigError, match=r"^time must not be 1970-01-01") as caught:
            make()
        assert caught.value.argument == "time"


def test_time_when_it_is_none_is_not_set() -> None:
    for event in (Event(time=None), Event(time=5).replace(time=None), received()):
        assert (event.time, event.time_ns, event.to_dict()["time"]) == (None, 0, None)


@pytest.mark.parametrize("time", [2**63, -(2**63) - 1, 10**5000, datetime.max.replace(tzinfo=UTC)], ids=type)
def test_time_when_it_does_not_fit_into_64_bits_is_refused(time: Any) -> None:
    with pytest.raises(ConfigError, match="time does not fit"):
        Event(time=time)


@given(reference.times_ns.filter(bool))
@settings(deadline=None)
def test_ack_time_when_received_comes_out_as_datetime_and_nanoseconds(time_ns: int) -> None:
    event = received(ack_time_ns=time_ns)
    assert event.ack_time_ns == time_ns
    assert event.ack_time == EPOCH + timedelta(microseconds=time_ns // 1000)


# --- fields ----------------------------------------------------------------------------------------------------------


def test_event_when_it_is_received_after_another_is_gone_has_nothing_of_it() -> None:
    for n in (1, 10, 300):  # more than are kept
        gone = [received(ack_time_ns=9, **FULL) for _ in range(n)]
        for event in gone:
            assert (event.to_dict(), event.data.decode()) is not None
        del gone, event
        events = [decode_event(b"") for _ in range(n)]
        assert all(event == Event() and event.meta == {} for event in events)
        assert {(event.stream, event.sequence, event.attempt) for event in events} == {("", 0, 0)}
        assert {event.data.type for event in events} == {"nil"}
        other = [decode_event(Envelope(data=b"x").SerializeToString()).data for _ in range(n)]
        assert {(data.type, data.encode(), data.decode()) for data in other} == {("bytes", b"x", b"x")}


@both_kinds
@pytest.mark.parametrize("name", ["id", "type", "data", "meta"])
def test_field_when_its_name_is_made_up_is_read_like_any_other(make: Any, name: str) -> None:
    event = make(**FULL)
    assert getattr(event, "".join(list(name))) == getattr(event, name)
    assert type(event).__dict__[name].__get__(event) == getattr(event, name)


def test_field_when_there_is_none_of_the_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ids'"):
        Event().ids  # type: ignore[attr-defined]  # noqa: B018


# --- to_dict ---------------------------------------------------------------------------------------------------------


@both_kinds
def test_to_dict_when_everything_is_set_has_the_names_of_the_seed(make: Any) -> None:
    fields = make(**FULL).replace(stream="s").to_dict()
    assert set(fields) == {*TAGS, "meta"}
    assert fields == FULL | {
        "stream": "s",
        "data": {"id": 1},
        "time": "2023-11-14T22:13:20.123456789Z",
        "ack_time": None,
    }


def test_to_dict_when_meta_is_empty_leaves_it_out() -> None:
    for event in (Event(), Event(meta={}), decode_event(b"")):
        assert list(event.to_dict()) == TAGS


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (1, "1970-01-01T00:00:00.000000001Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (INT64_MAX, "2262-04-11T23:47:16.854775807Z"),
        (INT64_MIN, "1677-09-21T00:12:43.145224192Z"),
        (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
    ],
)
def test_to_dict_when_times_are_set_has_them_to_the_nanosecond(time_ns: int, text: str) -> None:
    fields = received(ack_time_ns=time_ns, time=time_ns).to_dict()
    assert (fields["time"], fields["ack_time"]) == (text, text)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (None, None),
        (Bytes(b"\xff"), b"\xff"),
        (String("é"), "é"),
        (JSON([1, None]), [1, None]),
        (MsgPack({"a": b"b"}), {"a": b"b"}),
        (Proto(Envelope(id="i")), b"\n\x01i"),
    ],
)
@both_kinds
def test_to_dict_when_data_is_set_has_it_decoded_where_that_needs_no_type(make: Any, data: Any, value: Any) -> None:
    assert make(data=data).to_dict()["data"] == value


def test_to_dict_when_nobody_registered_the_encoding_has_the_bytes() -> None:
    assert decode_event(Envelope(encoding="event-test-nobody", data=b"d").SerializeToString()).to_dict()["data"] == b"d"


def test_to_dict_when_the_data_is_not_what_the_encoding_says_raises_decode_error() -> None:
    with pytest.raises(DecodeError) as caught:
        decode_event(Envelope(id="i1", encoding="json", data=b"{").SerializeToString()).to_dict()
    assert caught.value.event_id == "i1"


# --- repr ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_data", [Bytes, JSON, MsgPack, String, lambda text: Proto(Envelope(id=text))])
@both_kinds
def test_repr_when_there_is_data_never_shows_its_content(make: Any, make_data: Any) -> None:
    secret = "SECRET" * 1000
    event = make(type="t", data=make_data(secret.encode() if make_data is Bytes else secret), meta={"SECRET": "SECRET"})
    event.data.encode()
    assert "SECRET" not in repr(event) + repr(event.data) + str(event) + f"{event}"
    assert len(repr(event)) < 100


def test_repr_when_the_event_was_delivered_tells_where() -> None:
    event = delivered(received(**FULL), "subjects", 7, 1)
    assert repr(event) == "<Event 'subject-enrolled' id='i1' aggregate='a' subjects:7 <Data json 8 bytes>>"


@pytest.mark.parametrize("name", ["type", "id", "aggregate"])
def test_repr_when_a_text_is_long_is_short(name: str) -> None:
    assert len(repr(Event(**{name: "x" * 100_000}))) < 1000
