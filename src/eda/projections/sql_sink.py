"""`SqlSink`: positions in the tables of a database, written once for all databases."""

from __future__ import annotations

import time as clock
from collections.abc import Hashable
from dataclasses import replace
from typing import TypeVar

from eda.projection_errors import TransactionEnded
from eda.projections.sink import ClaimLost, PositionRow, ViewVersion, Work
from eda.projections.sql_steps import Call, Database, Sql, Steps, Unreachable
from eda.projections.tables import (
    DELETE_POSITIONS,
    INSERT_POSITION,
    IS_OPEN,
    MOVE,
    MOVE_IF_OPEN,
    PROMOTE,
    PROMOTE_FIRST,
    RELEASE,
    TAKE_OVER,
    TOUCH,
    create_tables,
    find_one,
    has_tables,
    read_positions,
    read_rows,
    read_views,
)

__all__ = ["SqlSink", "move_steps"]

T = TypeVar("T")

N_CAUSES = 8  # how many causes of an error are looked at

SAVEPOINT = Sql("SAVEPOINT eda_apply")
RELEASE_SAVEPOINT = Sql("RELEASE SAVEPOINT eda_apply")
ROLLBACK_TO = Sql("ROLLBACK TO SAVEPOINT eda_apply")


class SqlSink:
    """A sink in a database: the base of all sinks of `eda.sql`. Users make it through these, or with `from_url`.

    Several projections, views and outboxes of one process may share it.
    """

    is_transactional: bool = True

    def __init__(self, database: Database) -> None:
        self.database = database
        self.label: str = database.label
        self.max_lanes: int | None = database.max_lanes
        self._has_tables = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    def check_apply(self, *, is_async: bool) -> None:
        """Raise ConfigError if apply must be of the other kind: a plain function, or an async def."""
        self.database.check_apply(is_async=is_async)

    async def open(self, *, creates_tables: bool = True) -> None:
        """Connect, and create the tables `eda_positions` and `eda_views` if they are missing."""
        await self.database.open()
        self._has_tables = await self._read(has_tables(self.database.dialect))
        if creates_tables and not self._has_tables:
            await self.database.run(create_tables(self.database.dialect))
            self._has_tables = True

    async def close(self) -> None:
        """Close the connections that this sink has opened itself."""
        await self.database.close()

    async def rows(self, name: str, version: int, stream: str) -> list[PositionRow]:
        """Return the positions of a projection in a stream, by lane."""
        return await self._read(self._if_tables(read_rows(name, version, stream), []))

    async def claim(
        self, name: str, version: int, stream: str, *, seen: list[PositionRow], created: str, lanes: int
    ) -> list[PositionRow] | None:
        """Take over all lanes in one transaction, or return None if the rows are not `seen` any more."""
        now = clock.time()
        rows = seen or [PositionRow(stream, lane, created) for lane in range(lanes)]
        try:
            return await self.database.run(_claim(name, version, rows, now, are_new=not seen))
        except ClaimLost:
            return None

    async def touch(self, name: str, version: int, rows: list[PositionRow]) -> None:
        """Write `updated` of the rows, in one transaction. Raises ClaimLost."""
        await self.database.run(_touch(name, version, rows, clock.time()))

    async def release(self, name: str, version: int, rows: list[PositionRow]) -> None:
        """Set `updated` of the rows to 0. Rows that other members have taken over stay as they are."""
        await self.database.run(_release(name, version, rows))

    async def move(
        self,
        name: str,
        version: int,
        row: PositionRow,
        *,
        sequence: int,
        index: int,
        time: int,
        work: Work | None,
        timeout_s: float | None = None,
    ) -> PositionRow:
        """Do the work and move the lane's row, in one transaction. Return the new row when it is committed."""
        new = row.moved(sequence, index, time)
        lane: Hashable = None if work is None else (name, version, row.stream, row.lane)
        steps = move_steps(self.database, name, version, row, new, work)
        return await self.database.run(steps, lane=lane, timeout_s=timeout_s)

    async def find(self, name: str, version: int, row: PositionRow) -> PositionRow | None:
        """Return the lane's row as it is stored, after all transactions that could still change it."""
        # With the lane's connections, because it waits as long as the old transaction.
        lane = (name, version, row.stream, row.lane)
        return await self.database.run(find_one(self.database.dialect, name, version, row), lane=lane)

    async def discard(self, name: str, version: int) -> None:
        """Remove all positions of one version of a projection."""
        await self.database.run(_one(Sql(DELETE_POSITIONS, (name, version))))

    async def versions(self, name: str | None = None) -> list[ViewVersion]:
        """Return the versions of a projection, or of all projections, by name and version."""
        return await self._read(self._if_tables(_versions(name), []))

    async def current(self, name: str) -> int | None:
        """Return which version views of this name read; None if there is none."""
        views = await self._read(self._if_tables(read_views(name), {}))
        return views.get(name)

    async def promote(self, name: str, version: int, *, only_first: bool = False) -> bool:
        """Let views read this version. Return whether this changed the version."""
        text = PROMOTE_FIRST if only_first else PROMOTE
        return await self.database.run(_one(Sql(text, (name, version)))) > 0

    def is_outage(self, error: BaseException) -> bool:
        """Return whether this error, or an error that it was raised from, is the database's trouble."""
        return _is_outage(self.database, error)

    async def _read(self, steps: Steps[T]) -> T:
        return await self.database.run(steps, writes=False)

    def _if_tables(self, steps: Steps[T], default: T) -> Steps[T]:
        """Drive the steps if the tables exist; they may have been created since the sink was opened."""
        if not self._has_tables:
            self._has_tables = yield from has_tables(self.database.dialect)
        if not self._has_tables:
            return default
        return (yield from steps)


def move_steps(
    database: Database, name: str, version: int, row: PositionRow, new: PositionRow, work: Work | None
) -> Steps[PositionRow]:
    """Do the work and write the new row over the old one, in the transaction that is driven. Return the new row."""
    is_marked = work is not None and database.marks_transactions
    if work is not None:
        if not is_marked:
            yield SAVEPOINT
        try:
            yield Call(work)
        except BaseException as error:
            # Without this look, apply would be called again with events whose rows it has committed itself.
            yield from _end_savepoint(database, ROLLBACK_TO, name, version, error)
            yield from _check_claim(database, name, version, row, error)
            raise
        if not is_marked:
            yield from _end_savepoint(database, RELEASE_SAVEPOINT, name, version, None)
    # The last statement: the row is locked for as short as possible, and a new owner is noticed as late as possible.
    values = (new.sequence, new.index, new.time, new.updated, name, version, *_fence(row))
    if is_marked:
        n_changed = yield from _move_if_open(database, name, version, values)
    else:
        n_changed = (yield Sql(MOVE, values)).n_changed
    if n_changed != 1:
        raise ClaimLost(f"{name!r} version {version}, stream {row.stream!r}, lane {row.lane}")
    return new


def _move_if_open(database: Database, name: str, version: int, values: tuple[str | float, ...]) -> Steps[int]:
    """Move the row if the marked transaction is still open, and return how many rows were changed.

    The same statement looks for the mark, so that no other round trip is needed. Raises TransactionEnded.
    """
    try:
        n_changed = (yield Sql(MOVE_IF_OPEN, values)).n_changed
    except Exception as error:
        # PostgreSQL refuses the statement if apply has caught an error of the database.
        yield from _end_savepoint(database, ROLLBACK_TO, name, version, error)
        raise
    if n_changed != 1:
        ((is_open,),) = (yield Sql(IS_OPEN)).rows
        if not is_open:
            raise TransactionEnded(name, version)
    return n_changed


def _end_savepoint(
    database: Database, statement: Sql, name: str, version: int, failure: BaseException | None
) -> Steps[None]:
    """Raise TransactionEnded if the savepoint is gone: then apply has ended the transaction in which it was set."""
    try:
        yield statement
    except Exception as error:
        # After a full disk or a failed read, SQLite itself has rolled back. PostgreSQL keeps the savepoint.
        is_rolled_back = database.dialect == "sqlite" and failure is not None and _is_outage(database, failure)
        if database.lost_savepoint(error) and not is_rolled_back:
            raise TransactionEnded(name, version) from (failure or error)
        if failure is None:
            # PostgreSQL refuses the statement if apply has caught an error of the database, and does not say whether
            # the savepoint is there. To roll back to it is allowed.
            yield from _end_savepoint(database, ROLLBACK_TO, name, version, error)
            raise
        if isinstance(failure, Exception) and _is_outage(database, error):
            raise error from failure  # whatever apply made of it, the connection is lost


def _check_claim(database: Database, name: str, version: int, row: PositionRow, failure: BaseException) -> Steps[None]:
    """Raise ClaimLost if another member has taken the lane over: its rows may be the reason why apply has failed.

    It has applied the same events, so a unique constraint may have refused them.
    """
    if not isinstance(failure, Exception) or _is_outage(database, failure):
        return
    try:
        found = yield from find_one(database.dialect, name, version, row)
    except Exception as error:
        if _is_outage(database, error):  # such as a serialization failure, because the row was changed
            raise error from failure
        return
    if found is None or _fence(found) != _fence(row):
        raise ClaimLost(f"{name!r} version {version}, stream {row.stream!r}, lane {row.lane}") from failure


def _is_outage(database: Database, error: BaseException) -> bool:
    cause: BaseException | None = error
    for _ in range(N_CAUSES):
        if cause is None:
            return False
        if isinstance(cause, Unreachable) or database.is_outage(cause):
            return True
        if isinstance(cause, BaseExceptionGroup) and any(_is_outage(database, each) for each in cause.exceptions):
            return True  # apply has used a TaskGroup
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False


def _claim(name: str, version: int, rows: list[PositionRow], now: float, *, are_new: bool) -> Steps[list[PositionRow]]:
    claimed = []
    for row in rows:
        if are_new:
            statement = Sql(INSERT_POSITION, (name, version, row.stream, row.lane, row.created, now))
        else:
            fence = (name, version, *_fence(row), row.updated)
            statement = Sql(TAKE_OVER, (row.owner_epoch + 1, now, *fence))
        if (yield statement).n_changed != 1:
            raise ClaimLost
        claimed.append(replace(row, owner_epoch=row.owner_epoch + 1, updated=now))
    return claimed


def _touch(name: str, version: int, rows: list[PositionRow], now: float) -> Steps[None]:
    for row in rows:
        params = (now, name, version, row.stream, row.lane, row.owner_epoch)
        if (yield Sql(TOUCH, params)).n_changed != 1:
            raise ClaimLost(f"{name!r} version {version}, stream {row.stream!r}, lane {row.lane}")


def _release(name: str, version: int, rows: list[PositionRow]) -> Steps[None]:
    for row in rows:
        yield Sql(RELEASE, (name, version, row.stream, row.lane, row.owner_epoch))


def _versions(name: str | None) -> Steps[list[ViewVersion]]:
    views = yield from read_views(name)
    found: dict[tuple[str, int], list[PositionRow]] = {each: [] for each in views.items()}
    for of, version, row in (yield from read_positions(name)):
        found.setdefault((of, version), []).append(row)
    return [ViewVersion(*each, views.get(each[0]) == each[1], tuple(rows)) for each, rows in sorted(found.items())]


def _one(statement: Sql) -> Steps[int]:
    return (yield statement).n_changed


def _fence(row: PositionRow) -> tuple[str | int, ...]:
    return (row.stream, row.lane, row.created, row.sequence, row.index, row.time, row.owner_epoch)
