"""eda.cli.history: the events of an aggregate as text and as JSON."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest

import eda
from eda._codec import encode_event, stored_event
from eda.cli.history import fields_of, print_history, print_json


def stored(version: int = 1, **fields: Any) -> eda.Event:
    event = eda.Event(**{"id": "i1", "type": "order-paid", "aggregate": "4711", "time": 1} | fields)
    return stored_event(encode_event(event, client="shop", version=version), "orders", 17, 2 * 10**9)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (eda.JSON({"a": [1, None, "ä"]}), {"a": [1, None, "ä"]}),
        (eda.MsgPack({"a": 1.5}), {"a": 1.5}),
        (eda.String("text"), "text"),
        (None, None),
    ],
    ids=["json", "msgpack", "string", "nil"],
)
def test_fields_when_the_data_has_a_form_in_json_have_it(data: Any, value: Any) -> None:
    fields = fields_of(stored(data=data, meta={"tenant": "acme"}, cause="c1", schema="2"))
    assert fields == {
        "stream": "orders",
        "aggregate": "4711",
        "version": 1,
        "sequence": 17,
        "index": 0,
        "type": "order-paid",
        "id": "i1",
        "time": "1970-01-01T00:00:00.000000001Z",
        "ack_time": "1970-01-01T00:00:02.000000000Z",
        "cause": "c1",
        "client": "shop",
        "schema": "2",
        "meta": {"tenant": "acme"},
        "encoding": "nil" if data is None else data.type,
        "data": value,
    }


@pytest.mark.parametrize(
    "data",
    [
        eda.Bytes(b"\0\xff"),
        eda.Data.from_encoded("avro", b"\1"),
        eda.Data.from_encoded("json", b"{not"),
        eda.MsgPack({"a": b"\0"}),
        eda.MsgPack(float("nan")),
    ],
    ids=["bytes", "unknown", "wrong", "bytes-inside", "nan"],
)
def test_fields_when_the_data_has_no_form_in_json_have_its_bytes(data: eda.Data) -> None:
    fields = fields_of(stored(data=data))
    assert fields["data"] is None
    assert base64.b64decode(fields["data_base64"]) == data.encode()
    json.dumps(fields, allow_nan=False)


def test_json_when_printed_has_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([stored(1, data=eda.String("a\nb")), stored(2)])
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["version"] for line in lines] == [1, 2]


@pytest.mark.parametrize("width", [80, 200])
def test_history_when_shown_on_a_terminal_keeps_to_its_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    print_history([stored(7, cause="c" * 60, data=eda.JSON({"words": ["word"] * 100}), meta={"m": "v" * 60})])
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("     7  1970-01-01T00:00:00.000000001Z  order-paid")
    assert "".join(lines).count('"word"') == 100


def test_history_when_texts_have_control_characters_shows_them_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    event = stored(type="a\x1b[2Jb", data=eda.JSON("\x9b1m"), meta={"k\n": "[bold]v[/bold]"})
    print_history([event])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x9b" not in out
    assert "a\\x1b[2Jb" in out
    assert "k\\n=[bold]v[/bold]" in out


def test_history_when_written_to_a_file_keeps_long_lines_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_history([stored(data=eda.JSON("word " * 100))])
    assert capsys.readouterr().out.splitlines()[-1].strip() == json.dumps("word " * 100)


def test_history_when_the_terminal_lacks_a_character_escapes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    print_history([stored(data=eda.JSON("ä"))])
    assert b'"\\xe4"' in raw.getvalue()


def test_history_when_data_has_numbers_that_no_float_holds_shows_them_as_stored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = b'{"a": 0.1000000000000000055, "b": 1e400, "b": 2, "\\u00e4": "\xc3\xa4"}'
    print_history([stored(data=eda.Data.from_encoded("json", data))])
    assert data.decode() in capsys.readouterr().out


def test_history_when_meta_has_the_name_of_a_field_shows_both(capsys: pytest.CaptureFixture[str]) -> None:
    print_history([stored(id="real", meta={"id": "other", "flag": ""})])
    assert "id=real  client=shop  id=other  flag=\n" in capsys.readouterr().out
