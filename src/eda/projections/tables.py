"""The tables `eda_positions` and `eda_views`: the statements that create, read and change them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eda.projections.sink import PositionRow
from eda.projections.sql_steps import Dialect, Sql, Steps

__all__ = [
    "DELETE_POSITIONS",
    "INSERT_POSITION",
    "IS_OPEN",
    "MOVE",
    "MOVE_IF_OPEN",
    "PROMOTE",
    "PROMOTE_FIRST",
    "RELEASE",
    "TAKE_OVER",
    "TOUCH",
    "create_tables",
    "find_one",
    "has_tables",
    "read_positions",
    "read_rows",
    "read_views",
    "row_of",
]

# `index` and `time` are keywords of SQL in some databases, so they are quoted everywhere.
_COLUMNS = 'stream, lane, created, sequence, "index", "time", owner_epoch, updated'
_ROW = "name = ? AND version = ? AND stream = ? AND lane = ?"

# All that an owner does not change by a sign of life: two members can't both replace the same row.
_REPLACED = f'{_ROW} AND created = ? AND sequence = ? AND "index" = ? AND "time" = ? AND owner_epoch = ?'

INSERT_POSITION = (
    f"INSERT INTO eda_positions (name, version, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, 0, 0, 0, 1, ?) "
    "ON CONFLICT DO NOTHING"
)
TAKE_OVER = f"UPDATE eda_positions SET owner_epoch = ?, updated = ? WHERE {_REPLACED} AND updated = ?"
MOVE = f'UPDATE eda_positions SET sequence = ?, "index" = ?, "time" = ?, updated = ? WHERE {_REPLACED}'
# The same if the transaction is still the one that `begin_text` has marked: the mark ends with it.
MOVE_IF_OPEN = f"{MOVE} AND current_setting('eda.apply', true) = 'open'"
IS_OPEN = "SELECT coalesce(current_setting('eda.apply', true), '') = 'open'"
TOUCH = f"UPDATE eda_positions SET updated = ? WHERE {_ROW} AND owner_epoch = ?"
RELEASE = f"UPDATE eda_positions SET updated = 0 WHERE {_ROW} AND owner_epoch = ?"
DELETE_POSITIONS = "DELETE FROM eda_positions WHERE name = ? AND version = ?"

PROMOTE = (
    "INSERT INTO eda_views (name, version) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET version = excluded.version WHERE eda_views.version <> excluded.version"
)
PROMOTE_FIRST = "INSERT INTO eda_views (name, version) VALUES (?, ?) ON CONFLICT DO NOTHING"

# The types of SQLite and PostgreSQL have these names in common; SQLite reads them as affinities.
_CREATE = (
    """
    CREATE TABLE IF NOT EXISTS eda_positions (
        name TEXT NOT NULL, version BIGINT NOT NULL, stream TEXT NOT NULL, lane BIGINT NOT NULL, created TEXT NOT NULL,
        sequence BIGINT NOT NULL, "index" BIGINT NOT NULL, "time" BIGINT NOT NULL, owner_epoch BIGINT NOT NULL,
        updated DOUBLE PRECISION NOT NULL, PRIMARY KEY (name, version, stream, lane)
    )
    """,
    "CREATE TABLE IF NOT EXISTS eda_views (name TEXT NOT NULL PRIMARY KEY, version BIGINT NOT NULL)",
)
_EXISTING: dict[Dialect, str] = {
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('eda_positions', 'eda_views')",
    # to_regclass looks where the statements of this user look (search_path).
    "postgresql": "SELECT count(to_regclass('eda_positions')) + count(to_regclass('eda_views'))",
}
# PostgreSQL: two members that create the same table at the same time get an error in spite of IF NOT EXISTS. The number
# is "eda" in ASCII. SQLite has one writer.
_CREATE_LOCK = "SELECT pg_advisory_xact_lock(6644833)"


def has_tables(dialect: Dialect) -> Steps[bool]:
    """Return whether the tables exist. Asking needs no right to create tables; CREATE TABLE IF NOT EXISTS does."""
    ((count,),) = (yield Sql(_EXISTING[dialect])).rows
    return bool(count == len(_CREATE))


def create_tables(dialect: Dialect) -> Steps[None]:
    """Create the tables that are missing."""
    if dialect == "postgresql":
        yield Sql(_CREATE_LOCK)
    for text in _CREATE:
        yield Sql(text)


def read_rows(name: str, version: int, stream: str) -> Steps[list[PositionRow]]:
    """Return the positions of a projection in a stream, by lane."""
    text = f"SELECT {_COLUMNS} FROM eda_positions WHERE name = ? AND version = ? AND stream = ? ORDER BY lane"
    return [row_of(row) for row in (yield Sql(text, (name, version, stream))).rows]


def find_one(dialect: Dialect, name: str, version: int, row: PositionRow) -> Steps[PositionRow | None]:
    """Lock one row and return it. On SQLite the transaction itself is the lock."""
    text = f"SELECT {_COLUMNS} FROM eda_positions WHERE {_ROW}"
    if dialect == "postgresql":
        text += " FOR UPDATE"
    rows = (yield Sql(text, (name, version, row.stream, row.lane))).rows
    return row_of(rows[0]) if rows else None


def read_positions(name: str | None) -> Steps[list[tuple[str, int, PositionRow]]]:
    """Return the positions of one projection, or of all, with their names and versions, in order."""
    where, params = ("", ()) if name is None else ("WHERE name = ? ", (name,))
    text = f"SELECT name, version, {_COLUMNS} FROM eda_positions {where}ORDER BY name, version, stream, lane"
    return [(str(row[0]), int(row[1]), row_of(row[2:])) for row in (yield Sql(text, params)).rows]


def read_views(name: str | None) -> Steps[dict[str, int]]:
    """Return which version of each projection views read."""
    where, params = ("", ()) if name is None else (" WHERE name = ?", (name,))
    rows = (yield Sql(f"SELECT name, version FROM eda_views{where}", params)).rows
    return {str(of): int(version) for of, version in rows}


def row_of(columns: Iterable[Any]) -> PositionRow:
    """Return the row that a SELECT has returned."""
    stream, lane, created, sequence, index, time, owner_epoch, updated = columns
    return PositionRow(stream, lane, created, sequence, index, time, owner_epoch, float(updated))
