"""Encoding and decoding, beside the official protobuf package and msgpack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from eda._codec import decode_event, encode_event
from eda._data import Bytes
from eda._event import Event
from eda.publishing._stream_sender import Destination, frame_of
from micro import Maker, Round
from support.reference import Envelope

__all__ = ["CONTENDERS", "DATA", "ENVELOPE", "EVENT", "FIELDS", "TARGET", "TIME_NS"]

# Everything but the acknowledgement's time, which is no field that publishers set.
FIELDS: dict[str, Any] = {
    "id": "vfO6yHd0tcV6S8xvXGj2mK",
    "type": "reading-recorded",
    "schema": "reading/1",
    "cause": "vfO6yHd0tcV6S8xvXGj2ab",
    "client": "sensor-gateway",
    "aggregate": "sensor-17",
    "meta": {"tenant": "acme", "trace": "4bf92f3577b34da6"},
}
DATA = bytes(range(128))
TIME_NS = 1_790_000_000_123_456_789
EVENT = Event(time=TIME_NS, data=Bytes(DATA), **FIELDS)
ENVELOPE = encode_event(EVENT)
PACKED = msgpack.packb(FIELDS | {"time": TIME_NS, "ack_time": 0, "data": DATA, "encoding": "bytes"})
TARGET = Destination("readings", 1 << 20)
INBOX = b"_INBOX.vfO6yHd0tcV6S8xvXGj2mK."


def eda_encode() -> bytes:
    return frame_of(TARGET, EVENT, INBOX, 123_456)


def protobuf_encode() -> bytes:
    return bytes(Envelope(time=TIME_NS, data=DATA, encoding="bytes", **FIELDS).SerializeToString())


# --- lazily: the bytes are checked, nothing is read ------------------------------------------------------------------


def eda_decode_lazy() -> Event:
    return decode_event(ENVELOPE)


def protobuf_decode_lazy() -> Any:
    return Envelope.FromString(ENVELOPE)


# --- what most handlers read -----------------------------------------------------------------------------------------


def eda_decode() -> tuple[Any, ...]:
    event = decode_event(ENVELOPE)
    return event.id, event.type, event.data


def protobuf_decode() -> tuple[Any, ...]:
    message = Envelope.FromString(ENVELOPE)
    return message.id, message.type, message.data


def msgpack_decode() -> tuple[Any, ...]:
    fields = msgpack.unpackb(PACKED)
    return fields["id"], fields["type"], fields["data"]


# --- in full: every field is read ------------------------------------------------------------------------------------


def eda_decode_full() -> tuple[Any, ...]:
    it = decode_event(ENVELOPE)
    return (
        it.id, it.time_ns, it.type, it.schema, it.cause, it.client, it.aggregate, it.ack_time_ns, dict(it.meta),
        it.data.type, it.data.decode(),
    )  # fmt: skip


def protobuf_decode_full() -> tuple[Any, ...]:
    it = Envelope.FromString(ENVELOPE)
    return (
        it.id, it.time, it.type, it.schema, it.cause, it.client, it.aggregate, it.ack_time, dict(it.meta),
        it.encoding, it.data,
    )  # fmt: skip


def msgpack_decode_full() -> tuple[Any, ...]:
    it = msgpack.unpackb(PACKED)
    return (
        it["id"], it["time"], it["type"], it["schema"], it["cause"], it["client"], it["aggregate"], it["ack_time"],
        it["meta"], it["encoding"], it["data"],
    )  # fmt: skip


def _rounds(*functions: Callable[[], Any]) -> dict[str, Maker]:
    return {function.__name__: lambda function=function: Round(function) for function in functions}  # type: ignore[misc]


CONTENDERS = _rounds(
    eda_encode, protobuf_encode, eda_decode_lazy, protobuf_decode_lazy, eda_decode, protobuf_decode, msgpack_decode,
    eda_decode_full, protobuf_decode_full, msgpack_decode_full,
)  # fmt: skip
