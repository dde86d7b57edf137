"""eda.cli.line_events: events from the lines that `eda tail` prints."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

import eda
from eda._codec import encode_event, stored_event
from eda._json_lines import json_lines
from eda.cli.line_events import BadLine, LineEvents

READER = LineEvents(drops_versions=False)


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def stored(version: int = 0, **fields: Any) -> eda.Event:
    event = eda.Event(**{"id": "i1", "type": "order-paid", "aggregate": "4711", "time": 5} | fields)
    return stored_event(encode_event(event, client="shop", version=version), "orders", 17, 2 * 10**9)


@pytest.mark.parametrize(
    "data",
    [
        None,
        eda.JSON({"a": [1, "ä", None]}),
        eda.Data.from_encoded("json", b'{"a":1.50}'),
        eda.Data.from_encoded("json", b"{"),
        eda.String('a\n"b"'),
        eda.MsgPack({"a": 1.5}),
        eda.MsgPack({1: b"x"}),
        eda.Bytes(b"\0\xff"),
        eda.Bytes(b""),
        eda.Data.from_encoded("avro", b"\1"),
    ],
    ids=["nil", "json", "raw", "no json", "string", "msgpack", "keys", "bytes", "empty", "unknown"],
)
def test_event_when_its_line_is_read_is_the_same_event(data: eda.Data | None) -> None:
    event = stored(data=data, cause="c", schema="s", meta={"k": "v"}, time=1_764_460_800_123_456_789)
    lines = json_lines([event, event])
    expected = event.replace(stream="")
    read = READER.of_all(lines)
    assert read is not None
    for each in (*read, READER.of(lines.split(b"\n")[0])):
        assert encode_event(each) == encode_event(
            eda.Event(
                **{name: getattr(expected, name) for name in ("id", "type", "aggregate", "cause", "schema", "client")},
                time=expected.time_ns,
                meta=expected.meta,
                data=expected.data,
            )
        )


def test_event_when_fields_are_left_out_has_an_id_and_no_time() -> None:
    first, second = READER.of(b"{}"), READER.of(b"{}")
    assert (first.type, first.time, first.data.type) == ("", None, "nil")
    assert first.id
    assert first.id != second.id


@pytest.mark.parametrize(
    ("fields", "encoding", "payload"),
    [
        ({"data": {"a": 1}}, "json", b'{"a": 1}'),
        ({"data": None}, "json", b"null"),
        ({"data": None, "encoding": "nil"}, "nil", b""),
        ({"encoding": "json"}, "json", b"null"),
        ({"data": "x", "encoding": "string"}, "string", b"x"),
        ({"data": [1], "encoding": "msgpack"}, "msgpack", msgpack.packb([1])),
        ({"data_base64": "AP8="}, "bytes", b"\0\xff"),
        ({"data_base64": "AP8=", "encoding": "proto"}, "proto", b"\0\xff"),
        ({"data": {"1": 2}, "data_base64": "gQEC", "encoding": "msgpack"}, "msgpack", b"\x81\1\2"),
    ],
)
def test_data_when_read_has_its_encoding(fields: dict[str, Any], encoding: str, payload: bytes) -> None:
    data = READER.of(line(**fields)).data
    assert (data.type, data.encode()) == (encoding, payload)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2026-11-30T10:00:00Z", 1_796_032_800 * 10**9),
        ("2026-11-30t10:00:00.5z", 1_796_032_800 * 10**9 + 500_000_000),
        ("2026-11-30 12:00:00.000000001+02:00", 1_796_032_800 * 10**9 + 1),
        ("1969-12-31T23:59:59.999999999Z", -1),
    ],
)
def test_time_when_it_has_any_form_of_rfc_3339_is_read(text: str, ns: int) -> None:
    assert READER.of(line(time=text)).time_ns == ns


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not JSON"),
        (b"[]", "Expected `object`"),
        (b'{"type":1}', "Expected `str`, got `int` - at `$.type`"),
        (b'{"tpye":"a"}', "unknown field `tpye`"),
        (b'{"type":"a"', "not JSON"),
        (b'{"type":"\xff"}', "not UTF-8, at byte 10"),
        (b'{"data":"\xff"}', "not UTF-8, at byte 10"),
        (b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"meta":{"a":1}}', "$.meta"),
        (b'{"time":"today"}', "'today' is not a time"),
        (b'{"time":"2026-02-30T00:00:00Z"}', "2026-02-30"),
        (b'{"time":"1970-01-01T00:00:00Z"}', "time must not be 1970-01-01"),
        (b'{"time":"0001-01-01T00:00:00Z"}', "1677 to 2262"),
        (b'{"data_base64":"?"}', "not base64"),
        (b'{"data":1,"encoding":"nil"}', "nil, and it has data"),
        (b'{"data":1,"encoding":"string"}', "not a text"),
        (b'{"data":1,"encoding":"proto"}', "must be given in data_base64"),
        (b'{"encoding":"bytes"}', "must be given in data_base64"),
        (b'{"version":3}', "--drop-versions"),
    ],
)
def test_line_when_it_is_no_event_is_refused_with_the_reason(text: bytes, why: str) -> None:
    with pytest.raises(BadLine) as caught:
        READER.of(text)
    assert why in str(caught.value)
    assert READER.of_all(text + b"\n") is None


def test_event_of_a_store_when_versions_are_dropped_is_an_ordinary_event() -> None:
    lines = json_lines([stored(version=3)])
    assert READER.of_all(lines) is None
    read = LineEvents(drops_versions=True).of_all(lines)
    assert read is not None
    assert [event.version for event in read] == [0]


def test_lines_when_one_is_empty_are_left_to_the_slow_reader() -> None:
    assert READER.of_all(b'{"type":"a"}\n\n{"type":"b"}\n') is None
    assert READER.of_all(b'{"type":"a"}\n{"type":"b"}\n') is not None
