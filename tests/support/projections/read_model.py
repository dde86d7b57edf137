"""A read model in SQLite: the table `applied`, a function that fills it, and what it holds."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import eda
from eda import sql

__all__ = ["ReadModel", "publish_many"]


async def publish_many(conn: eda.Conn, stream: str, n: int, *, type: str = "a", aggregates: int = 3) -> eda.Receipt:
    """Publish `n` events with the data 1, 2, …, and return the receipt of the last one."""
    async with conn.publisher(stream) as publisher:
        for number in range(1, n):
            event = eda.Event(type=type, aggregate=f"k{number % aggregates}", data=eda.JSON(number))
            await publisher.send(event)
        await publisher.flush()
        return await publisher.send_and_wait(eda.Event(type=type, aggregate="last", data=eda.JSON(n)))


class ReadModel:
    """A database. `fails(event)` is called for each event before it is inserted; it may raise.

    `attempts`: how often apply was called, with which sequences and attempts. `threads`: where.
    """

    def __init__(self, path: Path, fails: Callable[[eda.Event], None] = lambda event: None) -> None:
        self.path = path
        self.fails = fails
        self.attempts: list[list[tuple[int, int]]] = []
        self.threads: set[str] = set()

    def sink(self) -> sql.SQLite:
        """Return a sink of its own for the database."""
        return sql.SQLite(self.path, on_connect=_create)

    def apply(self, events: list[eda.Event], tx: sqlite3.Connection) -> None:
        """Insert the events."""
        self.threads.add(threading.current_thread().name)
        self.attempts.append([(event.sequence, event.attempt) for event in events])
        for event in events:
            tx.execute("INSERT INTO applied VALUES (?, ?, ?)", (event.stream, event.sequence, event.id))
            self.fails(event)

    def apply_one(self, event: eda.Event, tx: sqlite3.Connection) -> None:
        """Insert one event."""
        self.apply([event], tx)

    def sequences(self, stream: str | None = None) -> list[int]:
        """Return the sequences that are in the table, in the order in which they were inserted."""
        rows = self.query("SELECT sequence, stream FROM applied ORDER BY rowid")
        return [sequence for sequence, of in rows if stream in (None, of)]

    def query(self, text: str) -> Sequence[tuple[int, str]]:
        """Return what a query finds."""
        with sqlite3.connect(self.path) as reader:
            found = reader.execute(text).fetchall()
        reader.close()
        return found

    def position(self, stream: str) -> int:
        """Return the position in a stream."""
        ((position,),) = self.query(f"SELECT sequence FROM eda_positions WHERE stream = '{stream}'")  # type: ignore[misc]
        return int(position)


def _create(tx: sqlite3.Connection) -> None:
    tx.execute("CREATE TABLE IF NOT EXISTS applied (stream TEXT, sequence INTEGER, id TEXT)")
