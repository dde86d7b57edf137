"""`eda.sql.Asyncpg`: projections in PostgreSQL with asyncpg."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import asyncpg

from eda.errors import ConfigError
from eda.projections.connection_pool import (
    AsyncConnection,
    PostgresConnections,
    PostgresDatabase,
    begin_text,
    check_connections,
    preparing,
)
from eda.projections.sql_sink import SqlSink
from eda.projections.sql_steps import Result, Sql, Unreachable, numbered
from eda.projections.sqlstates import is_outage_state, is_savepoint_gone, note_swallowed

__all__ = ["Asyncpg", "AsyncpgDatabase"]

T = TypeVar("T")

CONNECT_S = 10
OPTIONS = frozenset(inspect.signature(asyncpg.connect).parameters) - {"dsn", "loop"}
# What asyncpg says on the client's side when a connection is closed or is not usable after a lost answer.
CLOSED = ("connection is closed", "the underlying connection is closed")


class Asyncpg(SqlSink):
    """A PostgreSQL database, with asyncpg: `apply` is an async function and gets an `asyncpg.Connection`.

    `dsn`: the address, as `postgresql://user@host/database`. `max_connections`: how many lanes work at the same time;
    others wait. The sink opens at most two connections more. `on_connect` is awaited with each new connection of a lane
    before it is used, to set codecs. `options` go to `asyncpg.connect`. Behind a pooler that gives each transaction
    another connection, use `statement_cache_size=0` if the pooler does not know prepared statements.

    Raises ConfigError if an argument is wrong, and if asyncpg is not installed.
    """

    def __init__(
        self,
        dsn: str,
        *,
        max_connections: int = 20,
        on_connect: Callable[[asyncpg.Connection[Any]], Awaitable[object]] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(dsn, str) or not dsn.startswith(("postgresql://", "postgres://")):
            raise ConfigError("dsn must be an address such as postgresql://user@host/database", argument="dsn")
        check_connections(max_connections, on_connect)
        for name in options:
            if name not in OPTIONS:
                raise ConfigError(f"asyncpg has no option {name!r}", argument=name)
        super().__init__(AsyncpgDatabase(dsn, options, max_connections, on_connect))


class AsyncpgDatabase(PostgresDatabase):
    """A PostgreSQL server with connections of asyncpg."""

    def __init__(
        self,
        dsn: str,
        options: Mapping[str, Any],
        max_connections: int,
        on_connect: Callable[[asyncpg.Connection[Any]], Awaitable[object]] | None,
    ) -> None:
        parts = urlsplit(dsn)
        place = parts.netloc.rpartition("@")[2] or "localhost"
        super().__init__(
            f"PostgreSQL {unquote(parts.path.strip('/'))} at {place}",
            PostgresConnections(
                lambda: _Connection(self.connect, None), lambda: _Connection(self.connect, on_connect), max_connections
            ),
        )
        self._dsn = dsn
        settings = {"application_name": "eda", **(options.get("server_settings") or {})}
        defaults = {"timeout": CONNECT_S, "connection_class": _WatchedConnection}
        self._options = {**defaults, **options, "server_settings": settings}

    def check_apply(self, *, is_async: bool) -> None:
        """Raise ConfigError for a plain function."""
        if not is_async:
            raise ConfigError(
                "apply must be an async def for eda.sql.Asyncpg. For a plain function use eda.sql.Psycopg or "
                "eda.sql.SQLite",
                argument="apply",
            )

    async def open(self) -> None:
        """Do nothing: connections are opened when they are needed."""

    def is_outage(self, error: BaseException) -> bool:
        """Return whether the error is the database's trouble."""
        if isinstance(error, asyncpg.InternalClientError):
            return True  # its state machine is at a loss: the connection was lost at an unlucky moment
        if isinstance(error, asyncpg.InterfaceError):
            return str(error).startswith(CLOSED)
        return isinstance(error, asyncpg.PostgresError) and is_outage_state(error.sqlstate)

    def lost_savepoint(self, error: BaseException) -> bool:
        """Return whether the savepoint is gone, or apply has closed the connection."""
        if isinstance(error, _ClosedByApply):
            return True
        return isinstance(error, asyncpg.PostgresError) and is_savepoint_gone(error.sqlstate)

    async def connect(self) -> asyncpg.Connection[Any]:
        """Open a connection."""
        try:
            driver: asyncpg.Connection[Any] = await asyncpg.connect(self._dsn, **self._options)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise Unreachable(f"{self.label} could not be reached: {str(error) or type(error).__name__}") from error
        return driver


class _ClosedByApply(asyncpg.InterfaceError):
    """apply has closed the connection."""


class _WatchedConnection(asyncpg.Connection):
    """A connection that knows whether it was closed by a call, and not by a loss.

    `after_begin` is sent together with the next BEGIN, which saves a round trip.
    """

    is_closed_by_call = False
    after_begin = ""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Execute a statement, as asyncpg does."""
        if self.after_begin and query.startswith("BEGIN"):
            query, self.after_begin = f"{query.rstrip('; ')}; {self.after_begin}", ""
        status: str = await super().execute(query, *args, timeout=timeout)
        return status

    async def close(self, *, timeout: float | None = None) -> None:
        """Close the connection, as asyncpg does."""
        self.is_closed_by_call = True
        await super().close(timeout=timeout)

    def terminate(self) -> None:
        """Close the connection at once, as asyncpg does."""
        self.is_closed_by_call = True
        super().terminate()


class _Connection(AsyncConnection["asyncpg.Connection[Any]"]):
    """A connection of asyncpg."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection[Any]]],
        on_connect: Callable[[asyncpg.Connection[Any]], Awaitable[object]] | None,
    ) -> None:
        super().__init__()
        self._connect = connect
        self._on_connect = on_connect
        self._transaction: Any = None

    async def connect(self) -> asyncpg.Connection[Any]:
        """Open a connection, and let the user prepare it."""
        driver = await self._connect()
        try:
            if self._on_connect is not None:
                with preparing():
                    await self._on_connect(driver)
        except BaseException:
            self.abort(driver)
            raise
        return driver

    async def begin(self, driver: asyncpg.Connection[Any], timeout_s: float | None) -> None:
        """Begin a transaction with asyncpg's own object, so that apply can use `tx.transaction()` for savepoints."""
        self._transaction = driver.transaction()
        if isinstance(driver, _WatchedConnection):
            driver.after_begin = begin_text(timeout_s)
            await self._transaction.start()
        else:  # of a class that the user has chosen
            await self._transaction.start()
            await driver.execute(begin_text(timeout_s))

    async def execute(self, driver: asyncpg.Connection[Any], sql: Sql) -> Result:
        """Execute one statement."""
        if driver.is_closed() and getattr(driver, "is_closed_by_call", False):
            raise _ClosedByApply("apply has closed the connection")
        text = numbered(sql.text)
        has_rows = text.lstrip().startswith("SELECT") or "RETURNING" in text
        try:
            if has_rows:
                rows = [tuple(row) for row in await driver.fetch(text, *sql.params)]
                return Result(rows, len(rows))
            # The command tag ends with the number of rows: "UPDATE 1".
            last = (await driver.execute(text, *sql.params)).rpartition(" ")[2]
            return Result([], int(last) if last.isdigit() else 0)
        except asyncpg.PostgresError as error:
            note_swallowed(error, error.sqlstate)
            raise

    async def commit(self, driver: asyncpg.Connection[Any]) -> None:
        """Commit the transaction."""
        await self._transaction.commit()

    async def roll_back(self, driver: asyncpg.Connection[Any]) -> None:
        """Roll the transaction back."""
        try:
            await self._transaction.rollback()  # also if apply has ended the transaction: asyncpg does not know it
        except asyncpg.InterfaceError:
            if driver.is_in_transaction():
                raise

    def is_lost(self, driver: asyncpg.Connection[Any]) -> bool:
        """Return whether the connection is closed."""
        return driver.is_closed()

    def abort(self, driver: asyncpg.Connection[Any]) -> None:
        """Close the connection at once."""
        driver.terminate()
