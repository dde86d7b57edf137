"""A read model in SQLite that only lists its events, and what is in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import eda

__all__ = ["insert", "numbers", "publish", "sequences"]


def insert(events: list[eda.Event], tx: sqlite3.Connection) -> None:
    """Append the events to the list; nothing keeps an event from standing there twice."""
    tx.execute("CREATE TABLE IF NOT EXISTS list (n INTEGER PRIMARY KEY, sequence INTEGER, id TEXT)")
    tx.executemany("INSERT INTO list (sequence, id) VALUES (?, ?)", [(each.sequence, each.id) for each in events])


def numbers(path: Path, query: str) -> list[int]:
    """Return the first column of a query's rows."""
    with closing(sqlite3.connect(path)) as driver:
        return [row[0] for row in driver.execute(query)]


def sequences(path: Path) -> list[int]:
    """Return the sequences in the list, in the order in which they were applied."""
    return numbers(path, "SELECT sequence FROM list ORDER BY n")


async def publish(conn: eda.Conn, stream: str, n: int) -> eda.Receipt:
    """Publish empty events one by one, and return the receipt of the last one."""
    return [await conn.publish(stream) for _ in range(n)][-1]
