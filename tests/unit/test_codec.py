"""eda._codec: what events look like as envelopes, field by field, and back."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eda._codec import decode_fields as decode_event
from eda._codec import encode_event, stored_event
from eda._data import JSON, Bytes, Data, MsgPack, Proto, String
from eda._event import Event
from eda.errors import ConfigError, DecodeError, EncodeError, UnknownEncoding
from support import reference
from support.reference import (
    BYTES,
    EVENT_NAMES,
    INT64_MAX,
    INT64_MIN,
    NUMBERS,
    TEXTS,
    TIMES,
    Envelope,
    bytes_field,
    fields_of_event,
    fields_of_message,
    fixed32_field,
    fixed64_field,
    group,
    meta_entry,
    number_field,
    tag,
    varint,
)

TEXT_SAMPLES = ["a", "x" * 127, "x" * 128, "x" * 16_383, "x" * 16_384, "é", "\U0010ffff", "\0", "a\r\nb", "\u2028"]
TIME_SAMPLES = [1, -1, 127, 128, 1_700_000_000_123_456_789, INT64_MAX, INT64_MIN]
FULL: dict[str, Any] = {
    "id": "i1",
    "time": 5,
    "type": "t",
    "schema": "s/1",
    "cause": "i0",
    "client": "c",
    "aggregate": "a",
    "meta": {"k": "v"},
}
every_text = pytest.mark.parametrize("name", TEXTS)
every_time = pytest.mark.parametrize("name", TIMES)


def field_numbers(envelope: bytes) -> list[int]:
    """Return the numbers of the envelope's fields as they come; all of them have tags of one byte."""
    numbers, pos = [], 0
    while pos < len(envelope):
        numbers.append(envelope[pos] >> 3)
        size, end = reference._read_varint(envelope, pos + 1)
        pos = end + (size if envelope[pos] & 7 == BYTES else 0)
    return numbers


def with_ack_time(event: Event, ack_time_ns: int) -> Event:
    """Return the event as it comes out of an envelope with this `ack_time`."""
    return decode_event(encode_event(event) + number_field(NUMBERS["ack_time"], ack_time_ns))


# --- each field, both ways -------------------------------------------------------------------------------------------


@every_text
@pytest.mark.parametrize("text", TEXT_SAMPLES, ids=lambda text: f"{len(text)}-{text[:4]!a}")
def test_text_when_encoded_is_read_by_the_reference(name: str, text: str) -> None:
    message = Envelope.FromString(encode_event(Event(**{name: text})))
    assert fields_of_message(message) == fields_of_event(Event()) | {name: text}


@every_text
@pytest.mark.parametrize("text", TEXT_SAMPLES, ids=lambda text: f"{len(text)}-{text[:4]!a}")
def test_text_when_written_by_the_reference_is_decoded(name: str, text: str) -> None:
    event = decode_event(Envelope(**{name: text}).SerializeToString())
    assert fields_of_event(event) == fields_of_event(Event()) | {name: text}


@pytest.mark.parametrize("time_ns", TIME_SAMPLES)
def test_time_when_encoded_is_read_by_the_reference(time_ns: int) -> None:
    assert Envelope.FromString(encode_event(Event(time=time_ns))).time == time_ns


@pytest.mark.parametrize("time_ns", TIME_SAMPLES)
def test_ack_time_when_encoded_is_read_by_the_reference(time_ns: int) -> None:
    assert Envelope.FromString(encode_event(with_ack_time(Event(), time_ns))).ack_time == time_ns


@every_time
@pytest.mark.parametrize("time_ns", TIME_SAMPLES)
def test_time_when_written_by_the_reference_is_decoded(name: str, time_ns: int) -> None:
    event = decode_event(Envelope(**{name: time_ns}).SerializeToString())
    assert getattr(event, EVENT_NAMES[name]) == time_ns


@pytest.mark.parametrize(
    ("data", "encoding", "payload"),
    [
        (None, "nil", b""),
        (Bytes(b""), "bytes", b""),
        (Bytes(b"\0\xff" * 100_000), "bytes", b"\0\xff" * 100_000),
        (String("é"), "string", b"\xc3\xa9"),
        (JSON({"a": 1}), "json", b'{"a":1}'),
        (MsgPack([1]), "msgpack", b"\x91\x01"),
        (Proto(Envelope(id="i")), "proto", b"\n\x01i"),
    ],
    ids=["none", "empty", "bytes", "string", "json", "msgpack", "proto"],
)
def test_data_when_encoded_is_read_by_the_reference(data: Data | None, encoding: str, payload: bytes) -> None:
    message = Envelope.FromString(encode_event(Event(data=data)))
    assert (message.encoding, message.data) == (encoding, payload)


@pytest.mark.parametrize("encoding", ["bytes", "string", "json", "msgpack", "proto", "nil", "jsonx", "avro", "é", "js"])
def test_data_when_written_by_the_reference_is_decoded(encoding: str) -> None:
    event = decode_event(Envelope(encoding=encoding, data=b"abc").SerializeToString())
    assert (event.data.type, event.data.encode()) == (encoding, b"abc")


def test_data_when_its_writer_names_no_encoding_is_bytes() -> None:
    event = decode_event(Envelope(data=b"abc").SerializeToString())
    assert (event.data.type, event.data.decode()) == ("bytes", b"abc")


@pytest.mark.parametrize(
    "meta", [{}, {"k": "v"}, {"": ""}, {"": "v"}, {"k": ""}, {"é": "\0"}, {"k" * 200: "v" * 20_000}]
)
def test_meta_when_encoded_is_read_by_the_reference(meta: dict[str, str]) -> None:
    assert dict(Envelope.FromString(encode_event(Event(meta=meta))).meta) == meta


@pytest.mark.parametrize("meta", [{}, {"k": "v"}, {"": ""}, {"": "v"}, {"k": ""}, {"é": "\0"}, {"a": "1", "b": "2"}])
def test_meta_when_written_by_the_reference_is_decoded(meta: dict[str, str]) -> None:
    assert decode_event(Envelope(meta=meta).SerializeToString()).meta == meta


# --- what we write ---------------------------------------------------------------------------------------------------


def test_encode_when_fields_are_empty_leaves_them_out() -> None:
    assert encode_event(Event()) == bytes_field(NUMBERS["encoding"], b"nil")


@every_text
def test_encode_when_one_text_is_set_writes_it_alone(name: str) -> None:
    assert sorted(field_numbers(encode_event(Event(**{name: "x"})))) == sorted([NUMBERS[name], NUMBERS["encoding"]])


def test_encode_when_a_meta_entry_has_empty_texts_leaves_them_out() -> None:
    meta = {"": "v", "k": ""}
    assert encode_event(Event(meta=meta)).endswith(meta_entry(bytes_field(2, b"v")) + meta_entry(bytes_field(1, b"k")))


def test_encode_when_everything_is_set_writes_ascending_numbers() -> None:
    event = with_ack_time(Event(data=Bytes(b"d"), **FULL), 9)
    assert field_numbers(encode_event(event)) == sorted(set(NUMBERS.values()) - {NUMBERS["version"]})


@given(reference.events)
@settings(deadline=None)
def test_encode_when_given_any_event_writes_ascending_numbers(event: Event) -> None:
    numbers = field_numbers(encode_event(event))
    assert numbers == sorted(numbers)


def test_encode_when_a_time_is_negative_writes_ten_bytes() -> None:
    assert encode_event(Event(time=-1)).startswith(tag(NUMBERS["time"], 0) + b"\xff" * 9 + b"\x01")


@given(st.permutations(["b", "a", "", "é", "c" * 200]))
@settings(deadline=None)
def test_meta_when_encoded_and_decoded_keeps_its_order(keys: list[str]) -> None:
    event = Event(meta={key: str(i) for i, key in enumerate(keys)})
    assert list(decode_event(encode_event(event)).meta.items()) == list(event.meta.items())


def test_encode_when_called_twice_gives_equal_bytes() -> None:
    event = Event(data=JSON({"a": 1}), **FULL)
    assert encode_event(event) == encode_event(event)


@pytest.mark.parametrize("name", ["id", "type", "schema", "cause", "client", "aggregate"])
@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "é\udc80"])
def test_encode_when_a_text_has_lone_surrogates_names_the_field(name: str, text: str) -> None:
    with pytest.raises(
        EncodeError, match=f"^cannot encode str as envelope: {name} can't be written as UTF-8"
    ) as caught:
        encode_event(Event(**{name: text}))
    assert caught.value.encoding == "envelope"


@pytest.mark.parametrize("meta", [{"\ud800": "v"}, {"k": "\ud800"}, {"a": "b", "k": "\ud800"}])
def test_encode_when_meta_has_lone_surrogates_names_it(meta: dict[str, str]) -> None:
    with pytest.raises(EncodeError, match="meta can't be written"):
        encode_event(Event(meta=meta))


@pytest.mark.parametrize("name", ["id", "client"])
def test_encode_when_a_stand_in_has_lone_surrogates_names_the_field(name: str) -> None:
    with pytest.raises(EncodeError, match=f"{name} can't be written"):
        encode_event(Event(), **{name: "\ud800"})


def test_encode_when_the_data_does_not_fit_its_encoding_is_refused() -> None:
    with pytest.raises(EncodeError, match="cannot encode object as json"):
        encode_event(Event(data=JSON(object())))


def test_encode_when_nobody_registered_the_encoding_is_refused() -> None:
    with pytest.raises(UnknownEncoding):
        encode_event(Event(data=Data("codec-test-nobody", 1)))


# --- fields that are filled in ---------------------------------------------------------------------------------------


def test_stand_ins_when_the_fields_are_empty_are_written() -> None:
    message = Envelope.FromString(encode_event(Event(type="t"), id="new", client="me", now_ns=7))
    assert (message.id, message.client, message.time, message.type) == ("new", "me", 7, "t")


def test_stand_ins_when_the_fields_are_set_are_not_used() -> None:
    event = Event(data=Bytes(b"d"), **FULL)
    assert encode_event(event, id="new", client="me", now_ns=7) == encode_event(event)


def test_stand_ins_when_a_received_event_has_the_fields_are_not_used() -> None:
    envelope = encode_event(Event(data=Bytes(b"d"), **FULL))
    assert encode_event(decode_event(envelope), id="new", client="me", now_ns=7) == envelope


def test_stand_ins_when_written_do_not_change_the_event() -> None:
    event = Event()
    encode_event(event, id="new", client="me", now_ns=7)
    assert (event.id, event.client, event.time_ns) == ("", "", 0)


# --- what other writers may produce ----------------------------------------------------------------------------------


@every_text
def test_decode_when_a_text_comes_twice_takes_the_last(name: str) -> None:
    for first, last in (("first", "last"), ("é", "last"), ("first", "é"), ("first", "")):
        envelope = bytes_field(NUMBERS[name], first.encode()) + bytes_field(NUMBERS[name], last.encode())
        assert getattr(decode_event(envelope), name) == last


@every_time
def test_decode_when_a_time_comes_twice_takes_the_last(name: str) -> None:
    envelope = number_field(NUMBERS[name], 5) + number_field(NUMBERS[name], -6)
    assert getattr(decode_event(envelope), EVENT_NAMES[name]) == -6


def test_decode_when_data_and_encoding_come_twice_takes_the_last() -> None:
    parts = [bytes_field(8, b"bytes"), bytes_field(7, b"long data"), bytes_field(8, b"string"), bytes_field(7, b"d")]
    event = decode_event(b"".join(parts))
    assert (event.data.type, event.data.decode()) == ("string", "d")


@pytest.mark.parametrize(
    ("entries", "meta"),
    [
        ([meta_entry()], {"": ""}),
        ([meta_entry(bytes_field(1, b"k"))], {"k": ""}),
        ([meta_entry(bytes_field(2, b"v"))], {"": "v"}),
        ([meta_entry(bytes_field(2, b"v"), bytes_field(1, b"k"))], {"k": "v"}),
        ([meta_entry(bytes_field(1, b"x"), bytes_field(2, b"v"), bytes_field(1, b"k"))], {"k": "v"}),
        ([meta_entry(bytes_field(1, b"k"), bytes_field(2, b"1")), meta_entry(bytes_field(1, b"k"))], {"k": ""}),
        ([meta_entry(bytes_field(1, b"k"), bytes_field(2, b"1")), meta_entry(), meta_entry()], {"k": "1", "": ""}),
    ],
    ids=["empty", "no-value", "no-key", "swapped", "key-twice", "same-key", "empty-twice"],
)
def test_decode_when_meta_entries_are_unusual_reads_them_as_the_reference(
    entries: list[bytes], meta: dict[str, str]
) -> None:
    envelope = b"".join(entries)
    assert decode_event(envelope).meta == dict(Envelope.FromString(envelope).meta) == meta


@pytest.mark.parametrize(
    "extra", [number_field(3, 1), bytes_field(9, b"x"), fixed32_field(3), group(4, fixed64_field(1))]
)
def test_decode_when_a_meta_entry_has_an_unknown_field_skips_it(extra: bytes) -> None:
    assert decode_event(meta_entry(bytes_field(1, b"k"), extra, bytes_field(2, b"v"))).meta == {"k": "v"}


def test_decode_when_other_fields_are_between_meta_entries_finds_all() -> None:
    between = bytes_field(3, b"t") + number_field(2, 5) + group(14, number_field(1, 1)) + bytes_field(7, b"R\x00")
    parts = [meta_entry(bytes_field(1, b"a")), between, meta_entry(bytes_field(1, b"b")), bytes_field(12, b"x")]
    event = decode_event(b"".join(parts))
    assert event.meta == {"a": "", "b": ""}
    assert (event.type, event.time_ns, event.data.encode(), event.aggregate) == ("t", 5, b"R\0", "x")


UNKNOWN = {
    "varint": number_field(9, 300),
    "ten-byte-varint": number_field(14, 2**64 - 1),
    "padded-varint": number_field(16, 1, size=10),
    "bytes": bytes_field(14, b"\xff" * 300),
    "empty-bytes": bytes_field(9, b""),
    "fixed32": fixed32_field(14),
    "fixed64": fixed64_field(16),
    "largest-number": bytes_field(2**29 - 1, b"x"),
    "group": group(9, number_field(1, 1), bytes_field(2, b"x"), fixed32_field(3), fixed64_field(4)),
    "empty-group": group(16),
    "nested-groups": group(9, group(9, group(10), number_field(2, 1)), group(1)),
    "hundred-groups": tag(9, 3) * 100 + tag(9, 4) * 100,
}


@pytest.mark.parametrize("unknown", UNKNOWN.values(), ids=UNKNOWN)
def test_decode_when_an_unknown_field_comes_anywhere_skips_it(unknown: bytes) -> None:
    event = Event(data=Bytes(b"d"), **FULL)
    fields = [bytes_field(NUMBERS[name], FULL[name].encode()) for name in TEXTS]
    fields += [number_field(2, 5), bytes_field(7, b"d"), bytes_field(8, b"bytes")]
    fields += [meta_entry(bytes_field(1, b"k"), bytes_field(2, b"v"))]
    for i in range(len(fields) + 1):
        assert decode_event(b"".join([*fields[:i], unknown, *fields[i:]])) == event


@pytest.mark.parametrize("value", [0, 1, -1, INT64_MAX, INT64_MIN])
def test_decode_when_a_time_has_ten_bytes_reads_it(value: int) -> None:
    assert decode_event(number_field(NUMBERS["time"], value, size=10)).time_ns == value


@pytest.mark.parametrize("size", range(1, 11))
def test_decode_when_a_length_has_needless_bytes_reads_it(size: int) -> None:
    assert decode_event(bytes_field(NUMBERS["type"], b"abc", size)).type == "abc"


def test_decode_when_a_varint_has_bits_past_the_64th_drops_them_as_the_reference() -> None:
    envelope = tag(NUMBERS["time"], 0) + b"\xff" * 9 + b"\x7f"
    assert decode_event(envelope).time_ns == Envelope.FromString(envelope).time == -1


@pytest.mark.parametrize("size", range(2, 6))
def test_decode_when_a_tag_has_needless_bytes_reads_it(size: int) -> None:
    assert decode_event(varint(NUMBERS["type"] << 3 | BYTES, size) + b"\x01x").type == "x"


@pytest.mark.parametrize("version", [1, -1, 127, 128, 2**63 - 1, -(2**63)])
def test_version_when_an_event_store_wrote_it_is_read_and_not_written_again(version: int) -> None:
    envelope = Envelope(id="i1", type="t", version=version).SerializeToString()
    event = decode_event(envelope)
    assert event.version == version
    assert Envelope.FromString(encode_event(event)).version == 0
    assert (event.replace().version, event.replace(data=JSON(1)).version) == (version, version)
    assert event.replace() == event
    assert Envelope.FromString(encode_event(event.replace(type="u"))).version == 0
    assert pickle.loads(pickle.dumps(event)).version == version
    assert event != decode_event(Envelope(id="i1", type="t").SerializeToString())


def test_version_when_nobody_wrote_it_is_0_and_no_user_may_set_it() -> None:
    assert (Event(type="t").version, decode_event(Envelope(type="t").SerializeToString()).version) == (0, 0)
    with pytest.raises(TypeError):
        Event(version=1)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="version"):
        Event().replace(version=1)


# --- republishing ----------------------------------------------------------------------------------------------------


@given(reference.messages)
@settings(deadline=None)
def test_republish_when_an_event_was_not_read_keeps_every_field(message: Any) -> None:
    envelope = message.SerializeToString()
    again = Envelope.FromString(encode_event(decode_event(envelope), id="new", client="me", now_ns=7))
    filled = {"id": message.id or "new", "client": message.client or "me", "time": message.time or 7, "version": 0}
    assert fields_of_message(again) == fields_of_message(message) | filled


@given(reference.messages)
@settings(deadline=None)
def test_republish_when_an_event_was_read_before_gives_the_same_bytes(message: Any) -> None:
    envelope = message.SerializeToString()
    event = decode_event(envelope)
    fields_of_event(event)
    assert encode_event(event) == encode_event(decode_event(envelope))


@given(reference.events, reference.times_ns)
@settings(deadline=None)
def test_republish_when_an_event_is_ours_gives_its_bytes(event: Event, ack_time_ns: int) -> None:
    envelope = encode_event(with_ack_time(event, ack_time_ns))
    assert encode_event(decode_event(envelope)) == envelope


def test_republish_when_an_event_is_changed_keeps_its_ack_time() -> None:
    event = with_ack_time(Event(**FULL), 99).replace(type="other")
    assert Envelope.FromString(encode_event(event)).ack_time == 99


# --- the event store -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 127, 128, 2**14, 2**63 - 1, -1, -(2**63)])
def test_encode_when_given_a_version_writes_it_last(version: int) -> None:
    event = with_ack_time(Event(data=Bytes(b"d"), **FULL), 9)
    envelope = encode_event(event, version=version)
    assert field_numbers(envelope) == sorted(set(NUMBERS.values()))
    assert fields_of_message(Envelope.FromString(envelope)) == fields_of_event(event) | {"version": version}
    assert fields_of_event(decode_event(envelope)) == fields_of_event(event) | {"version": version}


@given(reference.messages, reference.times_ns)
@settings(deadline=None)
def test_encode_when_given_a_version_writes_that_one_only(message: Any, version: int) -> None:
    envelope = message.SerializeToString()
    again = Envelope.FromString(encode_event(decode_event(envelope), id="new", client="me", now_ns=7, version=version))
    filled = {"id": message.id or "new", "client": message.client or "me", "time": message.time or 7}
    assert fields_of_message(again) == fields_of_message(message) | filled | {"version": version}


@pytest.mark.parametrize("version", [2**63, -(2**63) - 1])
def test_encode_when_the_version_is_too_large_raises(version: int) -> None:
    with pytest.raises(OverflowError):
        encode_event(Event(type="t"), version=version)


def test_stored_event_has_its_place_in_the_stream_and_no_attempt() -> None:
    envelope = encode_event(Event(**FULL), version=3)
    event = stored_event(envelope, "orders", 17, 99, b"orders.t.a")
    assert (event.stream, event.sequence, event.attempt, event.version, event.ack_time_ns) == ("orders", 17, 0, 3, 99)
    assert (event.id, event.subject, dict(event.headers)) == ("i1", "orders.t.a", {})
    assert event == stored_event(envelope, "orders", 17, 99)
    again = pickle.loads(pickle.dumps(event))
    assert (again, again.subject, again.sequence, again.version) == (event, event.subject, 17, 3)


def test_stored_event_when_its_envelope_has_an_ack_time_keeps_it() -> None:
    envelope = encode_event(with_ack_time(Event(type="t"), 5))
    assert stored_event(envelope, "orders", 1, 99).ack_time_ns == 5


@pytest.mark.parametrize(
    ("type", "aggregate", "subject"),
    [
        ("order.paid", "50 %", "orders.order%2Epaid.50%20%25"),
        ("t", "", "orders.t._"),
        ("", "a", "orders._.a"),
        ("t", "a", "origin.t.a"),
        ("t", "a", "orders"),
        ("ab", "c", "orders.a.bc"),
    ],
)
def test_stored_event_when_its_subject_does_not_follow_from_its_fields_keeps_it(
    type: str, aggregate: str, subject: str
) -> None:
    event = stored_event(encode_event(Event(type=type, aggregate=aggregate, id="i")), "orders", 2, 3, subject.encode())
    assert (event.subject, event.type, event.aggregate) == (subject, type, aggregate)
    assert pickle.loads(pickle.dumps(event)).subject == subject


@pytest.mark.parametrize("envelope", [b"", b"\x1a\x05a", b"\x22\x01s"])
def test_stored_event_when_the_envelope_is_wrong_raises_like_decode_event(envelope: bytes) -> None:
    with pytest.raises(DecodeError):
        stored_event(envelope, "orders", 1, 1)
