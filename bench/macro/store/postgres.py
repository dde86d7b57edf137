"""A private PostgreSQL of Debian's packages: on loopback, in a directory of its own, stopped at the end."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["binaries", "postgres"]

READY_S = 20.0
STOP_S = 20.0


def binaries() -> Path | None:
    """Return the directory of the newest installed server's programs; None if there is none that can be run here."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found or shutil.which("setpriv") is None or (os.getuid() == 0 and _owner() is None):
        return None
    return found[-1].parent


def _owner() -> pwd.struct_passwd | None:
    """Return the user that Debian's package makes: PostgreSQL does not run as root."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


@contextmanager
def postgres(bin: Path) -> Iterator[dict[str, str]]:
    """Run a server with its default settings; yield what the eventsourcing library is told to reach it."""
    home = Path(tempfile.mkdtemp(prefix="eda-postgres-"))
    password = secrets.token_hex(16)
    (home / "password").write_text(password)
    # The kernel ends the server if this process dies.
    prefix = ["setpriv", "--pdeathsig", "INT"]
    if os.getuid() == 0:
        owner = _owner()
        assert owner is not None
        prefix += [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--init-groups"]
        for path in (home, home / "password"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = None
    try:
        subprocess.run(
            [
                *prefix, str(bin / "initdb"), "-D", str(home / "data"), "-U", "bench", "-A", "scram-sha-256",
                f"--pwfile={home / 'password'}", "-E", "UTF8", "--no-locale",
            ],
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        process = subprocess.Popen(
            [*prefix, str(bin / "postgres"), "-D", str(home / "data"), "-h", "127.0.0.1", "-p", port, "-k", str(home)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        _wait(process, [str(bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port])
        yield {
            "POSTGRES_DBNAME": "postgres", "POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": port,
            "POSTGRES_USER": "bench", "POSTGRES_PASSWORD": password,
        }  # fmt: skip
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # a fast shutdown: it does not wait for clients
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], probe: list[str]) -> None:
    end = time.monotonic() + READY_S
    while subprocess.run(probe, check=False).returncode:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"PostgreSQL did not start (it ended with {process.poll()})")
        time.sleep(0.05)
