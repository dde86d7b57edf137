"""`Outbox`: events that a transaction of the user leaves in a table. The relay publishes them afterwards."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Iterable
from functools import lru_cache
from typing import Any

from eda._codec import encode_event
from eda._event import Event
from eda._nuid import next_nuid
from eda.errors import CodecError, ConfigError
from eda.jetstream.subjects import check_stream_name, escape_token, fits_protocol_line, subject_of
from eda.projections.outbox_rows import OutboxRows
from eda.projections.outbox_table import OutboxTable, check_table_name, table_for
from eda.projections.outbox_writing import Done, Row, writer_of
from eda.projections.relay_signals import check_into
from eda.projections.sink import Sink
from eda.projections.sink_users import close_sink, open_sink
from eda.projections.sql_sink import SqlSink
from eda.projections.sql_steps import Dialect
from eda.publishing._stream_sender import check_event_id

__all__ = ["Outbox"]

MAX_BYTES = 2**26  # the largest max_payload that nats-server takes
N_HEADER = 27  # bytes of the header that carries the id, without the id

_table_for = lru_cache(table_for)


class Outbox:
    """A table in the user's database, in which events wait until they are published.

    `add` writes into it within the user's transaction. So the events are published if and only if the transaction is
    committed. `conn.relay(outbox)`, or the command `eda outbox relay`, publishes them and deletes their rows. `into` is
    the database, as for projections. Several outboxes in one database have different names of their `table`.
    `max_event_bytes`: larger events are refused when they are added. Set it to your server's `max_payload`.

    Raises ConfigError.
    """

    def __init__(self, into: Sink, table: str = "eda_outbox", *, max_event_bytes: int = 2**20) -> None:
        self.table: str = check_table_name(table)
        self._max_event_bytes = _check_bytes(max_event_bytes)
        self.into: SqlSink = check_into(into)

    def __repr__(self) -> str:
        return f"<Outbox {self.table} in {self.into.label}>"

    def add(self, tx: Any, stream: str, event: Event) -> Awaitable[str]:
        """Add an event for a stream to the outbox, within the transaction of `tx`. Return the event's id.

        `tx` is the connection with which your code writes: sqlite3.Connection, psycopg's Connection or AsyncConnection,
        asyncpg's Connection, or SQLAlchemy's AsyncConnection or AsyncSession. With a plain connection, the row is
        written when the call returns, and `await` is allowed but not needed. Otherwise the call must be awaited.

        An event without an id or a time gets them now. The events of one aggregate are published in the order in which
        they were added if each transaction locks the aggregate's row before it calls `add`.

        Raises ConfigError or EncodeError before anything is written, and the driver's errors: adding an id twice
        violates the table's primary key.
        """
        return self._write(tx, [self._row(stream, event)], is_one=True)

    def add_many(self, tx: Any, stream: str, events: Iterable[Event]) -> Awaitable[list[str]]:
        """Add events in their order, with one statement, and return their ids. Everything else is as in `add`."""
        if isinstance(events, str | bytes | dict) or not isinstance(events, Iterable):
            raise ConfigError(
                f"events must be an iterable of eda.Event, not {type(events).__name__}", argument="events"
            )
        rows: list[Row] = []
        numbers: dict[str, int] = {}
        for number, event in enumerate(events):
            try:
                row = self._row(stream, event)
            except (ConfigError, CodecError) as error:
                error.add_note(f"events[{number}]")
                raise
            if numbers.setdefault(row[0], number) != number:
                message = f"events[{number}] has the id of events[{numbers[row[0]]}]: {row[0]}"
                raise ConfigError(message, argument="events")
            rows.append(row)
        return self._write(tx, rows, is_one=False)

    def _write(self, tx: Any, rows: list[Row], *, is_one: bool) -> Awaitable[Any]:
        dialect, write = writer_of(tx)
        ids = [row[0] for row in rows]
        result = ids[0] if is_one else ids
        writing = write(self.statements(dialect), rows) if rows else None
        return Done(result) if not inspect.iscoroutine(writing) else _then(writing, result)

    def _row(self, stream: str, event: Event) -> Row:
        """Return the row of an event. Raises ConfigError or EncodeError if the event could never be published."""
        stream = check_stream_name(stream)
        if type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        event_id = event.id or next_nuid()
        check_event_id(event_id)
        envelope = encode_event(event, event_id, "", time.time_ns())
        if not fits_protocol_line(subject_of(stream, event.type, event.aggregate)):
            message = "type and aggregate make a subject too long for the server's protocol line"
            raise ConfigError(message, argument="aggregate")
        n_bytes = N_HEADER + len(event_id) + len(envelope)
        if n_bytes > self._max_event_bytes:
            raise ConfigError(
                f"an event of {n_bytes} bytes is over the outbox's max_event_bytes of {self._max_event_bytes}",
                argument="data",
            )
        # A token has only characters that every database can store.
        return event_id, stream, escape_token(event.aggregate) if event.aggregate else "", envelope

    async def create(self) -> None:
        """Create the tables if they are missing. A relay does the same when it opens.

        The tables are those of the outbox, of its dead rows (`<table>_dead`), and of its relay (`<table>_relay`).
        Raises the driver's errors.
        """
        database = self.into.database
        try:
            await open_sink(self.into, creates_tables=False)
            await OutboxRows(database, self.statements(database.dialect)).create()
        finally:
            await close_sink(self.into)

    def ddl(self, dialect: Dialect) -> list[str]:
        """Return the statements that make the tables, for "postgresql" or "sqlite": for tools that migrate schemas."""
        if dialect not in ("postgresql", "sqlite"):
            raise ConfigError(f"dialect must be 'postgresql' or 'sqlite', not {dialect!r}", argument="dialect")
        return list(self.statements(dialect).create)

    def statements(self, dialect: Dialect) -> OutboxTable:
        """Return the statements for this outbox."""
        return _table_for(self.table, dialect)


async def _then(writing: Any, result: object) -> object:
    await writing
    return result


def _check_bytes(n_bytes: object) -> int:
    if not isinstance(n_bytes, int) or isinstance(n_bytes, bool) or not 1 <= n_bytes <= MAX_BYTES:
        message = f"max_event_bytes must be an int from 1 to {MAX_BYTES}, not {n_bytes!r}"
        raise ConfigError(message, argument="max_event_bytes")
    return n_bytes
