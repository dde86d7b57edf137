"""Writes the seeds of the fuzz targets into tests/fuzz/corpus: real messages, as servers and clients write them.

Run from the repository: python tests/fuzz/seeds.py. Files with other names than `seed-*` (what the fuzzer found) stay.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import msgpack  # noqa: E402

from eda._codec import encode_event  # noqa: E402
from eda._data import JSON, Bytes, MsgPack, String  # noqa: E402
from eda._event import Event  # noqa: E402
from fuzz.cuts import DELIMITER  # noqa: E402
from support.packs import compressed, pack_of  # noqa: E402
from support.reference import bytes_field, number_field  # noqa: E402

HEADERS = b"NATS/1.0\r\nNats-Msg-Id: i1\r\n\r\n"
EVENTS = [
    Event(),
    Event(type="subject-enrolled", data=JSON({"id": 1}), id="i1", time=1_700_000_000_123_456_789),
    Event(type="é", data=String("é" * 100), meta={"k": "v", "é": ""}, client="c", schema="s/1", cause="i0"),
    Event(type="t" * 127, aggregate="a" * 128, data=MsgPack([1, None, "x"]), time=-1),
    Event(data=Bytes(bytes(range(256)))),
    Event(meta={str(i): "x" * i for i in range(12)}),
]
ENVELOPES = [encode_event(event, "id", "client", 1_700_000_000_000_000_000) for event in EVENTS]
PROTOBUF = [
    b"\x08\x01",  # a wrong wire type
    b"\x6b\x08\x01\x6c",  # a group
    b"\x52\x06\x0a\x01k\x12\x01v" * 3,
    b"\x52\x08\x12\x01v\x0a\x01k\x18\x01",  # an entry in another order, with an unknown field
    b"\x0a\x80\x80\x00" + b"\x3a\x00",  # lengths with needless bytes
    b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x6d\x01\x02\x03\x04\x69\x01\x02\x03\x04\x05\x06\x07\x08",
    b"\x1a\x02\xed\xa0",
    b"\x0a\x01i\x68\x05",  # a version
    b"\x0a\x01i\x78\x01",  # parts of packs
    b"\x1a\x01t\x8a\x01\x00\x92\x01\x00\x98\x01\x01",
    b"\x3a\x01x",  # neither id nor type
]
PACK = pack_of(EVENTS[:3])
PACKS = [
    PACK,
    pack_of(EVENTS[1:2]) * 20,
    compressed(PACK),
    compressed(PACK, size=7),
    PACK + number_field(20, 1) + bytes_field(15, PROTOBUF[0]) + bytes_field(15, b""),
    b"\xfa\x00\x05\x0a\x03abc" + PACK[:-3],
    bytes_field(15, ENVELOPES[1], size=5),
]
REPLIES = [
    b"$JS.ACK.orders.me.1.2.1.1700000000000000000.4",
    b"$JS.ACK.orders.me.3.200.100.1700000000000000000.0",
    b"$JS.ACK.hub.acc123.orders.me.1.2.1.1700000000000000000.4.rand0m",
    b"$JS.ACK._.acc123.orders.me.1.2.1.1700000000000000000.4.rand0m.more",
    b"$JS.ACK.orders.other.1.2.1.1700000000000000000.4",
    b"$JS.ACK.orders.me.1.2.1.9223372036854775808.4",
    b"$JS.ACK.orders.me.0.0.0.0.0",
    b"_INBOX.abc.1",
    "a.b c%é".encode(),
]
ACK = b'{"stream":"s", "seq":7}'
FLOW = b'{"type":"ack","seq":3,"msgs":10}'
ANSWERS = [
    *(tail + b"\0" + text for tail in (b"1", b"2", b"5", b"99", b"x", b"1.0.$FI", b"3.1.$FI", b"9.1.$FI")
      for text in (ACK, FLOW)),
    b"1\0" + b'{"stream":"s","domain":"hub","seq":7,"duplicate":true}',
    b"1\0" + b'{"stream":"t","seq":7}',
    b"1\0" + b'{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"s","seq":0}',
    b"5.2.$FI\0" + b'{"stream":"s","seq":4,"batch":"b1","count":4}',
    b"2.1.$FI\0" + b'{"type":"gap","last_seq":1,"seq":3}',
    b"2.1.$FI\0" + b'{"type":"err","seq":1,"error":{"code":400,"err_code":10208,"description":"x"}}',
    b"1\0NATS/1.0 503\r\n\r\n",
    b"1\0NATS/1.0\r\nA: b\r\n\r\n" + ACK,
]  # fmt: skip
PENDING = b"Nats-Pending-Messages: 3\r\nNats-Pending-Bytes: 100\r\n\r\n"
STATUSES = [
    b"$\0",
    b"1\0NATS/1.0 404 No Messages\r\n" + PENDING,
    b"1\0NATS/1.0 408 Request Timeout\r\n" + PENDING,
    b"2\0NATS/1.0 409 Message Size Exceeds MaxBytes\r\n" + PENDING,
    b"1\0NATS/1.0 409 Consumer Deleted\r\n\r\n",
    b"1\0NATS/1.0 409 Consumer is push based\r\n\r\n",
    b"1\0NATS/1.0 409 Leadership Change\r\n\r\n",
    b"1\0NATS/1.0 409 Server Shutdown\r\n" + PENDING,
    b"1\0NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 5\r\nNats-Last-Stream: 9\r\n\r\n",
    b"1\0NATS/1.0 503\r\n\r\n",
    b"1\0no status",
]
LINES = [
    b'INFO {"server_id":"x","headers":true,"max_payload":1048576}\r\n',
    b"+OK\r\n",
    b"PING\r\n",
    b"PONG\r\n",
    b"-ERR 'Authorization Violation'\r\n",
    b"MSG s.t.a 1 5\r\nhello\r\n",
    b"MSG s.t.a 1 " + REPLIES[0] + b" 0\r\n\r\n",
    b"MSG s.t.a 3 inbox.1 11\r\n\r\nPING\r\n+OK\r\n",
    b"HMSG s.t.a 2 29 33\r\n" + HEADERS + b"data\r\n",
    b"HMSG s.t.a 3 r 29 29\r\n" + HEADERS + b"\r\n",
    b"HMSG _INBOX.1 2 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
    b"MSG \t s.t.a \t 2  1 \r\nx\r\n",
    b"PING\nMSG s 2 1\nx\r\n",
    b"MSG s 1 99999999999999999999\r\n",
    b"HMSG s 1 r 15 3\r\n",
    b"NONSENSE\r\n",
    b"MSG s 1 1\r\nabc",
]
BLOCKS = [
    b"\r\n\r\n",
    b"\r\nNats-Msg-Id: dead:me:7\r\nEda-Replay-For: me\r\n\r\n",
    b"\r\nEda-Replay-For:billing\r\nEda-Replay-For: me\r\n\r\n",
    b"\r\nEda-Replay-For: \r\n\r\n",
    b" 503\r\nA:1\r\nB:  2 \r\nC:\r\n\r\n",
    b"\r\nno header\r\nA: b:c\r\n\r\n",
    "%a\r\né".encode() + b"\xff",
]


# Type, schema and encoding (indices in fuzz/typed/decode.py), then the payload.
PAYLOADS = [
    b"\0\0\0" + b'{"amount":1,"at":"2026-01-02T03:04:05.678Z","prices":{"1":"1.20"},"inner":{"amount":2}}',
    b"\0\2\0" + b'{"sum":3,"prices":{"-5":0.1}}',
    b"\1\3\0" + b'{"amount":3}',
    b"\1\2\1" + msgpack.packb({"sum": 3, "at": msgpack.Timestamp(5, 6), "prices": {7: 1.5}}),
    b"\0\0\0" + b'{"amount":1,"inner":' * 60 + b"null" + b"}" * 60,
    b"\0\0\0" + b'{"amount":"x"}',
    b"\0\4\0" + b"{}",
    b"\0\5\0" + b"{}",
    b"\2\2\0" + b'["Tagged","AAE=",1.5]',
    b"\2\2\1" + msgpack.packb(["Tagged", b"\0\1", float("nan")]),
    b"\3\0\0" + b'{"firstName":"a","parts":[{"firstName":"b"},5,"6"]}',
    b"\3\2\1" + msgpack.packb({"a": [1, None]}),
    b"\3\0\0" + b'{"firstName":"a","more":1}',
    b"\4\0\1" + msgpack.packb({"tags": ["a", "b"], "at": msgpack.Timestamp(1_700_000_000, 1000)}),
    b"\4\0\0" + b'{"tags":["a"]}',
    b"\5\0\2" + b"\x08\x05\x10\x06",
    b"\5\2\2" + b"\x08\x05",
    b"\6\0\0" + b"{}",
    b"\0\0\3" + b"text",
    b"\0\0\6" + b"\xff",
]


def _answer(tail: str, version: int, earlier: str, stream: str = "s") -> bytes:
    envelope = encode_event(Event(type="t", aggregate="a", data=JSON(version)), f"i{version}", "", 1, version)
    headers = f"NATS/1.0\r\nNats-Msg-Id: i{version}\r\nEda-Earlier: {earlier}\r\nNats-Stream: {stream}\r\n"
    headers += f"Nats-Subject: s.t.a\r\nNats-Sequence: {version * 10}\r\n"
    return f"{tail}\0{headers}Nats-Time-Stamp: 2026-01-02T03:04:05.678Z\r\n\r\n".encode() + envelope


# The answers to a load of the versions 1 to 5, at the sequences 10 to 50.
NEWEST = _answer("1-0", 5, "0 40 30 20 10")
OTHERS = [_answer(f"1-{at}", 5 - at, "0 30 20 10") for at in range(1, 5)]
NOT_THERE = b"1-2\0NATS/1.0 404 Message Not Found\r\n\r\n"
READS = [
    DELIMITER.join([NEWEST, *OTHERS]),
    DELIMITER.join([NEWEST, *OTHERS[::-1]]),
    DELIMITER.join([_answer("1-0", 5, "0 40"), *OTHERS]),
    DELIMITER.join([_answer("1-0", 5, "3"), *OTHERS]),
    DELIMITER.join([NEWEST, OTHERS[0], NOT_THERE, *OTHERS[2:]]),
    DELIMITER.join([NEWEST, _answer("1-1", 4, "0", "mirror"), *OTHERS[1:]]),
    _answer("1-0", 5, "0 40 30", "mirror"),
    _answer("1-0", 1, "0"),
    b"1-0\0NATS/1.0 503\r\n\r\n",
    b'1-0\0{"error":{"code":404}}',
]


def with_cuts(streams: Iterable[bytes]) -> list[bytes]:
    return [bytes([seed]) + stream for seed, stream in enumerate(streams)]


def with_modes(inputs: Iterable[bytes]) -> list[bytes]:
    return [bytes([mode]) + each for each in inputs for mode in range(3)]


SEEDS = {
    "transport/frame": with_cuts([*LINES, b"".join(LINES[:11]), b"".join(LINES[:13])]),
    "transport/natspy": with_cuts([*LINES[:11], b"".join(LINES[:11]), b"".join(LINES[:11]) * 2]),
    "envelope": [*ENVELOPES, *PROTOBUF, ENVELOPES[1] + PROTOBUF[1] + ENVELOPES[2]],
    "pack": PACKS,
    "transport/replies": REPLIES,
    "publishing/answers": with_modes(
        [*ANSWERS[:2], *ANSWERS[10:], DELIMITER.join(ANSWERS), DELIMITER.join(ANSWERS[::-1])]
    ),
    "subscribing/statuses": [*STATUSES, DELIMITER.join(STATUSES), DELIMITER.join(STATUSES[::-1] * 2)],
    "headers": [bytes([40]) + block for block in BLOCKS],
    "typed/decode": PAYLOADS,
    "store/reads": with_cuts(READS * 2),
}


def main() -> None:
    for target, seeds in SEEDS.items():
        folder = HERE / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("seed-*"):
            old.unlink()
        for number, seed in enumerate(seeds):
            (folder / f"seed-{number:02}").write_bytes(seed)


if __name__ == "__main__":
    main()
