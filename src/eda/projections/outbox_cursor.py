"""Which rows of an outbox need not be looked at again when the next rows are read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

__all__ = ["OutboxCursor", "OutboxRow"]


class OutboxRow(NamedTuple):
    """A row of an outbox. `is_ready`: no transaction that is still open can add a row before it.

    `horizon`: the oldest transaction that was open when the row was read; "0" in SQLite.
    """

    serial: int
    id: str
    stream: str
    key: str
    is_ready: bool
    envelope: bytes
    horizon: str


class OutboxCursor:
    """Rows up to `serial` are taken or deleted already, unless `horizon` or a later transaction has added them.

    A serial is given when a row is added, and the row can be seen when its transaction has ended. So rows may appear
    below `serial`, but only those of transactions that were open at the last read.
    """

    def __init__(self) -> None:
        self.serial: int = 0
        self.horizon: str = "0"

    def reset(self) -> None:
        """Read from the beginning again: some rows were left out or given back, so they are not taken."""
        self.serial, self.horizon = 0, "0"

    def advance(self, rows: Sequence[OutboxRow], taken: Collection[int]) -> None:
        """Note rows that were read after this cursor, in order. Those before the first that is not ready are taken.

        `taken`: the serials that were taken before.
        """
        if not rows:
            return
        reads_all = self.serial == 0
        n_ready = next((number for number, row in enumerate(rows) if not row.is_ready), len(rows))
        if rows[-1].serial < self.serial or (n_ready < len(rows) and rows[n_ready].serial <= self.serial):
            self.reset()  # there may be more such rows, and those that are taken now would be read again
            return
        if n_ready:
            self.serial = max(self.serial, rows[n_ready - 1].serial)
        self.horizon = rows[0].horizon
        if reads_all and max(taken, default=0) > self.serial:
            self.reset()  # rows that were given back are read below others that are taken still
