"""A sink in memory, which a test can let fail: rows of several members of one process."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eda.projections.sink import ClaimLost, PositionRow, ViewVersion, Work

__all__ = ["MemorySink", "Outage"]


class Outage(Exception):
    """The database does not work."""


class MemorySink:
    """Rows in memory. `fails`: called with the name of each method first; it may raise. `calls`: their names.

    A transaction is a list, and what apply appends to it is in `applied` once it is committed. `fails` is also called
    with "commit" before a commit, and with "committed" after it.
    """

    label = "memory"
    is_transactional = True
    max_lanes: int | None = None

    def __init__(self, fails: Callable[[str], None] = lambda method: None) -> None:
        self.fails = fails
        self.calls: list[str] = []
        self.stored: dict[tuple[str, int, str], list[PositionRow]] = {}
        self.pointers: dict[str, int] = {}
        self.applied: list[Any] = []
        self.is_open = False
        self._clock = itertools.count(1)

    def _begin(self, method: str) -> None:
        self.calls.append(method)
        self.fails(method)

    def check_apply(self, *, is_async: bool) -> None:
        pass

    async def open(self, *, creates_tables: bool = True) -> None:
        self._begin("open")
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def rows(self, name: str, version: int, stream: str) -> list[PositionRow]:
        self._begin("rows")
        return list(self.stored.get((name, version, stream), []))

    async def claim(
        self, name: str, version: int, stream: str, *, seen: list[PositionRow], created: str, lanes: int
    ) -> list[PositionRow] | None:
        self._begin("claim")
        if self.stored.get((name, version, stream), []) != seen:
            return None
        before = seen or [PositionRow(stream, lane, created) for lane in range(lanes)]
        now = next(self._clock)
        rows = [replace(row, owner_epoch=row.owner_epoch + 1, updated=now) for row in before]
        self.stored[name, version, stream] = rows
        return list(rows)

    def _own(self, name: str, version: int, row: PositionRow) -> list[PositionRow]:
        rows = self.stored[name, version, row.stream]
        if rows[row.lane].owner_epoch != row.owner_epoch:
            raise ClaimLost
        return rows

    async def touch(self, name: str, version: int, rows: list[PositionRow]) -> None:
        self._begin("touch")
        for row in rows:
            stored = self._own(name, version, row)
            stored[row.lane] = replace(stored[row.lane], updated=next(self._clock))

    async def release(self, name: str, version: int, rows: list[PositionRow]) -> None:
        self._begin("release")
        for row in rows:
            stored = self.stored[name, version, row.stream]
            if stored[row.lane].owner_epoch == row.owner_epoch:
                stored[row.lane] = replace(stored[row.lane], updated=0)

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
        self._begin("move")
        tx: list[Any] = []
        if work is not None:
            returned: Any = work(tx)
            if inspect.isawaitable(returned):
                await returned
        self.fails("commit")
        stored = self._own(name, version, row)
        moved = replace(row, sequence=sequence, index=index, time=time, updated=next(self._clock))
        stored[row.lane] = moved
        self.applied += tx
        self.fails("committed")
        return moved

    async def find(self, name: str, version: int, row: PositionRow) -> PositionRow | None:
        self._begin("find")
        rows = self.stored.get((name, version, row.stream), [])
        return rows[row.lane] if row.lane < len(rows) else None

    async def discard(self, name: str, version: int) -> None:
        self._begin("discard")
        for key in [key for key in self.stored if key[:2] == (name, version)]:
            del self.stored[key]

    async def versions(self, name: str | None = None) -> list[ViewVersion]:
        self._begin("versions")
        found: dict[tuple[str, int], list[PositionRow]] = {}
        for (each, version, _), rows in sorted(self.stored.items()):
            if name in (None, each):
                found.setdefault((each, version), []).extend(rows)
        return [
            ViewVersion(each, version, self.pointers.get(each) == version, tuple(rows))
            for (each, version), rows in found.items()
        ]

    async def current(self, name: str) -> int | None:
        self._begin("current")
        return self.pointers.get(name)

    async def promote(self, name: str, version: int, *, only_first: bool = False) -> bool:
        self._begin("promote")
        if self.pointers.get(name) == version or (only_first and name in self.pointers):
            return False
        self.pointers[name] = version
        return True

    def is_outage(self, error: BaseException) -> bool:
        return isinstance(error, Outage)
