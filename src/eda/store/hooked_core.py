"""The core of an event store on a connection with middleware: hooks run around each append, and for each event read.

It is a class of its own, so that appends and reads without middleware need not check for hooks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TypeVar

from eda._codec import encode_event, stored_event
from eda._event import Event
from eda.receipt import Receipt
from eda.store._cache import Cached
from eda.store.core import Conflict, StoreCore
from eda.store.outgoing import ids_of
from eda.store.results import Appended
from eda.store.snapshots import StoreHooks
from eda.store.tail import Baseline, Tail
from eda.store_errors import VersionConflict

__all__ = ["HookedStoreCore"]

S = TypeVar("S")
C = TypeVar("C")


class HookedStoreCore(StoreCore[S, C]):
    """A StoreCore that runs the hooks of middleware. All events that it reads come from `_tail`."""

    RUNS_HOOKS = True

    def __init__(self, hooks: StoreHooks, *args: Any) -> None:
        super().__init__(*args)
        self._hooks = hooks

    async def _tail(self, aggregate: str, base: Baseline) -> Tail:
        tail = await super()._tail(aggregate, base)
        return Tail(await self._hooks.loaded(tail.events), tail.is_continued)

    async def append(
        self,
        aggregate: str,
        known: Cached,
        events: list[Event],
        command_id: str | None,
        ids: list[str] | None = None,
        folded: Sequence[Event] | None = None,
    ) -> Appended[S]:
        """Run the hooks, and append the events as `StoreCore.append` does.

        The events are folded as a later load will return them.
        """
        if ids is None:
            ids = ids_of(aggregate, events, command_id)
        given = [event.replace(id=each) for event, each in zip(events, ids, strict=True)]
        results: list[Appended[S]] = []
        conflicts: list[Conflict] = []
        append = super().append

        async def store(passed: list[Event]) -> list[Receipt]:
            read = await self._hooks.loaded(self._as_stored(known.version, passed, ids))
            try:
                result = await append(aggregate, known, passed, command_id, ids, read)
            except Conflict as conflict:
                conflicts.append(conflict)
                version = known.version
                raise VersionConflict(self.stream, aggregate, version, conflict.actual, conflict.events) from None
            results.append(result)
            return result.receipts

        try:
            await self._hooks.append(self.stream, given, store)
        except VersionConflict:
            if conflicts:
                raise conflicts.pop() from None
            raise
        return results[0]

    def _as_stored(self, version: int, events: list[Event], ids: list[str]) -> list[Event]:
        """Return the events as they will be read from the stream, but without their sequences."""
        now_ns, client = time.time_ns(), self._client
        return [
            stored_event(encode_event(event, event_id, client, now_ns, version + n), self.stream, 0, 0)
            for n, (event, event_id) in enumerate(zip(events, ids, strict=True), 1)
        ]
