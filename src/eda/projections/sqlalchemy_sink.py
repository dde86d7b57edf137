"""`eda.sql.SQLAlchemy`: projections in a database that the user reaches with SQLAlchemy's asynchronous engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import Pool, QueuePool, StaticPool

from eda.errors import ConfigError
from eda.projections.connection_pool import FIND_S, ROLLBACK_S, SHORT_S
from eda.projections.sink import CommitUnknown
from eda.projections.sql_sink import SqlSink
from eda.projections.sql_steps import (
    Dialect,
    Result,
    Sql,
    Steps,
    Unreachable,
    drive_async,
    formatted,
    numbered,
    to_its_end,
)
from eda.projections.sqlite import is_sqlite_outage, lost_sqlite_savepoint
from eda.projections.sqlstates import is_lost_connection, is_outage_state, is_savepoint_gone, note_swallowed

__all__ = ["SQLAlchemy", "SQLAlchemyDatabase"]

T = TypeVar("T")

_DIALECTS: dict[str, Dialect] = {"sqlite": "sqlite", "postgresql": "postgresql"}
# By the style of the placeholders that a driver wants (PEP 249).
_PLACEHOLDERS: dict[str, Callable[[str], str]] = {
    "qmark": str,
    "numeric_dollar": numbered,
    "format": formatted,
    "pyformat": formatted,
}

N_KEPT = 2  # connections of a pool that lanes leave for short transactions

IDLE_TIMEOUT = "SELECT set_config('idle_in_transaction_session_timeout', ?, true)"

# SQLAlchemy's code for a statement on a connection that was lost earlier in the transaction.
_LOST_EARLIER = "8s2b"


class SQLAlchemy(SqlSink):
    """A database of an asynchronous engine: `apply` is an async def, and gets an `AsyncConnection` in a transaction.

    `engine`: SQLite through aiosqlite, or PostgreSQL through asyncpg or psycopg. It stays open when the projection is
    closed. Raises ConfigError for an engine of another database, and for SQLite in memory.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        if not isinstance(engine, AsyncEngine):
            raise ConfigError(
                f"engine must be an AsyncEngine (sqlalchemy.ext.asyncio.create_async_engine), not "
                f"{type(engine).__name__}",
                argument="engine",
            )
        super().__init__(SQLAlchemyDatabase(engine))


class SQLAlchemyDatabase:
    """The connections of an asynchronous engine: each transaction takes one from the engine's pool."""

    def __init__(self, engine: AsyncEngine) -> None:
        name, url = engine.dialect.name, engine.url
        if name not in _DIALECTS or engine.dialect.paramstyle not in _PLACEHOLDERS:
            raise ConfigError(
                f"eda.sql.SQLAlchemy works with SQLite and PostgreSQL, not with {name} ({engine.dialect.driver})",
                argument="engine",
            )
        if name == "sqlite" and (
            not url.database or "memory" in str(url.query) or ":memory:" in url.database or _is_static(engine)
        ):
            raise ConfigError(
                "the engine must have a file: all transactions of a SQLite database in memory share one connection",
                argument="engine",
            )
        self.dialect = _DIALECTS[name]
        self.label: str = f"{url.drivername} {_place(engine)}"
        self.max_lanes: int | None = 1 if self.dialect == "sqlite" else None
        self.marks_transactions: bool = False
        self.engine = engine
        self._placed = _PLACEHOLDERS[engine.dialect.paramstyle]
        # Lanes leave connections for signs of life and for readers. Otherwise the rows of a busy owner would look dead.
        self._lanes = asyncio.Semaphore(_most_lanes(engine.pool))
        # Writers of SQLite wait for each other here, and not in the driver until it calls the database busy.
        self._turn: asyncio.Lock | None = asyncio.Lock() if self.dialect == "sqlite" else None

    def check_apply(self, *, is_async: bool) -> None:
        """Raise ConfigError for a plain function: the connection is asynchronous."""
        if not is_async:
            raise ConfigError(
                "apply must be an async def for eda.sql.SQLAlchemy. For a plain function use eda.sql.SQLite or "
                "eda.sql.Psycopg",
                argument="apply",
            )

    async def open(self) -> None:
        """Check that the engine uses transactions. A SQLite file is put into WAL mode, as `eda.sql.SQLite` does."""
        connection = await self._connect()
        try:
            raw = await connection.get_raw_connection()
            if self.dialect == "sqlite":
                driver = raw.driver_connection
                if driver is not None:
                    await (await driver.execute("PRAGMA journal_mode = WAL")).close()
            elif getattr(raw.dbapi_connection, "autocommit", False):
                raise ConfigError(
                    "the engine has the isolation level AUTOCOMMIT, but rows and position must change in one "
                    "transaction: use another level",
                    argument="engine",
                )
        finally:
            await to_its_end(connection.close())

    async def close(self) -> None:
        """Leave the engine open: it is the user's."""

    async def run(
        self,
        steps: Steps[T],
        *,
        lane: Hashable | None = None,
        writes: bool = True,
        timeout_s: float | None = None,
    ) -> T:
        """Drive the steps on a connection of the engine's pool."""
        if self._turn is None:
            return await self._bounded(steps, writes, timeout_s, is_lane=lane is not None)
        if not writes:
            return await self._transaction(steps, writes, timeout_s)
        async with self._turn:
            return await self._transaction(steps, writes, timeout_s)

    def is_outage(self, error: BaseException) -> bool:
        """Return whether an error of SQLAlchemy or of its driver is the database's trouble."""
        if isinstance(error, exc.TimeoutError):
            return True  # no connection of the pool became free
        if isinstance(error, exc.PendingRollbackError):
            return error.code == _LOST_EARLIER
        if isinstance(error, exc.DBAPIError):
            if error.connection_invalidated:
                return True
            if self.dialect == "postgresql" and isinstance(error, exc.OperationalError) and _state(error.orig) is None:
                return True  # psycopg gives the loss of a connection no code
            return error.orig is not None and self.is_outage(error.orig)
        return is_sqlite_outage(error) or is_outage_state(_state(error))

    def lost_savepoint(self, error: BaseException) -> bool:
        """Return whether the savepoint is gone, or the user has closed the connection."""
        if isinstance(error, exc.DBAPIError):
            return error.orig is not None and self.lost_savepoint(error.orig)
        if isinstance(error, exc.ResourceClosedError):
            return True
        return lost_sqlite_savepoint(error) or is_savepoint_gone(_state(error))

    async def _bounded(self, steps: Steps[T], writes: bool, timeout_s: float | None, *, is_lane: bool) -> T:
        """Run a transaction on PostgreSQL, which may not answer. The caller bounds those with a `timeout_s`."""
        if is_lane and timeout_s is not None:
            async with self._lanes:
                return await self._transaction(steps, writes, timeout_s)
        most_s = FIND_S if is_lane else SHORT_S
        try:
            async with asyncio.timeout(most_s):
                return await self._transaction(steps, writes, most_s)
        except TimeoutError:
            raise Unreachable(f"{self.label} did not end a short transaction in {most_s:g} s") from None

    async def _transaction(self, steps: Steps[T], writes: bool, timeout_s: float | None) -> T:
        connection = await self._connect()
        try:
            await self._begin(connection, writes, timeout_s)
            value = await drive_async(steps, lambda sql: self._execute(connection, sql), connection)
        except BaseException:
            await to_its_end(self._give_up(connection))
            raise
        await to_its_end(self._commit(connection, timeout_s or SHORT_S))
        return value

    async def _connect(self) -> AsyncConnection:
        try:
            return await self.engine.connect()
        except OSError as error:
            raise Unreachable(f"{self.label} could not be reached: {error}") from error

    async def _begin(self, connection: AsyncConnection, writes: bool, timeout_s: float | None) -> None:
        if self.dialect == "sqlite":
            await connection.begin()
            driver = (await connection.get_raw_connection()).driver_connection
            # Users follow SQLAlchemy's advice and begin the transaction in a listener of their own.
            if not getattr(driver, "in_transaction", False):
                await self._execute(connection, Sql("BEGIN IMMEDIATE" if writes else "BEGIN"))
        elif writes:
            idle_ms = min(max(int((timeout_s or SHORT_S) * 1000), 1), 2**31 - 1)
            await self._execute(connection, Sql(IDLE_TIMEOUT, (str(idle_ms),)))

    async def _execute(self, connection: AsyncConnection, sql: Sql) -> Result:
        try:
            result = await connection.exec_driver_sql(self._placed(sql.text), sql.params)
        except exc.DBAPIError as error:
            note_swallowed(error, _state(error.orig))
            raise
        if result.returns_rows:
            return Result([tuple(row) for row in result.all()])
        return Result([], result.rowcount)

    async def _commit(self, connection: AsyncConnection, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await connection.commit()
        except Exception as error:
            await self._give_up(connection)
            if _is_lost(error):
                raise CommitUnknown(f"{self.label} did not answer a commit") from error
            raise
        with suppress(Exception):  # the transaction is committed, so it must not fail any more
            await connection.close()

    async def _give_up(self, connection: AsyncConnection) -> None:
        """Roll back, and give the connection back to the pool."""
        try:
            async with asyncio.timeout(ROLLBACK_S):
                with suppress(Exception):  # the error that led here is the one that counts
                    if self.dialect == "sqlite" and not connection.closed:
                        await connection.rollback()
                        await (
                            connection.invalidate()
                        )  # statements that apply left open would block the next transaction
                with suppress(Exception):
                    await connection.close()
        except TimeoutError:
            with suppress(Exception):
                await connection.invalidate()  # the database does not answer


def _is_lost(error: Exception) -> bool:
    """Return whether a commit that failed with this error may have landed."""
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated or is_lost_connection(_state(error.orig))
    return isinstance(error, OSError) or is_lost_connection(_state(error))


def _state(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of a driver's error."""
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def _is_static(engine: AsyncEngine) -> bool:
    return isinstance(engine.pool, StaticPool)


def _most_lanes(pool: Pool) -> int:
    """Return how many lanes may use connections of a pool at the same time."""
    overflow = getattr(pool, "_max_overflow", 0)
    if not isinstance(pool, QueuePool) or overflow < 0:
        return 1_000_000  # it opens any number of connections
    return max(pool.size() + overflow - N_KEPT, 1)


def _place(engine: AsyncEngine) -> str:
    """Return where the database of an engine is, without a user or a password."""
    url = engine.url
    host = "" if url.host is None else f"{url.host}:{url.port}/" if url.port else f"{url.host}/"
    return f"{host}{url.database or ''}"
