"""Lines of events give back what they took: thousands of times through each way of writing and reading one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda._codec import encode_event, stored_event
from eda._event_lines import events_of_lines, n_lines_of
from eda._json_lines import json_lines, printed_time_ns
from eda.cli.line_events import BadLine, LineEvents
from leaks import MAX_BLOCKS, MAX_RSS, growth


def stored(**fields: Any) -> eda.Event:
    event = eda.Event(**{"id": "i1", "type": "t", "time": 1} | fields)
    return stored_event(encode_event(event, client="shop"), "orders", 17, 2 * 10**9)


READER = LineEvents(drops_versions=False)
DEEP = 50_000  # more than the parser of any Python takes

EVENTS = {
    "json": stored(data=eda.JSON({"a": "ä"}), meta={"a": "b"}),
    "json-of-several-lines": stored(data=eda.Data.from_encoded("json", b'{\n"a": 1}')),
    "json-that-is-none": stored(data=eda.Data.from_encoded("json", b"{")),
    "json-too-deep": stored(data=eda.Data.from_encoded("json", b"[" * DEEP + b"]" * DEEP)),
    "json-not-utf8": stored(data=eda.Data.from_encoded("json", b'"\xff"')),
    "msgpack": stored(data=eda.MsgPack({"a": [1, None]})),
    "msgpack-keys": stored(data=eda.MsgPack({1: 2})),
    "msgpack-that-is-none": stored(data=eda.Data.from_encoded("msgpack", b"\xc1")),
    "string": stored(data=eda.String('a\n\x7fä"' * 100)),
    "string-not-utf8": stored(data=eda.Data.from_encoded("string", b"\xff")),
    "bytes": stored(data=eda.Bytes(bytes(100))),
    "nothing": stored(),
    "texts": stored(
        type="\n" * 100, aggregate="ä\\", cause="c", schema="1", meta={"\x01": "ä"} | {str(n): "" for n in range(9)}
    ),
    "not-stored": eda.Event(),
}
LINES = {
    "as-printed": json_lines([EVENTS["json"].replace(meta={}, aggregate="7")]),
    "short": b'{"type":"a","encoding":"json","data":"x"}',
    "with-its-id": b'{"id":"%b","time":null,"encoding":"json","data":{}}' % (b"i" * 100),
    "not-ascii": '{"type":"ä","aggregate":"ü","id":"ö","encoding":"json","data":"ä"}'.encode(),
    "left-to-the-other": b'{"type":"a\\n","encoding":"json","data":1}',
    "left-for-its-metadata": b'{"meta":{"a":"b"},"time":"2026-11-30T10:00:00Z","encoding":"json","data":1}',
    "string": b'{"encoding":"string","data":"x\\n"}',
    "msgpack": b'{"encoding":"msgpack","data":{"a":1}}',
    "base64": b'{"encoding":"bytes","data_base64":"AAAA"}',
    "nothing": b"{}",
    "many": b"\n".join([b'{"type":"a","encoding":"json","data":1}'] * 50),
}
BAD = {
    "empty": b"\n",
    "no-json": b'{"encoding":"json","data":{}',
    "data-that-is-none": b'{"type":"a","encoding":"json","data":{1}}',
    "not-utf8": b'{"type":"\xff"}',
    "data-not-utf8": b'{"encoding":"json","data":"\xff"}',
    "too-deep": b'{"encoding":"json","data":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "time": b'{"time":"2026-13-30T10:00:00.000000000Z","encoding":"json","data":1}',
    "version": b'{"version":1,"encoding":"json","data":1}',
    "id": b'{"id":5}',
    "base64": b'{"data_base64":"*"}',
    "after-a-good-one": b'{"type":"a","encoding":"json","data":1}\n{',
}


def refused(lines: bytes) -> None:
    with pytest.raises(BadLine):
        events_of_lines(lines, READER.of)


def not_an_event(given: Any) -> None:
    with pytest.raises(TypeError):
        json_lines(given)


PATHS: dict[str, Callable[[], Any]] = {
    **{f"write-{name}": lambda event=event: json_lines([event]) for name, event in EVENTS.items()},
    "write-all": lambda: json_lines(list(EVENTS.values())),
    "write-none": lambda: (not_an_event([EVENTS["json"], None]), not_an_event(["x"]), not_an_event(None)),
    **{f"read-{name}": lambda lines=lines: events_of_lines(lines, READER.of) for name, lines in LINES.items()},
    "read-all": lambda: events_of_lines(b"\n".join(each.strip() for each in LINES.values()), READER.of),
    **{f"refuse-{name}": lambda lines=lines: refused(lines) for name, lines in BAD.items()},
    "count": lambda: n_lines_of(LINES["many"]),
    "time": lambda: printed_time_ns("2026-11-30T10:00:00.123456789Z"),
    "time-of-another-form": lambda: (printed_time_ns("2026-11-30"), printed_time_ns("ä" * 15)),
}  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_memory_when_lines_are_written_and_read_many_times_does_not_grow(name: str) -> None:
    n = 500 if "deep" in name or "all" in name else 5_000
    shared = (*EVENTS.values(), *LINES.values(), *BAD.values(), READER)
    blocks, tracked, size = growth(PATHS[name], n, n_before=n, shared=shared)
    assert blocks < min(n, MAX_BLOCKS) / 2
    assert tracked < min(n, MAX_BLOCKS) / 2
    assert size < MAX_RSS


def test_data_when_its_event_is_gone_lives_on_without_the_lines() -> None:
    lines = b'{"type":"a","encoding":"json","data":"%b"}' % (b"x" * 100)
    before = sys.getrefcount(lines)
    (event,) = events_of_lines(lines, READER.of)
    assert sys.getrefcount(lines) == before
    data = event.data
    del lines, event
    assert data.encode() == b'"%b"' % (b"x" * 100)
