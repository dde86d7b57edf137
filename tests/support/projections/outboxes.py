"""Transactions that leave events in an outbox, for every kind of database, and what is in its tables."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import eda
import eda.sql
from eda.projections.sql_steps import Call, Sql, Steps
from support.projections.sinks import Place

__all__ = ["Box"]


class Box:
    """An outbox in a place, through whatever driver the place has."""

    def __init__(self, place: Place, **options: Any) -> None:
        self.place = place
        self.sink = place.sink()
        self.outbox = eda.sql.Outbox(self.sink, **options)

    def another(self) -> Box:
        """Return the same outbox as another process has it."""
        return Box(self.place, table=self.outbox.table)

    async def transaction(self, work: Callable[[Any], object]) -> None:
        """Call a function with the driver's connection in a transaction, await what it returns, and commit."""

        async def work_async(tx: Any) -> None:
            returned = work(tx)
            if inspect.isawaitable(returned):
                await returned

        def work_plain(tx: Any) -> None:
            work(tx)

        await self.sink.database.run(_call(work_async if self.place.kind.is_async else work_plain), lane="of the test")

    async def add(self, stream: str, *events: eda.Event) -> None:
        """Add events in one transaction."""
        await self.transaction(lambda tx: self.outbox.add_many(tx, stream, events))

    async def ids(self, table: str = "") -> list[str]:
        """Return the ids in the table of the outbox, or in another of its tables, in order."""
        rows = await self.rows(f"SELECT id FROM {self.outbox.table}{table} ORDER BY serial")
        return [event_id for (event_id,) in rows]

    async def rows(self, text: str) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""
        return await self.sink.database.run(_rows(text))


def _call(work: Callable[[Any], object]) -> Steps[None]:
    yield Call(work)


def _rows(text: str) -> Steps[list[tuple[Any, ...]]]:
    return (yield Sql(text)).rows
