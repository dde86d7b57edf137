"""Fuzz target: reading a pack, beside the official protobuf, and each of its events alone."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError as ReferenceError

from eda._codec import decode_event
from eda._event import Event
from eda._pack import count_in_pack, envelope_in_pack, is_pack_payload, stored_events
from eda.errors import DecodeError
from fuzz.envelope import check_views
from support.packs import PackMessage
from support.reference import fields_of_event

__all__ = ["check"]


def check(data: bytes) -> None:
    """A pack is refused as a whole, or each of its events is read as it is read alone."""
    if not is_pack_payload(data):
        data = b"\x7a" + data
    try:
        events = stored_events(data, "s", 7, 0, b"s.t.a")
    except DecodeError as error:
        check_refusal(error, data)
        return
    assert len(events) == count_in_pack(data) > 0
    for index, event in enumerate(events):
        if event is not None:
            assert (event.sequence, event.index, event.subject) == (7, index, "s.t.a")
            check_views(event)
    if data[0] == 0x7A and len(data) < 2000:
        check_alone(data, events)


def check_refusal(error: DecodeError, data: bytes) -> None:
    assert error.encoding == "pack"
    assert error.offset is None or 0 <= error.offset <= len(data)
    assert len(str(error)) < 300


def check_alone(data: bytes, events: Sequence[Event | None]) -> None:
    """Compare with the official protobuf, and with each envelope read alone."""
    try:
        envelopes = PackMessage.FromString(data).events
    except ReferenceError:  # of lengths and of groups it takes less than we do (see support.reference)
        return
    for index, (envelope, event) in enumerate(zip(envelopes, events, strict=True)):
        assert envelope_in_pack(data, index) == envelope
        try:
            alone = decode_event(envelope)
        except DecodeError:
            assert event is None
        else:
            assert event is not None
            assert fields_of_event(event) == fields_of_event(alone)
