"""What a projection asks of the place where its rows are: the protocol `Sink`, and the rows of its positions."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

__all__ = [
    "WHOLE",
    "ClaimLost",
    "CommitUnknown",
    "Move",
    "Moves",
    "MovesOn",
    "PositionRow",
    "Sink",
    "UpTo",
    "ViewVersion",
    "Work",
    "lowest_up_to",
    "place_text",
]

WHOLE = 2**63 - 1  # the index in a place after which no event of the message is left

# A projection's function with its events: it gets the transaction, and may return an awaitable.
Work = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class UpTo:
    """Up to which event a lane has applied its stream, or passed it: three columns of its row.

    `sequence` and `index` name the event: its message, and its place in a pack (0 for an ordinary message). Sequence
    0: no event yet. `time`: when the stream stored the message, in nanoseconds since 1970; 0: not known. While events
    of the message after `index` may be left to apply, `time` is negative. Otherwise the whole message is applied.
    """

    sequence: int
    index: int
    time: int

    @property
    def is_part(self) -> bool:
        """Return whether events of the message `sequence` may be left to apply."""
        return self.time < 0

    @property
    def stored_ns(self) -> int:
        """Return when the stream stored the message, in nanoseconds since 1970; 0: not known."""
        return abs(self.time)

    @property
    def place(self) -> tuple[int, int]:
        """Return the sequence and the index up to which all is applied. Places are compared, and UpTo is not."""
        return self.sequence, self.index if self.time < 0 else WHOLE

    def place_of(self) -> tuple[int, int]:
        """Return `place`; a function for `min` and `max`."""
        return self.place

    @property
    def whole(self) -> int:
        """Return the sequence up to which all messages are wholly applied."""
        return self.sequence - 1 if self.time < 0 else self.sequence


def place_text(place: tuple[int, int]) -> str:
    """Return a place in a stream as messages show it: `7` for a whole message, `7.2` for an event of a pack."""
    sequence, index = place
    return str(sequence) if index == WHOLE else f"{sequence}.{index}"


@dataclass(frozen=True, slots=True)
class PositionRow:
    """The position of one lane of a projection in one stream, as the sink stores it.

    `created`: when the stream was created, as the server tells it. `sequence` and `index` say up to which event the
    lane has applied the stream; sequence 0: none yet. `time`: when the stream stored the message `sequence`, in
    nanoseconds since 1970; 0: not known. It is negative while only a part of that message, a pack, is applied: its
    events up to `index`. `owner_epoch`: how often a member has taken the lane over. `updated`: when the row was last
    written, in seconds by the sink's clock; 0: its owner has released it.
    """

    stream: str
    lane: int
    created: str
    sequence: int = 0
    index: int = 0
    time: int = 0
    owner_epoch: int = 0
    updated: float = 0.0

    @property
    def up_to(self) -> UpTo:
        """Return up to which event the lane has applied the stream."""
        return UpTo(self.sequence, self.index, self.time)

    def moved(self, sequence: int, index: int, time: int) -> PositionRow:
        """Return the row after it was moved to an event now."""
        return PositionRow(self.stream, self.lane, self.created, sequence, index, time, self.owner_epoch, clock.time())


def lowest_up_to(rows: Iterable[PositionRow]) -> UpTo:
    """Return up to which event all lanes have applied their stream."""
    return min((row.up_to for row in rows), key=UpTo.place_of)


@dataclass(frozen=True, slots=True)
class ViewVersion:
    """One version of a projection as the sink knows it. `is_current`: whether views of its name read this version."""

    name: str
    version: int
    is_current: bool
    rows: tuple[PositionRow, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """One transaction of a lane: the work, and the position that is stored with it."""

    sequence: int
    index: int
    time: int
    work: Work


class ClaimLost(Exception):
    """The row of a lane is not what this member wrote last: another member has taken the lane over."""


class CommitUnknown(Exception):
    """The answer to a commit was lost. `__cause__` is the driver's error. The transaction may be stored or not."""


class Sink(Protocol):
    """The place where a projection's rows and positions are. `eda.sql` has sinks for databases; users may bring more.

    Every method may raise the driver's errors; `is_outage` says which of them are the database's trouble.
    """

    label: str
    """names the sink in messages, without passwords: "SQLite read.db" """
    is_transactional: bool
    """whether rows and position change together. If not, events may be applied again after a crash"""
    max_lanes: int | None
    """how many lanes can work at the same time; None: any number"""

    def check_apply(self, *, is_async: bool) -> None:
        """Raise ConfigError if this sink can't call a function of this kind; the message says which sink can."""

    async def open(self, *, creates_tables: bool = True) -> None:
        """Connect, and create the tables of eda if they are missing. Calling it again changes nothing.

        A view opens it with `creates_tables=False`, because its user may only be allowed to read. Then `rows`,
        `versions` and `current` find nothing while there are no tables.
        """

    async def close(self) -> None:
        """Close the connections that this sink has opened itself. It may be opened again."""

    async def rows(self, name: str, version: int, stream: str) -> list[PositionRow]:
        """Return the positions of a projection in a stream, by lane; an empty list if it never ran."""

    async def claim(
        self, name: str, version: int, stream: str, *, seen: list[PositionRow], created: str, lanes: int
    ) -> list[PositionRow] | None:
        """Take over all lanes, in one transaction: each `owner_epoch` grows by 1. Return the new rows.

        `seen` are the rows as `rows` returned them; with an empty list, the rows of `lanes` lanes are made, for the
        stream created at `created`. Return None if the rows are not those any more: another member was faster.
        """

    async def touch(self, name: str, version: int, rows: list[PositionRow]) -> None:
        """Write `updated` of the rows, in one transaction, so that standbys see a living owner. Raises ClaimLost."""

    async def release(self, name: str, version: int, rows: list[PositionRow]) -> None:
        """Set `updated` of the rows to 0, so that a standby takes them over at once. Rows of other owners stay."""

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
        """Do the work and move the lane's row, in one transaction. Return the new row when it is committed.

        `work` gets the transaction; what it raises is raised unchanged, after a rollback. Raises TransactionEnded if
        the work ended the transaction, ClaimLost if the row is not `row` any more, and CommitUnknown if the outcome of
        the commit is unknown. Then `find` tells it; a caller that is cancelled asks `find` as well.

        `sequence`, `index` and `time` are stored as they are, and `rows`, `find` and `versions` return them unchanged:
        see `PositionRow`. `time` may be negative.

        `timeout_s`: the database should end the transaction if this process does nothing in it for this long, so that
        a frozen process does not keep its locks. A sink that can't do this ignores it.
        """

    async def find(self, name: str, version: int, row: PositionRow) -> PositionRow | None:
        """Return the lane's row as it is stored, after all transactions that could still change it; None: it is gone.

        The row is locked for a moment, so that a transaction whose commit had no answer can't land later.
        """

    async def discard(self, name: str, version: int) -> None:
        """Remove all positions of one version of a projection."""

    async def versions(self, name: str | None = None) -> list[ViewVersion]:
        """Return the versions of a projection, or of all projections, by name and version."""

    async def current(self, name: str) -> int | None:
        """Return which version views of this name read; None: no projection of this name was opened yet."""

    async def promote(self, name: str, version: int, *, only_first: bool = False) -> bool:
        """Let views read this version, in one transaction. With `only_first`, change nothing if a version is set.

        Return whether the version was changed.
        """

    def is_outage(self, error: BaseException) -> bool:
        """Return whether an error is the database's trouble and not the event's: try again, and count no attempt.

        Lost connections, serialization failures, deadlocks, locks that were not granted, a server that starts or stops.
        """


class Moves(Protocol):
    """The transactions of one lane, as a sink asks for them in its thread."""

    def next(self) -> Move | None:
        """Return what the next transaction does; None: nothing more should begin now. The first call returns a move."""

    def moved(self, row: PositionRow) -> None:
        """Note that the row was moved here, after the commit of each transaction."""


@runtime_checkable
class MovesOn(Protocol):
    """A sink that can go from one transaction to the next without waiting for the event loop."""

    async def move_on(self, name: str, version: int, row: PositionRow, moves: Moves) -> None:
        """Do one move after the other, each as `Sink.move` does, until there is none, or others need the sink.

        Raises the error of the move that failed, which is the last one that was asked for.
        """
