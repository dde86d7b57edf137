"""The envelope as the official protobuf package has it, strategies for events, and a writer of raw protobuf.

The reference's verdict is the law, with the differences that `as_reference_takes_it` names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as ReferenceError
from hypothesis import strategies as st

from eda._codec import decode_fields, encode_event
from eda._data import JSON, Data
from eda._event import Event

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)

NUMBERS = {
    "id": 1,
    "time": 2,
    "type": 3,
    "schema": 4,
    "cause": 5,
    "client": 6,
    "data": 7,
    "encoding": 8,
    "meta": 10,
    "ack_time": 11,
    "aggregate": 12,
    "version": 13,
}
TEXTS = ("id", "type", "schema", "cause", "client", "aggregate")
TIMES = ("time", "ack_time")
INTEGERS = (*TIMES, "version")
PACK = (15, 17, 18, 19)  # they mark a pack of events
WIRE_TYPES = {number: VARINT if name in INTEGERS else BYTES for name, number in NUMBERS.items()}
EVENT_NAMES = {name: f"{name}_ns" if name in TIMES else name for name in NUMBERS}

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def _make_envelope() -> Any:
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="envelope.proto", package="reference", syntax="proto3")
    message = file.message_type.add(name="Envelope")
    entry = message.nested_type.add(name="MetaEntry")
    entry.options.map_entry = True
    for number, name in enumerate(("key", "value"), 1):
        entry.field.add(name=name, number=number, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    for name, number in NUMBERS.items():
        if name == "meta":
            message.field.add(
                name=name,
                number=number,
                type=kind.TYPE_MESSAGE,
                label=kind.LABEL_REPEATED,
                type_name=".reference.Envelope.MetaEntry",
            )
            continue
        of_type = {"data": kind.TYPE_BYTES} | dict.fromkeys(INTEGERS, kind.TYPE_INT64)
        message.field.add(name=name, number=number, type=of_type.get(name, kind.TYPE_STRING), label=kind.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("reference.Envelope"))


Envelope = _make_envelope()

# An event with everything that can be set.
FULL: dict[str, Any] = {
    "type": "subject-enrolled",
    "data": JSON({"id": 1}),
    "id": "i1",
    "time": 1_700_000_000_123_456_789,
    "schema": "s/1",
    "cause": "i0",
    "client": "c",
    "aggregate": "a",
    "meta": {"k": "v"},
}


# --- what an envelope says, by either reader -------------------------------------------------------------------------


def fields_of_message(message: Any) -> dict[str, Any]:
    """Return the fields of a reference message, as an event has them."""
    fields = {name: getattr(message, name) for name in NUMBERS}
    fields["meta"] = dict(message.meta)
    # An event always has an encoding: `nil` without data, and `bytes` where the writer named none.
    fields["encoding"] = message.encoding or ("bytes" if message.data else "nil")
    return fields


def fields_of_event(event: Event) -> dict[str, Any]:
    """Return the envelope's fields of an event, by the names of the envelope."""
    fields = {name: getattr(event, EVENT_NAMES[name]) for name in NUMBERS if name not in ("data", "encoding")}
    return fields | {"data": event.data.encode(), "encoding": event.data.type}


def verdict(envelope: bytes) -> dict[str, Any] | None:
    """Return what the reference reads from these bytes, None where it refuses them."""
    try:
        return fields_of_message(Envelope.FromString(envelope))
    except ReferenceError:
        return None


def expected(envelope: bytes) -> dict[str, Any] | None:
    """Return what we have to read from these bytes, None where we have to refuse them."""
    plain = as_reference_takes_it(envelope)
    return None if plain is None else verdict(plain)


# --- raw protobuf ----------------------------------------------------------------------------------------------------


def varint(value: int, size: int = 0) -> bytes:
    """Write a varint of 64 bits, with needless bytes up to `size`."""
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80 or len(out) + 1 < size:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def number_field(number: int, value: int, size: int = 0) -> bytes:
    return tag(number, VARINT) + varint(value, size)


def bytes_field(number: int, data: bytes, size: int = 0) -> bytes:
    return tag(number, BYTES) + varint(len(data), size) + data


def fixed64_field(number: int, data: bytes = bytes(8)) -> bytes:
    return tag(number, FIXED64) + data


def fixed32_field(number: int, data: bytes = bytes(4)) -> bytes:
    return tag(number, FIXED32) + data


def group(number: int, *contents: bytes) -> bytes:
    return tag(number, GROUP) + b"".join(contents) + tag(number, GROUP_END)


def group_number(field: bytes) -> int:
    return _read_varint(field, 0)[0] >> 3


def meta_entry(*contents: bytes) -> bytes:
    return bytes_field(NUMBERS["meta"], b"".join(contents))


def received(ack_time_ns: int = 0, **fields: Any) -> Event:
    """Return the event as it comes out of its envelope, nothing read yet."""
    envelope = encode_event(Event(**fields))
    return decode_fields(envelope + (number_field(NUMBERS["ack_time"], ack_time_ns) if ack_time_ns else b""))


def delivered(event: Event, stream: str, sequence: int, attempt: int) -> Event:
    """Return the event with the marks of a delivery, which only the dispatcher sets."""
    restore, arguments = event.__reduce__()  # type: ignore[misc]
    return restore(*arguments[:8], stream, *arguments[9:11], sequence, attempt)


# --- the documented differences --------------------------------------------------------------------------------------


class Malformed(Exception):
    """Not protobuf at all: the reference will say the same."""


class Refused(Exception):
    """Protobuf that the reference reads and we refuse."""


def as_reference_takes_it(envelope: bytes) -> bytes | None:
    """Rewrite the bytes so that the reference has to agree with us; None where we refuse what it takes.

    The differences, all of them:

    * a known field with the wrong wire type: we refuse it, the reference takes it for an unknown field;
    * a field that marks a pack of events: we refuse it, the reference takes it for an unknown field;
    * field number 0 inside an unknown group: we refuse it, as outside; the reference does not look;
    * a length written with more than five bytes: we read it, as any varint; the reference refuses it;
    * a map entry with an unknown field: we take the entry without it; the reference sets the whole entry aside.

    (One more is not rewritten here: groups nest 100 deep for us, counted from the outermost; inside of a map entry the
    reference counts the entry as well.)
    """
    try:
        return b"".join(_rewrite(envelope, WIRE_TYPES, in_entry=False))
    except Refused:
        return None
    except Malformed:
        return envelope


def _rewrite(data: bytes, wire_types: dict[int, int], *, in_entry: bool) -> Iterator[bytes]:
    pos = 0
    while pos < len(data):
        start = pos
        number, wire_type, pos = _read_tag(data, pos)
        known = wire_types.get(number)
        if number in PACK and not in_entry:
            raise Refused
        value_at = pos
        pos = _skip(data, number, wire_type, pos)
        if known is not None and known != wire_type:
            raise Refused
        if wire_type == BYTES:
            _, value_at = _read_varint(data, value_at)
            value = data[value_at:pos]
            if number == NUMBERS["meta"] and not in_entry:
                value = b"".join(_rewrite(value, {1: BYTES, 2: BYTES}, in_entry=True))
            if known is not None or not in_entry:
                yield bytes_field(number, value)
        elif not in_entry:
            yield data[start:pos]


def _read_varint(data: bytes, pos: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if pos + i >= len(data):
            raise Malformed
        value |= (data[pos + i] & 0x7F) << 7 * i
        if data[pos + i] < 0x80:
            return value & (2**64 - 1), pos + i + 1
    raise Malformed


def _read_tag(data: bytes, pos: int) -> tuple[int, int, int]:
    value, end = _read_varint(data, pos)
    if value >= 2**32 or end - pos > 5 or value >> 3 == 0:
        raise Malformed
    return value >> 3, value & 7, end


def _skip(data: bytes, number: int, wire_type: int, pos: int) -> int:
    if wire_type == VARINT:
        return _read_varint(data, pos)[1]
    if wire_type == GROUP:
        while True:
            try:
                inner, wire_type, pos = _read_tag(data, pos)
            except Malformed:
                raise Refused from None  # field number 0; everything else is refused by the reference too
            if wire_type == GROUP_END:
                if inner != number:
                    raise Malformed
                return pos
            pos = _skip(data, inner, wire_type, pos)
    if wire_type == BYTES:
        length, pos = _read_varint(data, pos)
    elif wire_type in (FIXED32, FIXED64):
        length = 4 if wire_type == FIXED32 else 8
    else:
        raise Malformed
    if length > len(data) - pos:
        raise Malformed
    return pos + length


# --- strategies ------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["", "\0", "é" * 70, "x" * 300]
)
times_ns = st.integers(INT64_MIN, INT64_MAX) | st.sampled_from([0, 1, -1, 127, 128, INT64_MIN, INT64_MAX])
metas = st.dictionaries(texts, texts, max_size=4)
datas = st.one_of(
    st.just(Data("nil")), st.builds(Data, st.just("bytes"), st.binary()), st.builds(Data, st.just("string"), texts)
)
events = st.builds(
    Event,
    type=texts,
    data=datas,
    id=texts,
    time=times_ns.map(lambda time_ns: time_ns or None),
    schema=texts,
    cause=texts,
    client=texts,
    aggregate=texts,
    meta=metas,
)
messages = st.builds(
    Envelope,
    **dict.fromkeys(TEXTS, texts),
    **dict.fromkeys(INTEGERS, times_ns),
    data=st.binary(),
    encoding=texts | st.sampled_from(["", "json", "bytes"]),
    meta=metas,
)

_unknown_numbers = st.sampled_from([9, 14, 16, 20, 2047, 2048, 2**29 - 1])
_unknown_scalars = st.one_of(
    st.builds(number_field, _unknown_numbers, st.integers(0, 2**64 - 1), st.integers(0, 10)),
    st.builds(bytes_field, _unknown_numbers, st.binary(max_size=20), st.integers(0, 5)),
    st.builds(fixed64_field, _unknown_numbers, st.binary(min_size=8, max_size=8)),
    st.builds(fixed32_field, _unknown_numbers, st.binary(min_size=4, max_size=4)),
)
unknown_fields = st.recursive(
    _unknown_scalars,
    lambda inner: st.builds(lambda number, contents: group(number, *contents), st.integers(1, 20), st.lists(inner)),
    max_leaves=6,
).filter(lambda field: field[0] & 7 != GROUP or group_number(field) not in (*WIRE_TYPES, *PACK))
_entry_parts = st.lists(st.builds(bytes_field, st.sampled_from([1, 2]), texts.map(str.encode)), max_size=3)
known_fields = st.one_of(
    st.builds(
        bytes_field, st.sampled_from([NUMBERS[name] for name in TEXTS]), texts.map(str.encode), st.integers(0, 5)
    ),
    st.builds(bytes_field, st.just(NUMBERS["data"]), st.binary(), st.integers(0, 5)),
    st.builds(bytes_field, st.just(NUMBERS["encoding"]), texts.map(str.encode)),
    st.builds(number_field, st.sampled_from([NUMBERS[name] for name in INTEGERS]), times_ns, st.integers(0, 10)),
    _entry_parts.map(lambda parts: meta_entry(*parts)),
)
# Any envelope that any writer may produce: fields in any order, repeated, needlessly long, unknown ones between.
field_lists = st.lists(known_fields | unknown_fields, max_size=12)
