"""`eda lag` as a process, against a real server and in a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import eda
from helpers import Connect, until
from support.cli.commands import run_eda
from support.cli.terminal import Terminal, run_in_terminal
from support.subscribing.kept import ORDERED, fill, handle_all, member

FIELDS = {"time", "stream", "name", "kind", "position", "lag", "lag_s", "active", "ok"}


@pytest.fixture
def run(server: eda.EmbeddedServer) -> Callable[..., Any]:
    """Run `eda lag`; returns the exit code, the standard output and the standard error."""

    async def run(*arguments: str, **options: Any) -> tuple[int | None, str, str]:
        return await run_eda("lag", *arguments, "--addr", server.url, **options)

    return run


@pytest.fixture
async def behind(conn: eda.Conn, stream: str) -> str:
    """A stream whose subscription `late` is 10 events behind; `n` has handled all 20."""
    await fill(conn, stream)
    await handle_all(conn, stream, name="late", **ORDERED)
    await fill(conn, stream)
    await handle_all(conn, stream, 20)
    return stream


async def test_lag_when_json_prints_the_worst_first(run: Callable[..., Any], behind: str) -> None:
    code, out, err = await run(behind, "--json")
    assert (code, err) == (0, "")
    late, done = map(json.loads, out.splitlines())
    assert late.keys() == done.keys() == FIELDS
    assert (late["name"], late["kind"], late["position"], late["lag"]) == ("late", "ordered", 10, 10)
    assert 0 < late["lag_s"] < 60
    assert (done["name"], done["kind"], done["lag"], done["lag_s"]) == ("n", "shared", 0, 0.0)
    assert late["time"].endswith("Z")
    assert (late["stream"], late["ok"], late["active"]) == (behind, True, False)


@pytest.mark.parametrize(
    ("limits", "code"),
    [(["--max", "10"], 0), (["--max", "9"], 1), (["--max-age", "1h"], 0), (["--max-age", "1ms"], 1)],
    ids=str,
)
async def test_lag_when_above_a_limit_ends_with_1(
    run: Callable[..., Any], behind: str, limits: list[str], code: int
) -> None:
    ended, out, err = await run(behind, "--json", *limits)
    assert (ended, err) == (code, "")
    assert [json.loads(line)["ok"] for line in out.splitlines()] == [not code, True]


async def test_lag_when_it_is_unknown_is_above_any_limit(own_server: eda.EmbeddedServer, connect: Connect) -> None:
    conn = await connect(own_server.url)
    await fill(conn, "a")
    await handle_all(conn, "a", **ORDERED)
    await conn.streams.delete("a")
    code, out, _ = await run_eda("lag", "--addr", own_server.url)
    assert code == 0
    assert "unknown" in out
    assert (await run_eda("lag", "--max", "1000", "--addr", own_server.url))[0] == 1


async def test_lag_when_a_stream_does_not_exist_ends_with_1(run: Callable[..., Any], behind: str) -> None:
    code, out, err = await run(behind, f"{behind}-no")
    assert (code, out) == (1, "")
    assert "does not exist" in err


@pytest.mark.parametrize("columns", [80, 200])
async def test_lag_when_watched_shows_what_changes_until_ctrl_c(
    conn: eda.Conn, behind: str, server: eda.EmbeddedServer, columns: int
) -> None:
    arguments = ("lag", behind, "--watch", "--interval", "100ms", "--max", "5", "--addr", server.url)
    async with Terminal(*arguments, columns=columns) as terminal:
        await terminal.shows("late")
        assert b"\x1b[?1049h" in terminal.raw, "not on a screen of its own"
        assert max(len(line) for line in terminal.screen.splitlines()) <= columns
        await handle_all(conn, behind, name="late", **ORDERED)
        await terminal.shows(lambda text: "20" in text and "10" not in text)
        terminal.type("\x03")
        assert await terminal.ended() == 130
        assert b"\x1b[?1049l" in terminal.raw, "the screen is not restored"
        assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l"), "the cursor is hidden"
        assert b"Traceback" not in terminal.raw


async def test_lag_when_printed_on_a_terminal_is_a_table(behind: str, server: eda.EmbeddedServer) -> None:
    shown = await run_in_terminal("lag", behind, "--max", "5", "--addr", server.url)
    assert shown.code == 1
    titles, late, done = shown.text.splitlines()
    assert titles.split() == ["stream", "subscription", "kind", "position", "lag", "age", "members", "limit"]
    assert late.split()[1:5] == ["late", "ordered", "10", "10"]
    assert late.split()[-2:] == ["none", "over"]
    assert done.split()[1:] == ["n", "shared", "20", "0", "-", "none"]
    assert b"\x1b[31m" in shown.raw, "what is above the limit is red"


async def test_lag_when_nobody_reads_any_more_is_quiet(conn: eda.Conn, behind: str, server: eda.EmbeddedServer) -> None:
    async with member(conn, behind) as (_, got):
        await until(lambda: not got)
        code = (
            "import subprocess, sys\n"
            "command = [sys.executable, '-m', 'eda.cli', *sys.argv[1:]]\n"
            "child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
            "child.stdout.readline()\nchild.stdout.close()\n"
            "sys.stderr.buffer.write(child.stderr.read())\nchild.wait()\n"
        )
        arguments = ("lag", behind, "--watch", "--json", "--interval", "100ms", "--addr", server.url)
        assert await run_eda(*arguments, code=code) == (0, "", "")
