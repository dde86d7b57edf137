"""What it means for a subscription to hold its position: when it reads, when handlers may start, what is stored."""

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
    """Stands between a cursor and what works under it; the cursor calls `on_…`."""

    def __init__(self, source: OrderedSource, dispatcher: Dispatcher, on_end: Callable[[Exception], None]) -> None:
        self._source = source
        self._dispatcher = dispatcher
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._activating: asyncio.Task[None] | None = None
        self.is_active = False
        self.cursor: Cursor | None = None  # set by whoever makes it
        source.on_nothing_pending = self.on_nothing_pending
        dispatcher.set_lease(0)

    @property
    def _held(self) -> Cursor:
        assert self.cursor is not None
        return self.cursor

    @property
    def _is_begun(self) -> bool:
        """Whether the dispatcher is where the cursor is."""
        return self.is_active and (self._activating is None or self._activating.done())

    # --- what the cursor tells ---------------------------------------------------------------------------------------

    def on_active(self, position: int, tries: int, lease_until_ns: int) -> None:
        """Begin behind `position`, as soon as nothing from before is at work."""
        self.is_active = True
        self._activating = self._loop.create_task(self._activate(position, tries))
        self._activating.add_done_callback(self._on_activated)

    async def _activate(self, position: int, tries: int) -> None:
        dispatcher = self._dispatcher
        # A handler from before this member lost the cursor may still run. Its event must not be handled again at the
        # same time. This is so rare that the workers don't report when they end.
        while dispatcher.n_running:  # noqa: ASYNC110
            await asyncio.sleep(ORPHANS_POLL_S)
        dispatcher.begin_at(position, tries, self._held.time_ns)
        dispatcher.set_lease(self._held.lease_until_ns)
        dispatcher.tell_progress()
        self._source.start = self._held.start
        self._source.start_reading_soon()

    def _on_activated(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self.on_end(error)

    def on_nothing_pending(self) -> None:
        """There is no event behind what is done: those who died here did not die of it."""
        self._held.advance(self._dispatcher.position, self._dispatcher.position_ns, untried=True)

    def on_fenced(self) -> None:
        """Stop handlers: the lease is over."""
        self._dispatcher.fence()

    def on_unfenced(self) -> None:
        """Let handlers start again."""
        self._extend()

    def _extend(self) -> None:
        if self._is_begun:
            self._dispatcher.set_lease(self._held.lease_until_ns)

    def on_lost(self) -> None:
        """Stop everything: another member has it."""
        self.is_active = False
        if self._activating is not None:
            self._activating.cancel()
        self._dispatcher.fence()
        self._source.stop_reading()
        self._dispatcher.begin_at(0)

    def on_end(self, error: Exception) -> None:
        """Stop everything for good."""
        self.on_lost()
        self._on_end(error)

    def on_confirmed(self, seq: int, lease_until_ns: int) -> None:
        """The position `seq` is stored: store what was done meanwhile, or wait for more."""
        if not self._is_begun:
            return
        dispatcher = self._dispatcher
        dispatcher.set_lease(lease_until_ns)
        if dispatcher.position > seq:
            self.on_progress()
        else:
            dispatcher.tell_progress()

    # --- what the dispatcher's host asks -----------------------------------------------------------------------------

    def on_progress(self) -> None:
        """The position has moved."""
        if self._is_begun:
            self._held.advance(self._dispatcher.position, self._dispatcher.position_ns)

    async def confirmed(self, position: int) -> None:
        """Return when the position is stored, or another member has it."""
        try:
            await self._held.confirmed(position, self._dispatcher.position_ns)
        except Closed:
            return  # no handler starts without the lease

    def on_rewound(self, position: Position) -> None:
        """Go back to there: the stream has lost its end."""
        self._dispatcher.begin_at(position.seq, 0, position.stored_ns)
        self._held.restart(self._held.created, *position)

    def close(self) -> None:
        """Begin nothing more."""
        if self._activating is not None:
            self._activating.cancel()
