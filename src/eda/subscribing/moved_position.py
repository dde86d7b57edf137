"""The moved position of a shared subscription, kept in the bucket until the subscription has a consumer at it.

The server can't change where a consumer starts. So whoever moves the position writes the new one to the bucket, under
the subscription's name, and then deletes the consumer: before the deletion the old position holds, and after it the new
one. The next member finds the position there, and makes the consumer start at it.
"""

from __future__ import annotations

from typing import Any

from eda.cursors.entry import CursorEntry
from eda.cursors.value import CursorValue, Snapshot
from eda.jetstream.stream_info import StreamInfo
from eda.times import time_of

__all__ = ["SAME_S", "MovedPosition", "is_same_consumer", "started_at"]

# Two consumers whose creation times differ by less than this are the same consumer: to delete one and create another
# takes at least one round trip.
SAME_S = 0.02


class MovedPosition:
    """A moved position that a member has found when it opened. `snapshot` is the entry, with a value."""

    def __init__(self, entry: CursorEntry, snapshot: Snapshot) -> None:
        assert snapshot.value is not None
        self._entry = entry
        self._revision = snapshot.revision
        self._value: CursorValue = snapshot.value

    @property
    def sequence(self) -> int:
        """Return the sequence up to which all events are done."""
        return self._value.seq

    def holds_for(self, stream: StreamInfo) -> bool:
        """Return whether it is a position in this stream, and not in a deleted one of the same name."""
        return time_of(self._value.created) == stream.created

    async def settle(self, stream: StreamInfo, consumer_created: object) -> None:
        """Remove the position, because the consumer that exists now is not the one whose position it replaces.

        If it still is, whoever moves the position is about to delete it, and the moved position stays. It also stays if
        the entry has changed. Raises ServerError, Timeout, Closed.
        """
        if not self.holds_for(stream) or not is_same_consumer(self._value.consumer, consumer_created):
            await self._entry.remove(self._revision)


def is_same_consumer(created: object, other: object) -> bool:
    """Return whether two creation times, as servers write them, are those of one consumer.

    A server that was killed restores a durable consumer with a creation time that may differ by less than a millisecond
    (seen with 2.10.26).
    """
    one, two = time_of(created), time_of(other)
    if one is None or two is None:
        return created == other
    return abs((one - two).total_seconds()) < SAME_S


def started_at(config: dict[str, Any], sequence: int) -> dict[str, Any]:
    """Return the settings of a consumer that starts after this sequence."""
    others = {key: value for key, value in config.items() if key not in ("opt_start_time", "opt_start_seq")}
    return others | {"deliver_policy": "by_start_sequence", "opt_start_seq": sequence + 1}
