"""The signals of an outbox in the database of a SQLAlchemy engine: those of the driver below it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from eda.errors import ConfigError
from eda.projections.asyncpg_signals import AsyncpgSignals
from eda.projections.outbox_table import OutboxTable
from eda.projections.psycopg_signals import PsycopgSignals
from eda.projections.sql_steps import Unreachable
from eda.projections.sqlite_signals import SQLiteSignals

__all__ = ["PooledSignals", "signals_of"]

_SIGNALS: dict[str, type[AsyncpgSignals] | type[PsycopgSignals]] = {
    "asyncpg": AsyncpgSignals,
    "psycopg": PsycopgSignals,
    "psycopg_async": PsycopgSignals,
}


class PooledSignals:
    """Signals through the driver's connection of an engine's connection, which does not go back to the pool."""

    def __init__(self, engine: AsyncEngine, table: OutboxTable) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._signals = _SIGNALS[engine.dialect.driver](self._connect, table)

    async def _connect(self) -> Any:
        try:
            self._connection = await self._engine.connect()
        except OSError as error:
            raise Unreachable(f"PostgreSQL could not be reached: {error}") from error
        return (await self._connection.get_raw_connection()).driver_connection

    async def open(self) -> None:
        """Take a connection out of the pool, and listen."""
        await self._signals.open()

    async def close(self) -> None:
        """Close the driver's connection."""
        connection, self._connection = self._connection, None
        try:
            await self._signals.close()
        finally:
            if connection is not None:
                with suppress(Exception):  # the driver's connection is closed already
                    await connection.invalidate()
                with suppress(Exception):
                    await connection.close()

    async def lock(self) -> bool:
        """Try to get the advisory lock."""
        return await self._signals.lock()

    async def wait(self, timeout_s: float) -> None:
        """Wait for a notification."""
        await self._signals.wait(timeout_s)


def signals_of(database: Any, table: OutboxTable) -> PooledSignals | SQLiteSignals:
    """Return the signals of an outbox in this database. Raises ConfigError for a driver that can't do it."""
    engine: AsyncEngine = database.engine
    if engine.dialect.name == "sqlite":
        assert engine.url.database is not None
        return SQLiteSignals(engine.url.database, table.name)
    if engine.dialect.driver not in _SIGNALS:
        raise ConfigError(
            f"an outbox in PostgreSQL needs the driver asyncpg or psycopg, not {engine.dialect.driver}", argument="into"
        )
    return PooledSignals(engine, table)
