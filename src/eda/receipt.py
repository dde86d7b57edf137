"""Receipt: says where a published event is stored."""

from __future__ import annotations

import msgspec

__all__ = ["Receipt"]


class Receipt(msgspec.Struct, frozen=True, gc=False):  # a Struct: quick to make, once for each publish
    """Where an event is stored. `str(receipt)` is the event's id. An Event's `cause` takes a receipt, too.

    `id`: the event's id. `stream` and `sequence`: where the event is stored. `index`: its index in a pack, 0 for an
    event on its own. `duplicate`: whether the stream already had an event with this id; then `sequence` is the
    sequence of the first copy. None: not known. `position`: the value for which a read model waits; its parts
    may change.
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
        """Return where the event is stored, as one opaque value."""
        return self.stream, self.sequence, self.index
