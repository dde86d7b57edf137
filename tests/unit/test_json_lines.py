"""eda._json_lines: events as lines of JSON, and the times in them."""

from __future__ import annotations

import base64
import json
import random
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eda
from eda._codec import encode_event, stored_event
from eda._json_lines import json_lines, printed_time_ns
from eda._pack import stored_events
from support.packs import pack_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def stored(version: int = 0, **fields: Any) -> eda.Event:
    event = eda.Event(**{"id": "i1", "type": "t", "time": 1} | fields)
    return stored_event(encode_event(event, client="shop", version=version), "orders", 17, 2 * 10**9)


def line_of(event: eda.Event) -> dict[str, Any]:
    lines = json_lines([event])
    assert lines.endswith(b"\n")
    assert lines.count(b"\n") == 1
    fields: dict[str, Any] = json.loads(lines)
    return fields


@given(type=TEXT, aggregate=TEXT, cause=TEXT, schema=TEXT, meta=st.dictionaries(TEXT, TEXT, max_size=3), data=TEXT)
def test_line_when_read_by_another_reader_has_the_texts_of_the_event(
    type: str, aggregate: str, cause: str, schema: str, meta: dict[str, str], data: str
) -> None:
    event = stored(type=type, aggregate=aggregate, cause=cause, schema=schema, meta=meta, data=eda.String(data))
    fields = line_of(event)
    expected = event.to_dict()
    for name in ("stream", "id", "type", "time", "ack_time", "schema", "client", "cause", "aggregate"):
        assert fields[name] == expected[name]
    assert (fields["meta"], fields["data"], fields["encoding"]) == (meta, data, "string")


def test_line_when_the_event_is_of_a_pack_has_its_place() -> None:
    events = stored_events(pack_of([eda.Event(id=f"i{n}", type="t") for n in range(3)]), "s", 9, 5)
    lines = json_lines([event for event in events if event is not None])
    assert [(each["sequence"], each["index"]) for each in map(json.loads, lines.splitlines())] == [
        (9, 0),
        (9, 1),
        (9, 2),
    ]


def test_lines_when_there_are_no_events_are_empty() -> None:
    assert json_lines([]) == b""


def test_lines_when_an_item_is_no_event_are_refused() -> None:
    with pytest.raises(TypeError):
        json_lines([None])  # type: ignore[list-item]


@pytest.mark.parametrize("ns", [1, -1, -(2**63), 2**63 - 1, 10**9, 951_782_400 * 10**9, -(10**18)])
def test_time_when_printed_is_as_in_to_dict(ns: int) -> None:
    event = stored(time=ns)
    assert line_of(event)["time"] == event.to_dict()["time"]


def test_time_when_not_set_is_null() -> None:
    assert line_of(eda.Event(type="t"))["time"] is None


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b'{"a": [1.50, 1e5]}', b'{"a": [1.50, 1e5]}'),
        (b'{\n  "a":\r\n 1\n}\n', b'{"a":1}'),
        (b' "\\u0000\\ud83d\\ude00" ', b' "\\u0000\\ud83d\\ude00" '),
        ('"ä\u2028"'.encode(), '"ä\u2028"'.encode()),
        (b"11111111111111111111111", b"11111111111111111111111"),
    ],
    ids=["as it is", "line breaks", "escapes", "not ascii", "big"],
)
def test_data_when_it_is_json_is_copied_in_one_line(payload: bytes, shown: bytes) -> None:
    line = json_lines([stored(data=eda.Data.from_encoded("json", payload))])
    assert line.endswith(b'"encoding":"json","data":' + shown + b"}\n")
    assert json.loads(line)["data"] == json.loads(payload)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b'{"a":1}x', b'"a\nb"', b'"\xff"', b"NaN", b"01", b"[1,]", b'"\\ud800"', b"[" * 5000, b"\xef\xbb\xbf1"],
    ids=["none", "cut", "more", "break", "utf-8", "nan", "zero", "comma", "surrogate", "deep", "bom"],
)
def test_data_when_it_claims_to_be_json_and_is_not_has_its_bytes(payload: bytes) -> None:
    fields = line_of(stored(data=eda.Data.from_encoded("json", payload)))
    assert fields["data"] is None
    assert base64.b64decode(fields["data_base64"]) == payload


@pytest.mark.parametrize(
    ("value", "shown", "is_exact"),
    [
        ({"a": [1, 1.5, None, True, "ä"]}, {"a": [1, 1.5, None, True, "ä"]}, True),
        ({1: "x"}, {"1": "x"}, False),
        ({"a": b"x"}, None, False),
        (float("inf"), None, False),
    ],
    ids=["exact", "number as key", "bytes", "infinite"],
)
def test_data_when_it_is_msgpack_has_its_bytes_unless_json_says_all(value: Any, shown: Any, is_exact: bool) -> None:
    packed = msgpack.packb(value)
    fields = line_of(stored(data=eda.Data.from_encoded("msgpack", packed)))
    assert fields["data"] == shown
    assert ("data_base64" not in fields) == is_exact
    if not is_exact:
        assert base64.b64decode(fields["data_base64"]) == packed


@pytest.mark.parametrize(
    ("encoding", "payload"), [("bytes", b""), ("bytes", b"\0\xff"), ("avro", b"x"), ("string", b"\xff"), ("nil", b"x")]
)
def test_data_when_it_has_no_form_in_json_has_its_bytes(encoding: str, payload: bytes) -> None:
    fields = line_of(stored(data=eda.Data.from_encoded(encoding, payload)))
    assert (fields["encoding"], fields["data"]) == (encoding, None)
    assert base64.b64decode(fields["data_base64"]) == payload


@given(st.binary(max_size=60), st.sampled_from(["json", "string", "msgpack", "nil", "bytes"]))
def test_data_when_it_is_anything_makes_one_line_of_json(payload: bytes, encoding: str) -> None:
    fields = line_of(stored(data=eda.Data.from_encoded(encoding, payload)))
    if "data_base64" in fields:
        assert base64.b64decode(fields["data_base64"]) == payload


def test_data_when_every_byte_needs_an_escape_fits() -> None:
    text = '"\\\0\x7f\n' * 5000
    assert line_of(stored(data=eda.String(text)))["data"] == text


# --- reading times ---------------------------------------------------------------------------------------------------


def test_time_when_printed_is_read_back() -> None:
    choose = random.Random(7)
    for _ in range(2000):
        ns = choose.randrange(1, 2**63 - 1)
        text = line_of(stored(time=ns))["time"]
        year = int(text[:4])
        assert printed_time_ns(text) == (ns if year < 2262 else None)


def test_time_when_of_each_day_is_that_of_datetime() -> None:
    for day in range(0, 106_000, 7):
        time = datetime.fromtimestamp(day * 86_400, UTC)
        assert printed_time_ns(f"{time:%Y-%m-%dT%H:%M:%S}.000000001Z") == day * 86_400 * 10**9 + 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "x" * 30, "2026-11-30T10:00:00Z", "2026-11-30T10:00:00.123456789z", "2026-11-30 10:00:00.123456789Z"),
        *("2026-13-30T10:00:00.123456789Z", "2026-00-30T10:00:00.123456789Z", "2026-02-29T10:00:00.123456789Z"),
        *("2100-02-29T10:00:00.123456789Z", "2026-04-31T10:00:00.123456789Z", "2026-11-00T10:00:00.123456789Z"),
        *("2026-11-30T24:00:00.123456789Z", "2026-11-30T10:60:00.123456789Z", "2026-11-30T10:00:60.123456789Z"),
        *("1969-12-31T23:59:59.999999999Z", "2262-01-01T00:00:00.000000000Z", "2026-11-30T10:00:00.12345678éZ"),
        *("2026-11-30T10:00:00.-23456789Z", "2026-1１-30T10:00:00.1234567Z"),
    ],
)
def test_time_when_it_has_another_form_or_does_not_exist_is_none(text: str) -> None:
    assert printed_time_ns(text) is None
