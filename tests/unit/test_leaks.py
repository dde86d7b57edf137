"""Events, data and the codec give back what they took: 100,000 times through each path, errors included."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from eda._codec import decode_event, encode_event, stored_event
from eda._data import JSON, Bytes, Data, String
from eda._event import Event
from eda._nuid import next_nuid
from eda.errors import DecodeError, EdaError
from leaks import MAX_BLOCKS, MAX_RSS, growth
from support.reference import FULL, NUMBERS, TEXTS, bytes_field, fields_of_event, meta_entry, number_field, received

N = 100_000

ENVELOPE = encode_event(received(ack_time_ns=9, **FULL))
WIDE = encode_event(Event(data=String("é"), meta={"é": "é"}, **dict.fromkeys(TEXTS, "é" * 40)))
EVENT = Event(**FULL)
PICKLED = pickle.dumps(EVENT)
RESTORE, PARTS = EVENT.__reduce__()  # type: ignore[misc]
FOREIGN = pickle.dumps(RESTORE(*PARTS[:-4], b"NATS/1.0\r\na: b\r\n\r\n", b"s.x"))
SHARED = (ENVELOPE, WIDE, EVENT, PICKLED, FULL["data"], *FULL.values(), DecodeError, String)


def refused(function: Callable[..., Any], *arguments: Any, **fields: Any) -> None:
    try:
        function(*arguments, **fields)
    except (EdaError, TypeError, AttributeError, ValueError):
        return
    raise AssertionError("it was not refused")


PATHS: dict[str, Callable[[], Any]] = {
    "event-made": lambda: Event(**FULL),
    "event-empty": Event,
    "event-without-init": lambda: Event.__new__(Event),
    "event-made-again": lambda: refused_again(Event(**FULL)),
    "event-refused-first-field": lambda: refused(Event, type=5),
    "event-refused-last-field": lambda: refused(Event, **FULL, stream=5),
    "event-refused-time": lambda: refused(Event, id="i1", time=2**63),
    "event-refused-meta": lambda: refused(Event, meta={"a": 1}),
    "event-refused-attribute": lambda: refused(setattr, EVENT, "type", "x"),
    "event-replaced": lambda: EVENT.replace(type="x" * 100, meta={"a": "b"}, data=Bytes(b"x"), time=1),
    "event-replace-refused": lambda: refused(EVENT.replace, type="x", nonsense=1),
    "data-from-encoded": lambda: EVENT.replace(data=Data.from_encoded("json", b"[1]")).data.decode(),
    "data-from-encoded-refused": lambda: refused(Data.from_encoded, "json", 5),
    "event-pickled": lambda: pickle.loads(PICKLED) == pickle.loads(pickle.dumps(EVENT)),
    "event-pickled-foreign": lambda: (pickle.loads(FOREIGN).headers["a"], pickle.dumps(pickle.loads(FOREIGN))),
    "event-hashed": lambda: hash(Event(type="t", meta={"a": "b"}, data=JSON(object()))),
    "event-compared-unencodable": lambda: Event(data=JSON([object()])) == Event(data=JSON([object()])),
    "event-copied": lambda: (copy.copy(EVENT), copy.deepcopy(EVENT), refused(copy.deepcopy, JSON(object()))),
    "event-views": lambda: (repr(EVENT), hash(EVENT), EVENT.to_dict(), EVENT.time, EVENT.meta, EVENT.is_type("a")),
    "event-encoded": lambda: encode_event(Event(**FULL), "i", "c", 5),
    "event-encoded-wide": lambda: encode_event(decode_event(WIDE).replace(type="é" * 100)),
    "event-encode-refused-text": lambda: refused(encode_event, Event(type="t" * 100, aggregate="\ud800")),
    "event-encode-refused-meta": lambda: refused(encode_event, Event(meta={"k" * 100: "\ud800"})),
    "event-encode-refused-data": lambda: refused(encode_event, Event(data=JSON(object()))),
    "event-encoded-with-version": lambda: encode_event(Event(**FULL), "i", "c", 5, 3),
    "event-stored": lambda: stored_event(ENVELOPE, "orders", 1, 2, b"orders.t.a" * 20),
    "event-stored-refused": lambda: refused(stored_event, b"\x00", "orders", 1, 2),
    "event-decoded": lambda: decode_event(ENVELOPE),
    "event-decoded-and-read": lambda: fields_of_event(decode_event(ENVELOPE)),
    "event-decoded-and-read-wide": lambda: fields_of_event(decode_event(WIDE)),
    "event-decoded-and-compared": lambda: decode_event(ENVELOPE) == EVENT,
    "event-decoded-and-replaced": lambda: decode_event(ENVELOPE).replace(id="x" * 100),
    "event-republished": lambda: encode_event(decode_event(ENVELOPE)),
    "event-decode-refused-start": lambda: refused(decode_event, b"\x00"),
    "event-decode-refused-end": lambda: refused(decode_event, ENVELOPE + b"\x0a\x05"),
    "event-decode-refused-text": lambda: refused(decode_event, ENVELOPE + bytes_field(NUMBERS["type"], b"\xff")),
    "event-decode-refused-meta": lambda: refused(decode_event, ENVELOPE + meta_entry(number_field(1, 1))),
    "data-made": lambda: JSON({"a": 1}).encode(),
    "data-outlives-its-event": lambda: decode_event(ENVELOPE).data.encode(),
    "data-decoded": lambda: decode_event(ENVELOPE).data.decode(),
    "data-decode-refused": lambda: refused(JSON("x").decode, int),
    "data-refused": lambda: refused(Data, None),
    "data-encode-refused": lambda: refused(Bytes("x").encode),
    "data-compared": lambda: (JSON(1) == JSON(1), hash(JSON(1)), repr(JSON(1)), pickle.loads(pickle.dumps(JSON(1)))),
    "nuid": next_nuid,
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_memory_when_a_path_is_taken_100000_times_does_not_grow(path: Callable[[], Any]) -> None:
    blocks, tracked, size = growth(path, N, shared=SHARED)
    assert blocks < MAX_BLOCKS
    assert tracked < MAX_BLOCKS
    assert size < MAX_RSS


def refused_again(event: Event) -> None:
    with pytest.raises(TypeError):
        event.__init__(**FULL)  # type: ignore[misc]


class Order:
    """An aggregate in the usual style: it keeps its pending events, whose data it is."""

    def __init__(self) -> None:
        self.pending = [Event(type="order-placed", data=JSON(self))]


def test_memory_when_an_events_data_refers_back_to_it_is_given_back() -> None:
    assert growth(Order, 10_000)[0] < MAX_BLOCKS
