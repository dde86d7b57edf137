"""Receipt: what a publisher learns of an event that is stored."""

from __future__ import annotations

import msgspec

__all__ = ["Receipt"]


class Receipt(msgspec.Struct, frozen=True, gc=False):  # a Struct, because one is made for each publish
    """Say where an event is stored. `str(receipt)` is the event's id, and an Event's `cause` takes a receipt.

    `id`: the event's id; `stream` and `sequence`: its place; `index`: its place in a pack, 0 for an event on its own.
    `duplicate`: whether the stream had the id already, and `sequence` is the place of the first copy; None where the
    server does not tell. `position` is what a read model waits for; what is in it may change.
    """

    id: str
    stream: str
    sequence: int
    index: int = 0
    duplicate: bool | None = None

    def __str__(self) -> str:
        return self.id

    @property
    def position(self) -> tuple[str, int, int]:
        """The place as one opaque value."""
        return self.stream, self.sequence, self.index
