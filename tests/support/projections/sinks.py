"""The sinks that one suite runs over: how each is made, and how its driver is used in a transaction."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy.ext.asyncio as sa

from eda.projections.asyncpg_sink import Asyncpg
from eda.projections.psycopg_sink import Psycopg
from eda.projections.sink import Work
from eda.projections.sql_sink import SqlSink
from eda.projections.sql_steps import Sql, Steps
from eda.projections.sqlalchemy_sink import SQLAlchemy
from eda.projections.sqlite import SQLite

__all__ = ["KINDS", "Kind", "Place"]

TABLE = "CREATE TABLE IF NOT EXISTS applied (n BIGINT NOT NULL PRIMARY KEY)"


@dataclass(frozen=True)
class Kind:
    """One kind of sink. `make` gets the address of a database: a path for SQLite, and otherwise postgresql://…

    `execute` runs a statement with the driver's own connection, and `commit` and `rollback` end its transaction, as a
    user's function would.
    """

    name: str
    is_postgres: bool
    is_async: bool
    make: Callable[[str], SqlSink]
    execute: Callable[[Any, str], object]
    commit: Callable[[Any], object] = lambda tx: tx.commit()
    rollback: Callable[[Any], object] = lambda tx: tx.rollback()


def _sqlite(path: str) -> SqlSink:
    return SQLite(path)


def _sqlalchemy(url: str) -> SqlSink:
    return SQLAlchemy(sa.create_async_engine(url))


def _psycopg(url: str, *, is_async: bool) -> SqlSink:
    sink = Psycopg(url)
    sink.check_apply(is_async=is_async)
    return sink


def _execute_sqlite(tx: sqlite3.Connection, text: str) -> None:
    tx.execute(text)


async def _execute_sqlalchemy(tx: sa.AsyncConnection, text: str) -> None:
    await tx.exec_driver_sql(text)


async def _execute_asyncpg(tx: Any, text: str) -> None:
    await tx.execute(text)


KINDS = [
    Kind("sqlite", False, False, _sqlite, _execute_sqlite),
    Kind(
        "sqlalchemy-aiosqlite",
        False,
        True,
        lambda path: _sqlalchemy(f"sqlite+aiosqlite:///{path}"),
        _execute_sqlalchemy,
    ),
    Kind(
        "sqlalchemy-asyncpg",
        True,
        True,
        lambda url: _sqlalchemy(url.replace("postgresql:", "postgresql+asyncpg:", 1)),
        _execute_sqlalchemy,
    ),
    Kind(
        "sqlalchemy-psycopg",
        True,
        True,
        lambda url: _sqlalchemy(url.replace("postgresql:", "postgresql+psycopg:", 1)),
        _execute_sqlalchemy,
    ),
    Kind("psycopg", True, False, lambda url: _psycopg(url, is_async=False), lambda tx, text: tx.execute(text)),
    Kind("psycopg-async", True, True, lambda url: _psycopg(url, is_async=True), lambda tx, text: tx.execute(text)),
    Kind(
        "asyncpg",
        True,
        True,
        Asyncpg,
        _execute_asyncpg,
        lambda tx: tx.execute("COMMIT"),
        lambda tx: tx.execute("ROLLBACK"),
    ),
]


class Place:
    """A database of one test, which several members use: each call of `sink` makes another member's sink."""

    def __init__(self, kind: Kind, address: str) -> None:
        self.kind = kind
        self._address = address
        self._sinks: list[SqlSink] = []

    def sink(self) -> SqlSink:
        """Return a new sink that is not open yet."""
        self._sinks.append(self.kind.make(self._address))
        return self._sinks[-1]

    async def close(self) -> None:
        """Close all sinks, and the engines that users close."""
        for sink in self._sinks:
            await sink.close()
            engine = getattr(sink.database, "engine", None)
            if engine is not None:
                await engine.dispose()

    def work(self, *steps: str | Callable[[Any], object]) -> Work:
        """Return a function for a transaction: it executes texts, and calls functions with the connection.

        It is of the kind that the sink wants: a plain function or an async def.
        """
        if self.kind.is_async:
            return self._async_work(steps)

        def work(tx: Any) -> None:
            for step in steps:
                if isinstance(step, str):
                    self.kind.execute(tx, step)
                else:
                    step(tx)

        return work

    def _async_work(self, steps: tuple[str | Callable[[Any], object], ...]) -> Callable[[Any], Awaitable[None]]:
        async def work(tx: Any) -> None:
            for step in steps:
                returned = self.kind.execute(tx, step) if isinstance(step, str) else step(tx)
                if inspect.isawaitable(returned):
                    await returned

        return work

    async def make_table(self) -> None:
        """Make the table `applied`, which has one column `n`."""
        await self.run(TABLE)

    async def run(self, text: str) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own. Return its rows."""
        sink = self._sinks[0] if self._sinks else self.sink()
        return await sink.database.run(_one(text))

    async def applied(self) -> list[int]:
        """Return the rows of the table `applied`."""
        return [n for (n,) in await self.run("SELECT n FROM applied ORDER BY n")]


def _one(text: str) -> Steps[list[tuple[Any, ...]]]:
    return (yield Sql(text)).rows
