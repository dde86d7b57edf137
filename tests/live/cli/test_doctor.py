"""`eda doctor`: findings for people and as JSON, and its exit codes. What is found: tests/live/diagnosis."""

from __future__ import annotations

import json
import re

import pytest

import eda
from helpers import Admin
from support.cli.commands import run_eda
from support.cli.terminal import run_in_terminal
from support.diagnosis.settings import create


async def test_doctor_when_all_is_well_ends_with_code_0(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await conn.publish(stream)
    code, out, err = await run_eda("doctor", stream, "--addr", server.url)
    assert (code, err) == (0, "")
    assert f"\nstream {stream}\n  ok      The stream has 1 event, " in out
    assert re.search(r"\n0 problems, 0 warnings, \d notes?, \d+ ok\n$", out)
    assert "\x1b" not in out


async def test_doctor_when_there_is_a_problem_ends_with_code_1(
    server: eda.EmbeddedServer, admin: Admin, stream: str
) -> None:
    await create(admin, stream, no_ack=True)
    code, out, err = await run_eda("doctor", stream, "--addr", server.url, "--at-least", "problem")
    assert (code, err) == (1, "")
    assert out.splitlines()[:3] == [
        f"stream {stream}",
        "  problem The stream has no_ack: it never acknowledges, so eda refuses to publish to it.",
        "          > Set no_ack to false.",
    ]


async def test_doctor_when_json_is_asked_for_prints_a_line_for_each_finding(
    server: eda.EmbeddedServer, admin: Admin, stream: str
) -> None:
    await create(admin, stream, no_ack=True, storage="memory")
    code, out, _ = await run_eda("doctor", stream, "--addr", server.url, "--json", "--at-least", "warning")
    assert code == 1
    warning, problem = sorted(map(json.loads, out.splitlines()), key=lambda each: each["check"])
    assert warning["check"] == "memory_storage"
    assert problem == {
        "severity": "problem",
        "check": "no_ack",
        "stream": stream,
        "subscription": None,
        "message": "The stream has no_ack: it never acknowledges, so eda refuses to publish to it.",
        "advice": "Set no_ack to false.",
    }


async def test_doctor_when_no_stream_is_named_examines_all(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str
) -> None:
    await conn.streams.create(stream)
    _, out, _ = await run_eda("doctor", "--addr", server.url, "--json")
    assert stream in {json.loads(line)["stream"] for line in out.splitlines()}


@pytest.mark.parametrize(("name", "message"), [("nobody", "stream 'nobody' does not exist"), ("a.b", "stream must be")])
async def test_doctor_when_the_stream_is_wrong_ends_with_code_2(
    server: eda.EmbeddedServer, name: str, message: str
) -> None:
    code, out, err = await run_eda("doctor", name, "--addr", server.url)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("columns", [80, 200])
async def test_doctor_when_it_runs_on_a_terminal_fits_it_and_has_colours(
    server: eda.EmbeddedServer, admin: Admin, stream: str, columns: int
) -> None:
    await create(admin, stream, no_ack=True)
    shown = await run_in_terminal("doctor", stream, "--addr", server.url, columns=columns, rows=60)
    assert shown.code == 1
    assert b"\x1b[1;31m  problem" in shown.raw
    lines = shown.text.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("  problem The stream has no_ack")]
    assert lines[at + 1].startswith("          ")
    # Sentences continue under their beginning, or under the advice.
    indented = [line for line in lines if line.startswith(" ")]
    assert all(re.match(r" {2}(ok|note|warning|problem) +\S| {10}\S", line) for line in indented)
    plain = await run_in_terminal(
        "doctor", stream, "--addr", server.url, columns=columns, rows=60, env={"NO_COLOR": "1"}
    )
    assert b"\x1b[31" not in plain.raw
    assert b"\x1b[1;31" not in plain.raw
