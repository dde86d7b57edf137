"""The tables of an outbox: their statements, for SQLite and for PostgreSQL.

Texts of users are parameters and never part of a statement. In the statements a `?` is a parameter; a database puts its
own placeholder there. A list is passed as an array of PostgreSQL, and as a JSON text to SQLite.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from eda.errors import ConfigError
from eda.projections.sql_steps import Dialect

__all__ = ["OutboxTable", "check_table_name", "table_for"]

CHUNK_BYTES = 8 * 2**20  # of envelopes that are read at a time, and at most one event more

# The other names are made from it; PostgreSQL's names have at most 63 characters.
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,47}")


def check_table_name(table: object) -> str:
    """Return the name of an outbox's table. Raises ConfigError unless it is `[a-z_][a-z0-9_]{0,47}`."""
    if not isinstance(table, str) or not _NAME.fullmatch(table):
        raise ConfigError(
            f"table must be 1 to 48 of a-z 0-9 _ and must not begin with a digit, not {table!r}", argument="table"
        )
    return str.__str__(table)


@dataclass(frozen=True, slots=True)
class OutboxTable:
    """The statements for one outbox, in the words of one database.

    The columns of the table: `serial` gives the order, `id` is the id of the event, `key` is the aggregate as a token
    of a subject (empty without an aggregate), `envelope` is the event. PostgreSQL also has `xid`, the transaction
    that added the row.
    """

    name: str
    create: tuple[str, ...]
    """make the tables that are missing"""
    exists: str
    """one row if all tables are there"""
    add: str
    """add one event: id, stream, key, envelope"""
    add_many: str
    """add several events. PostgreSQL: four lists, in one statement. SQLite: as `add`, for each event"""
    read: str
    """the next rows, by serial: (serial, id, stream, key, whether it is ready, envelope). Parameters: the serials, the
    streams and the keys (as `stream.key`) to leave out, and the number of rows. Large rows are fewer at a time"""
    delete: str
    """delete rows by a list of serials"""
    delete_ids: str
    """delete rows by a list of ids"""
    bury: str
    """copy a row to the table of dead rows: reason, serial"""
    journal: str
    """(stream, created, sequence) of each stream into which rows may be on their way"""
    note: str
    """set a stream's row in the journal: stream, created, sequence"""
    forget: str
    """remove a stream's row from the journal: stream"""
    measure: str
    """(number of rows, age of the oldest one in seconds); more than 100,000 rows are not counted"""
    blocker: str
    """(process id, application, state, age in seconds) of the oldest open transaction; "" if there is no such thing"""
    lock: str
    """whether this session is now the only active relay; "" if a lock is not taken by a statement"""


def table_for(name: str, dialect: Dialect) -> OutboxTable:
    """Return the statements for an outbox whose table has this name, which must be checked."""
    return _postgresql(name) if dialect == "postgresql" else _sqlite(name)


def _common(name: str) -> dict[str, str]:
    return {
        "name": name,
        "journal": f"SELECT stream, created, sequence FROM {name}_relay",
        "note": f"INSERT INTO {name}_relay (stream, created, sequence) VALUES (?, ?, ?) "
        "ON CONFLICT (stream) DO UPDATE SET created = excluded.created, sequence = excluded.sequence",
        "forget": f"DELETE FROM {name}_relay WHERE stream = ?",
    }


def _bounded(rows: str) -> str:
    """Return a query for the first of these rows: they end with the one that exceeds CHUNK_BYTES."""
    summed = "SELECT *, sum(n) OVER (ORDER BY serial ROWS UNBOUNDED PRECEDING) - n AS n_before"
    return (
        f"SELECT serial, id, stream, key, is_ready, envelope, horizon FROM ({summed} FROM ({rows}) AS rows_to_read) "
        f"AS summed WHERE n_before < {CHUNK_BYTES} ORDER BY serial"
    )


def _sqlite(name: str) -> OutboxTable:
    now = "(julianday('now') - 2440587.5) * 86400.0"
    one_of = "(SELECT value FROM json_each(?))"
    row = "id TEXT NOT NULL UNIQUE, stream TEXT NOT NULL, key TEXT NOT NULL, envelope BLOB NOT NULL"
    add = f"INSERT INTO {name} (id, stream, key, envelope) VALUES (?, ?, ?, ?)"
    return OutboxTable(
        create=(
            # AUTOINCREMENT: no serial is used twice, also if the last row was deleted.
            (
                f"CREATE TABLE IF NOT EXISTS {name} (serial INTEGER PRIMARY KEY AUTOINCREMENT, {row}, "
                f"added REAL NOT NULL DEFAULT ({now}))"
            ),
            (
                f"CREATE TABLE IF NOT EXISTS {name}_dead (serial INTEGER PRIMARY KEY AUTOINCREMENT, {row}, "
                f"added REAL NOT NULL, died REAL NOT NULL DEFAULT ({now}), reason TEXT NOT NULL)"
            ),
            (
                f"CREATE TABLE IF NOT EXISTS {name}_relay (stream TEXT PRIMARY KEY, created TEXT NOT NULL, "
                "sequence INTEGER NOT NULL)"
            ),
        ),
        exists=f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{name}_relay'",
        add=add,
        add_many=add,
        read=_bounded(
            "SELECT serial, id, stream, key, 1 AS is_ready, envelope, '0' AS horizon, length(envelope) AS n "
            # One transaction writes at a time, so no row appears below another.
            f"FROM {name} WHERE (serial > ? OR ? <> '0') AND serial NOT IN {one_of} AND stream NOT IN {one_of} "
            f"AND (key = '' OR stream || '.' || key NOT IN {one_of}) ORDER BY serial LIMIT ?"
        ),
        delete=f"DELETE FROM {name} WHERE serial IN {one_of}",
        delete_ids=f"DELETE FROM {name} WHERE id IN {one_of}",
        bury=f"INSERT INTO {name}_dead (id, stream, key, added, envelope, reason) "
        f"SELECT id, stream, key, added, envelope, ? FROM {name} WHERE serial = ? "
        f"ON CONFLICT (id) DO UPDATE SET died = {now}, reason = excluded.reason",
        measure=f"SELECT count(*), {now} - min(added) FROM (SELECT added FROM {name} ORDER BY serial LIMIT 100000)",
        blocker="",
        lock="",
        **_common(name),
    )


def _postgresql(name: str) -> OutboxTable:
    row = "id text PRIMARY KEY, stream text NOT NULL, key text NOT NULL, envelope bytea NOT NULL"
    # A statement that only notifies would be another round trip.
    tell = f"SELECT pg_notify('{name}', '')"
    columns = f"INSERT INTO {name} (id, stream, key, envelope)"
    return OutboxTable(
        create=(
            (
                f"CREATE TABLE IF NOT EXISTS {name} (serial bigint GENERATED ALWAYS AS IDENTITY, {row}, "
                "added timestamptz NOT NULL DEFAULT clock_timestamp(), xid xid8 NOT NULL DEFAULT pg_current_xact_id())"
            ),
            f"CREATE UNIQUE INDEX IF NOT EXISTS {name}_serial ON {name} (serial)",
            (
                f"CREATE TABLE IF NOT EXISTS {name}_dead (serial bigint GENERATED ALWAYS AS IDENTITY, {row}, "
                "added timestamptz NOT NULL, died timestamptz NOT NULL DEFAULT clock_timestamp(), reason text NOT NULL)"
            ),
            (
                f"CREATE TABLE IF NOT EXISTS {name}_relay (stream text PRIMARY KEY, created text NOT NULL, "
                "sequence bigint NOT NULL)"
            ),
        ),
        exists=f"SELECT 1 WHERE to_regclass('{name}_relay') IS NOT NULL",
        add=f"WITH added AS ({columns} VALUES (?, ?, ?, ?)) {tell}",
        # WITH ORDINALITY: the serials follow the order of the lists.
        add_many=f"WITH added AS ({columns} SELECT id, stream, key, envelope "
        "FROM unnest(?::text[], ?::text[], ?::text[], ?::bytea[]) "
        f"WITH ORDINALITY AS given (id, stream, key, envelope, number) ORDER BY number) {tell}",
        read=_bounded(
            "SELECT serial, id, stream, key, xid < pg_snapshot_xmin(pg_current_snapshot()) AS is_ready, envelope, "
            "pg_snapshot_xmin(pg_current_snapshot())::text AS horizon, "
            f"octet_length(envelope) AS n FROM {name} "
            "WHERE (serial > ?::bigint OR xid >= ?::text::xid8) AND serial <> ALL (?::bigint[]) "
            "AND stream <> ALL (?::text[]) AND (key = '' OR stream || '.' || key <> ALL (?::text[])) "
            "ORDER BY serial LIMIT ?"
        ),
        delete=f"DELETE FROM {name} WHERE serial = ANY (?::bigint[])",
        delete_ids=f"DELETE FROM {name} WHERE id = ANY (?::text[])",
        bury=f"INSERT INTO {name}_dead (id, stream, key, added, envelope, reason) "
        f"SELECT id, stream, key, added, envelope, ?::text FROM {name} WHERE serial = ? "
        "ON CONFLICT (id) DO UPDATE SET died = clock_timestamp(), reason = excluded.reason",
        measure="SELECT count(*), extract(epoch FROM clock_timestamp() - min(added))::float8 "
        f"FROM (SELECT added FROM {name} ORDER BY serial LIMIT 100000) AS waiting",
        # Every role may read pg_locks; pg_stat_activity hides the transactions of other roles. A prepared transaction
        # has no process.
        blocker="SELECT held.pid, activity.application_name, activity.state, "
        "extract(epoch FROM clock_timestamp() - activity.xact_start)::float8 FROM pg_locks AS held "
        "LEFT JOIN pg_stat_activity AS activity ON activity.pid = held.pid WHERE held.locktype = 'transactionid' "
        "AND held.mode = 'ExclusiveLock' AND held.granted ORDER BY age(held.transactionid) DESC LIMIT 1",
        lock=f"SELECT pg_try_advisory_lock(hashtextextended('eda outbox ' || to_regclass('{name}')::oid::text, 0))",
        **_common(name),
    )
