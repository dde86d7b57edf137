"""What a relay needs of the outbox's database besides transactions: to be the only active one, and to be woken.

A lock belongs to a connection that stays open. So it ends with the process, and a process that is frozen keeps it: no
other relay publishes the rows that the frozen one has on their way.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from eda.errors import ConfigError
from eda.projections.outbox_table import OutboxTable
from eda.projections.sink import Sink
from eda.projections.sql_sink import SqlSink

__all__ = ["Signals", "check_into", "signals_for"]


class Signals(Protocol):
    """A connection that holds the lock and hears when rows were added. It may be opened again after it was closed."""

    async def open(self) -> None:
        """Connect. Raises the driver's errors."""

    async def close(self) -> None:
        """Close the connection, which gives up the lock."""

    async def lock(self) -> bool:
        """Try to become the only active relay of the outbox, and return whether that succeeded."""

    async def wait(self, timeout_s: float) -> None:
        """Wait until rows may have been added, but at most for this time. Raises if the connection is lost."""


# The databases by the files of their classes, and the functions that make their signals: a driver is imported when it
# is needed.
_SIGNALS = {
    "eda.projections.sqlite": "sqlite_signals",
    "eda.projections.psycopg_sink": "psycopg_signals",
    "eda.projections.asyncpg_sink": "asyncpg_signals",
    "eda.projections.sqlalchemy_sink": "sqlalchemy_signals",
}


def check_into(into: Sink) -> SqlSink:
    """Return the place of an outbox. Raises ConfigError unless it is one of the databases of `eda.sql`."""
    if isinstance(into, SqlSink) and type(into.database).__module__ in _SIGNALS:
        return into
    raise ConfigError(
        "into must be a database that can hold an outbox: eda.sql.SQLite, Psycopg, Asyncpg or SQLAlchemy, not "
        f"{type(into).__name__}",
        argument="into",
    )


def signals_for(into: SqlSink, table: OutboxTable) -> Signals:
    """Return the signals of an outbox's table."""
    file = _SIGNALS[type(into.database).__module__]
    signals: Signals = import_module(f"eda.projections.{file}").signals_of(into.database, table)
    return signals
