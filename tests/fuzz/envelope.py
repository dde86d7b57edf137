"""Fuzz target: reading an envelope, beside the official protobuf, and writing it again."""

from __future__ import annotations

import contextlib
import pickle

from eda._codec import decode_event, encode_event
from eda._event import Event
from eda.errors import DecodeError, UnknownEncoding
from support import reference
from support.reference import fields_of_event

__all__ = ["check"]

MAX_DEPTH = 99  # of groups that the reference counts differently (see reference.as_reference_takes_it)


def check(data: bytes) -> None:
    """We read what the reference reads, refuse what it refuses, and write what both read again."""
    wanted = reference.expected(data)
    if wanted is not None and not wanted["id"] and not wanted["type"]:
        wanted = None  # no event
    event = read(data)
    if event is None:
        assert wanted is None or nests_deep(data), (data, wanted)
        return
    assert fields_of_event(event) == wanted or nests_deep(data), (data, fields_of_event(event), wanted)
    written = fields_of_event(event) | {"version": 0}  # an event store's, and nobody else's
    # Not event, which has been read by now: what is written before anything was read goes another way.
    for fresh in (decode_event(data), event):
        again = encode_event(fresh)
        assert fields_of_event(decode_event(again)) == written
        assert reference.verdict(again) == written
        assert encode_event(decode_event(again)) == again
        assert len(again) <= 3 * len(data) + 16
    check_views(event)


def read(data: bytes) -> Event | None:
    try:
        return decode_event(data)
    except DecodeError as error:
        check_refusal(error, data)
        return None


def nests_deep(data: bytes) -> bool:
    return sum(byte & 7 == 3 for byte in data) >= MAX_DEPTH


def check_refusal(error: DecodeError, data: bytes) -> None:
    assert error.offset is not None
    assert 0 <= error.offset <= len(data)
    assert len(str(error)) < 200
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def check_views(event: Event) -> None:
    """Whatever an event from outside says can be looked at."""
    assert isinstance(repr(event), str)
    assert hash(event) == hash(pickle.loads(pickle.dumps(event)))
    assert event.version or event.replace(id=event.id) == event
    for view in (event.to_dict, lambda: event.time, lambda: event.ack_time, event.data.decode):
        with contextlib.suppress(DecodeError, UnknownEncoding):
            view()
