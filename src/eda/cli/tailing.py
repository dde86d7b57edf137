"""Reads the events that `eda tail` prints, and prints them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import eda
from eda._json_lines import json_lines
from eda._pack import place_of
from eda.cli.failure import Failure
from eda.cli.line_writer import LineWriter, OutputLost
from eda.cli.printable import printable_lines

__all__ = ["Wanted", "print_events"]

SHOWN = ("aggregate", "version", "id", "cause", "client", "schema")


@dataclass(frozen=True)
class Wanted:
    """Which events are printed. `last`: begin with so many of the stored ones; None: with `start`, or the first."""

    stream: str
    follow: bool
    start: int | datetime | None
    last: int | None
    types: tuple[str, ...] | None
    aggregate: str | None
    limit: int | None

    @property
    def filter(self) -> dict[str, Any]:
        return {"types": self.types, "aggregate": self.aggregate}


async def print_events(conn: eda.Conn, wanted: Wanted, *, as_json: bool) -> bool:
    """Print the events. Return False if the reader of the output has gone. Raises Failure if it can't be written."""
    try:
        async with LineWriter() as writer:
            reading = asyncio.create_task(_copy(conn, wanted, writer, as_json=as_json))
            try:
                await asyncio.wait({reading, writer.gone}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    return False
                await reading
            finally:
                reading.cancel()
                await asyncio.wait({reading})
    except OutputLost as lost:
        if isinstance(lost.error, BrokenPipeError):
            return False
        raise Failure(f"standard output can't be written: {lost.error.strerror or lost.error}") from lost
    return True


async def _copy(conn: eda.Conn, wanted: Wanted, writer: LineWriter, *, as_json: bool) -> None:
    """Write the events until there are no more, or the limit is reached."""
    left = wanted.limit
    async with aclosing(_events(conn, wanted)) as reading:
        async for events in reading:
            if left is not None:
                events = events[:left]
                left -= len(events)
            await writer.write(printable_lines(json_lines(events)) if as_json else _pretty(events))
            if left == 0:
                return


def _pretty(events: list[eda.Event]) -> bytes:
    from eda.cli.history import text_of  # here, because JSON needs no rich
    from eda.cli.output import console

    out = console()
    with out.capture() as captured:
        for event in events:
            text = text_of(event, f"{place_of(event):>6}", whole_lines=not out.is_terminal, shown=SHOWN)
            out.print(text, soft_wrap=not out.is_terminal)
    return captured.get().encode(out.encoding, "backslashreplace")


async def _events(conn: eda.Conn, wanted: Wanted) -> AsyncGenerator[list[eda.Event], None]:
    place = (0, 0)
    start = wanted.start
    if wanted.last == 0:
        info = await conn.streams.info(wanted.stream)
        start = info.last_sequence + 1
    elif wanted.last is not None:
        place = await _place_of_last(conn, wanted, wanted.last)
        start = place[0]
    if start is not None and isinstance(start, int):
        start = max(start, 1)
    async with aclosing(conn.browse(wanted.stream, start=start, follow=wanted.follow, **wanted.filter)) as reading:
        async for events in reading:
            if place > (0, 0):
                events = [event for event in events if (event.sequence, event.index) >= place]
                if not events:
                    continue
                place = (0, 0)
            yield events


async def _place_of_last(conn: eda.Conn, wanted: Wanted, n: int) -> tuple[int, int]:
    """Return where the last n stored events that match begin: a sequence, and an index in a pack."""
    info = await conn.streams.info(wanted.stream)
    if not info.events:
        return info.last_sequence + 1, 0
    n_back = n
    while True:
        start = max(info.last_sequence + 1 - n_back, info.first_sequence, 1)
        places: deque[tuple[int, int]] = deque(maxlen=n)
        async with aclosing(conn.browse(wanted.stream, start=start, **wanted.filter)) as reading:
            async for events in reading:
                places.extend((event.sequence, event.index) for event in events)
        if len(places) == n or start <= max(info.first_sequence, 1):
            return places[0] if places else (info.last_sequence + 1, 0)
        n_back *= 8
