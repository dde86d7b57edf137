"""The signals of an outbox in PostgreSQL through psycopg: an advisory lock of the session, and LISTEN."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from psycopg import AsyncCursor
from psycopg.rows import tuple_row

from eda.projections.connection_pool import telling_loss
from eda.projections.outbox_table import OutboxTable

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
        with telling_loss(self._is_lost):
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
        with telling_loss(self._is_lost):
            async for _ in self._driver.notifies(timeout=timeout_s, stop_after=1):
                return
        await self._execute("SELECT 1")  # psycopg keeps a notification that comes with the answer

    async def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        with telling_loss(self._is_lost):
            cursor = await self._driver.execute(statement)
            return await cursor.fetchall() if cursor.description else []

    def _is_lost(self) -> bool:
        return self._driver is None or self._driver.closed


def signals_of(database: Any, table: OutboxTable) -> PsycopgSignals:
    """Return the signals of an outbox in this database."""
    return PsycopgSignals(database.connect_async, table)
