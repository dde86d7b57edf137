"""`make bench` in its smallest form: real children on a real server, and what is written of it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import eda

pytest.importorskip("resource", reason="the benchmarks need POSIX")

from suite.checks import WrongCount, check
from suite.work import Result, Task

BENCH = Path(__file__).parents[3] / "bench"
DEADLINE_S = 90


async def run_suite(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "suite", *arguments,
        cwd=BENCH, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode()


def quick_json(folder: Path) -> Path:
    (written,) = folder.glob("*-quick.json")
    return written


@pytest.mark.timeout(100)
async def test_suite_when_quick_measures_writes_and_prints(tmp_path: Path, server: eda.EmbeddedServer) -> None:
    groups = ("--only", "publish single", "--only", "consume")
    names = [
        f"--contender={way}" for way in ("eda, single", "nats-py, single", "eda, default", "eda, key", "nats-py, fetch")
    ]
    where = ("--addr", server.url, "--results", str(tmp_path), "--plots", str(tmp_path / "plots"))
    code, out = await run_suite("--quick", *groups, *names, *where)
    assert code == 0, out
    written = quick_json(tmp_path)
    report = json.loads(written.read_text(encoding="utf-8"))
    assert report["schema"] == 1
    assert report["machine"]["server"].endswith(", the user's")
    assert not [notice for notice in report["notices"] if "failed" in notice]
    rows = {(row["group"], row["contender"]): row for row in report["results"]}
    for key in (("publish single", "eda, single"), ("consume", "eda, key"), ("consume", "nats-py, fetch")):
        row = rows[key]
        assert row["events"] > 0
        assert row["events_per_s"]["median"] > 0
        assert row["cpu_us_per_event"]["median"] > 0
    assert "nats-py, fetch" in out
    page = written.with_suffix(".html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert server.token not in page + written.read_text(encoding="utf-8") + out
    assert (tmp_path / "plots" / "ways.svg").exists()
    async with eda.connect(server.url) as conn:
        left = [info.name for info in await conn.streams.list() if info.name.startswith("bench-")]
        assert left == []


async def test_suite_when_nobody_is_meant_says_so() -> None:
    code, out = await run_suite("--only", "no such group")
    assert code == 2
    assert "no group and contender of these names" in out


async def test_suite_when_no_server_answers_says_so_in_one_line() -> None:
    code, out = await run_suite("--quick", "--only", "consume", "--addr", "nats://user:very-secret@127.0.0.1:1")
    assert code == 1
    assert out.startswith("Error: cannot connect to nats://127.0.0.1:1")
    assert "very-secret" not in out


async def test_check_when_the_count_is_not_the_servers_raises(
    conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.checks.WAIT_S", 0.1)
    await conn.publish(stream, eda.Event(type="x"))
    task = Task("", stream, "publish-single", "single", "asyncio", 16, 1.0, 10)
    await check(conn, None, task, Result(1, 1.0, 1), "eda")
    with pytest.raises(WrongCount, match="counted 2 events, and the server has 1 stored"):
        await check(conn, None, task, Result(2, 1.0, 2), "eda")
