"""Reads the events of a range of a stream, in lists, without a trace on the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import eda
from eda.cli.failure import Failure
from eda.cli.places import WHOLE, Chosen, Place

__all__ = ["Bounds", "EventRange", "range_of"]

BATCH = 500
LOOK_EVERY_S = 0.1  # how often to look whether the end is reached, while no events come
LONGEST_S = 1e9  # how long the work with one list of events may take: as long as it needs


@dataclass(frozen=True)
class Bounds:
    """The first and the last place of a range, both included. Messages after `last.sequence` are not read."""

    first: Place
    last: Place

    @property
    def is_empty(self) -> bool:
        """Whether there is no message in the range."""
        return self.last.sequence < self.first.sequence

    @property
    def after(self) -> Place:
        """The place after the range: where a further range has to begin."""
        last = self.last
        after = Place(last.sequence + 1) if last.index >= WHOLE else Place(last.sequence, last.index + 1)
        return max(after, self.first)

    @property
    def n_sequences(self) -> int:
        """How many messages there are at most."""
        return max(self.last.sequence - self.first.sequence + 1, 0)


class EventRange:
    """The events of a range, of some types or of one aggregate. A private subscription reads them.

    It skips messages that are not events (`n_no_events` counts them), and events that were replayed for one
    subscription alone. `removes_read`: the stream removes what is acknowledged, so `conn.browse` reads it. Then the
    messages that are not events are logged and not counted.
    """

    def __init__(
        self,
        conn: eda.Conn,
        stream: str,
        bounds: Bounds,
        *,
        types: Collection[str] | None = None,
        aggregate: str | None = None,
        removes_read: bool = False,
    ) -> None:
        self._conn = conn
        self._removes_read = removes_read
        self._stream = stream
        self.bounds = bounds
        self._types = frozenset(types) if types else None
        self._filter: dict[str, Any] = {"types": types or None, "aggregate": aggregate}
        self.n_no_events: int = 0  # known at the end

    def within(self, bounds: Bounds) -> EventRange:
        """Return the same choice of events, with other bounds."""
        return EventRange(self._conn, self._stream, bounds, removes_read=self._removes_read, **self._filter)

    async def lists(self) -> AsyncGenerator[list[eda.Event], None]:
        """Yield lists of events, in order. Raises what `conn.events` and `conn.browse` raise."""
        if self.bounds.is_empty:
            return
        async with aclosing(self._browsed() if self._removes_read else self._subscribed()) as lists:
            async for found in lists:
                yield found

    async def _browsed(self) -> AsyncGenerator[list[eda.Event], None]:
        first, last = self.bounds.first, self.bounds.last
        async with aclosing(self._conn.browse(self._stream, start=first.sequence, **self._filter)) as lists:
            async for events in lists:
                if found := [each for each in events if first <= Place(each.sequence, each.index) <= last]:
                    yield found
                if events[-1].sequence > last.sequence:
                    return

    async def _subscribed(self) -> AsyncGenerator[list[eda.Event], None]:
        """Yield lists of up to 500 events."""
        first, last = self.bounds.first, self.bounds.last
        reading: eda.Events[list[eda.Event]] = self._conn.events(
            self._stream, start=first.sequence, batch=BATCH, timeout_s=LONGEST_S, dead_letter=None, **self._filter
        )
        async with reading as events:
            subscription = events.subscription
            at_end = False
            while not at_end:
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
                        found = await anext(events)
                except TimeoutError:
                    stats = subscription.stats()
                    # The last messages may be none that the subscription delivers.
                    if not (stats.pending or stats.buffered or stats.in_flight):
                        break
                    continue
                end = found[-1].sequence
                # The pack at the end of the range may have more events than this list.
                at_end = end > last.sequence or (end == last.sequence and not subscription.stats().buffered)
                if found[0].sequence <= first.sequence or end >= last.sequence:
                    found = [each for each in found if first <= Place(each.sequence, each.index) <= last]
                if self._types is not None:
                    # In the stream of an event store, a subscription gets tombstones as well.
                    found = [each for each in found if each.type in self._types]
                if found:
                    yield found
            self.n_no_events = subscription.stats().undecodable


async def range_of(conn: eda.Conn, info: eda.StreamInfo, chosen: Chosen, *, may_miss: bool = False) -> EventRange:
    """Return the chosen events of a stream. A time means when the stream stored an event.

    What is stored later is not read. `may_miss`: the reader does not need the events that are removed meanwhile.
    Raises Failure if the stream removes events and none may be missed, and what `conn.sequence_at` raises.
    """
    if info.retention != "limits" and not may_miss:
        raise Failure(
            f"stream {info.name!r} has retention={info.retention!r}: the server removes events that are acknowledged, "
            "so nobody can say whether all of them were read. What the stream has now, "
            f"`eda tail {info.name} --from 1 --no-follow --json | eda pub TARGET --lines` publishes to another stream"
        )
    first, last = chosen.first, chosen.last
    if isinstance(first, datetime):
        first = Place(await conn.sequence_at(info.name, first))
    first = max(first or Place(1), Place(info.first_sequence))
    if isinstance(last, datetime):
        last = Place(await conn.sequence_at(info.name, last) - 1, WHOLE)
    elif last is not None and not last.index:
        last = Place(last.sequence, WHOLE)
    end = Place(info.last_sequence, WHOLE)
    bounds = Bounds(first, min(last or end, end))
    removes_read = info.retention != "limits"
    return EventRange(
        conn, info.name, bounds, types=chosen.types or None, aggregate=chosen.aggregate, removes_read=removes_read
    )
