"""Publishes the events of a range into another stream, in order, and counts what becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import eda
from eda._pack import index_in_pack
from eda.cli.event_range import EventRange
from eda.cli.places import Place

__all__ = ["Result", "Transfer", "place_after", "place_in"]

MAX_TOLD = 10  # refused events that are told one by one
FLUSH_S = 10.0  # how long an interrupted command waits for the answers to what it has sent


def place_in(event: eda.Event) -> Place:
    """Return the place of a received event."""
    return Place(event.sequence, event.index)


def place_after(event: eda.Event) -> Place:
    """Return the place after a received event."""
    index = index_in_pack(event)
    return Place(event.sequence + 1) if index is None else Place(event.sequence, index + 1)


@dataclass
class Result:
    """What became of the events of a range."""

    read: int = 0
    """events that were read and accepted by the publisher"""
    stored: int = 0
    """events that the target has acknowledged, the duplicates included"""
    duplicates: int = 0
    """messages that the target had stored before, within its duplicate window: it stored no second copy"""
    refused: int = 0
    """events that were not stored"""
    no_events: int = 0
    """messages that were skipped because they are not events"""
    next: Place = field(default_factory=lambda: Place(1))
    """the place in the source where a further copy has to begin"""
    is_complete: bool = False
    """whether the range was read to its end"""
    is_uncertain: bool = False
    """whether some events may be stored or not, because no answer came"""
    seconds: float = 0.0
    failures: list[tuple[Place, str, str]] = field(default_factory=list)
    """the first refused events: place, id, error"""


class Pace(Protocol):
    """Decides when an event is published."""

    async def wait(self, event: eda.Event) -> None:
        """Return when it is time for the event."""


class Transfer:
    """Moves the events of a range to a publisher, and keeps the count in `result`."""

    def __init__(
        self,
        conn: eda.Conn,
        target: str,
        *,
        change: Callable[[eda.Event], eda.Event] | None = None,
        pace: Pace | None = None,
        skips_refused: bool = False,
        on_progress: Callable[[Place], None] = lambda _: None,
    ) -> None:
        self._conn = conn
        self._target = target
        self._change = change
        self._pace = pace
        self._skips_refused = skips_refused
        self._on_progress = on_progress
        self._first_failed: Place | None = None
        self._publisher: eda.Publisher | None = None
        self._closing: asyncio.Task[None] | None = None  # closes the publisher after an event without an answer
        self.has_begun: bool = False  # whether the publisher was opened
        self.result: Result = Result()

    async def run(self, events: EventRange) -> None:
        """Publish the events, and wait until all are stored or refused. It stops after the first event that is refused.

        If it is cancelled, it reads no more, waits for the answers to what it has sent, and then raises
        CancelledError. `result` is right in any case. Raises what reading and publishing raise.
        """
        result, began = self.result, time.monotonic()
        result.next = events.bounds.first
        before = await self._conn.streams.info(self._target)
        pack = eda.Pack() if before.options.packed else None
        async with self._conn.publisher(self._target, pack=pack, on_error=self._on_error) as publisher:
            self.has_begun, self._publisher = True, publisher
            try:
                async with aclosing(events.lists()) as lists:
                    await self._pass_on(lists, publisher)
                await publisher.flush()
                result.is_complete = not self._has_stopped
            except eda.Closed:
                if self._closing is None:
                    raise
            finally:
                await self._settle(publisher)  # after an error or a cancellation, some may be under way
                result.no_events = events.n_no_events
                result.seconds = time.monotonic() - began
        if result.is_complete:
            result.next = events.bounds.after
        if not result.is_uncertain:
            n_messages = publisher.stats().packs if pack is not None else result.stored
            grown = (await self._conn.streams.info(self._target)).last_sequence - before.last_sequence
            result.duplicates = max(n_messages - grown, 0)

    async def _settle(self, publisher: eda.Publisher) -> None:
        """Wait for the answers to what was sent, and count them."""
        result = self.result
        try:
            async with asyncio.timeout(FLUSH_S):
                await publisher.flush()
        except TimeoutError:
            result.is_uncertain = True
        stats = publisher.stats()
        result.stored, result.refused = stats.acknowledged, stats.failed
        if self._first_failed is not None and not self._skips_refused:
            result.next = min(result.next, self._first_failed)

    @property
    def _has_stopped(self) -> bool:
        return self._first_failed is not None and not self._skips_refused

    async def _pass_on(self, lists: AsyncGenerator[list[eda.Event], None], publisher: eda.Publisher) -> None:
        result, change, pace = self.result, self._change, self._pace
        async for received in lists:
            before = publisher.stats().sent
            events = received if change is None else [change(event) for event in received]
            try:
                if pace is None:
                    await publisher.send_many(events)
                else:
                    for event in events:
                        await pace.wait(event)
                        if self._has_stopped:
                            break
                        await publisher.send(event)
                        self._on_progress(place_in(event))
            finally:
                n_sent = publisher.stats().sent - before
                result.read += n_sent
                if n_sent < len(received):
                    result.next = place_in(received[n_sent])
                elif received:
                    result.next = place_after(received[-1])
            self._on_progress(result.next)
            if self._has_stopped:
                return

    def _on_error(self, event: eda.Event, error: Exception) -> None:
        place = place_in(event)
        if isinstance(error, eda.Timeout | eda.Closed):
            self.result.is_uncertain = True
            if self._closing is None and self._publisher is not None:
                # The later events must not be stored without this one: `--resume` looks only at the last stored event.
                self._closing = asyncio.ensure_future(self._publisher.close())
        if self._first_failed is None or place < self._first_failed:
            self._first_failed = place
        if len(self.result.failures) < MAX_TOLD:
            self.result.failures.append((place, event.id, " ".join(str(error).split())))
