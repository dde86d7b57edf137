"""What other processes may see of the secrets: arguments and environments of children, and files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import eda
from eda.cli.sides import Side
from eda.cli.work import Work
from eda.embedded.config import secrets_in

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def seen_of(pid: int) -> str:
    """Give what the system shows of a process: its arguments and its environment."""
    return "".join(Path(f"/proc/{pid}/{what}").read_bytes().decode(errors="replace") for what in ("cmdline", "environ"))


@linux_only
async def test_server_when_the_environment_has_an_address_does_not_inherit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDA_URL", "NATS_URL"):
        monkeypatch.setenv(name, "nats://me:hunter2@elsewhere")
    async with eda.EmbeddedServer() as server:
        assert server.pid is not None
        seen = seen_of(server.pid)
        assert "nats-server" in seen
        assert "hunter2" not in seen
        assert server.token not in seen


@linux_only
async def test_demo_side_when_at_work_does_not_show_the_token() -> None:
    async with eda.EmbeddedServer() as server:
        async with eda.connect(server.url) as conn:
            await conn.streams.create("stream")
        work = Work(client="test", events=10)
        async with Side("handle", server.url, "stream", work, lambda *_: None, lambda _: None) as side:
            await side.ready()
            seen = seen_of(side._process.pid)
            assert "eda.cli.worker" in seen
            assert server.token not in seen


def test_secrets_when_a_configuration_has_some_are_found_at_any_depth() -> None:
    config = {
        "authorization": {"users": [{"user": "me", "password": "one"}, {"nkey": "two"}], "token": "three"},
        "accounts": {"A": {"users": [{"user": "you", "pass": "four"}]}},
        "jetstream": {"key": "five", "store_dir": "/data"},
        "server_name": "shown",
    }
    assert sorted(secrets_in(config)) == ["five", "four", "one", "three", "two"]


@pytest.mark.skipif(sys.platform == "win32", reason="its stand-in is a shell script")
async def test_start_when_it_fails_does_not_tell_the_configured_secrets(tmp_path: Path) -> None:
    server = tmp_path / "fake-server"
    server.write_text('#!/bin/sh\ncat "$2" >&2\nexit 3\n')
    server.chmod(0o700)
    users = {"users": [{"user": "me", "password": "hunter2"}]}
    with pytest.raises(eda.ConnectError, match=r"(?s)ended with code 3.*me") as caught:
        await eda.EmbeddedServer(executable=server, config={"authorization": users}).start()
    assert "hunter2" not in f"{caught.value}{caught.value!r}"
