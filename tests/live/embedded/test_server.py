"""eda.embedded.server with a real nats-server: it starts, keeps its place, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import ServiceUnavailableError

from eda.embedded import server as module
from eda.embedded.server import EmbeddedServer
from eda.errors import ConnectError

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl and /proc")
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the servers' temporary directories be made where a test can count them."""
    path = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


async def connect(server: EmbeddedServer, **options: Any) -> Client:
    return await nats.connect(server.url, allow_reconnect=False, connect_timeout=5, **options)


async def answer_to(server: EmbeddedServer, **credentials: str) -> bytes:
    """Log in by hand, since nats-py leaves its socket open when it is refused; give what the server says."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"INFO ")
            options = {"verbose": False, "pedantic": False, **credentials}
            writer.write(b"CONNECT %s\r\nPING\r\n" % json.dumps(options).encode())
            return (await reader.readline()).strip()
    finally:
        writer.close()
        await writer.wait_closed()


def alive(pid: int) -> bool:
    """Tell whether the process runs; one that nobody reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def within(seconds: float) -> Iterator[Callable[[], None]]:
    """Give a function to call in a loop that waits, which fails once the time is up."""
    deadline = time.monotonic() + seconds

    def tick() -> None:
        assert time.monotonic() < deadline, f"took longer than {seconds} s"
        time.sleep(0.01)

    yield tick


def run_script(code: str, temporary: Path) -> subprocess.Popen[str]:
    """Run Python code in a process of its own, every warning an error."""
    source = Path(module.__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(source), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )


def left(temporary: Path, pattern: str = "*") -> list[str]:
    """Give the names of the files that are left there."""
    return [path.name for path in temporary.rglob(pattern)]


def caretakers(temporary: Path) -> list[int]:
    """Give the processes that wait to remove something there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"eda-caretaker" in arguments and str(temporary).encode() in arguments[-2] and alive(int(path.parent.name)):
            found.append(int(path.parent.name))
    return found


def read(path: str) -> str:
    return Path(path).read_text()


async def test_server_when_entered_accepts_connections_with_jetstream() -> None:
    async with EmbeddedServer() as server:
        connection = await connect(server)
        await connection.jetstream().add_stream(name="s", subjects=["s"])
        await connection.close()
        assert server.running
        assert server.url == f"nats://{server.token}@127.0.0.1:{server.port}"


async def test_server_when_the_token_is_wrong_refuses() -> None:
    async with EmbeddedServer() as server:
        assert await answer_to(server, auth_token=server.token) == b"PONG"
        assert await answer_to(server, auth_token="wrong") == b"-ERR 'Authorization Violation'"
        assert await answer_to(server) == b"-ERR 'Authorization Violation'"


async def test_two_servers_when_running_differ_in_port_and_token() -> None:
    async with EmbeddedServer() as one, EmbeddedServer() as two:
        assert (one.port, one.token, one.pid) != (two.port, two.token, two.pid)
        assert one.token != two.token


async def test_stop_when_called_ends_the_process_and_removes_its_files(temporary: Path) -> None:
    server = EmbeddedServer()
    await server.start()
    process = server.process
    assert process is not None
    assert left(temporary)
    await server.stop()
    assert process.returncode is not None
    assert (server.process, server.pid, server.running) == (None, None, False)
    assert left(temporary) == []


async def test_stop_when_never_started_or_stopped_before_does_nothing() -> None:
    server = EmbeddedServer()
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()


async def test_start_when_running_does_nothing() -> None:
    async with EmbeddedServer() as server:
        pid = server.pid
        await server.start()
        assert server.pid == pid


@pytest.mark.parametrize("in_a_dir", [False, True])
async def test_start_when_killed_keeps_port_token_and_data(in_a_dir: bool, tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "data" if in_a_dir else None) as server:
        connection = await connect(server)
        await connection.jetstream().add_stream(name="s", subjects=["s"])
        await connection.close()
        url, pid = server.url, server.pid
        await server.kill()
        assert not server.running
        await server.start()
        assert server.url == url
        assert server.pid != pid
        connection = await connect(server)
        await connection.jetstream().stream_info("s")
        await connection.close()


async def test_start_when_the_process_died_by_itself_brings_it_back() -> None:
    async with EmbeddedServer() as server:
        url = server.url
        assert server.process is not None
        server.process.kill()
        with within(5) as tick:
            while server.running:
                tick()
        await server.start()
        assert server.running
        assert server.url == url


async def test_dir_when_stopped_keeps_its_data_for_another_server(tmp_path: Path) -> None:
    async with EmbeddedServer(str(tmp_path)) as server:
        connection = await connect(server)
        await connection.jetstream().add_stream(name="s", subjects=["s"])
        await connection.close()
    async with EmbeddedServer(tmp_path) as server:
        connection = await connect(server)
        assert [info.config.name for info in await connection.jetstream().streams_info()] == ["s"]
        await connection.close()


@posix_only
async def test_dir_when_another_server_uses_it_is_refused(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as first:
        with pytest.raises(ConnectError, match="another server uses this directory"):
            await EmbeddedServer(tmp_path, ready_timeout_s=0.1).start()
        assert first.running


async def test_configuration_when_started_is_gone(temporary: Path) -> None:
    async with EmbeddedServer():
        assert left(temporary, "server.log") == ["server.log"]
        assert left(temporary, "nats.conf") == []


@linux_only
async def test_command_line_when_running_does_not_show_the_token() -> None:
    async with EmbeddedServer() as server:
        assert "nats-server" in read(f"/proc/{server.pid}/cmdline")
        assert server.token not in read(f"/proc/{server.pid}/cmdline")
        assert server.token not in read(f"/proc/{server.pid}/environ")
        assert server.token not in repr(server)


@posix_only
async def test_session_when_running_is_its_own_so_that_ctrl_c_does_not_reach_it() -> None:
    async with EmbeddedServer() as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == server.pid


async def test_start_when_the_configuration_is_wrong_tells_what_the_server_said() -> None:
    with pytest.raises(ConnectError, match="no_such_setting"):
        async with EmbeddedServer(config={"no_such_setting": 1}):
            pass


@linux_only
def test_server_when_the_parent_is_killed_ends(temporary: Path) -> None:
    code = """
        import asyncio
        from eda.embedded.server import EmbeddedServer
        async def main():
            async with EmbeddedServer() as server:
                print(server.pid, flush=True)
                await asyncio.sleep(60)
        asyncio.run(main())
    """
    with run_script(code, temporary) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    with within(10) as tick:
        while alive(pid):
            tick()


@linux_only
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGHUP"])
@pytest.mark.parametrize("state", ["running", "started again", "frozen", "killed", "with a child"])
def test_server_when_the_parent_is_ended_by_a_signal_leaves_no_process_and_no_file(
    temporary: Path, name: str, state: str
) -> None:
    code = """
        import asyncio, os, signal, sys
        from eda.embedded.server import EmbeddedServer
        async def main():
            async with EmbeddedServer() as server:
                pid = server.pid
                if STATE in ("started again", "killed"):
                    await server.kill()
                if STATE == "started again":
                    await server.start()
                    pid = server.pid
                if STATE == "with a child" and not os.fork():
                    os.execvp("sleep", ["sleep", "60"])
                print(pid, flush=True)
                await asyncio.sleep(60)
        asyncio.run(main())
    """
    with run_script(code.replace("STATE", repr(state)), temporary) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert left(temporary, "eda-server-*")
        assert len(caretakers(temporary)) == 1
        if state == "frozen":
            os.kill(pid, signal.SIGSTOP)
        parent.send_signal(signal.Signals[name])
        parent.wait()
        with within(20) as tick:
            while (state != "killed" and alive(pid)) or list(temporary.iterdir()) or caretakers(temporary):
                tick()


@linux_only
def test_server_when_the_parent_is_killed_while_it_starts_leaves_no_file(temporary: Path, tmp_path: Path) -> None:
    """Its configuration, with the token in it, among them."""
    never_ready = tmp_path / "never-ready"
    never_ready.write_text("#!/bin/sh\nexec sleep 60\n")
    never_ready.chmod(0o700)
    code = f"""
        import asyncio
        from eda.embedded.server import EmbeddedServer
        asyncio.run(EmbeddedServer(executable={str(never_ready)!r}, ready_timeout_s=60).start())
    """
    with run_script(code, temporary) as parent:
        with within(20) as tick:
            while not list(temporary.glob("eda-server-*/nats.conf")):
                tick()
        parent.kill()
        parent.wait()
        with within(20) as tick:
            while list(temporary.iterdir()) or caretakers(temporary):
                tick()


@linux_only
def test_server_when_all_its_processes_are_told_to_end_leaves_no_file(temporary: Path) -> None:
    """As a service manager does it: it tells all that belong to the service."""
    code = """
        import asyncio
        from eda.embedded.server import EmbeddedServer
        async def main():
            async with EmbeddedServer() as server:
                print(server.pid, flush=True)
                await asyncio.sleep(60)
        asyncio.run(main())
    """
    with run_script(code, temporary) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        for each in (*caretakers(temporary), pid, parent.pid):
            os.kill(each, signal.SIGTERM)
        parent.wait()
        with within(20) as tick:
            while alive(pid) or list(temporary.iterdir()) or caretakers(temporary):
                tick()


async def test_stop_when_called_leaves_no_caretaker(temporary: Path) -> None:
    async with EmbeddedServer() as server:
        await server.kill()
        await server.start()
        assert len(caretakers(temporary)) == (sys.platform == "linux")
    assert caretakers(temporary) == []
    assert left(temporary) == []


@linux_only
async def test_stop_when_the_caretaker_was_killed_does_no_harm(temporary: Path) -> None:
    async with EmbeddedServer() as server:
        (caretaker,) = caretakers(temporary)
        os.kill(caretaker, signal.SIGKILL)
        assert server.running
    assert left(temporary) == []


@linux_only
def test_server_when_the_parent_forgets_it_ends_at_exit(temporary: Path) -> None:
    code = """
        import asyncio
        from eda.embedded.server import EmbeddedServer
        server = EmbeddedServer()
        asyncio.run(server.start())
        print(server.pid)
    """
    with run_script(code, temporary) as parent:
        output, _ = parent.communicate(timeout=20)
    assert parent.returncode == 0
    assert not alive(int(output))
    assert left(temporary) == []


@linux_only
def test_server_when_a_forked_child_exits_stays(temporary: Path) -> None:
    code = """
        import asyncio, os, sys
        from eda.embedded.server import EmbeddedServer
        server = EmbeddedServer()
        asyncio.run(server.start())
        child = os.fork()
        if not child:
            sys.exit(0)
        os.waitpid(child, 0)
        print(server.running)
    """
    with run_script(code, temporary) as parent:
        output, _ = parent.communicate(timeout=20)
    assert output == "True\n"


async def test_server_when_dropped_without_stop_ends(temporary: Path) -> None:
    server = EmbeddedServer()
    await server.start()
    process = server.process
    assert process is not None
    del server
    gc.collect()
    assert process.returncode is not None
    assert left(temporary) == []


def test_server_when_run_in_another_thread_and_loop_works() -> None:
    urls: list[str] = []

    async def main() -> None:
        async with EmbeddedServer() as server:
            await (await connect(server)).close()
            urls.append(server.url)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(20)
    assert len(urls) == 1


def test_server_when_run_under_uvloop_works() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with EmbeddedServer() as server:
            await (await connect(server)).close()
            await server.kill()
            await server.start()
            await (await connect(server)).close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_server_when_its_loop_is_gone_is_stopped_from_another() -> None:
    server = EmbeddedServer()
    asyncio.run(server.start())
    assert server.running
    asyncio.run(server.stop())
    assert not server.running


async def test_config_when_given_is_merged_into_the_defaults(tmp_path: Path) -> None:
    config = {"MAX_PAYLOAD": 2**21, "jetstream": {"domain": "hub", "max_file_store": 2**30}}
    async with EmbeddedServer(tmp_path, config=config) as server:
        connection = await connect(server)
        assert connection.max_payload == 2**21
        assert (await connection.jetstream().account_info()).domain == "hub"
        await connection.close()
    assert (tmp_path / "jetstream").is_dir()


async def test_config_when_jetstream_is_true_keeps_its_directory(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, config={"jetstream": True}):
        pass
    assert (tmp_path / "jetstream").is_dir()


async def test_config_when_a_setting_is_none_takes_it_out() -> None:
    async with EmbeddedServer(config={"jetstream": None}) as server:
        connection = await connect(server)
        with pytest.raises(ServiceUnavailableError):
            await connection.jetstream().account_info()
        await connection.close()


async def test_config_when_it_has_an_authorization_replaces_the_token() -> None:
    password = 'quote" back\\slash new\nline tab\t bell\a é $x #;{}[]'
    users = [{"user": "me", "password": password, "permissions": {"publish": {"deny": ["secret.>"]}}}]
    async with EmbeddedServer(config={"authorization": {"users": users}}) as server:
        assert server.token == ""
        assert server.url == f"nats://127.0.0.1:{server.port}"
        await (await connect(server, user="me", password=password)).close()
        assert await answer_to(server, user="me", **{"pass": "wrong"}) == b"-ERR 'Authorization Violation'"
