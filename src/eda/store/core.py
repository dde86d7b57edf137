"""Reads aggregates, appends to them, and finds out whether a refused or unanswered append is stored."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from eda._codec import encode_event, stored_event
from eda._event import Event
from eda.errors import ConfigError, EdaError, Timeout
from eda.names import FORGOTTEN
from eda.receipt import Receipt
from eda.store.appending import Refused
from eda.store.cache import Cache, Cached
from eda.store.changeable import is_immutable
from eda.store.decider import Decider
from eda.store.earlier import with_all
from eda.store.forgetting import Forgetting
from eda.store.history import Baseline, History, Tail
from eda.store.outgoing import ids_of
from eda.store.results import Appended, stored_result
from eda.store.snapshots import Snapshots
from eda.store.stream_parts import StreamParts
from eda.store_errors import AggregateForgotten, VersionConflict

__all__ = ["Conflict", "StoreCore"]

S = TypeVar("S")
C = TypeVar("C")

FIRST_PAUSE_S = 0.005  # before an append is tried again; each further pause is twice as long
MAX_PAUSE_S = 0.5
FLUSH_S = 5.0

MAX_UNCLEAR = 12  # tries of an append that is refused although nothing new is stored; they take some seconds


class Conflict(Exception):
    """The refusal of an append. `current` is the aggregate as it is now; `events` were stored meanwhile."""

    def __init__(self, current: Cached, events: list[Event]) -> None:
        super().__init__()
        self.current = current
        self.events = events

    @property
    def actual(self) -> int:
        """Return the version after `events`. `current` may have been read later."""
        return self.events[-1].version if self.events else self.current.version


class StoreCore(Generic[S, C]):
    """The parts of an open event store: it reads aggregates and appends to them.

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
                    snapshot_version_no=snapshot.version,
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
        event = await self.history.last(aggregate)
        if event is None:
            return self.nothing_known()
        if event.type == FORGOTTEN:
            self.cache.drop(aggregate)
            raise AggregateForgotten(self.stream, aggregate)
        if cached is not None and (cached.sequence, cached.last_id) == (event.sequence, event.id):
            return cached.of_epoch(epoch)
        return self.at_version(event.version, event.sequence, event.id, epoch)

    def at_version(self, version: int, sequence: int, last_id: str, epoch: int | None = None) -> Cached:
        """Return an aggregate of which only the last event is known."""
        epoch = self.parts.epoch if epoch is None else epoch
        return Cached(None, version, sequence, last_id, has_state=False, epoch=epoch, earlier=str(sequence))

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
            snapshot_version_no=known.snapshot_version_no,
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
        if known.has_state and known.version - known.snapshot_version_no >= self._snapshot_every:
            self.snapshots.write_soon(aggregate, known)

    # --- appending ---------------------------------------------------------------------------------------------------

    async def append(
        self,
        aggregate: str,
        known: Cached,
        events: list[Event],
        command_id: str | None,
        ids: list[str] | None = None,
        folded: Sequence[Event] | None = None,
    ) -> tuple[Appended[S], Cached]:
        """Append the events after `known`, and return the result and the aggregate as it is then.

        The events are folded first, so that an event that `evolve` refuses is never stored. `ids`: the ids of the
        events, if they have been made already. `folded`: the events that are folded instead, as hooks have changed
        them.

        Raises Conflict if something else was stored meanwhile, and none of these events. Raises VersionConflict if some
        of their ids are stored, and Timeout if it is not known whether they are stored. Stored events are never
        reported as a conflict.
        """
        if ids is None:
            ids = ids_of(aggregate, events, command_id)
        now_ns = time.time_ns()
        version = known.version
        messages = []
        for event, event_id in zip(events, ids, strict=True):
            version += 1
            messages.append((event.type, encode_event(event, event_id, self._client, now_ns, version), event_id))
        state = known.state
        if known.has_state and self.decider is not None:
            if not is_immutable(state):
                # `evolve` may change the state in place. If the append fails, the state is not the aggregate's.
                self.cache.drop(aggregate)
                known = known.without_state()
            if folded is None:
                folded = [stored_event(each, self.stream, 0, 0) for _, each, _ in messages]
            state = self.decider.fold(state, folded)
            has_state = True
        else:
            has_state = False
        try:
            stored = await self.parts.appending.store(
                aggregate, messages, sequence=known.sequence, earlier=known.earlier
            )
        except (Refused, Timeout) as error:
            sequences, found = await self._settle(aggregate, known, messages, ids, error)
        else:
            sequences, found = stored.sequences, None
            if stored.is_duplicate:
                sequences, found = await self._settle(aggregate, known, messages, ids, None)
        if found is not None:
            return found
        if command_id is not None:
            known.commands.add(command_id, known.version + 1, sequences[0], len(ids))
        current = Cached(
            state,
            version,
            sequences[-1],
            ids[-1],
            known.commands,
            has_state,
            known.snapshot_version_no,
            known.snapshot_sequence,
            known.epoch,  # if the connection was lost meanwhile, this append is checked before it is built upon
            with_all(known.earlier, sequences),
        )
        self.cache.put(aggregate, current)
        if self.snapshots is not None:
            self._snapshot_if_due(aggregate, current)
        stream = self.stream
        receipts = [Receipt(each, stream, sequence, 0, False) for each, sequence in zip(ids, sequences, strict=True)]
        return Appended(aggregate, version, receipts, state), current

    async def _settle(
        self,
        aggregate: str,
        known: Cached,
        messages: list[tuple[str, bytes, str]],
        ids: list[str],
        failed: Refused | Timeout | None,
    ) -> tuple[list[int], tuple[Appended[S], Cached] | None]:
        """Find out whether an append is stored. It has `failed`, or the server calls it a duplicate (None).

        If nothing is stored, try again. Return the sequences of the messages. If an earlier try has stored them,
        return its result instead.
        """
        pause_s = FIRST_PAUSE_S
        for _ in range(MAX_UNCLEAR):
            if isinstance(failed, Timeout):
                found = await self._try_to_look(aggregate, known, ids)
                if found is None:
                    raise failed
                return [], found
            if failed is not None and failed.is_under_way:
                await asyncio.sleep(pause_s)
            found = await self._look(aggregate, known, ids)
            if found is not None:
                return [], found
            if failed is None:
                message = f"the stream {self.stream!r} has another event with the id {' or '.join(ids[:3])}"
                raise ConfigError(message, argument="events")
            # Nothing new is stored. So the write that was under way has failed, or it is not stored yet.
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
            try:
                stored = await self.parts.appending.store(
                    aggregate, messages, sequence=known.sequence, earlier=known.earlier
                )
            except (Refused, Timeout) as error:
                failed = error
            else:
                if not stored.is_duplicate:
                    return stored.sequences, None
                failed = None
        raise Timeout(f"an append to aggregate {aggregate!r}", MAX_UNCLEAR * MAX_PAUSE_S)

    async def _look(self, aggregate: str, known: Cached, ids: list[str]) -> tuple[Appended[S], Cached] | None:
        """Return the result of an append that was refused or got no answer; None if nothing was stored.

        Raises Conflict and VersionConflict as `append` does.
        """
        current, events = await self.catch_up(aggregate, known)
        found = self.find_stored(aggregate, known.version, current, events, ids)
        if found is not None:
            return found
        if events or current.sequence < known.sequence:  # the stream was emptied, made again or restored
            raise Conflict(current, events)
        # Nothing is new. The ids may be those of an earlier append, which the server still remembers.
        return (await self.look_at_all(aggregate, known.version, current, ids))[0]

    async def look_at_all(
        self, aggregate: str, version: int, current: Cached, ids: list[str]
    ) -> tuple[tuple[Appended[S], Cached] | None, list[Event]]:
        """Return what `find_stored` finds among all events of the aggregate, and all its events."""
        events = await self.all_events(aggregate)
        found = self.find_stored(aggregate, version, current, events, ids)
        if found is not None and found[0].version > current.version:  # stored since `current` was read
            found = self.find_stored(aggregate, version, (await self.read(aggregate))[0], events, ids)
        return found, events

    async def _try_to_look(self, aggregate: str, known: Cached, ids: list[str]) -> tuple[Appended[S], Cached] | None:
        """Return what `_look` returns; None also if the look fails, so that the outcome stays unknown."""
        try:
            return await self._look(aggregate, known, ids)
        except (Conflict, VersionConflict, AggregateForgotten):
            raise  # something else was stored first, so a late copy of the append would be refused
        except EdaError as error:
            self._logger.info(
                "event store of stream %s: could not look for an append that got no answer: %s", self.stream, error
            )
            return None

    def find_stored(
        self, aggregate: str, version: int, current: Cached, events: Sequence[Event], ids: list[str]
    ) -> tuple[Appended[S], Cached] | None:
        """Return `stored_result`, and `current`."""
        stored = stored_result(self.stream, aggregate, version, events, ids, current.state)
        return None if stored is None else (stored, current)

    async def flush(self) -> None:
        """Wait until the snapshots that are being written are stored."""
        if self.snapshots is not None:
            await self.snapshots.flush(FLUSH_S)
