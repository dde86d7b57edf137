"""Encoding and decoding, beside the official protobuf package and msgpack."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from eda._codec import decode_event, encode_event
from eda._data import Bytes
from eda._event import Event
from eda._send import Target, frame_of
from reference import Envelope

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
PACKED = msgpack.packb(FIELDS | {"time": TIME_NS, "data": DATA, "encoding": "bytes"})
TARGET = Target("readings", 1 << 20)
INBOX = b"_INBOX.vfO6yHd0tcV6S8xvXGj2mK."
LOOPS = 5000


def eda_encode() -> bytes:
    return frame_of(TARGET, EVENT, INBOX, 123_456)


def protobuf_encode() -> bytes:
    return bytes(Envelope(time=TIME_NS, data=DATA, encoding="bytes", **FIELDS).SerializeToString())


def eda_decode() -> tuple[Any, ...]:
    event = decode_event(ENVELOPE)
    return event.id, event.type, event.data


def protobuf_decode() -> tuple[Any, ...]:
    message = Envelope.FromString(ENVELOPE)
    return message.id, message.type, message.data


def msgpack_decode() -> tuple[Any, ...]:
    fields = msgpack.unpackb(PACKED)
    return fields["id"], fields["type"], fields["data"]


def test_contenders_agree() -> None:
    assert ENVELOPE in eda_encode()
    assert Envelope.FromString(ENVELOPE) == Envelope.FromString(protobuf_encode())
    assert eda_decode()[:2] == protobuf_decode()[:2] == msgpack_decode()[:2]
    assert eda_decode()[2].encode() == protobuf_decode()[2] == msgpack_decode()[2]


@pytest.mark.parametrize(
    "names",
    [("eda encode", "protobuf encode"), ("eda decode", "protobuf decode", "msgpack decode")],
    ids=["encode", "decode"],
)
def test_codec_ratio(names: tuple[str, ...], benchmark: Any, note: Callable[[str, float], None]) -> None:
    """In turn, and the fastest of many short rounds: what a busy machine adds is not the codec's."""
    contenders = {name: globals()[name.replace(" ", "_")] for name in names}
    rounds = 60 if benchmark.enabled else 1
    best = dict.fromkeys(names, float("inf"))
    for _ in range(rounds):
        for name, contender in contenders.items():
            best[name] = min(best[name], timeit.timeit(contender, number=LOOPS) / LOOPS * 1e9)
    for name, ns in best.items():
        note(f"{name} ns", ns)
    benchmark(contenders[names[0]])


@pytest.mark.parametrize("contender", [eda_encode, protobuf_encode], ids=lambda f: f.__name__)
@pytest.mark.benchmark(group="encode")
def test_encode(contender: Callable[[], Any], benchmark: Any) -> None:
    benchmark(contender)


@pytest.mark.parametrize("contender", [eda_decode, protobuf_decode, msgpack_decode], ids=lambda f: f.__name__)
@pytest.mark.benchmark(group="decode")
def test_decode(contender: Callable[[], Any], benchmark: Any) -> None:
    benchmark(contender)
