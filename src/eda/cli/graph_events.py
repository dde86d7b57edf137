"""The events of a graph: read from streams, and chosen by what caused them."""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import aclosing
from dataclasses import dataclass

import eda
from eda._pack import place_of
from eda.cli.event_range import EventRange
from eda.cli.failure import Failure
from eda.cli.output import time_text

__all__ = ["MAX_HELD", "GraphEvent", "chain_of", "newest", "read_events"]

MAX_HELD = 100_000  # events that are in memory while the chain of one event is looked for


@dataclass(frozen=True, slots=True)
class GraphEvent:
    """What a graph shows of an event."""

    id: str
    cause: str
    type: str
    aggregate: str
    stream: str
    place: str
    time: str
    client: str

    @property
    def key(self) -> str:
        """The event's id; for an event without one, its stream and place."""
        return self.id or f"{self.stream} {self.place}"


async def read_events(ranges: Iterable[EventRange]) -> AsyncGenerator[GraphEvent, None]:
    """Yield the events of the ranges, one range after the other."""
    for each in ranges:
        async with aclosing(each.lists()) as lists:
            async for part in lists:
                for event in part:
                    yield _graph_event(event)


def _graph_event(event: eda.Event) -> GraphEvent:
    return GraphEvent(
        id=event.id,
        cause=event.cause,
        type=event.type,
        aggregate=event.aggregate,
        stream=event.stream,
        place=place_of(event),
        time=time_text(event.time or event.ack_time) or "",
        client=event.client,
    )


async def newest(
    events: AsyncGenerator[GraphEvent, None], limit: int, *, is_one_stream: bool
) -> tuple[list[GraphEvent], int]:
    """Return the last `limit` events, and how many there were. No more than these are in memory.

    The events of one stream stay in its order. Those of several streams are put in the order of their times.
    """
    held: list[tuple[str, int, GraphEvent]] = []
    n_events = 0
    async for event in events:
        n_events += 1
        item = ("" if is_one_stream else event.time, n_events, event)
        if len(held) < limit:
            heapq.heappush(held, item)
        else:
            heapq.heappushpop(held, item)
    return [event for _, _, event in sorted(held, key=lambda item: item[:2])], n_events


async def chain_of(events: AsyncGenerator[GraphEvent, None], wanted: str) -> list[GraphEvent]:
    """Return the event with this id, the events that led to it, and the events to which it led, in their order.

    Raises Failure if there are more than 100,000 events to search: an effect may be stored before its cause is read.
    """
    held: list[GraphEvent] = []
    async for event in events:
        if len(held) == MAX_HELD:
            raise Failure(
                f"there are more than {MAX_HELD:,} events to search for causes and effects: choose fewer with --from "
                "and --to"
            )
        held.append(event)
    chosen = _causes(held, wanted) | _effects(held, wanted)
    return [event for event in held if event.id in chosen]


def _causes(events: Collection[GraphEvent], wanted: str) -> set[str]:
    """Return the id and the ids of the events that led to it."""
    cause_of = {event.id: event.cause for event in events if event.id}
    found: set[str] = set()
    while wanted and wanted not in found and wanted in cause_of:
        found.add(wanted)
        wanted = cause_of[wanted]
    return found


def _effects(events: Collection[GraphEvent], wanted: str) -> set[str]:
    """Return the ids of the events to which the event led."""
    effects_of: dict[str, list[str]] = {}
    for event in events:
        if event.cause and event.id:
            effects_of.setdefault(event.cause, []).append(event.id)
    found: set[str] = set()
    waiting = [wanted]
    while waiting:
        for effect in effects_of.get(waiting.pop(), ()):
            if effect not in found:
                found.add(effect)
                waiting.append(effect)
    return found
