"""A private PostgreSQL server: on loopback, in a directory of its own, run by an ordinary user, stopped at the end."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

__all__ = ["MissingPostgres", "Postgres", "programs"]

READY_S = 60.0
STOP_S = 20.0
LEFT_S = 5.0
USER = "eda"

# A killed server loses nothing: the kernel has its files. Only a crash of the machine needs fsync.
QUICK = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}

CONNECTIONS = (
    "SELECT application_name, state, query FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend'"
)

# Debian and Ubuntu, and Homebrew on both kinds of Mac.
PLACES = ["/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"]


class MissingPostgres(RuntimeError):
    """This machine has no PostgreSQL server that the tests can run."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the tests run a private PostgreSQL server, but {reason}. Install it: apt-get install postgresql on "
            "Debian and Ubuntu (no cluster is needed), brew install postgresql@16 on macOS"
        )


def programs() -> Path:
    """Return the directory of the newest installed server's programs; MissingPostgres if there is none to run."""
    found = [path.parent for place in PLACES for path in Path("/").glob(f"{place[1:]}/initdb")]
    if not found:
        raise MissingPostgres("none is installed")
    if os.getuid() == 0 and (_owner() is None or shutil.which("setpriv") is None):
        raise MissingPostgres("PostgreSQL does not run as root, and the user `postgres` or setpriv is missing")
    return max(found, key=lambda path: int(path.parent.name.removeprefix("postgresql@")))


def _owner() -> tuple[int, int] | None:
    """Return the ids of the user and the group that Debian's package makes."""
    import pwd  # Windows has none

    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        return None
    return entry.pw_uid, entry.pw_gid


class Postgres:
    """A server that a test may kill, freeze and start again. It keeps its port and its data until the context ends.

    If this process dies, the kernel ends the server (on Linux). `is_quick`: commits do not wait for the disk.
    `settings` are added to the server's configuration. The server is started by the thread that enters the context,
    and this thread has to live as long as the server.
    """

    def __init__(self, *, is_quick: bool = True, settings: Mapping[str, str] | None = None) -> None:
        self.password = secrets.token_hex(16)
        self.user = USER
        self.port = 0
        self._is_quick = is_quick
        self._settings = {**(QUICK if is_quick else {}), **(settings or {})}
        self._programs = programs()
        self._home = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        self._numbers = itertools.count(1)

    def __enter__(self) -> Postgres:
        self._home = Path(tempfile.mkdtemp(prefix="eda-postgres-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        try:
            self._make_data()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    # --- what a test asks of it --------------------------------------------------------------------------------------

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """Return the address of a database; with `port`, by way of a proxy."""
        return f"postgresql://{self.user}:{self.password}@127.0.0.1:{port or self.port}/{database}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make a database, yield its address, and remove it. AssertionError if connections to it are left."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
            self.check_no_connection(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def empty(self, database: str) -> None:
        """Remove all tables and settings of a database, which is quicker than making another one.

        AssertionError if connections to it are left.
        """
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            try:
                _check_no_other(connection, database)
            finally:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid()"
                )
                connection.execute(
                    "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC"
                )
                connection.execute(f"ALTER DATABASE {database} RESET ALL".encode())

    def check_no_connection(self, database: str) -> None:
        """Raise AssertionError if connections to a database are left, after some seconds."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            _check_no_other(connection, database)

    def connections(self, database: str) -> list[tuple[Any, ...]]:
        """Return name, state and last statement of each connection to a database, for all but this one."""
        return self.execute(CONNECTIONS, database)

    def execute(self, statement: str, *params: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute one statement outside a transaction, by a connection of its own; return the rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            # psycopg's types want a literal, so that no user data gets into a statement.
            cursor = connection.execute(statement.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    # --- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server on its data; it takes connections when this returns."""
        assert self._process is None, "it runs already"
        log = self._home / "log"
        options = [text for name, value in self._settings.items() for text in ("-c", f"{name}={value}")]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *self._as_user(), str(self._programs / "postgres"), "-D", str(self._home / "data"),
                    "-h", "127.0.0.1", "-p", str(self.port), "-k", str(self._home), *options,
                ],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
            )  # fmt: skip
        end = time.monotonic() + READY_S
        while not self._is_ready(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop the server; it rolls back what is under way and does not wait for clients."""
        self.thaw()
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            _signal([process.pid, *_children(process.pid)], signal.SIGKILL)
            process.wait()

    def kill(self) -> None:
        """Kill all its processes at the same moment, as when a machine dies. `start` recovers the data."""
        self.freeze()
        assert self._process is not None
        killed, self._frozen = self._frozen, []
        _signal(killed, signal.SIGKILL)
        self._process.wait()
        self._process = None
        # The next server does not start while one of them has the shared memory.
        end = time.monotonic() + STOP_S
        while not all(map(_is_gone, killed)):
            if time.monotonic() > end:
                raise RuntimeError("processes of PostgreSQL that were killed are still there")
            time.sleep(0.002)

    def freeze(self) -> None:
        """Stop all its processes where they are, until `thaw`: connections stand, and nothing is answered."""
        assert self._process is not None, "it does not run"
        assert not self._frozen, "it is frozen already"
        # The first one starts the others, so it is stopped before they are listed.
        _signal([self._process.pid], signal.SIGSTOP)
        self._frozen = [self._process.pid, *_children(self._process.pid)]
        _signal(self._frozen, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        frozen, self._frozen = self._frozen, []
        _signal(frozen, signal.SIGCONT)

    def _make_data(self) -> None:
        password = self._home / "password"
        password.write_text(self.password)
        if os.getuid() == 0:
            owner = _owner()
            assert owner is not None
            for path in (self._home, password):
                os.chown(path, *owner)
        made = subprocess.run(
            [
                *self._as_user(), str(self._programs / "initdb"), "-D", str(self._home / "data"), "-U", self.user,
                "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--no-locale",
                *(["--no-sync"] if self._is_quick else []),
            ],
            stdin=subprocess.DEVNULL, capture_output=True, cwd="/", check=False,
        )  # fmt: skip
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stderr.decode(errors='replace')[-2000:]}")

    def _as_user(self) -> list[str]:
        if shutil.which("setpriv") is None:
            return []
        prefix = ["setpriv", "--pdeathsig", "INT"]
        if os.getuid() == 0:
            owner = _owner()
            assert owner is not None
            prefix += [f"--reuid={owner[0]}", f"--regid={owner[1]}", "--init-groups"]
        return prefix

    def _is_ready(self, pid: int) -> bool:
        """Return what the server says in its own file, as pg_ctl does: the last line is its state."""
        try:
            lines = (self._home / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _check_no_other(connection: psycopg.Connection[Any], database: str) -> None:
    end = time.monotonic() + LEFT_S
    while (left := connection.execute(CONNECTIONS, (database,)).fetchall()) and time.monotonic() < end:
        time.sleep(0.01)
    assert not left, f"connections are left: {left}"


def _children(pid: int) -> list[int]:
    if sys.platform == "linux":
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    else:
        text = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(each) for each in text.split()]


def _is_gone(pid: int) -> bool:
    """Return whether a process has ended, even if its parent has not waited for it. Only Linux tells."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state[:1] in "ZX"


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # a connection has ended meanwhile
