"""`eda.sql.SQLite`: projections in a SQLite database, with the standard library's driver in a thread."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

from eda.errors import ConfigError
from eda.log import safe_logger
from eda.projections.database_threads import DatabaseThread, Job
from eda.projections.sink import Moves, PositionRow
from eda.projections.sql_sink import SqlSink, move_steps
from eda.projections.sql_steps import DONE, Dialect, Result, Sql, Steps, drive

__all__ = ["SQLite", "SQLiteDatabase", "is_sqlite_outage", "lost_sqlite_savepoint"]

T = TypeVar("T")

LOGGER = safe_logger(logging.getLogger("eda"))

# How long one attempt to get a lock waits inside SQLite. In between, the thread sees that its caller was cancelled.
WAIT_S = 0.2
# A wait for the write lock that is longer than this is logged, at most once in LOG_EVERY_S.
LONG_WAIT_S = 2.0
LOG_EVERY_S = 60.0

# Errors of the file, of the disk, or of other users of the database; no event causes them. SQLite's codes have more
# detail in the upper bytes.
OUTAGES = frozenset(
    (
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOMEM),
        *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA),
    )
)
# A cursor of apply whose rows were not read keeps its statement open. SQLite reports it as busy, but waiting does not
# help.
STATEMENT_OPEN = "SQL statements in progress"
# What SQLite and the driver say when apply has ended the transaction or closed the connection.
NO_SAVEPOINT = ("no such savepoint", "no transaction is active", "Cannot operate on a closed database")


def is_sqlite_outage(error: BaseException) -> bool:
    """Return whether an error of sqlite3 is the database's trouble."""
    if not isinstance(error, sqlite3.Error) or STATEMENT_OPEN in str(error):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in OUTAGES


def lost_sqlite_savepoint(error: BaseException) -> bool:
    """Return whether the statement about a savepoint failed because there is none."""
    return isinstance(error, sqlite3.Error) and str(error).startswith(NO_SAVEPOINT)


class SQLite(SqlSink):
    """A SQLite database: `apply` is a plain function, is called in a thread, and gets a `sqlite3.Connection`.

    `path`: the file, which is created if it is missing; its directory must exist. `timeout_s`: how long a transaction
    waits for the write lock before the projection treats the lock as an outage, and waits longer. `on_connect` is
    called in the thread with each new connection, before it is used: for pragmas, functions, and tables.

    The file is put into WAL mode, so that other processes can read while a transaction is under way. Raises
    ConfigError for a database in memory: each connection would have its own.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout_s: float = 5.0,
        on_connect: Callable[[sqlite3.Connection], object] | None = None,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise ConfigError(f"path must be a str or a path, not {type(path).__name__}", argument="path")
        name = os.fspath(path)
        if not isinstance(name, str) or name in {"", ":memory:"} or name.startswith("file:"):
            raise ConfigError(
                f"path must name a file, and {name!r} does not: a database in memory would be another one for each "
                "connection, and URIs are not supported",
                argument="path",
            )
        if not isinstance(timeout_s, int | float) or isinstance(timeout_s, bool) or not 0 <= timeout_s < float("inf"):
            raise ConfigError(f"timeout_s must be a number of seconds, not {timeout_s!r}", argument="timeout_s")
        if on_connect is not None and not callable(on_connect):
            raise ConfigError("on_connect must be a function or None", argument="on_connect")
        self._sqlite = SQLiteDatabase(Path(name), timeout_s, on_connect)
        super().__init__(self._sqlite)

    async def move_on(self, name: str, version: int, row: PositionRow, moves: Moves) -> None:
        """Do one move after the other in the writer's thread."""

        def next_steps() -> Steps[PositionRow] | None:
            nonlocal row
            move = moves.next()
            if move is None:
                return None
            before, row = row, row.moved(move.sequence, move.index, move.time)
            return move_steps(self.database, name, version, before, row, move.work)

        await self._sqlite.run_all(next_steps, moves.moved)


class SQLiteDatabase:
    """A SQLite file with two connections, each in a thread of its own: one writes, the other only reads.

    Readers need not wait for a transaction that is under way: positions are read by `wait_for` while apply works.
    """

    dialect: Dialect = "sqlite"
    max_lanes: int | None = 1
    marks_transactions: bool = False

    def __init__(self, path: Path, timeout_s: float, on_connect: Callable[[sqlite3.Connection], object] | None) -> None:
        self.label: str = f"SQLite {path}"
        self.path: Path = path
        self._writer = _Connection(path, timeout_s, on_connect, writes=True)
        self._reader = _Connection(path, timeout_s, on_connect, writes=False)

    def check_apply(self, *, is_async: bool) -> None:
        """Raise ConfigError for an async def: sqlite3 works in a thread."""
        if is_async:
            raise ConfigError(
                "apply must be a plain function for eda.sql.SQLite, which calls it in a thread. For an async def use "
                "eda.sql.SQLAlchemy with an engine for sqlite+aiosqlite",
                argument="apply",
            )

    async def open(self) -> None:
        """Check that the directory exists, and put the file into WAL mode."""
        if not self.path.parent.is_dir():
            raise ConfigError(
                f"the directory of the SQLite database {self.path} does not exist: create it before you use the "
                "database",
                argument="path",
            )

    async def close(self) -> None:
        """Close both connections when their transactions have ended."""
        try:
            await self._writer.close()
        finally:
            await self._reader.close()

    async def run(
        self,
        steps: Steps[T],
        *,
        lane: Hashable | None = None,
        writes: bool = True,
        timeout_s: float | None = None,
    ) -> T:
        """Drive the steps in the writer's or in the reader's thread. SQLite can't end idle transactions."""
        return await (self._writer if writes else self._reader).run(steps)

    async def run_all(self, next_steps: Callable[[], Steps[T] | None], on_committed: Callable[[T], None]) -> None:
        """Drive one transaction after the other in the writer's thread, until there is none or others need the thread.

        The functions are called in the thread as well.
        """
        await self._writer.run_all(next_steps, on_committed)

    def is_outage(self, error: BaseException) -> bool:
        """Return whether the error is the database's trouble."""
        return is_sqlite_outage(error)

    def lost_savepoint(self, error: BaseException) -> bool:
        """Return whether the savepoint is gone, or the user has closed the connection."""
        return lost_sqlite_savepoint(error)


class _Connection:
    """A connection and its thread. Both are made when they are first needed."""

    def __init__(
        self,
        path: Path,
        timeout_s: float,
        on_connect: Callable[[sqlite3.Connection], object] | None,
        *,
        writes: bool,
    ) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._on_connect = on_connect
        self._writes = writes
        self._begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
        self._thread: DatabaseThread | None = None
        self._driver: sqlite3.Connection | None = None  # used only in the thread, except for `interrupt`
        self._logged_at = float("-inf")

    async def run(self, steps: Steps[T]) -> T:
        return await self._opened().call(lambda job: self._transaction(steps, job), self._interrupt)

    async def run_all(self, next_steps: Callable[[], Steps[T] | None], on_committed: Callable[[T], None]) -> None:
        thread = self._opened()

        def work(job: Job[None]) -> None:
            while (steps := next_steps()) is not None:
                on_committed(self._transaction(steps, job))
                if job.is_cancelled or thread.has_jobs:
                    return

        await thread.call(work, self._interrupt)

    def _opened(self) -> DatabaseThread:
        if self._thread is None:
            self._thread = DatabaseThread(f"eda-sqlite-{self._path.name}")
        return self._thread

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.close(self._close_driver)

    def _interrupt(self) -> None:
        """Let the statement that runs end with an error. It may be called in any thread."""
        driver = self._driver
        if driver is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it was closed at the same moment
                driver.interrupt()

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _transaction(self, steps: Steps[T], job: Job[Any]) -> T:
        driver = self._begun(job)
        try:
            value = drive(steps, lambda sql: _execute(driver, sql), driver)
            if job.is_cancelled:
                # The interruption has ended one statement at most, and apply may have done without it.
                raise sqlite3.OperationalError("interrupted")
            driver.execute("COMMIT")
        except BaseException:
            # A cursor that is still open could block the next transaction, so it gets a new connection.
            self._close_driver()
            raise
        return value

    def _begun(self, job: Job[Any]) -> sqlite3.Connection:
        """Return the connection with a transaction that has begun. Wait for the write lock up to `timeout_s`."""
        began = time.monotonic()
        was_closed = False
        while True:
            try:
                driver = self._driver or self._connect()
                driver.execute(self._begin)
                return driver
            except sqlite3.ProgrammingError:
                if self._driver is None or was_closed:
                    raise  # it comes from on_connect
                was_closed = True  # apply has kept it, and closed it after its last transaction
                self._close_driver()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    # A cursor that an apply has left open may hold an old snapshot, or block a new transaction.
                    self._close_driver()
                waited_s = time.monotonic() - began
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or waited_s > self._timeout_s:
                    raise
                if waited_s > LONG_WAIT_S:
                    self._log_wait()
                if job.is_cancelled:
                    raise

    def _connect(self) -> sqlite3.Connection:
        driver = sqlite3.connect(self._path, timeout=min(WAIT_S, self._timeout_s), isolation_level=None)
        try:
            if self._writes and driver.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                (mode,) = driver.execute("PRAGMA journal_mode = WAL").fetchone()
                if mode != "wal":
                    raise ConfigError(
                        f"the SQLite database {self._path} can't be put into WAL mode (it stays in {mode} mode): use a "
                        "local file system",
                        argument="path",
                    )
            # SQLite's own default; some builds have another one in WAL mode.
            driver.execute("PRAGMA synchronous = FULL")
            if self._on_connect is not None:
                self._on_connect(driver)
                if driver.in_transaction:
                    driver.commit()
        except BaseException:
            driver.close()
            raise
        self._driver = driver
        return driver

    def _close_driver(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            # While a cursor of the user's exists, SQLite keeps a closed connection alive, and with it the write lock.
            with contextlib.suppress(sqlite3.Error):
                driver.rollback()
            driver.close()

    def _log_wait(self) -> None:
        now = time.monotonic()
        if now - self._logged_at > LOG_EVERY_S:
            self._logged_at = now
            LOGGER.warning(
                "waiting for the write lock of the SQLite database %s: another connection holds it. A process that is "
                "frozen in a transaction keeps it until it goes on or ends",
                str(self._path),
            )


def _execute(driver: sqlite3.Connection, sql: Sql) -> Result:
    cursor = driver.cursor()
    cursor.row_factory = None  # apply may have set one on the connection
    cursor.execute(sql.text, sql.params)
    if cursor.description is None:
        return DONE if cursor.rowcount < 0 else Result([], cursor.rowcount)
    text_factory, driver.text_factory = driver.text_factory, str
    try:
        return Result(cursor.fetchall())
    finally:
        driver.text_factory = text_factory
