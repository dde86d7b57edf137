"""The events of the read models' benchmarks, the table that they are projected into, and what fills both."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

import eda
from macro import delete
from support.projections.postgres import MissingPostgres, Postgres

__all__ = [
    "BATCH", "CREATE", "POSITIONS", "apply_asyncpg", "apply_psycopg", "apply_sqlite", "databases", "emptied", "filled",
    "last_receipt", "make_event", "ready_made",
]  # fmt: skip

BATCH = 500
CREATE = "CREATE TABLE IF NOT EXISTS sales (sequence BIGINT, id TEXT, customer TEXT, total BIGINT)"
COLUMNS = "INSERT INTO sales (sequence, id, customer, total) VALUES "
# As much of a position as the plain loops write.
POSITIONS = "CREATE TABLE IF NOT EXISTS positions (name TEXT PRIMARY KEY, sequence BIGINT, time BIGINT)"


def make_event(n: int) -> eda.Event:
    data = eda.JSON({"article": "sku-1234", "quantity": 2, "total": n})
    return eda.Event(type="sold", aggregate=f"customer-{n % 1000}", data=data)


@contextmanager
def filled(server: eda.EmbeddedServer, stream: str, n: int) -> Iterator[str]:
    """Make a stream of `n` events, and delete it in the end."""

    async def fill() -> None:
        async with eda.connect(server.url) as conn, conn.publisher(stream) as publisher:
            await publisher.send_many(make_event(number) for number in range(n))

    asyncio.run(fill())
    yield stream
    delete(server, stream)


def last_receipt(stream: str, n: int) -> eda.Receipt:
    """Return the receipt of a stream's event number `n`."""
    return eda.Receipt("", stream, n, 0, False)


def ready_made(server: eda.EmbeddedServer, stream: str, n: int, *, are_decoded: bool) -> list[list[eda.Event]]:
    """Return the events of a stream in batches: as they are received, or with all that is read decoded already."""

    async def read() -> list[eda.Event]:
        found: list[eda.Event] = []
        async with eda.connect(server.url) as conn, conn.events(stream, backfill=True, serial=True) as events:
            async for event in events:
                found.append(event)
                if len(found) == n:
                    return found
        raise AssertionError

    events = asyncio.run(read())
    if are_decoded:
        for event in events:
            row_of(event)
    return [events[at : at + BATCH] for at in range(0, n, BATCH)]


# --- the projections -------------------------------------------------------------------------------------------------


def row_of(event: eda.Event) -> tuple[Any, ...]:
    return event.sequence, event.id, event.aggregate, event.data.decode()["total"]


def apply_sqlite(events: list[eda.Event], tx: sqlite3.Connection) -> None:
    """Insert each event by a statement of its own."""
    for event in events:
        tx.execute(f"{COLUMNS} (?, ?, ?, ?)", row_of(event))


def apply_psycopg(events: list[eda.Event], tx: psycopg.Connection[Any]) -> None:
    with tx.cursor() as cursor:
        cursor.executemany(f"{COLUMNS} (%s, %s, %s, %s)", [row_of(event) for event in events])


async def apply_asyncpg(events: list[eda.Event], tx: Any) -> None:
    await tx.executemany(f"{COLUMNS} ($1, $2, $3, $4)", [row_of(event) for event in events])


# --- databases -------------------------------------------------------------------------------------------------------


@contextmanager
def databases() -> Iterator[Postgres]:
    """Run a PostgreSQL server that writes each commit to the disk."""
    try:
        server = Postgres(is_quick=False)
    except MissingPostgres as missing:
        pytest.skip(str(missing))
    with server:
        yield server


def emptied(address: str) -> str:
    """Make the tables in a database, without rows, and return its address: a file's path or a URL."""
    if not address.startswith("postgresql:"):
        for ending in ("", "-wal", "-shm"):
            Path(address + ending).unlink(missing_ok=True)
        with sqlite3.connect(address) as file:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute(CREATE)
            file.execute(POSITIONS)
        file.close()
    else:
        with psycopg.connect(address, autocommit=True) as conn:
            conn.execute(CREATE)
            conn.execute(POSITIONS)
            conn.execute("DROP TABLE IF EXISTS eda_positions, eda_views")
            conn.execute("TRUNCATE sales, positions")
            conn.execute("CHECKPOINT")
    return address
