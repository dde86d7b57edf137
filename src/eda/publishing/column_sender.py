"""`send_columns`: sends the rows of a table as events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from datetime import datetime
from typing import Any

from eda.publishing._columns import Columns
from eda.publishing._publisher_core import PublisherCore
from eda.publishing._sending import Sender
from eda.receipt import Receipt

__all__ = ["ColumnSender"]


class ColumnSender(Sender):
    """The part of a publisher that takes columns instead of events."""

    async def send_columns(
        self,
        *,
        type: str | list[str] | tuple[str, ...] = "",
        data: Any = None,
        id: str | list[str] | tuple[str, ...] = "",
        time: datetime | int | list[Any] | tuple[datetime | int | None, ...] | None = None,
        schema: str | list[str] | tuple[str, ...] = "",
        cause: str | Receipt | list[Any] | tuple[str | Receipt, ...] = "",
        client: str | list[str] | tuple[str, ...] = "",
        aggregate: str | list[str] | tuple[str, ...] = "",
        meta: Mapping[str, str] | list[Any] | tuple[Mapping[str, str] | None, ...] | None = None,
    ) -> list[str]:
        """Send an event for each row of a table, in order, and return the ids. Waits for room as `send` does.

        Each argument is a column, which is a list or tuple, or one value for all rows. At least one must be a column,
        and all columns have the same length. The values are those that `Event` takes; `data` may also be bytes, which
        are sent as `eda.Bytes` makes them. The columns are copied first, but not the values in them.

        Raises ConfigError, and sends nothing, for columns of different lengths, and for a wrong value that all rows
        have. Raises what `send` raises for the event of a row, and then names the row, counted from 0; a ConfigError
        also names the column. Then the rows before it were accepted, and no later ones. If the caller is cancelled, the
        events accepted so far are published.
        """
        given = {"type": type, "data": data, "id": id, "time": time, "schema": schema, "cause": cause}
        return await self._send_columns(Columns(given | {"client": client, "aggregate": aggregate, "meta": meta}))

    async def _send_columns(self, rows: Columns) -> list[str]:
        """Send the events of all rows, and return their ids."""
        ids: list[str] = []
        await self._send_rows(rows, lambda core, at: rows.accept(self, at, ids))
        return ids

    async def _send_rows(self, rows: Sized, accept: Callable[[PublisherCore, int], int]) -> None:
        """Wait for room and call `accept`, until all rows are sent. It begins at a row, and returns the next one."""
        raise NotImplementedError
