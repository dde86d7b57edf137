"""Finds where an interrupted copy has to continue: after the last event that the target has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import eda
from eda.cli.event_range import Bounds, EventRange, range_of
from eda.cli.failure import Failure
from eda.cli.places import Chosen, Place
from eda.cli.transfer import place_after

__all__ = ["place_to_resume"]

STILL_S = 0.5  # for how long the target must stay as it is: another copy may be running
NEAR = 5000  # messages after the place where the event should be


async def place_to_resume(
    events: EventRange,
    source: tuple[eda.Conn, eda.StreamInfo],
    target: tuple[eda.Conn, eda.StreamInfo],
    identified: Callable[[eda.Event], eda.Event],
) -> Place:
    """Return the place in the source after the target's last event; the first place of the range if there is none.

    An event is recognised by its id and by the time when it was first stored, which a copy keeps. Raises Failure if the
    target's last event is not in the range, or if the target is being written to; and what reading raises.
    """
    target_conn, info = target
    if not info.events:
        return events.bounds.first
    await asyncio.sleep(STILL_S)
    if (await target_conn.streams.info(info.name)).last_sequence != info.last_sequence:
        raise Failure(f"events are being published to stream {info.name!r}: stop the other copy first, then resume")
    last = await _last_event(target_conn, info)
    if last is None:
        return events.bounds.first
    conn, source_info = source
    bounds = events.bounds
    if last.ack_time is not None:
        near = max(await conn.sequence_at(source_info.name, last.ack_time), bounds.first.sequence)
        until = Place(min(near + NEAR, bounds.last.sequence), bounds.last.index)
        found = await _find(events.within(Bounds(Place(near), until)), last, identified)
        if found is not None:
            return found
    # The source's event was itself a copy, so the time does not say where it is.
    found = await _find(events, last, identified)
    if found is None:
        raise Failure(
            f"the last event of stream {info.name!r} (id {last.id!r}) is not among the chosen events of stream "
            f"{source_info.name!r}. Only a copy with the same options, into a stream that nobody else writes to, can "
            "be resumed. Continue with --append and --from instead"
        )
    return found


async def _last_event(conn: eda.Conn, info: eda.StreamInfo) -> eda.Event | None:
    """Return the last event of the stream; None if it has none. Its last messages may be deleted or no events."""
    whole = await range_of(conn, info, Chosen())
    for n_back in (1, 1000, info.last_sequence):
        first = Place(max(info.last_sequence - n_back + 1, whole.bounds.first.sequence))
        last: eda.Event | None = None
        async with aclosing(whole.within(Bounds(first, whole.bounds.last)).lists()) as lists:
            async for part in lists:
                last = part[-1]
        if last is not None:
            return last
    return None


async def _find(events: EventRange, wanted: eda.Event, identified: Callable[[eda.Event], eda.Event]) -> Place | None:
    async with aclosing(events.lists()) as lists:
        async for part in lists:
            for event in part:
                if event.ack_time_ns == wanted.ack_time_ns and identified(event).id == wanted.id:
                    return place_after(event)
    return None
