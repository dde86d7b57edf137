"""Packs: what is read from them, and what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eda import compression
from eda._codec import decode_event, encode_event
from eda._event import Event
from eda._pack import (
    MAX_EVENTS_OF_PACK,
    MAX_SIZE_OF_PACK,
    count_in_pack,
    envelope_in_pack,
    index_in_pack,
    is_pack_payload,
    place_of,
    stored_events,
)
from eda.errors import ConfigError, DecodeError
from support import reference
from support.packs import PackMessage, compressed, envelopes_of, pack_of
from support.reference import bytes_field, fields_of_event, fixed32_field, group, number_field

EVENTS = [Event(**{**reference.FULL, "id": f"i{number}", "aggregate": f"a{number}"}) for number in range(3)]
PACK = pack_of(EVENTS)


def read(payload: bytes, time_ns: int = 0) -> list[Event | None]:
    return stored_events(payload, "readings", 7, time_ns, b"readings.%pack.%pack")


# --- what is read ----------------------------------------------------------------------------------------------------


def test_events_when_official_protobuf_wrote_the_pack_are_those_that_it_wrote() -> None:
    envelopes = envelopes_of(EVENTS)
    events = read(PackMessage(events=envelopes).SerializeToString())
    assert [fields_of_event(event) for event in events if event] == [reference.verdict(each) for each in envelopes]


def test_events_when_official_protobuf_wrote_a_compressed_pack_are_those_that_it_wrote() -> None:
    message = PackMessage.FromString(compressed(PACK))
    assert (message.codec, message.size) == ("zstd", len(PACK))
    assert read(message.SerializeToString()) == read(PACK)


def test_event_of_pack_knows_where_it_is() -> None:
    events = [event for event in read(PACK, 99) if event]
    assert [(event.sequence, event.index, event.attempt) for event in events] == [(7, 0, 0), (7, 1, 0), (7, 2, 0)]
    assert [place_of(event) for event in events] == ["7.0", "7.1", "7.2"]
    assert [index_in_pack(event) for event in events] == [0, 1, 2]
    assert {(event.stream, event.subject, event.ack_time_ns) for event in events} == {
        ("readings", "readings.%pack.%pack", 99)
    }
    assert "readings:7.2 " in repr(events[2])


def test_place_when_event_is_an_ordinary_one_is_its_sequence() -> None:
    event = reference.delivered(decode_event(encode_event(EVENTS[0])), "readings", 7, 1)
    assert (place_of(event), event.index, index_in_pack(event)) == ("7", 0, None)


@pytest.mark.parametrize("how", [copy.copy, lambda event: pickle.loads(pickle.dumps(event)), Event.replace])
def test_copy_when_event_came_out_of_a_pack_keeps_its_place(how: Any) -> None:
    event = read(PACK)[2]
    assert event is not None
    assert (place_of(how(event)), how(event).index, how(event)) == ("7.2", 2, event)


@given(st.lists(reference.messages.map(lambda message: message.SerializeToString()), min_size=1, max_size=5))
def test_events_when_envelopes_are_random_are_what_each_envelope_says_alone(envelopes: list[bytes]) -> None:
    events = read(b"".join(bytes_field(15, each) for each in envelopes), 99)
    for event, envelope in zip(events, envelopes, strict=True):
        try:
            alone = decode_event(envelope)
        except DecodeError:
            assert event is None
            continue
        assert event is not None
        assert fields_of_event(event) | {"ack_time": 0} == fields_of_event(alone) | {"ack_time": 0}
        assert event.ack_time_ns == (alone.ack_time_ns or 99)


@pytest.mark.parametrize("payload", [PACK, compressed(PACK)])
def test_envelope_of_one_event_is_as_it_was_written(payload: bytes) -> None:
    assert count_in_pack(payload) == 3
    assert [envelope_in_pack(payload, index) for index in range(3)] == envelopes_of(EVENTS)
    assert [envelope_in_pack(payload, index) for index in (3, 2**64 - 1)] == [None, None]


def test_envelope_of_one_event_when_it_can_not_be_read_is_there() -> None:
    assert envelope_in_pack(PACK + bytes_field(15, b"\xff") + PACK, 3) == b"\xff"


@pytest.mark.parametrize("payload", [b"", b"hello", PACK[:-1], compressed(PACK, codec="lz4")])
def test_envelope_of_one_event_when_the_pack_can_not_be_read_is_refused(payload: bytes) -> None:
    for read_it in (count_in_pack, lambda pack: envelope_in_pack(pack, 0)):
        with pytest.raises(DecodeError, match="cannot decode pack"):
            read_it(payload)


@pytest.mark.parametrize("n", range(len(PACK)))
def test_pack_when_it_ends_too_early_is_refused_unless_an_event_ends_there(n: int) -> None:
    ends = [0]
    for envelope in envelopes_of(EVENTS):
        ends.append(ends[-1] + len(bytes_field(15, envelope)))
    if n in ends[1:]:
        assert len(read(PACK[:n])) == ends.index(n)
    else:
        with pytest.raises(DecodeError) as caught:
            read(PACK[:n])
        assert caught.value.encoding == "pack"


def test_event_when_it_can_not_be_read_leaves_the_others_readable() -> None:
    good = bytes_field(15, encode_event(EVENTS[0]))
    for bad in (b"", b"\x0a", bytes_field(7, b"nameless"), PACK):
        first, second, third = read(good + bytes_field(15, bad) + good)
        assert (first, second, third) == (EVENTS[0], None, EVENTS[0])


def test_pack_when_later_versions_added_fields_is_read() -> None:
    added = number_field(20, 1) + fixed32_field(21) + group(22, number_field(1, 2)) + bytes_field(500, b"x")
    assert len(read(PACK + added + PACK + added)) == 6


def test_tag_when_it_has_more_bytes_than_it_needs_is_read() -> None:
    envelope = encode_event(EVENTS[0])
    assert read(PACK + b"\xfa\x00" + bytes_field(15, envelope)[1:])[3] == EVENTS[0]


def test_length_when_it_has_more_bytes_than_it_needs_is_read() -> None:
    assert read(bytes_field(15, encode_event(EVENTS[0]), size=5)) == EVENTS[:1]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [PACK, compressed(PACK), b"\x7a", b"\x8a\x01"])
def test_payload_when_its_first_field_is_that_of_a_pack_is_a_pack(payload: bytes) -> None:
    assert is_pack_payload(payload)


@pytest.mark.parametrize("payload", [b"", b"\x8a", b"\x8a\x02", encode_event(EVENTS[0]), b"\x92\x01\x00", b"hello"])
def test_payload_when_its_first_field_is_another_is_no_pack(payload: bytes) -> None:
    assert not is_pack_payload(payload)
    with pytest.raises(DecodeError, match="does not begin as a pack does"):
        read(payload)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (PACK + number_field(15, 1), "field 15 does not belong"),
        (PACK + bytes_field(1, b"i"), "field 1 does not belong"),
        (PACK + bytes_field(17, b"zstd"), "field 17 does not belong"),
        (PACK + number_field(19, 1), "field 19 does not belong"),
        (PACK + b"\x00", "field number 0"),
        (PACK + b"\xff", "the bytes end inside a field"),
        (compressed(PACK) + PACK, "field 15 does not belong"),
        (bytes_field(17, b"zstd"), "its data or its size is missing"),
        (bytes_field(17, b"zstd") + bytes_field(18, b"x"), "its data or its size is missing"),
        (compressed(PACK, codec="lz4"), "'lz4' is not known"),
        (compressed(PACK, codec=""), "'' is not known"),
        (compressed(PACK, codec="z" * 65), "the name of its compression"),
        (compressed(PACK, size=len(PACK) - 1), "decompressed"),
        (compressed(PACK, size=len(PACK) + 1), "decompressed"),
        (compressed(PACK, size=MAX_SIZE_OF_PACK + 1), "unpacks to"),
        (compressed(PACK, size=-1), "unpacks to"),
        (compressed(compressed(PACK)), "what was compressed is not a pack"),
        (compressed(encode_event(EVENTS[0])), "what was compressed is not a pack"),
        (compressed(PACK[:-1]), "points past the end"),
        (bytes_field(17, b"zstd") + bytes_field(18, b"xxxx") + number_field(19, 4), "decompressed"),
    ],
)  # fmt: skip
def test_pack_when_it_is_wrong_is_refused_with_the_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match="cannot decode pack") as caught:
        read(payload)
    assert reason in str(caught.value)


def test_pack_when_there_is_no_memory_to_decompress_it_is_not_called_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(data: bytes, size: int) -> bytes:
        raise MemoryError

    monkeypatch.setattr(compression, "_decompress_zstd", no_memory)
    with pytest.raises(MemoryError):
        read(compressed(PACK))


def test_pack_when_it_has_as_many_events_as_allowed_is_read_and_with_one_more_is_refused() -> None:
    event = bytes_field(15, encode_event(Event(id="i")))
    assert len(read(event * MAX_EVENTS_OF_PACK)) == MAX_EVENTS_OF_PACK
    with pytest.raises(DecodeError, match="more than 65536 events"):
        read(event * (MAX_EVENTS_OF_PACK + 1))


def test_pack_when_it_is_as_large_as_allowed_is_read_and_with_one_more_byte_is_refused() -> None:
    def of_size(n: int) -> bytes:
        head = encode_event(Event(id="i"))
        for extra in range(5, 20):
            pack = bytes_field(15, head + bytes_field(7, bytes(n - len(head) - extra)))
            if len(pack) == n:
                return pack
        raise AssertionError(n)

    assert len(read(of_size(MAX_SIZE_OF_PACK))) == 1
    assert len(read(compressed(of_size(MAX_SIZE_OF_PACK)))) == 1
    for pack in (of_size(MAX_SIZE_OF_PACK + 1), compressed(of_size(MAX_SIZE_OF_PACK + 1))):
        with pytest.raises(DecodeError, match="more than 16777216"):
            read(pack)


def test_pack_when_zstandard_is_missing_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("No module named 'zstandard'")

    monkeypatch.setattr(compression, "_zstd", missing)
    with pytest.raises(ConfigError, match=r"pip install 'eda-fast\[zstd\]'"):
        read(compressed(PACK))
