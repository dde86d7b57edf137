"""`eda.sql.Psycopg`: projections in PostgreSQL with psycopg 3, for plain functions and for async functions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from eda.errors import ConfigError
from eda.projections.connection_pool import (
    AsyncConnection,
    Connection,
    PostgresConnections,
    begin_text,
    blaming,
    check_connections,
)
from eda.projections.database_threads import DatabaseThread, Job
from eda.projections.sink import CommitUnknown
from eda.projections.sql_sink import SqlSink
from eda.projections.sql_steps import DONE, Dialect, Result, Sql, Steps, Unreachable, drive, formatted
from eda.projections.sqlstates import is_outage_state, is_savepoint_gone, note_swallowed

__all__ = ["Psycopg", "PsycopgDatabase"]

T = TypeVar("T")

OnConnect = Callable[[Any], object]

CONNECT_S = 10
# How long a request to cancel a statement may take before the connection is cut.
CANCEL_S = 2.0
# Options of psycopg itself; all others are libpq's.
OF_PSYCOPG = frozenset(("prepare_threshold", "context", "row_factory", "cursor_factory"))


class Psycopg(SqlSink):
    """A PostgreSQL database, with psycopg 3.

    A plain `apply` is called in a thread and gets a `psycopg.Connection`; an async `apply` gets a
    `psycopg.AsyncConnection`. All projections that share the sink must have functions of the same kind.

    `conninfo`: the address, as `postgresql://user@host/database` or as `host=… dbname=…`. `max_connections`: how many
    lanes work at the same time; others wait. The sink needs at most two connections more. `on_connect` is called with
    each new connection of a lane before it is used, to register types; it is of the same kind as `apply`. `options` go
    to psycopg: options of libpq, `prepare_threshold`, `cursor_factory`, `row_factory`, `context`. Behind a pooler that
    gives each transaction another connection, use `prepare_threshold=None` if the pooler does not know prepared
    statements.

    Raises ConfigError if an argument is wrong, and if psycopg is not installed.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        max_connections: int = 20,
        on_connect: Callable[[Any], object] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(conninfo, str):
            raise ConfigError(f"conninfo must be a str, not {type(conninfo).__name__}", argument="conninfo")
        check_connections(max_connections, on_connect)
        if "autocommit" in options:
            raise ConfigError("autocommit can't be set: the projection commits by itself", argument="autocommit")
        of_libpq = {name: value for name, value in options.items() if name not in OF_PSYCOPG}
        try:
            known = psycopg.conninfo.conninfo_to_dict(psycopg.conninfo.make_conninfo(conninfo, **of_libpq))
        except psycopg.ProgrammingError as error:
            # The message of libpq may repeat a part of the address, and a part of the password with it.
            wrong = [name for name in of_libpq if not _is_known(name)]
            if wrong:
                raise ConfigError(f"psycopg has no option {wrong[0]!r}", argument=wrong[0]) from None
            reason = "conninfo must be an address such as postgresql://user@host/database, or host=… dbname=…"
            raise ConfigError(reason, argument="conninfo") from (None if "@" in conninfo else error)
        super().__init__(PsycopgDatabase(conninfo, known, options, max_connections, on_connect))


def _is_known(name: str) -> bool:
    try:
        psycopg.conninfo.make_conninfo("", **{name: "1"})
    except psycopg.ProgrammingError:
        return False
    return True


class PsycopgDatabase:
    """A PostgreSQL server with connections of psycopg. eda's own short transactions use plain ones in threads."""

    dialect: Dialect = "postgresql"
    max_lanes: int | None = None

    def __init__(
        self,
        conninfo: str,
        known: Mapping[str, Any],
        options: Mapping[str, Any],
        max_connections: int,
        on_connect: OnConnect | None,
    ) -> None:
        place = f"{known.get('host') or 'localhost'}:{known.get('port') or 5432}"
        self.label: str = f"PostgreSQL {known.get('dbname') or known.get('user') or ''} at {place}"
        self._conninfo = conninfo
        self._options: dict[str, Any] = {"fallback_application_name": "eda", **options}
        if "connect_timeout" not in known:
            self._options["connect_timeout"] = CONNECT_S
        self._on_connect = on_connect
        self._is_async: bool | None = None
        self._connections = PostgresConnections(self._plain, self._for_lane, max_connections)

    def check_apply(self, *, is_async: bool) -> None:
        """Raise ConfigError if another projection with this sink has a function of the other kind."""
        if self._is_async is not None and self._is_async != is_async:
            kinds = ("an async def", "a plain function") if is_async else ("a plain function", "an async def")
            raise ConfigError(
                f"apply is {kinds[0]}, and another projection with this eda.sql.Psycopg has {kinds[1]}: make a sink "
                "for each of them",
                argument="apply",
            )
        self._is_async = is_async

    async def open(self) -> None:
        """Raise ConfigError if the event loop can't run psycopg's asynchronous connections."""
        if self._is_async and sys.platform == "win32":
            loop = asyncio.get_running_loop()
            if isinstance(loop, asyncio.ProactorEventLoop):
                raise ConfigError(
                    "psycopg can't run an async apply in the ProactorEventLoop of Windows: use a plain function, or "
                    "run the program in a SelectorEventLoop",
                    argument="apply",
                )

    async def close(self) -> None:
        """Close all connections when their transactions have ended."""
        await self._connections.close()

    async def run(
        self, steps: Steps[T], *, lane: Hashable | None = None, writes: bool = True, timeout_s: float | None = None
    ) -> T:
        """Drive the steps in one transaction."""
        return await self._connections.run(steps, is_lane=lane is not None, writes=writes, timeout_s=timeout_s)

    def is_outage(self, error: BaseException) -> bool:
        """Return whether the error is the database's trouble."""
        if not isinstance(error, psycopg.Error):
            return False
        # psycopg gives the loss of a connection no code.
        lost = error.sqlstate is None and type(error) in (psycopg.OperationalError, psycopg.errors.ConnectionTimeout)
        return lost or is_outage_state(error.sqlstate)

    def lost_savepoint(self, error: BaseException) -> bool:
        """Return whether the savepoint is gone, or apply has closed the connection."""
        if isinstance(error, _ClosedByApply):
            return True
        return isinstance(error, psycopg.Error) and is_savepoint_gone(error.sqlstate)

    def _plain(self) -> Connection:
        return _PlainConnection(self._connect_plain, None)

    def _for_lane(self) -> Connection:
        if self._is_async:
            return _AsyncConnection(self.connect_async, self._on_connect)
        return _PlainConnection(self._connect_plain, self._on_connect)

    def _connect_plain(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.Connection.connect(self._conninfo, autocommit=True, **self._options)
        except psycopg.Error as error:
            raise Unreachable(f"{self.label} could not be reached: {error}") from error

    async def connect_async(self) -> psycopg.AsyncConnection[Any]:
        """Open an asynchronous connection."""
        try:
            return await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True, **self._options)
        except psycopg.Error as error:
            raise Unreachable(f"{self.label} could not be reached: {error}") from error


class _ClosedByApply(psycopg.OperationalError):
    """apply has closed the connection, which also happens at the end of `with tx:`."""


class _PlainConnection:
    """A plain connection and its thread. Each transaction is one job of the thread."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], on_connect: OnConnect | None) -> None:
        self._connect = connect
        self._on_connect = on_connect
        self._thread: DatabaseThread | None = None
        self._driver: psycopg.Connection[Any] | None = None
        self._is_cut = False
        # Whether the database, and not apply, was to blame when a transaction was cancelled.
        self._is_waiting = False
        self._is_blamed = False
        self._lock = threading.Lock()  # between a caller that cuts the connection and the thread that closes it

    async def run(self, steps: Steps[T], timeout_s: float | None) -> T:
        if self._thread is None:
            self._thread = DatabaseThread("eda-psycopg")
        self._is_blamed = False
        try:
            return await self._thread.call(lambda job: self._transaction(steps, timeout_s, job), self._interrupt)
        except asyncio.CancelledError:
            if self._is_blamed:
                with blaming("the database did not answer"):
                    raise
            raise

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.close(self._drop)

    def _interrupt(self) -> None:
        """Cut the connection, so that no later statement of apply is committed. Cancel the statement that runs."""
        with self._lock:
            self._is_blamed = self._is_waiting
            driver = self._driver
            if driver is None:
                return
            self._is_cut = True
            try:
                descriptor = driver.fileno()
            except psycopg.Error:
                return  # it is lost already
            try:
                copy = socket.socket(fileno=os.dup(descriptor))
            except OSError:
                copy = None  # Windows can't copy it: then only the statement is cancelled
        # The server may not answer the request to cancel, and the event loop must not wait for it.
        threading.Thread(
            target=self._cut, args=(driver, descriptor, copy), name="eda-psycopg-cancel", daemon=True
        ).start()

    def _cut(self, driver: psycopg.Connection[Any], descriptor: int, copy: socket.socket | None) -> None:
        """Cancel the statement that runs, and cut the connection; `copy` is a copy of its socket."""
        with contextlib.suppress(psycopg.Error, OSError):
            if driver.pgconn.transaction_status == TransactionStatus.ACTIVE:
                try:
                    driver.cancel_safe(timeout=CANCEL_S)
                except psycopg.Error:
                    self._is_blamed = True
            # If libpq has closed its own, the copy may be of another connection.
            if copy is not None and driver.fileno() == descriptor:
                copy.shutdown(socket.SHUT_RDWR)
        if copy is not None:
            copy.close()

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _transaction(self, steps: Steps[T], timeout_s: float | None, job: Job[T]) -> T:
        self._is_waiting = True
        driver = self._begun(timeout_s, job)
        self._is_waiting = False
        try:
            if job.is_cancelled:  # while it connected
                raise Unreachable("the caller was cancelled while the connection was opened")
            value = drive(steps, lambda sql: _execute(driver, sql), driver)
            if job.is_cancelled:
                raise Unreachable("the caller was cancelled before the commit")
        except BaseException:
            self._roll_back(driver)
            raise
        self._is_waiting = True
        self._commit(driver)
        return value

    def _begun(self, timeout_s: float | None, job: Job[Any]) -> psycopg.Connection[Any]:
        text = f"BEGIN; {begin_text(timeout_s)}".encode()
        if self._is_cut:
            self._drop()
        driver = self._driver
        if driver is not None and not driver.closed:
            try:
                driver.execute(text)
                return driver
            except psycopg.Error:
                is_lost = driver.closed
                self._drop()
                if not is_lost or job.is_cancelled:
                    raise
                # It was lost while nobody used it. A new connection may work.
        driver = self._driver = self._connect()
        try:
            if self._on_connect is not None:
                self._on_connect(driver)
            driver.execute(text)
        except BaseException:
            self._drop()
            raise
        return driver

    def _commit(self, driver: psycopg.Connection[Any]) -> None:
        try:
            driver.execute(b"COMMIT")
        except psycopg.Error as error:
            if driver.closed:
                self._drop()
                raise CommitUnknown from error
            self._roll_back(driver)
            raise

    def _roll_back(self, driver: psycopg.Connection[Any]) -> None:
        """Roll back. If this fails, close the connection: then the server rolls back."""
        try:
            if not driver.closed and driver.pgconn.transaction_status != TransactionStatus.IDLE:
                driver.execute(b"ROLLBACK")
        except psycopg.Error:
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            driver, self._driver = self._driver, None
            self._is_cut = False
            if driver is not None:
                driver.close()


class _AsyncConnection(AsyncConnection["psycopg.AsyncConnection[Any]"]):
    """An asynchronous connection of psycopg."""

    def __init__(self, connect: Callable[[], Any], on_connect: OnConnect | None) -> None:
        super().__init__()
        self._connect = connect
        self._on_connect = on_connect

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        """Open a connection, and let the user prepare it."""
        driver: psycopg.AsyncConnection[Any] = await self._connect()
        try:
            if self._on_connect is not None:
                returned: Any = self._on_connect(driver)
                if returned is not None:
                    await returned
        except BaseException:
            self.abort(driver)
            raise
        return driver

    async def begin(self, driver: psycopg.AsyncConnection[Any], timeout_s: float | None) -> None:
        """Begin a transaction."""
        await driver.execute(f"BEGIN; {begin_text(timeout_s)}".encode())

    async def execute(self, driver: psycopg.AsyncConnection[Any], sql: Sql) -> Result:
        """Execute one statement."""
        _check_open(driver)
        try:
            async with psycopg.AsyncCursor(driver, row_factory=tuple_row) as cursor:
                await cursor.execute(formatted(sql.text).encode(), sql.params or None)
                return Result(await cursor.fetchall()) if cursor.description else _changed(cursor.rowcount)
        except psycopg.Error as error:
            note_swallowed(error, error.sqlstate)
            raise

    async def commit(self, driver: psycopg.AsyncConnection[Any]) -> None:
        """Commit the transaction."""
        await driver.execute(b"COMMIT")

    async def roll_back(self, driver: psycopg.AsyncConnection[Any]) -> None:
        """Roll the transaction back."""
        if driver.pgconn.transaction_status != TransactionStatus.IDLE:
            await driver.execute(b"ROLLBACK")

    def is_lost(self, driver: psycopg.AsyncConnection[Any]) -> bool:
        """Return whether the connection is closed."""
        return driver.closed

    def abort(self, driver: psycopg.AsyncConnection[Any]) -> None:
        """Close the connection at once."""
        driver.pgconn.finish()


def _execute(driver: psycopg.Connection[Any], sql: Sql) -> Result:
    _check_open(driver)
    try:
        with psycopg.Cursor(driver, row_factory=tuple_row) as cursor:  # whatever the user's cursor_factory is
            cursor.execute(formatted(sql.text).encode(), sql.params or None)
            return Result(cursor.fetchall()) if cursor.description else _changed(cursor.rowcount)
    except psycopg.Error as error:
        note_swallowed(error, error.sqlstate)
        raise


def _changed(count: int) -> Result:
    return DONE if count < 0 else Result([], count)


def _check_open(driver: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    if driver.closed and not driver.broken:
        raise _ClosedByApply("apply has closed the connection")
