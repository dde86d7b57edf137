"""Adds rows to an outbox through the user's own connection: which drivers are known, and how each executes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, TypeAlias, TypeVar

from eda.errors import ConfigError
from eda.projections.outbox_table import OutboxTable
from eda.projections.sql_steps import Dialect, formatted, numbered

__all__ = ["Done", "Row", "writer_of"]

Row: TypeAlias = tuple[str, str, str, bytes]
"""A row to add: id, stream, key, envelope."""

T = TypeVar("T")

# Adds rows. With a plain connection the rows are there when it returns; else it returns a coroutine.
Write: TypeAlias = Callable[[OutboxTable, Sequence[Row]], Coroutine[Any, Any, None] | None]


class Done:
    """An awaitable that is done already, so that a plain function may ignore it. `result` is what `await` returns."""

    __slots__ = ("result",)

    def __init__(self, result: object) -> None:
        self.result: object = result

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result
        yield  # this makes the method a generator function


def writer_of(tx: object) -> tuple[Dialect, Write]:
    """Return the dialect of a driver's connection, and how rows are added through it.

    Raises ConfigError for an object of another kind, and for a connection without an open transaction: the events would
    be stored even if the rest of the work is not.
    """
    # A driver that was never imported can't have made the connection.
    sqlite3 = sys.modules.get("sqlite3")
    if sqlite3 is not None and isinstance(tx, sqlite3.Connection):
        return "sqlite", _by_sqlite(tx)
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(tx, psycopg.Connection | psycopg.AsyncConnection):
        return "postgresql", _by_psycopg(tx, is_async=isinstance(tx, psycopg.AsyncConnection))
    asyncpg = sys.modules.get("asyncpg")
    if asyncpg is not None and isinstance(tx, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
        return "postgresql", _by_asyncpg(tx)
    sqlalchemy = sys.modules.get("sqlalchemy.ext.asyncio")
    if sqlalchemy is not None and isinstance(tx, sqlalchemy.AsyncConnection | sqlalchemy.AsyncSession):
        return _by_sqlalchemy(tx, is_session=isinstance(tx, sqlalchemy.AsyncSession))
    raise ConfigError(
        "tx must be the connection with which you write in this transaction: sqlite3.Connection, psycopg.Connection or "
        "AsyncConnection, asyncpg.Connection, or SQLAlchemy's AsyncConnection or AsyncSession; not "
        f"{type(tx).__module__}.{type(tx).__qualname__}",
        argument="tx",
    )


def _no_transaction() -> ConfigError:
    return ConfigError(
        "tx has no open transaction, so the event would be published even if your other changes fail: begin one first",
        argument="tx",
    )


def _columns(rows: Sequence[Row]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


# --- drivers ---------------------------------------------------------------------------------------------------------


def _by_sqlite(tx: Any) -> Write:
    # With another isolation level, the INSERT begins a transaction.
    if tx.isolation_level is None and not tx.in_transaction:
        raise _no_transaction()

    def write(table: OutboxTable, rows: Sequence[Row]) -> None:
        if len(rows) == 1:
            tx.execute(table.add, rows[0])
        else:
            tx.executemany(table.add_many, rows)

    return write


def _by_psycopg(tx: Any, *, is_async: bool) -> Write:
    if tx.autocommit and tx.info.transaction_status == 0:  # IDLE
        raise _no_transaction()

    def execute(table: OutboxTable, rows: Sequence[Row]) -> Any:
        if len(rows) == 1:
            return tx.execute(formatted(table.add), rows[0])
        return tx.execute(formatted(table.add_many), _columns(rows))

    def write(table: OutboxTable, rows: Sequence[Row]) -> None:
        execute(table, rows)

    async def write_async(table: OutboxTable, rows: Sequence[Row]) -> None:
        await execute(table, rows)

    return write_async if is_async else write


def _by_asyncpg(tx: Any) -> Write:
    if not tx.is_in_transaction():
        raise _no_transaction()

    async def write(table: OutboxTable, rows: Sequence[Row]) -> None:
        if len(rows) == 1:
            await tx.execute(numbered(table.add), *rows[0])
        else:
            await tx.execute(numbered(table.add_many), *_columns(rows))

    return write


def _by_sqlalchemy(tx: Any, *, is_session: bool) -> tuple[Dialect, Write]:
    bind = tx.get_bind() if is_session else tx
    dialect, driver = bind.dialect.name, bind.dialect.driver
    if dialect not in ("sqlite", "postgresql"):
        message = f"tx is a connection to {dialect}: an outbox is in SQLite or PostgreSQL"
        raise ConfigError(message, argument="tx")

    async def write(table: OutboxTable, rows: Sequence[Row]) -> None:
        connection = await tx.connection() if is_session else tx
        if dialect == "sqlite":
            await connection.exec_driver_sql(table.add, rows[0] if len(rows) == 1 else list(rows))
            return
        mark = numbered if driver == "asyncpg" else formatted
        if len(rows) == 1:
            await connection.exec_driver_sql(mark(table.add), rows[0])
        else:
            await connection.exec_driver_sql(mark(table.add_many), tuple(_columns(rows)))

    return dialect, write
