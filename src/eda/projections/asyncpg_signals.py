"""The signals of an outbox in PostgreSQL through asyncpg: an advisory lock of the session, and LISTEN."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from eda.projections.connection_pool import RELAY_LOST, telling_loss
from eda.projections.outbox_table import OutboxTable
from eda.projections.sql_steps import Unreachable

__all__ = ["AsyncpgSignals", "signals_of"]

PROBE_S = 10.0  # a connection that does not answer for this long is given up


class AsyncpgSignals:
    """One connection. It holds the lock while it hears notifications. `connect` returns a new one."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], table: OutboxTable) -> None:
        self._connect = connect
        self._table = table
        self._driver: Any = None
        self._told = asyncio.Event()

    async def open(self) -> None:
        """Connect and listen."""
        self._driver = await self._connect()
        with telling_loss(self._is_lost):
            self._driver.add_termination_listener(self._on_event)
            await self._driver.add_listener(self._table.name, self._on_event)

    def _on_event(self, *_: object) -> None:
        self._told.set()

    def _is_lost(self) -> bool:
        return self._driver is None or self._driver.is_closed()

    async def close(self) -> None:
        """Close the connection, which gives up the lock."""
        driver, self._driver = self._driver, None
        if driver is not None and not driver.is_closed():
            driver.remove_termination_listener(self._on_event)
            driver.terminate()

    async def lock(self) -> bool:
        """Try to get the advisory lock."""
        with telling_loss(self._is_lost):
            return bool(await self._driver.fetchval(self._table.lock))

    async def wait(self, timeout_s: float) -> None:
        """Wait for a notification. After the time-out, ask the server whether the connection still works."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._told.wait()
        except TimeoutError:
            try:
                with telling_loss(self._is_lost):
                    await self._driver.fetchval("SELECT 1", timeout=PROBE_S)
            except TimeoutError as error:
                raise Unreachable("the connection that holds the lock of the relay does not answer") from error
        self._told.clear()
        if self._driver.is_closed():
            raise Unreachable(RELAY_LOST)


def signals_of(database: Any, table: OutboxTable) -> AsyncpgSignals:
    """Return the signals of an outbox in this database."""
    return AsyncpgSignals(database.connect, table)
