"""`eda server`: it runs until it is stopped, and commands find it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import until
from support.cli.commands import run_eda
from support.cli.terminal import Terminal, run_in_terminal

TIMEOUT_S = 60


class Running:
    """An `eda server` in a process of its own, and the first line that it printed."""

    def __init__(self, process: asyncio.subprocess.Process, line: str) -> None:
        self.process, self.line = process, line

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.line)
        return told

    async def end(self, by: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send it a signal; give its exit code and what it printed to standard error."""
        self.process.send_signal(by)
        async with asyncio.timeout(TIMEOUT_S):
            _, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, err.decode()


@asynccontextmanager
async def running(*arguments: str, port: int = 0) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eda.cli", "server", "--port", str(port), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            line = (await process.stdout.readline()).decode()
        yield Running(process, line)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDA_TOKEN", raising=False)


async def gone(pid: int) -> None:
    """Return when no process has this id."""

    def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    await until(is_gone)


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_server_when_it_is_ended_by_a_signal_leaves_nothing_behind(by: signal.Signals, code: int) -> None:
    async with running("--json") as server:
        told = server.told
        assert told["url"] == f"nats://127.0.0.1:{told['port']}"
        assert (told["host"], told["dir"]) == ("127.0.0.1", None)
        assert told["version"] == eda.EmbeddedServer().version()
        async with eda.connect(told["url"]) as conn:
            await conn.publish("orders", eda.Event(type="made"))
        ended, err = await server.end(by)
        assert ended == code
        assert "Traceback" not in err
        await gone(told["pid"])


async def test_server_when_a_directory_is_given_keeps_the_data(tmp_path: Path) -> None:
    for n_before in range(2):
        async with running("--json", "--dir", str(tmp_path / "data")) as server:
            assert server.told["dir"] == str(tmp_path / "data")
            async with eda.connect(server.told["url"]) as conn:
                assert (await conn.publish("orders", eda.Event(type="made"))).sequence == n_before + 1
            await server.end()


async def test_server_when_a_token_is_given_lets_only_those_in_who_know_it() -> None:
    async with running("--json", "--token", "a/b@c:d") as server:
        told = server.told
        assert told["url"] == f"nats://a%2Fb%40c%3Ad@127.0.0.1:{told['port']}"
        code, _, err = await run_eda("store", "cat", "orders", "a", "--addr", told["url"])
        assert (code, err) == (2, "Error: stream 'orders' does not exist\n")
        code, _, err = await run_eda("store", "cat", "orders", "a", "--addr", f"127.0.0.1:{told['port']}")
        assert code == 2
        assert "does not exist" not in err


async def test_server_when_other_machines_reach_it_has_a_random_token() -> None:
    async with running("--json", "--host", "0.0.0.0") as server:
        told = server.told
        token, _, rest = told["url"].removeprefix("nats://").partition("@")
        assert len(token) == 32
        assert rest == f"127.0.0.1:{told['port']}"
        async with eda.connect(told["url"]) as conn:
            assert await conn.streams.list() == []


async def test_server_when_other_machines_reach_it_and_the_token_is_empty_refuses() -> None:
    code, out, err = await run_eda("server", "--host", "0.0.0.0", "--token", "")
    assert (code, out) == (2, "")
    assert err == "Error: host '0.0.0.0' can be reached from other machines, so the server needs a token\n"


async def test_server_when_the_port_is_taken_says_so() -> None:
    async with eda.EmbeddedServer() as taken:
        code, out, err = await run_eda("server", "--port", str(taken.port))
        assert (code, out) == (2, "")
        assert f"another program listens on 127.0.0.1, port {taken.port}" in err
        assert err.count("\n") == 1


async def test_server_when_the_directory_is_in_use_says_so(tmp_path: Path) -> None:
    async with eda.EmbeddedServer(tmp_path):
        code, _, err = await run_eda("server", "--port", "0", "--dir", str(tmp_path))
        assert code == 2
        assert "another server uses this directory" in err


async def test_server_when_the_nats_server_dies_ends_with_its_log() -> None:
    async with running("--json") as server:
        os.kill(server.told["pid"], signal.SIGKILL)
        async with asyncio.timeout(TIMEOUT_S):
            _, err = await server.process.communicate()
        assert server.process.returncode == 2
        assert b"nats-server ended with code -9; its log ends with" in err


async def test_server_when_it_runs_on_a_terminal_shows_where_it_is_and_ends_by_ctrl_c() -> None:
    shown = await run_in_terminal("server", "--port", "0", until="Ctrl-C ends it")
    assert shown.code == 130
    assert shown.text.startswith("nats://127.0.0.1:")
    assert "data in a temporary directory, removed at the end" in " ".join(shown.text.split())
    assert shown.end.endswith("interrupted")


async def test_server_when_the_terminal_is_closed_ends_the_nats_server() -> None:
    async with Terminal("server", "--port", "0", "--json", columns=300) as terminal:
        pid = json.loads(await terminal.shows(lambda text: text.rstrip().endswith("}")))["pid"]
        os.kill(terminal.pid, signal.SIGHUP)
        assert await terminal.ended() == 143
    await gone(pid)
