"""Results of the event store: a loaded aggregate, and an append that was stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from eda._event import Event
from eda.receipt import Receipt
from eda.store_errors import VersionConflict

__all__ = ["Appended", "Loaded", "stored_result"]

S = TypeVar("S")


class Loaded(msgspec.Struct, Generic[S], frozen=True):
    """An aggregate as a load has found it. Give it to `append` as `expected`.

    `state`: the state after `version`, or None if the store has no decider. `version`: the number of the aggregate's
    events; 0 if it has none. `events`: the events after the snapshot, or all if there is none. `stream` and `sequence`:
    where the aggregate's last event is stored; `last_id`: the id of this event. Without events they are 0 and "".
    """

    aggregate: str
    state: S = None  # type: ignore[assignment]  # a store without a decider has S = None
    version: int = 0
    events: list[Event] = msgspec.field(default_factory=list)
    stream: str = ""
    sequence: int = 0
    last_id: str = ""

    @property
    def exists(self) -> bool:
        """Return whether the aggregate has events."""
        return self.version > 0

    @property
    def position(self) -> tuple[str, int, int]:
        """Return where the aggregate's last event is stored, as one opaque value, like `Receipt.position`."""
        return self.stream, self.sequence, 0


class Appended(msgspec.Struct, Generic[S], frozen=True):  # a Struct: quick to make, once for each append
    """An append or a command whose events are stored.

    `version`: the aggregate's version after the last of these events. `receipts`: one for each event; empty if the
    command decided on none. `state`: the state after `version`. After `append` it is None if the store does not know it
    without a read; without a decider it is always None. If the command was executed before, `state` is the aggregate's
    state as the store knows it now, so it may include later events.
    If `evolve` changes states in place, later calls change this one, too.
    """

    aggregate: str
    version: int
    receipts: list[Receipt] = msgspec.field(default_factory=list)
    state: S = None  # type: ignore[assignment]

    @property
    def receipt(self) -> Receipt | None:
        """Return the receipt of the last event; None if there is no event."""
        return self.receipts[-1] if self.receipts else None


def stored_result(
    stream: str, aggregate: str, version: int, events: Sequence[Event], ids: list[str], state: S
) -> Appended[S] | None:
    """Return the result of the append with these ids if the events have all of them, one after the other.

    Return None if the events have none of the ids. Raises VersionConflict if they have only some, or in another order.
    """
    at = {event.id: event for event in events}
    found = [at[each] for each in ids if each in at]
    if not found:
        return None
    first = found[0].version
    if len(found) < len(ids) or any(event.version != first + n for n, event in enumerate(found)):
        later = [event for event in events if event.version > version]
        raise VersionConflict(stream, aggregate, version, events[-1].version, later)
    receipts = [Receipt(event.id, stream, event.sequence, 0, True) for event in found]
    return Appended(aggregate, found[-1].version, receipts, state)
