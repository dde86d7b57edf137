"""The signals of an outbox in PostgreSQL through psycopg: an advisory lock of the session, and LISTEN."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import AsyncCursor
from psycopg.rows import tuple_row

from eda.projections.outbox_table import OutboxTable
from eda.projections.sql_steps import Unreachable

__all__ = ["PsycopgSignals", "signals_of"]


class PsycopgSignals:
    """One connection in autocommit mode. It holds the lock while it waits for notifications.

    `connect` returns a new `psycopg.AsyncConnection`.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]], table: OutboxTable) -> None:
        self._connect = connect
        self._table = table
        self._driver: Any = None

    async def open(self) -> None:
        """Connect and listen."""
        self._driver = await self._connect()
        self._driver.cursor_factory, self._driver.row_factory = AsyncCursor, tuple_row  # the user may have others
        with self._blaming():  # a pool may have returned a connection that was lost long ago
            await self._driver.set_autocommit(True)
        await self._execute(f"LISTEN {self._table.name}")

    async def close(self) -> None:
        """Close the connection, which gives up the lock."""
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.close()

    async def lock(self) -> bool:
        """Try to get the advisory lock."""
        rows = await self._execute(self._table.lock)
        return bool(rows[0][0])

    async def wait(self, timeout_s: float) -> None:
        """Wait for a notification. After the time-out, ask the server whether the connection still works."""
        with self._blaming():
            async for _ in self._driver.notifies(timeout=timeout_s, stop_after=1):
                return
        await self._execute("SELECT 1")  # psycopg keeps a notification that comes with the answer

    async def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        with self._blaming():
            cursor = await self._driver.execute(statement)
            return await cursor.fetchall() if cursor.description else []

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        """Raise any error of a lost connection as an outage: a pool of SQLAlchemy does not know the driver's errors."""
        try:
            yield
        except Exception as error:
            if self._driver is None or self._driver.closed:
                raise Unreachable("the connection that holds the lock of the relay was lost") from error
            raise


def signals_of(database: Any, table: OutboxTable) -> PsycopgSignals:
    """Return the signals of an outbox in this database."""
    return PsycopgSignals(database.connect_async, table)
