"""Publishes the events of many lines of JSON, and counts what became of them."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import click

import eda
from eda.cli.blocks import MAX_LINE, LineBlocks
from eda.cli.line_events import BadLine, LineEvents
from eda.cli.output import safe

__all__ = ["Counts", "publish_lines"]

TOLD = 10  # errors that are printed one by one
FLUSH_S = 10.0  # after a signal, so long the events that are under way may take


@dataclass
class Counts:
    """What became of the lines. `stored` counts events that the stream had already.

    `bad`: no events, or events that can't be sent. `refused`: events that the server did not store.
    """

    stream: str
    lines: int = 0
    stored: int = 0
    refused: int = 0
    bad: int = 0
    pending: int = 0
    told: int = field(default=0, repr=False)

    @property
    def is_complete(self) -> bool:
        return self.stored == self.lines

    def text(self) -> str:
        """Return the counts as a sentence."""
        parts = [f"{self.stored:,} of {self.lines:,} lines are stored in {self.stream}"]
        if self.bad:
            parts.append(f"{self.bad:,} can't be published")
        if self.refused:
            parts.append(f"{self.refused:,} {'was' if self.refused == 1 else 'were'} refused")
        if self.pending:
            parts.append(f"{self.pending:,} may be stored or not")
        return "; ".join(parts)


class _Stop(Exception):
    """A line is bad, and the user wants to stop there."""


async def publish_lines(
    conn: eda.Conn,
    stream: str,
    blocks: LineBlocks,
    counts: Counts,
    *,
    packed: bool,
    stops: bool,
    drops_versions: bool,
    watch: Callable[[Callable[[], None]], None] = lambda _: None,
) -> None:
    """Publish the events of the lines, in order, until the end or (with `stops`) the first error. Fills `counts`.

    If the caller is cancelled, the events that were accepted are flushed first, within 10 s.
    """
    refused: list[tuple[eda.Event, Exception]] = []
    stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_error(event: eda.Event, error: Exception) -> None:
        refused.append((event, error))
        if stops and not stopped.done():
            stopped.set_result(None)

    async with conn.publisher(stream, pack=eda.Pack() if packed else None, on_error=on_error) as publisher:
        work = _Publishing(publisher, LineEvents(drops_versions=drops_versions), counts, refused, stops=stops)
        watch(work.count)
        try:
            async with aclosing(blocks.blocks()) as reading:
                while (block := await _next_block(reading, stopped, may_wait=blocks.may_wait)) is not None:
                    number, lines, is_too_long = block
                    await work.publish(number, lines, is_too_long=is_too_long)
            await publisher.flush()
        except _Stop:
            await publisher.flush()
        except asyncio.CancelledError:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await publisher.flush()
            raise
        finally:
            work.tell_refused()
            work.count()


async def _next_block(
    reading: AsyncGenerator[tuple[int, bytes, bool], None], stopped: asyncio.Future[None], *, may_wait: bool
) -> tuple[int, bytes, bool] | None:
    """Return the next block of lines; None at the end. Raises _Stop if an event is refused before the block comes."""
    if not may_wait:  # then a task has nothing to wait for
        if stopped.done():
            raise _Stop
        return await anext(reading, None)

    async def read() -> tuple[int, bytes, bool] | None:
        return await anext(reading, None)

    task = asyncio.create_task(read())
    try:
        either: set[asyncio.Future[Any]] = {task, stopped}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Stop
        return await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


class _Publishing:
    """Publishes block after block, and remembers in which line each event under way was."""

    def __init__(
        self,
        publisher: eda.Publisher,
        reader: LineEvents,
        counts: Counts,
        refused: list[tuple[eda.Event, Exception]],
        *,
        stops: bool,
    ) -> None:
        self._publisher = publisher
        self._reader = reader
        self._counts = counts
        self._refused = refused
        self._stops = stops
        self._n_sent = 0
        # For the events under way: how many were sent before these, the events, and the number of their first line.
        self._sent: deque[tuple[int, list[eda.Event], list[int] | range]] = deque()

    def count(self) -> None:
        """Bring the counts up to date."""
        stats, counts = self._publisher.stats(), self._counts
        counts.lines = stats.sent + counts.bad
        counts.stored, counts.pending = stats.acknowledged, stats.pending

    async def publish(self, number: int, lines: bytes, *, is_too_long: bool) -> None:
        """Publish the events of whole lines. Raises _Stop."""
        if is_too_long:
            self._bad(number, f"it is longer than {MAX_LINE:,} bytes")
            return
        events = self._reader.of_all(lines)
        if events is not None:
            await self._send(events, range(number, number + len(events)))
            return
        events, numbers = [], []
        for n, line in enumerate(lines.split(b"\n")[:-1], number):
            if not line.strip():
                continue
            try:
                events.append(self._reader.of(line))
                numbers.append(n)
            except BadLine as error:
                await self._send(events, numbers)
                events, numbers = [], []
                self._bad(n, str(error))
        await self._send(events, numbers)

    async def _send(self, events: list[eda.Event], numbers: list[int] | range) -> None:
        publisher = self._publisher
        while events:
            n_before = self._n_sent
            self._sent.append((n_before, events, numbers))
            try:
                await publisher.send_many(events)
                self._n_sent += len(events)
                events = []
            except (eda.ConfigError, eda.CodecError) as error:
                # The events before the one that can't be sent were accepted.
                self._n_sent = publisher.stats().sent
                at = self._n_sent - n_before
                if not at < len(events):
                    raise
                self._bad(numbers[at], str(error))
                events, numbers = events[at + 1 :], numbers[at + 1 :]
            if self.tell_refused() and self._stops:
                raise _Stop
            stats = publisher.stats()
            settled = stats.sent - stats.pending
            while self._sent and self._sent[0][0] + len(self._sent[0][1]) <= settled:
                self._sent.popleft()

    def tell_refused(self) -> bool:
        """Report the events that were refused meanwhile. Return whether there were any."""
        refused, self._refused[:] = list(self._refused), []
        for event, error in refused:
            self._counts.refused += 1
            where = self._number_of(event) if self._counts.told < TOLD else ""
            self._tell(f"line {where}: event {event.id} was refused: {error}")
        return bool(refused)

    def _number_of(self, event: eda.Event) -> str:
        for _, events, numbers in self._sent:
            for each, number in zip(events, numbers, strict=True):
                if each.id == event.id:
                    return str(number)
        return "?"

    def _bad(self, number: int, why: str) -> None:
        self._counts.bad += 1
        self._tell(f"line {number} can't be published: {why}")
        if self._stops:
            raise _Stop

    def _tell(self, text: str) -> None:
        self._counts.told += 1
        if self._counts.told <= TOLD:
            click.echo(f"Error: {safe(text, sys.stderr.encoding)}", err=True)
        elif self._counts.told == TOLD + 1:
            click.echo("further errors are only counted", err=True)
