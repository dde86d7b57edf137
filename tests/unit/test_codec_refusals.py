"""eda._codec on hostile bytes: refusals that name field and offset, and the reference's verdict on everything else."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eda._codec import decode_event as decode_whole_event
from eda._codec import decode_fields as decode_event
from eda._codec import encode_event
from eda._data import JSON, Bytes
from eda._event import Event
from eda.errors import DecodeError
from support import reference
from support.reference import (
    BYTES,
    FIXED32,
    FIXED64,
    GROUP,
    GROUP_END,
    INTEGERS,
    NUMBERS,
    TEXTS,
    VARINT,
    Envelope,
    bytes_field,
    expected,
    fields_of_event,
    fixed32_field,
    fixed64_field,
    group,
    meta_entry,
    number_field,
    tag,
    varint,
    verdict,
)

WIRE_TYPE_VALUES = {
    VARINT: b"\x01",
    FIXED64: bytes(8),
    BYTES: b"\x01a",
    GROUP: b"",
    GROUP_END: b"",
    FIXED32: bytes(4),
    6: b"",
    7: b"",
}
# What comes before the field at fault: its length is the offset to be named.
BEFORE = bytes_field(NUMBERS["id"], b"i1") + number_field(NUMBERS["time"], 300)
NOT_UTF8 = {
    "overlong-2": b"\xc0\x80",
    "overlong-2-high": b"\xc1\xbf",
    "overlong-3": b"\xe0\x9f\xbf",
    "overlong-4": b"\xf0\x8f\xbf\xbf",
    "surrogate-first": b"\xed\xa0\x80",
    "surrogate-last": b"\xed\xbf\xbf",
    "over-10ffff": b"\xf4\x90\x80\x80",
    "lead-f5": b"\xf5\x80\x80\x80",
    "lead-ff": b"\xff",
    "truncated-2": b"\xc3",
    "truncated-3": b"\xe2\x82",
    "truncated-4": b"\xf0\x9f\x98",
    "lone-continuation": b"\x80",
    "no-continuation": b"\xc3a",
    "late-no-continuation": b"\xe2\x82a",
    "after-eight-ascii": b"abcdefgh\xff",
    "in-a-word": b"abc\xffdefg",
}


def ours(envelope: bytes) -> dict[str, Any] | None:
    """Return what we read from these bytes, None where we refuse them; every lazy field gets read."""
    try:
        event = decode_event(envelope)
    except DecodeError:
        return None
    return fields_of_event(event)


def is_refused(envelope: bytes) -> bool:
    try:
        decode_event(envelope)
    except DecodeError:
        return True
    return False


def refusal(envelope: bytes) -> tuple[int | None, str]:
    with pytest.raises(DecodeError) as caught:
        decode_event(envelope)
    assert caught.value.encoding == "envelope"
    return caught.value.offset, caught.value.reason


# --- refusals name field and offset ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (b"\x00", "field number 0"),
        (b"\x02\x01a", "field number 0"),
        (b"\x80\x00", "field number 0"),
        (tag(9, VARINT) + b"\xff" * 10 + b"\x01", "field 9: a varint is too long"),
        (tag(2, VARINT) + b"\x80" * 10 + b"\x00", "time: a varint is too long"),
        (tag(11, VARINT) + b"\xff" * 11, "ack_time: a varint is too long"),
        (tag(3, BYTES) + b"\xff" * 11, "type: a varint is too long"),
        (b"\xff" * 11, "a varint is too long"),
        (b"\x9a\x80\x80\x80\x80\x00\x01a", "a varint is too long"),
        (b"\x98\x80\x80\x80\x10\x01", "a varint is too long"),
        (tag(3, BYTES) + b"\x05abcd", "type: a length points past the end"),
        (tag(7, BYTES) + b"\x01", "data: a length points past the end"),
        (tag(8, BYTES) + varint(2**31), "encoding: a length points past the end"),
        (tag(10, BYTES) + varint(2**32), "meta: a length points past the end"),
        (tag(12, BYTES) + varint(2**63 - 1) + b"a", "aggregate: a length points past the end"),
        (tag(6, BYTES) + varint(2**64 - 1) + b"a", "client: a length points past the end"),
        (tag(99, BYTES) + b"\x02a", "field 99: a length points past the end"),
        (tag(3, BYTES), "type: the bytes end inside a field"),
        (tag(2, VARINT), "time: the bytes end inside a field"),
        (tag(2, VARINT) + b"\x80", "time: the bytes end inside a field"),
        (tag(9, FIXED64) + bytes(7), "field 9: the bytes end inside a field"),
        (tag(14, FIXED32) + bytes(3), "field 14: the bytes end inside a field"),
        (tag(9, GROUP), "field 9: the bytes end inside a field"),
        (tag(9, GROUP) + number_field(1, 1), "field 9: the bytes end inside a field"),
        (b"\x80", "the bytes end inside a field"),
        (tag(9, GROUP_END), "field 9: a group is not closed, or nests too deep"),
        (tag(9, GROUP) + tag(13, GROUP_END), "field 9: a group is not closed, or nests too deep"),
        (group(9, tag(13, GROUP) + tag(9, GROUP_END)), "field 9: a group is not closed, or nests too deep"),
        (tag(9, GROUP) * 101 + tag(9, GROUP_END) * 101, "field 9: a group is not closed, or nests too deep"),
        (group(9, b"\x00\x00"), "field 9: field number 0"),
        (tag(9, 6), "field 9: wrong wire type"),
        (tag(9, 7), "field 9: wrong wire type"),
        (group(9, tag(1, 6)), "field 9: wrong wire type"),
        (meta_entry(number_field(1, 1)), "meta: wrong wire type"),
        (meta_entry(fixed32_field(2)), "meta: wrong wire type"),
        (meta_entry(b"\x00"), "meta: field number 0"),
        (meta_entry(b"\x0a\x05abc"), "meta: a length points past the end"),
        (meta_entry(b"\x0a"), "meta: the bytes end inside a field"),
        (meta_entry(bytes_field(1, b"k"), tag(3, GROUP)), "meta: the bytes end inside a field"),
        (meta_entry(bytes_field(1, b"\xff")), "meta: not UTF-8"),
        (meta_entry(bytes_field(1, b"k"), bytes_field(2, b"\xed\xa0\x80")), "meta: not UTF-8"),
    ],
    ids=lambda value: value[:12].hex() if isinstance(value, bytes) else "",
)
def test_decode_when_a_field_is_at_fault_names_it_and_its_offset(fault: bytes, reason: str) -> None:
    assert refusal(BEFORE + fault) == (len(BEFORE), reason)
    assert refusal(fault) == (0, reason)


@pytest.mark.parametrize("name", [*TEXTS, "encoding"])
@pytest.mark.parametrize("text", NOT_UTF8.values(), ids=NOT_UTF8)
def test_decode_when_a_text_is_not_utf8_names_it_and_its_offset(name: str, text: bytes) -> None:
    for fault in (text, text + b"b", b"\xc3\xa9" + text, b"x" * 200 + text):
        envelope = BEFORE + bytes_field(NUMBERS[name], fault) + bytes_field(NUMBERS["data"], b"d")
        assert refusal(envelope) == (len(BEFORE), f"{name}: not UTF-8")
        assert verdict(envelope) is None


@pytest.mark.parametrize("name", NUMBERS)
def test_decode_when_a_known_field_has_another_wire_type_is_refused(name: str) -> None:
    for wire_type, value in WIRE_TYPE_VALUES.items():
        if wire_type != reference.WIRE_TYPES[NUMBERS[name]]:
            assert refusal(BEFORE + tag(NUMBERS[name], wire_type) + value) == (len(BEFORE), f"{name}: wrong wire type")


def test_decode_when_data_is_not_utf8_takes_it() -> None:
    for data in NOT_UTF8.values():
        assert decode_event(bytes_field(NUMBERS["data"], data)).data.encode() == data


@pytest.mark.parametrize("field", [number_field, bytes_field, fixed32_field, fixed64_field])
@pytest.mark.parametrize("number", [15, 17, 18, 19])
def test_decode_when_a_field_marks_a_pack_is_refused(number: int, field: Any) -> None:
    part = field(number, 1 if field is number_field else bytes({fixed32_field: 4}.get(field, 8)))
    before = bytes_field(NUMBERS["type"], b"t")
    for envelope in (before + part, before + part + BEFORE):
        offset, reason = refusal(envelope)
        assert (offset, reason) == (len(before), f"field {number}: it marks a pack of events, which can't be read here")


@pytest.mark.parametrize("number", [9, 14, 16, 20, 31])
def test_decode_when_a_field_is_reserved_skips_it(number: int) -> None:
    assert decode_whole_event(BEFORE + bytes_field(number, b"x")).id == "i1"


def test_decode_when_there_is_no_byte_is_refused() -> None:
    with pytest.raises(DecodeError, match=r"^cannot decode envelope at byte 0: the message has no payload$"):
        decode_whole_event(b"")


@pytest.mark.parametrize(
    "envelope",
    [
        bytes_field(NUMBERS["data"], b"x"),
        bytes_field(9, b"x"),
        bytes_field(NUMBERS["id"], b"") + bytes_field(NUMBERS["type"], b""),
        number_field(NUMBERS["time"], 5) + bytes_field(NUMBERS["aggregate"], "é".encode()),
    ],
)
def test_decode_when_there_is_neither_id_nor_type_is_refused(envelope: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^cannot decode envelope at byte 0: it has neither an id nor a type"):
        decode_whole_event(envelope)
    for name in ("id", "type"):
        assert decode_whole_event(envelope + bytes_field(NUMBERS[name], b"x")).data


def test_refusal_when_written_tells_everything() -> None:
    with pytest.raises(DecodeError, match=r"^cannot decode envelope at byte 7: type: not UTF-8$"):
        decode_event(BEFORE + bytes_field(NUMBERS["type"], b"\xff"))


@pytest.mark.parametrize("envelope", [bytearray(b""), memoryview(b""), "", None])
def test_decode_when_given_no_bytes_is_refused(envelope: Any) -> None:
    with pytest.raises(TypeError):
        decode_event(envelope)


# --- the reference's verdict -----------------------------------------------------------------------------------------


@given(reference.events)
@settings(deadline=None, max_examples=300)
def test_encode_when_given_any_event_is_read_alike_by_the_reference(event: Event) -> None:
    assert verdict(encode_event(event)) == fields_of_event(event)


@given(reference.messages)
@settings(deadline=None, max_examples=300)
def test_decode_when_given_any_message_of_the_reference_reads_it_alike(message: Any) -> None:
    assert ours(message.SerializeToString()) == reference.fields_of_message(message)


@given(reference.field_lists)
@settings(deadline=None, max_examples=300)
def test_decode_when_given_any_fields_in_any_order_reads_them_as_the_reference(fields: list[bytes]) -> None:
    envelope = b"".join(fields)
    assert ours(envelope) == verdict(envelope) is not None


@given(reference.field_lists)
@settings(deadline=None, max_examples=40)
def test_decode_when_truncated_anywhere_agrees_with_the_reference(fields: list[bytes]) -> None:
    envelope = b"".join(fields)
    for end in range(len(envelope)):
        assert ours(envelope[:end]) == expected(envelope[:end])


@given(reference.messages.map(lambda message: message.SerializeToString()) | reference.field_lists.map(b"".join))
@settings(deadline=None, max_examples=40)
def test_decode_when_one_bit_is_flipped_anywhere_agrees_with_the_reference(envelope: bytes) -> None:
    for bit in range(min(len(envelope), 200) * 8):
        flipped = bytearray(envelope)
        flipped[bit // 8] ^= 1 << bit % 8
        assert ours(bytes(flipped)) == expected(bytes(flipped))


@given(reference.field_lists.map(b"".join), st.data())
@settings(deadline=None, max_examples=300)
def test_decode_when_bytes_are_replaced_agrees_with_the_reference(envelope: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(envelope)))
    end = data.draw(st.integers(start, min(start + 4, len(envelope))))
    changed = envelope[:start] + data.draw(st.binary(max_size=6)) + envelope[end:]
    assert ours(changed) == expected(changed)


@given(st.binary(max_size=64))
@settings(deadline=None, max_examples=1000)
def test_decode_when_given_any_bytes_agrees_with_the_reference(envelope: bytes) -> None:
    assert ours(envelope) == expected(envelope)


def test_decode_when_given_many_short_random_bytes_agrees_with_the_reference() -> None:
    source = random.Random(2)
    likely = [number << 3 | wire_type for number in range(16) for wire_type in (0, 2, 2, 3, 4, 5)] + [0, 1, 2, 3, 128]
    for _ in range(100_000):
        envelope = bytes(source.choice(likely) if source.random() < 0.6 else source.getrandbits(8) for _ in range(7))
        assert ours(envelope) == expected(envelope)


def test_decode_when_given_every_envelope_of_two_bytes_agrees_with_the_reference() -> None:
    for value in range(2**16):
        envelope = value.to_bytes(2, "big")
        assert ours(envelope) == expected(envelope)


def test_decode_when_given_every_two_bytes_of_a_text_agrees_with_python() -> None:
    head = tag(NUMBERS["type"], BYTES)
    for lead in range(0x80, 256):
        for second in range(256):
            for rest in (b"", b"\x80", b"\xbfa", b"\xbf\x80"):
                text = bytes((lead, second)) + rest
                assert is_refused(head + varint(len(text)) + text) == (text.decode(errors="ignore").encode() != text)


# --- the differences from the reference, one by one ------------------------------------------------------------------


@pytest.mark.parametrize("name", INTEGERS)
def test_difference_when_a_known_field_has_another_wire_type_the_reference_skips_it(name: str) -> None:
    envelope = bytes_field(NUMBERS[name], b"x")
    assert (ours(envelope), verdict(envelope)) == (None, verdict(b""))


def test_difference_when_a_group_holds_field_number_0_the_reference_does_not_look() -> None:
    envelope = group(9, number_field(0, 5))
    assert (ours(envelope), verdict(envelope)) == (None, verdict(b""))


def test_difference_when_a_length_has_more_than_five_bytes_the_reference_refuses_it() -> None:
    envelope = bytes_field(NUMBERS["type"], b"x", size=6)
    assert (ours(envelope), verdict(envelope)) == (verdict(bytes_field(NUMBERS["type"], b"x")), None)


def test_difference_when_a_meta_entry_has_an_unknown_field_the_reference_sets_it_aside() -> None:
    envelope = meta_entry(bytes_field(1, b"k"), number_field(3, 1))
    assert decode_event(envelope).meta == {"k": ""}
    assert dict(Envelope.FromString(envelope).meta) == {}


def test_difference_when_groups_nest_in_a_meta_entry_the_reference_counts_the_entry() -> None:
    deepest = tag(9, GROUP) * 100 + tag(9, GROUP_END) * 100
    assert ours(deepest) == verdict(deepest) is not None
    assert decode_event(meta_entry(deepest)).meta == {"": ""}
    assert verdict(meta_entry(deepest)) is None


def test_decode_when_an_envelope_is_large_agrees_with_the_reference() -> None:
    event = Event(
        type="é" * 50_000,
        data=Bytes(bytes(1_000_000)),
        meta={f"k{i}": "v" * i for i in range(1000)},
        aggregate="x" * 100_000,
    )
    envelope = encode_event(event)
    assert ours(envelope) == verdict(envelope) == fields_of_event(event)


def test_decode_when_the_envelope_lies_about_lengths_allocates_nothing_for_it() -> None:
    envelope = encode_event(Event(data=JSON(1))) + tag(7, BYTES) + varint(2**40)
    assert refusal(envelope) == (len(envelope) - 1 - len(varint(2**40)), "data: a length points past the end")


def test_decode_when_an_unknown_number_repeats_the_low_bits_of_a_known_one_skips_it() -> None:
    for number in (NUMBERS["id"] + 32, NUMBERS["type"] + 32, NUMBERS["data"] + 128, NUMBERS["time"] + 2**28):
        assert decode_event(bytes_field(number, b"x") + fixed64_field(number)) == decode_event(b"")
