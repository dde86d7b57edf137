"""The rows of an outbox as its relay reads and deletes them: one method for each transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

from eda.projections.outbox_cursor import OutboxCursor, OutboxRow
from eda.projections.outbox_table import OutboxTable
from eda.projections.sql_steps import Database, Sql, Steps

__all__ = ["Blocker", "Journal", "OutboxRows"]

# PostgreSQL: two processes that create the same table at the same time get an error in spite of IF NOT EXISTS.
_CREATE_LOCK = "SELECT pg_advisory_xact_lock(6644834)"


# As OutboxRow._make, in a third of the time: it is called for each row.
_row_of: Callable[[tuple[Any, ...]], OutboxRow] = partial(tuple.__new__, OutboxRow)


class Journal(NamedTuple):
    """What a relay stores before it sends rows into a stream: the rows that are not deleted come after `sequence`."""

    stream: str
    created: str
    sequence: int


class Blocker(NamedTuple):
    """The oldest transaction that is open in the database's server. `pid` is None for a prepared transaction."""

    pid: int | None
    application: str | None
    state: str | None
    age_s: float | None


class OutboxRows:
    """The rows of one outbox. Every method may raise the driver's errors, and may be called again after an outage."""

    def __init__(self, database: Database, table: OutboxTable) -> None:
        self._database = database
        self._table = table

    async def create(self) -> None:
        """Create the tables that are missing. If none is missing, no right to create tables is needed."""
        await self._database.run(self._create())

    def _create(self) -> Steps[None]:
        if (yield Sql(self._table.exists)).rows:
            return
        if self._database.dialect == "postgresql":
            yield Sql(_CREATE_LOCK)
        for text in self._table.create:
            yield Sql(text)

    async def read(
        self,
        n: int,
        after: OutboxCursor,
        *,
        serials: Collection[int],
        streams: Collection[str],
        keys: Collection[str],
    ) -> list[OutboxRow]:
        """Return the next `n` rows by serial, without these serials, streams and keys (`stream.key`)."""
        params = (after.serial, after.horizon, self._listed(serials), self._listed(streams), self._listed(keys), n)
        rows = await self._database.run(_rows(Sql(self._table.read, params)), writes=False)
        return list(map(_row_of, rows))

    async def delete(self, serials: Collection[int], journal: Journal | None = None) -> None:
        """Delete rows, and replace the journal of their stream in the same transaction."""
        steps = [Sql(self._table.delete, (self._listed(serials),))]
        if journal is not None:
            steps.append(Sql(self._table.note, journal))
        await self._database.run(_all(steps))

    async def delete_ids(self, ids: Collection[str]) -> int:
        """Delete the rows with these ids, and return how many there were."""
        return await self._database.run(_all([Sql(self._table.delete_ids, (self._listed(ids),))]))

    async def bury(self, reasons: Sequence[tuple[int, str]]) -> None:
        """Move rows to the table of dead rows: (serial, reason) of each."""
        steps = [Sql(self._table.bury, (reason, serial)) for serial, reason in reasons]
        steps.append(Sql(self._table.delete, (self._listed([serial for serial, _ in reasons]),)))
        await self._database.run(_all(steps))

    async def journal(self) -> list[Journal]:
        """Return the journal of each stream into which an earlier relay may have sent rows that are still there."""
        return [Journal._make(row) for row in await self._database.run(_rows(Sql(self._table.journal)), writes=False)]

    async def note(self, journal: Journal) -> None:
        """Store the journal of a stream."""
        await self._database.run(_all([Sql(self._table.note, journal)]))

    async def forget(self, stream: str) -> None:
        """Remove the journal of a stream: no row is on its way into it."""
        await self._database.run(_all([Sql(self._table.forget, (stream,))]))

    async def measure(self) -> tuple[int, float]:
        """Return the number of rows (at most 100,000) and the age of the oldest one in seconds; (0, 0.0) for none."""
        ((count, age_s),) = await self._database.run(_rows(Sql(self._table.measure)), writes=False)
        return count, max(age_s or 0.0, 0.0)

    async def blocker(self) -> Blocker | None:
        """Return the oldest open transaction; None if there is none, or if the database does not know of such."""
        if not self._table.blocker:
            return None
        rows = await self._database.run(_rows(Sql(self._table.blocker)), writes=False)
        return Blocker._make(rows[0]) if rows else None

    def _listed(self, values: Collection[Any]) -> Any:
        return json.dumps(list(values)) if self._database.dialect == "sqlite" else list(values)


def _rows(statement: Sql) -> Steps[list[tuple[Any, ...]]]:
    return (yield statement).rows


def _all(statements: Sequence[Sql]) -> Steps[int]:
    """Execute statements, and return how many rows the first one has changed."""
    changed = []
    for each in statements:
        changed.append((yield each).n_changed)
    return changed[0]
