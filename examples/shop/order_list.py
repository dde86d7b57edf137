"""The read side: two tables that answer questions which the event store can't answer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import eda
import eda.sql
from sales import ItemAdded, OrderPaid, OrderPlaced

NAME = "order-list"
VERSION = 1  # change it together with the tables or with `apply`: the new version is built beside the old one


class OrderList:
    """The tables of one version of the read model, in SQLite or PostgreSQL.

    `apply` and the queries are the same for both databases. Only the placeholder for a value differs.
    """

    def __init__(self, url: str, version: int = VERSION) -> None:
        self.version = version
        self._path = url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else ""
        self._url = url
        self.sink: eda.sql.Sink = eda.sql.from_url(url)
        self._tables = {"orders": f"orders_v{version}", "customers": f"customers_v{version}"}
        mark = "?" if self._path else "%s"
        self._sql = {name: sql.format(**self._tables).replace("?", mark) for name, sql in STATEMENTS.items()}

    def create(self) -> None:
        """Create the tables if they are missing."""
        with self._connection() as db:
            for statement in TABLES:
                db.execute(statement.format(**self._tables))
            db.commit()

    def apply(self, events: list[eda.Event], tx: Any) -> None:
        """Change the tables by some events. The projection calls this in a transaction, and commits it."""
        for event in events:
            if event.is_type("eda.forgotten"):
                tx.execute(self._sql["forget"], [event.aggregate])
                continue
            match event.payload():
                case OrderPlaced() as placed:
                    tx.execute(self._sql["place"], [event.aggregate, placed.customer, event.version])
                case ItemAdded() as item:
                    tx.execute(self._sql["add_item"], [item.cents, event.version, event.aggregate])
                case OrderPaid() as paid:
                    tx.execute(self._sql["pay"], [event.version, event.aggregate])
                    tx.execute(self._sql["add_payment"], [paid.customer, paid.cents])

    def find(self, order: str) -> dict[str, Any] | None:
        """Return the row of an order; None if there is none."""
        rows = self._select(self._sql["find"], order)
        return rows[0] if rows else None

    def best_customers(self, n: int) -> list[dict[str, Any]]:
        """Return the customers who have paid most."""
        return self._select(self._sql["best"], n)

    def _select(self, query: str, value: object) -> list[dict[str, Any]]:
        with self._connection() as db:
            cursor = db.execute(query, [value])
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """Open a connection for one query. That is simple; a busy shop would use a pool of connections."""
        if self._path:
            with closing(sqlite3.connect(self._path)) as db:
                yield db
        else:
            import psycopg

            with closing(psycopg.connect(self._url)) as db:
                yield db


TABLES = (
    """CREATE TABLE IF NOT EXISTS {orders} (
        id TEXT PRIMARY KEY,
        customer TEXT NOT NULL,
        status TEXT NOT NULL,
        n_items INTEGER NOT NULL,
        total_cents BIGINT NOT NULL,
        version INTEGER NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS {customers} (
        name TEXT PRIMARY KEY,
        n_paid INTEGER NOT NULL,
        paid_cents BIGINT NOT NULL
    )""",
)

STATEMENTS = {
    "place": """INSERT INTO {orders} (id, customer, status, n_items, total_cents, version)
        VALUES (?, ?, 'open', 0, 0, ?)""",
    "add_item": "UPDATE {orders} SET n_items = n_items + 1, total_cents = total_cents + ?, version = ? WHERE id = ?",
    "pay": "UPDATE {orders} SET status = 'paid', version = ? WHERE id = ?",
    "add_payment": """INSERT INTO {customers} (name, n_paid, paid_cents) VALUES (?, 1, ?) ON CONFLICT (name) DO UPDATE
        SET n_paid = {customers}.n_paid + 1, paid_cents = {customers}.paid_cents + excluded.paid_cents""",
    "forget": "DELETE FROM {orders} WHERE id = ?",
    "find": "SELECT id, customer, status, n_items, total_cents, version FROM {orders} WHERE id = ?",
    "best": "SELECT name, n_paid, paid_cents FROM {customers} ORDER BY paid_cents DESC, name LIMIT ?",
}
