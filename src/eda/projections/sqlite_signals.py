"""The signals of an outbox in SQLite: a lock file beside the database, and a look whether somebody has written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path

from eda.projections.outbox_table import OutboxTable
from eda.projections.sqlite import SQLiteDatabase

__all__ = ["SQLiteSignals", "signals_of"]

# SQLite has no notifications. One look takes some 5 microseconds, so it needs no thread.
FIRST_POLL_S = 0.001
MAX_POLL_S = 0.02
GROWTH = 1.3


class SQLiteSignals:
    """The lock is a SQLite database of its own, `<path>-<table>-relay`, in which a transaction stays open.

    The operating system releases it when the process ends. Every system that SQLite knows can do this.
    """

    def __init__(self, path: str | os.PathLike[str], table: str) -> None:
        self._path = Path(path)
        real = os.path.realpath(path)
        self._lock_path = f"{real}-{table}-relay"
        self._lock: sqlite3.Connection | None = None
        self._eye: sqlite3.Connection | None = None
        self._seen = 0

    async def open(self) -> None:
        """Open the database."""
        self._eye = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        self._seen = self._version()

    async def close(self) -> None:
        """Give up the lock."""
        for connection in (self._lock, self._eye):
            if connection is not None:
                connection.close()
        self._lock = self._eye = None

    async def lock(self) -> bool:
        """Try to begin a transaction in the lock's file."""
        lock = sqlite3.connect(self._lock_path, timeout=0, isolation_level=None)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        except BaseException:
            lock.close()
            raise
        self._lock = lock
        return True

    async def wait(self, timeout_s: float) -> None:
        """Look whether another connection has written, often at first and then less often."""
        loop = asyncio.get_running_loop()
        end, pause_s = loop.time() + timeout_s, FIRST_POLL_S
        while (version := self._version()) == self._seen:
            left_s = end - loop.time()
            if left_s <= 0:
                return
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * GROWTH, MAX_POLL_S)
        self._seen = version

    def _version(self) -> int:
        """Return a number that changes with each commit of another connection."""
        assert self._eye is not None
        with contextlib.suppress(sqlite3.OperationalError):  # the file is locked: look again
            ((version,),) = self._eye.execute("PRAGMA data_version")
            return int(version)
        return self._seen


def signals_of(database: SQLiteDatabase, table: OutboxTable) -> SQLiteSignals:
    """Return the signals of an outbox in this database."""
    return SQLiteSignals(database.path, table.name)
