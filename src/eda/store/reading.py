"""Reads aggregates: from the cache, from a snapshot, and from the stream."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from eda._event import Event
from eda.names import FORGOTTEN
from eda.store._cache import Cache, Cached
from eda.store._earlier import with_all
from eda.store.decider import Decider
from eda.store.forgetting import Forgetting
from eda.store.history import History
from eda.store.snapshots import Snapshots
from eda.store.stream_parts import StreamParts
from eda.store.tail import Baseline, Tail
from eda.store_errors import AggregateForgotten

__all__ = ["StoreReader"]

S = TypeVar("S")
C = TypeVar("C")

FLUSH_S = 5.0


class StoreReader(Generic[S, C]):
    """The parts of an open event store, as far as it reads aggregates.

    A `Cached` says how far an aggregate is known: `sequence` and `version` of its last event, the state up to there
    (if `has_state`), and its latest commands. It is never changed once it is in the cache.
    """

    def __init__(
        self,
        parts: StreamParts,
        require_open: Callable[[], object],
        client: str,
        logger: logging.Logger,
        decider: Decider[S, C] | None,
        cache: Cache,
        forgetting: Forgetting,
        snapshots: Snapshots[S] | None,
        snapshot_every: int | None,
    ) -> None:
        self.parts: StreamParts = parts
        self.stream: str = parts.opened.name
        self.decider: Decider[S, C] | None = decider
        self.cache: Cache = cache
        self.history: History = parts.history
        self.forgetting: Forgetting = forgetting
        self.snapshots: Snapshots[S] | None = snapshots
        self._require_open = require_open
        self._client = client
        self._logger = logger
        self._snapshot_every = snapshot_every
        self._types = decider.types if decider is not None else None

    def check(self) -> None:
        """Raise Closed if the connection is closed, and ConfigError or NotSupported if the stream is no store now."""
        self._require_open()
        self.parts.opened.check()

    # --- reading -----------------------------------------------------------------------------------------------------

    async def read(self, aggregate: str) -> tuple[Cached, list[Event]]:
        """Return the aggregate as it is now, and its events after the snapshot, or all if there is none.

        Raises AggregateForgotten, HistoryIncomplete, and what the decider's `evolve` raises.
        """
        epoch = self.parts.epoch  # if the connection is lost meanwhile, what was read before is checked again
        snapshot = await self.snapshots.read(aggregate) if self.snapshots is not None else None
        if snapshot is not None:
            assert self.snapshots is not None
            base = Baseline(snapshot.version, snapshot.sequence, snapshot.last_id)
            tail = await self._tail(aggregate, base)
            if tail.is_continued:
                known = Cached(
                    snapshot.state,
                    snapshot.version,
                    snapshot.sequence,
                    snapshot.last_id,
                    snapshot.commands,
                    snapshot_version=snapshot.version,
                    snapshot_sequence=snapshot.subject_sequence,
                    epoch=epoch,
                    earlier=str(snapshot.sequence),
                )
                return self._keep(aggregate, self._advanced(aggregate, known, tail.events)), tail.events
            self.snapshots.report_unrelated(aggregate)
        else:
            tail = await self._tail(aggregate, Baseline())
        known = self.nothing_known(0 if snapshot is None else snapshot.subject_sequence, epoch)
        return self._keep(aggregate, self._advanced(aggregate, known, tail.events)), tail.events

    async def current(self, aggregate: str) -> Cached:
        """Return the aggregate with its state, from the cache or by a read. From the cache, it may be out of date."""
        cached = self.cache.get(aggregate)
        if cached is None or not cached.has_state:
            return (await self.read(aggregate))[0]
        if cached.epoch != self.parts.epoch:
            return (await self.catch_up(aggregate, cached))[0]
        return cached

    def cached(self, aggregate: str) -> Cached | None:
        """Return the aggregate from the cache; None also if it was cached before the connection was lost."""
        cached = self.cache.get(aggregate)
        return cached if cached is not None and cached.epoch == self.parts.epoch else None

    async def last(self, aggregate: str, *, with_commands: bool = False) -> Cached:
        """Return what is known of the aggregate; `with_commands`: also its latest commands."""
        if with_commands:
            return await self.current(aggregate)
        return self.cached(aggregate) or await self.newest(aggregate)

    async def all_events(self, aggregate: str) -> list[Event]:
        """Return all events of the aggregate. Raises AggregateForgotten, HistoryIncomplete."""
        return (await self._tail(aggregate, Baseline())).events

    async def newest(self, aggregate: str) -> Cached:
        """Return the aggregate as the leader knows it, perhaps without a state. Raises AggregateForgotten."""
        epoch = self.parts.epoch
        cached = self.cache.get(aggregate)
        event, earlier = await self.history.last_and_earlier(aggregate)
        if event is None:
            return self.nothing_known()
        if event.type == FORGOTTEN:
            self.cache.drop(aggregate)
            raise AggregateForgotten(self.stream, aggregate)
        if cached is not None and (cached.sequence, cached.last_id) == (event.sequence, event.id):
            return cached.of_epoch(epoch)
        return self.at_version(event.version, [*reversed(earlier), event.sequence], event.id, epoch)

    def at_version(self, version: int, sequences: Sequence[int], last_id: str, epoch: int | None = None) -> Cached:
        """Return an aggregate of which only the last event is known, and the sequences of some events before it."""
        epoch = self.parts.epoch if epoch is None else epoch
        earlier = with_all("", sequences)
        return Cached(None, version, sequences[-1], last_id, has_state=False, epoch=epoch, earlier=earlier)

    async def catch_up(self, aggregate: str, known: Cached) -> tuple[Cached, list[Event]]:
        """Return the aggregate as it is now, and all events that were stored after `known`."""
        epoch = self.parts.epoch
        tail = await self._tail(aggregate, Baseline(known.version, known.sequence, known.last_id))
        if not tail.is_continued:  # the stream was restored or made again
            known = self.nothing_known(known.snapshot_sequence, epoch)
        elif not known.has_state and self.decider is not None:
            return (await self.read(aggregate))[0], tail.events
        else:
            known = known.of_epoch(epoch)
        if tail.events:
            self.cache.drop(aggregate)  # `evolve` may change the cached state in place, and then fail
        return self._keep(aggregate, self._advanced(aggregate, known, tail.events)), tail.events

    async def _tail(self, aggregate: str, base: Baseline) -> Tail:
        tail = await self.history.read(aggregate, base, types=self._types)
        if tail.events and tail.events[-1].type == FORGOTTEN:
            self.cache.drop(aggregate)
            raise AggregateForgotten(self.stream, aggregate)
        return tail

    def nothing_known(self, snapshot_sequence: int = 0, epoch: int | None = None) -> Cached:
        """Return an aggregate without events."""
        epoch = self.parts.epoch if epoch is None else epoch
        decider = self.decider
        state = None if decider is None else decider.new_state()
        return Cached(state, has_state=decider is not None, snapshot_sequence=snapshot_sequence, epoch=epoch)

    def _advanced(self, aggregate: str, known: Cached, events: Sequence[Event]) -> Cached:
        """Return `known` with further events of the aggregate, which follow its version."""
        state = known.state
        if known.has_state and self.decider is not None and events:
            state = self.decider.fold(state, events)
        if events:
            known.commands.note(events, aggregate)
        last = events[-1] if events else None
        return Cached(
            state,
            known.version if last is None else last.version,
            known.sequence if last is None else last.sequence,
            known.last_id if last is None else last.id,
            known.commands,
            has_state=known.has_state,
            snapshot_version=known.snapshot_version,
            snapshot_sequence=known.snapshot_sequence,
            epoch=known.epoch,
            earlier=with_all(known.earlier, [event.sequence for event in events]),
        )

    def _keep(self, aggregate: str, known: Cached) -> Cached:
        """Put an aggregate that was read into the cache, unless more of it is known already."""
        cached = self.cache.get(aggregate)
        if cached is None or cached.version <= known.version or cached.epoch != known.epoch or not cached.has_state:
            self.cache.put(aggregate, known)
        if self.snapshots is not None:
            self._snapshot_if_due(aggregate, known)
        return known

    def _snapshot_if_due(self, aggregate: str, known: Cached) -> None:
        assert self.snapshots is not None
        assert self._snapshot_every is not None
        if known.has_state and known.version - known.snapshot_version >= self._snapshot_every:
            self.snapshots.write_soon(aggregate, known)

    async def flush(self) -> None:
        """Wait until the snapshots that are being written are stored."""
        if self.snapshots is not None:
            await self.snapshots.flush(FLUSH_S)
