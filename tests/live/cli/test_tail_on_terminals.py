"""`eda tail` and `eda pub` on terminals, as their users see them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import eda
from helpers import until

if sys.platform == "win32":
    pytest.skip("needs pseudo-terminals", allow_module_level=True)

from support.cli.terminal import CTRL_C, Terminal, run_in_terminal


async def fill(conn: eda.Conn, stream: str) -> None:
    await conn.publish(
        stream,
        eda.Event(
            type="item-added",
            aggregate="4711",
            id="i1",
            data=eda.JSON({"words": ["word"] * 40}),
            cause="c" * 30,
            meta={"tenant": "acme"},
        ),
    )
    await conn.publish(stream, eda.Event(type="a\x1b]0;t\x07b", id="i2", data=eda.JSON("\x9b31m\u202eä")))


@pytest.mark.parametrize("columns", [80, 200])
async def test_tail_when_on_a_terminal_shows_texts_within_its_width(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, columns: int
) -> None:
    await fill(conn, stream)
    arguments = ["tail", stream, "--addr", server.url]
    shown = await run_in_terminal(*arguments, columns=columns, until="i2")
    assert shown.code == 130
    lines = shown.text.splitlines()
    assert lines[0].startswith("     1  2")
    assert lines[0].endswith("Z  item-added")
    assert lines[1].lstrip().startswith("aggregate=4711  id=i1  cause=ccc")
    assert max(map(len, lines)) <= columns
    assert shown.text.count('"word"') == 40
    assert "a\\x1b]0;t\\x07b" in shown.text
    assert '"\\x9b31m\\u202eä"' in shown.text
    assert b"\x1b]0;" not in shown.raw
    assert "\x9b".encode() not in shown.raw
    assert b"\x1b[" in shown.raw  # colours
    plain = await run_in_terminal(*arguments, "--no-follow", columns=columns, env={"NO_COLOR": "1"})
    assert b"\x1b[3" not in plain.raw


async def test_tail_when_json_is_asked_for_on_a_terminal_escapes_what_a_terminal_may_act_on(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await fill(conn, stream)
    shown = await run_in_terminal(
        "tail", stream, "--addr", server.url, "--no-follow", "--json", "--last", "1", columns=2000
    )
    assert shown.code == 0
    fields = json.loads(shown.text)
    assert (fields["type"], fields["data"]) == ("a\x1b]0;t\x07b", "\x9b31m\u202eä")
    assert "ä" in shown.text
    assert "\x9b".encode() not in shown.raw
    assert "\u202e".encode() not in shown.raw


async def test_tail_when_it_follows_shows_an_event_at_once(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await fill(conn, stream)
    async with Terminal("tail", stream, "--addr", server.url) as terminal:
        await terminal.shows("i2")
        await conn.publish(stream, eda.Event(type="new", id="i3"))
        await terminal.shows("id=i3")
        terminal.type(CTRL_C)
        assert await terminal.ended() == 130
        assert terminal.text.splitlines()[-1] in ("interrupted", "^Cinterrupted")


@pytest.mark.parametrize("columns", [80, 200])
async def test_pub_when_on_a_terminal_shows_its_progress_and_then_only_the_summary(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, tmp_path: Path, columns: int
) -> None:
    await conn.streams.create(stream)
    path = tmp_path / "lines"
    path.write_bytes(b'{"type":"a"}\n' * 150_000)
    arguments = ["pub", stream, "--lines", "--file", str(path), "--addr", server.url]
    async with Terminal(*arguments, columns=columns) as terminal:
        await terminal.shows(lambda text: "stored" in text and "/s" in text and "%" in text)
        assert max(map(len, terminal.text.splitlines())) <= columns
        assert await terminal.ended() == 0
        assert terminal.text.splitlines() == [f"150,000 of 150,000 lines are stored in {stream}"]


async def test_pub_when_lines_are_typed_publishes_each(server: eda.EmbeddedServer, conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream)
    async with Terminal("pub", stream, "--lines", "--addr", server.url) as terminal:
        await terminal.shows("stored")
        terminal.type('{"type":"a"}\n')
        await until(lambda: _has(conn, stream, 1))
        terminal.type("\x04")  # the end of the input
        assert await terminal.ended() == 0
        assert f"1 of 1 lines are stored in {stream}" in terminal.text


async def _has(conn: eda.Conn, stream: str, n: int) -> bool:
    return (await conn.streams.info(stream)).events == n
