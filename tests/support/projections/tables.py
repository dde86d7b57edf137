"""The append-only table of the fault tests, by every driver: how it is made, read, and written in a projection."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pytest

import eda
import eda.sql
from support.faults.scene import IS_LONG
from support.projections.evidence import Applied

__all__ = [
    "POSTGRES",
    "SQLITE",
    "commit_of",
    "drivers",
    "inserting",
    "make_table",
    "n_in_packs",
    "positions",
    "read_rows",
    "sink_of",
]

SQLITE = ("sqlite", "aiosqlite")
POSTGRES = ("psycopg", "asyncpg", "sqlalchemy")

COLUMNS = "stream, sequence, id, aggregate, member, idx"
Row = tuple[str, int, str, str, str, int]


def drivers(*short: str, all: tuple[str, ...] = (*SQLITE, *POSTGRES)) -> pytest.MarkDecorator:
    """Run a test with these drivers, and in the long form with all."""
    return pytest.mark.parametrize("driver", all if IS_LONG else short)


def sink_of(driver: str, address: str) -> Any:
    """Return the sink of a driver. `address`: a file's path or a URL that begins with postgresql://."""
    if driver == "sqlite":
        return eda.sql.SQLite(address)
    if driver == "psycopg":
        return eda.sql.Psycopg(address)
    if driver == "asyncpg":
        return eda.sql.Asyncpg(address)
    from sqlalchemy.ext.asyncio import create_async_engine

    if driver == "aiosqlite":
        return eda.sql.SQLAlchemy(create_async_engine(f"sqlite+aiosqlite:///{address}"))
    return eda.sql.SQLAlchemy(create_async_engine(address.replace("postgresql:", "postgresql+asyncpg:", 1)))


def query(address: str, *texts: str) -> list[Any]:
    """Run queries in one transaction, without eda; return the rows of the last one."""
    if address.startswith("postgresql:"):
        import psycopg

        with psycopg.connect(address, connect_timeout=5) as conn:
            found: list[Any] = []
            for text in texts:
                cursor = conn.execute(text.encode())
                found = cursor.fetchall() if cursor.description else []
            return found
    with closing(sqlite3.connect(address, timeout=30)) as file, file:
        for text in texts:
            found = file.execute(text).fetchall()
        return found


def make_table(address: str) -> None:
    number = "bigserial" if address.startswith("postgresql:") else "INTEGER PRIMARY KEY AUTOINCREMENT"
    columns = "stream TEXT, sequence BIGINT, id TEXT, aggregate TEXT, member TEXT, idx INT"
    text = f"CREATE TABLE applied (n {number}, {columns})"
    query(address, "DROP TABLE IF EXISTS applied", text)


def read_rows(address: str) -> list[Applied]:
    """Return the table in the order of the inserts."""
    return [Applied(*row) for row in query(address, f"SELECT n, {COLUMNS} FROM applied ORDER BY n")]


def positions(address: str, name: str) -> dict[tuple[str, int], int]:
    """Return the sequence of each stream and lane of a projection."""
    text = f"SELECT stream, lane, sequence FROM eda_positions WHERE name = '{name}'"
    return {(stream, lane): sequence for stream, lane, sequence in query(address, text)}


def n_in_packs(address: str) -> int:
    """Return how many lanes are in the middle of a pack."""
    return int(query(address, 'SELECT count(*) FROM eda_positions WHERE "time" < 0')[0][0])


def inserting(
    driver: str, member: str, pause: Callable[[], float], halfway: Callable[[list[eda.Event]], None]
) -> Callable[[list[eda.Event], Any], Any]:
    """Return an `apply` that inserts a row for each event.

    It inserts the first half of the events, calls `halfway`, pauses for as many seconds as `pause` returns, and inserts
    the second half.
    """

    def parts(events: list[eda.Event]) -> tuple[list[Row], list[Row]]:
        rows = [(each.stream, each.sequence, each.id, each.aggregate, member, each.index) for each in events]
        return rows[: len(rows) // 2], rows[len(rows) // 2 :]

    write = WRITES[driver]
    if driver in ("sqlite", "psycopg"):

        def apply(events: list[eda.Event], tx: Any) -> None:
            first, second = parts(events)
            write(tx, first)
            halfway(events)
            time.sleep(pause())
            write(tx, second)

        return apply

    async def apply_async(events: list[eda.Event], tx: Any) -> None:
        first, second = parts(events)
        await write(tx, first)
        halfway(events)
        await asyncio.sleep(pause())
        await write(tx, second)

    return apply_async


def commit_of(driver: str) -> Callable[[Any], Any]:
    """Return what commits the transaction of a driver, as a user would who does not know better."""
    if driver == "asyncpg":
        return lambda tx: tx.execute("COMMIT")
    return lambda tx: tx.commit()


# --- how each driver writes ------------------------------------------------------------------------------------------


def _write_sqlite(tx: Any, rows: Sequence[Row]) -> None:
    tx.executemany(f"INSERT INTO applied ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", rows)


def _write_psycopg(tx: Any, rows: Sequence[Row]) -> None:
    if rows:
        tx.cursor().executemany(f"INSERT INTO applied ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s)", rows)


async def _write_asyncpg(tx: Any, rows: Sequence[Row]) -> None:
    await tx.executemany(f"INSERT INTO applied ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6)", rows)


async def _write_sqlalchemy(tx: Any, rows: Sequence[Row]) -> None:
    from sqlalchemy import text

    if rows:
        names = COLUMNS.split(", ")
        values = ", ".join(f":{name}" for name in names)
        insert = text(f"INSERT INTO applied ({COLUMNS}) VALUES ({values})")
        await tx.execute(insert, [dict(zip(names, row, strict=True)) for row in rows])


WRITES: dict[str, Callable[[Any, Sequence[Row]], Any]] = {
    "sqlite": _write_sqlite,
    "psycopg": _write_psycopg,
    "asyncpg": _write_asyncpg,
    "sqlalchemy": _write_sqlalchemy,
    "aiosqlite": _write_sqlalchemy,
}
