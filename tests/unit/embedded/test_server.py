"""eda.embedded.server with stand-ins for nats-server: finding it, refusals, starts and stops that fail."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from eda.embedded import server as module
from eda.embedded.server import EmbeddedServer
from eda.errors import Closed, ConfigError, ConnectError

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="its stand-ins are shell scripts")

Fake = Callable[[str], Path]


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the servers' temporary directories be made where a test can count them."""
    path = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Make stand-ins for nats-server of shell code: $2 is the configuration, $4 the ports directory."""

    def make(code: str) -> Path:
        path = tmp_path / "fake-server"
        path.write_text(f"#!/bin/sh\n{code}\n")
        path.chmod(0o700)
        return path

    return make


def gone(pid: int) -> bool:
    """Tell whether a child has ended and was reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def left(temporary: Path, pattern: str = "*") -> list[str]:
    """Give the names of the files that are left there."""
    return [path.name for path in temporary.rglob(pattern)]


@posix_only
async def test_start_when_the_server_ends_early_raises_its_log_without_the_token(
    fake: Fake,
) -> None:
    server = EmbeddedServer(executable=fake('cat "$2" >&2; echo "out of luck"; exit 3'))
    with pytest.raises(ConnectError, match=r"(?s)ended with code 3.*out of luck") as caught:
        await server.start()
    assert '"token": "***"' in str(caught.value)
    assert server.token not in str(caught.value)
    assert not server.running
    await server.stop()


@posix_only
async def test_start_when_not_ready_in_time_raises_and_ends_the_process(temporary: Path, fake: Fake) -> None:
    with pytest.raises(ConnectError, match=r"was not ready within 0\.3 s") as caught:
        async with EmbeddedServer(executable=fake("echo pid=$$; exec sleep 60"), ready_timeout_s=0.3):
            pass
    assert gone(int(str(caught.value).rpartition("pid=")[2]))
    assert left(temporary) == []


@posix_only
async def test_start_when_cancelled_leaves_nothing_behind(temporary: Path, fake: Fake) -> None:
    async def enter() -> None:
        async with server:
            pass

    server = EmbeddedServer(executable=fake("exec sleep 60"))
    task = asyncio.create_task(enter())
    async with asyncio.timeout(5):
        while server.pid is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    pid = server.pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(pid)
    assert left(temporary) == []


@posix_only
@pytest.mark.parametrize("cancelled", [False, True])
async def test_stop_when_the_server_ignores_it_kills(
    cancelled: bool, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STOP_TIMEOUT_S", 30 if cancelled else 0.2)
    ports = '{"nats":["nats://127.0.0.1:4"]}'
    server = EmbeddedServer(executable=fake(f"trap '' TERM; echo '{ports}' > \"$4/x.ports\"; exec sleep 60"))
    await server.start()
    assert server.port == 4
    process = server.process
    assert process is not None
    if cancelled:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await server.stop()
    else:
        await server.stop()
    assert process.returncode == -signal.SIGKILL


@posix_only
async def test_ports_file_when_half_written_is_read_again(fake: Fake) -> None:
    code = """
        cd "$4"
        echo '{"nats":' > x.ports
        sleep 0.2
        echo '{"nats":["nats://127.0.0.1:77"]}' > x.ports
        exec sleep 60
    """
    async with EmbeddedServer(executable=fake(code)) as server:
        assert server.port == 77


@posix_only
async def test_configuration_while_starting_is_private(fake: Fake) -> None:
    # find's -printf would be shorter, but macOS has none.
    with pytest.raises(ConnectError, match=r"-rw-------(.|\n)*drwx------"):
        await EmbeddedServer(executable=fake('ls -l "$2" >&2; ls -ld "${2%/*}" >&2; exit 1')).start()


async def test_dir_when_it_can_not_be_made_raises_connect_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConnectError, match="file") as caught:
        await EmbeddedServer(tmp_path / "file" / "data").start()
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    "config",
    [
        {"port": 4222},
        {"Listen": "0.0.0.0:4222"},
        {"host": "0.0.0.0"},
        {"a": 1.5},
        {"a": b"bytes"},
        {"a": [object()]},
        {"a": "\ud800"},
        {"a": {5: 1}},
        {'a": 1\n"b': 1},
        {"": 1},
    ],
)
def test_config_when_it_can_not_be_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        EmbeddedServer(config=config)
    assert caught.value.argument == "config"


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_ready_timeout_when_not_positive_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match="ready_timeout_s"):
        EmbeddedServer(ready_timeout_s=seconds)


def test_url_when_never_started_raises_closed() -> None:
    with pytest.raises(Closed, match="never started"):
        _ = EmbeddedServer().url


@posix_only
def test_version_when_not_running_is_that_of_the_executable(fake: Fake) -> None:
    assert EmbeddedServer(executable=fake("echo nats-server: v2.12.0-RC.1")).version() == "2.12.0-RC.1"


@posix_only
@pytest.mark.parametrize("code", ["exit 1", "echo hello"])
def test_version_when_the_executable_tells_none_is_refused(code: str, fake: Fake) -> None:
    with pytest.raises(ConfigError, match="does not tell its version"):
        EmbeddedServer(executable=fake(code)).version()


def test_executable_when_it_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing") as caught:
        EmbeddedServer(executable=tmp_path / "missing")
    assert caught.value.argument == "executable"


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Hide every nats-server; give a directory to look for one in."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(empty))
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setattr(metadata, "files", lambda _: None)
    return empty


def test_executable_when_none_is_found_says_what_to_install(hidden: Path) -> None:
    with pytest.raises(ConfigError, match=r"install eda-fast\[server\]"):
        EmbeddedServer()


@posix_only
def test_executable_when_only_on_path_is_found(hidden: Path, fake: Fake, tmp_path: Path) -> None:
    fake("echo nats-server: v2.99.0").rename(hidden / "nats-server")
    assert EmbeddedServer().version() == "2.99.0"


@posix_only
def test_executable_when_only_recorded_by_its_package_is_found(
    hidden: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake("echo nats-server: v2.98.0").rename(hidden.parent / "nats-server")

    class Recorded:
        stem = "nats-server"

        def locate(self) -> Path:
            return path

    monkeypatch.setattr(metadata, "files", lambda _: [Recorded()])
    assert EmbeddedServer().version() == "2.98.0"
