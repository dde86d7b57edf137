"""Starts reading and handling when this member becomes the holder, and stops both when it loses the cursor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from eda.cursors.cursor import Cursor
from eda.cursors.position import Position
from eda.errors import Closed
from eda.handling._dispatch import Dispatcher
from eda.subscribing.ordered_source import OrderedSource

__all__ = ["Activation"]

ORPHANS_POLL_S = 0.01


class Activation:
    """Connects a cursor with the source and the dispatcher of its subscription. It is the owner of the cursor."""

    def __init__(self, source: OrderedSource, dispatcher: Dispatcher, on_end: Callable[[Exception], None]) -> None:
        self._source = source
        self._dispatcher = dispatcher
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._activating: asyncio.Task[None] | None = None
        self.is_active: bool = False
        self.cursor: Cursor | None = None  # set by the pipeline that creates both
        source.on_nothing_pending = self.on_nothing_pending
        source.on_part_gone = self.on_part_gone
        dispatcher.lease.extend(0)

    @property
    def _the_cursor(self) -> Cursor:
        assert self.cursor is not None
        return self.cursor

    @property
    def _is_started(self) -> bool:
        """Return whether this member is the holder and the dispatcher has taken over the cursor's position."""
        return self.is_active and (self._activating is None or self._activating.done())

    # --- calls of the cursor -----------------------------------------------------------------------------------------

    def on_active(self, position: Position, tries: int, lease_until_ns: int) -> None:
        """Start to handle the events after `position`, as soon as no earlier handler runs."""
        self.is_active = True
        self._activating = self._loop.create_task(self._activate(position, tries))
        self._activating.add_done_callback(self._on_activated)

    async def _activate(self, position: Position, tries: int) -> None:
        dispatcher = self._dispatcher
        # A handler from before this member lost the cursor may still run. Its event must not be handled again at the
        # same time. This is too rare for the workers to report the end of such a handler.
        while dispatcher.n_running:  # noqa: ASYNC110
            await asyncio.sleep(ORPHANS_POLL_S)
        dispatcher.begin_at(position.seq, tries, *position[1:])
        dispatcher.lease.extend(self._the_cursor.lease_until_ns)
        dispatcher.lease.tell_progress()
        self._source.start = self._the_cursor.start
        self._source.start_reading_soon()

    def _on_activated(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self.on_end(error)

    def on_fenced(self) -> None:
        """Stop the handlers, because the lease has expired."""
        self._dispatcher.fence()

    def on_unfenced(self) -> None:
        """Let handlers start again."""
        if self._is_started:
            self._dispatcher.lease.extend(self._the_cursor.lease_until_ns)

    def on_lost(self) -> None:
        """Stop reading and handling, because another member is the holder."""
        self.is_active = False
        if self._activating is not None:
            self._activating.cancel()
        self._dispatcher.fence()
        self._source.stop_reading()
        self._dispatcher.begin_at(0)

    def on_end(self, error: Exception) -> None:
        """Stop reading and handling for good."""
        self.on_lost()
        self._on_end(error)

    def on_confirmed(self, place: tuple[int, int], lease_until_ns: int) -> None:
        """Extend the lease, because the position is stored up to this place. Pass later progress to the cursor."""
        if not self._is_started:
            return
        dispatcher = self._dispatcher
        dispatcher.lease.extend(lease_until_ns)
        if dispatcher.place > place:
            self.on_progress()
        else:
            dispatcher.lease.tell_progress()

    # --- calls of the source, the dispatcher's host and the pipeline -------------------------------------------------

    def on_progress(self) -> None:
        """Pass the dispatcher's new position to the cursor."""
        if self._is_started:
            if self._dispatcher.intake.has_packs:
                self._the_cursor.note_packs()
            self._the_cursor.advance(Position(*self._dispatcher.position_parts))

    async def store(self, seq: int, idx: int) -> None:
        """Return when the dispatcher's position is stored, or when another member is the holder."""
        try:
            await self._the_cursor.store(Position(*self._dispatcher.position_parts))
        except Closed:
            return  # without the lease no handler starts

    def on_nothing_pending(self) -> None:
        """Forget the tries: no event follows the position, so earlier holders did not vanish because of an event."""
        self._the_cursor.advance(Position(*self._dispatcher.position_parts), forget_tries=True)

    def on_part_gone(self) -> None:
        """Set the cursor back before a pack that was partly done and is not in the stream any more."""
        self._the_cursor.rewind(self._the_cursor.created, Position(*self._dispatcher.position_parts))

    def on_rewound(self, position: Position) -> None:
        """Go back to this position: the stream has lost its end, or has an earlier message that was not read."""
        self._dispatcher.begin_at(position.seq, 0, *position[1:])
        self._the_cursor.rewind(self._the_cursor.created, position)

    def close(self) -> None:
        """Start nothing more."""
        if self._activating is not None:
            self._activating.cancel()
