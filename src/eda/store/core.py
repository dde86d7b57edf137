"""Appends to aggregates, and finds out whether a refused or unanswered append is stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, TypeVar

from eda._codec import encode_event, stored_event
from eda._event import Event
from eda.errors import ConfigError, EdaError, Timeout
from eda.receipt import Receipt
from eda.store._cache import Cached
from eda.store._earlier import with_all
from eda.store._single import Single, Singles
from eda.store.appending import Refused
from eda.store.changeable import is_immutable
from eda.store.command_ids import event_ids
from eda.store.outgoing import ids_of
from eda.store.reading import StoreReader
from eda.store.results import Appended, stored_result
from eda.store_errors import AggregateForgotten, VersionConflict
from eda.transport._loop_check import LoopCheck
from eda.transport.loops import running_loop

__all__ = ["Conflict", "StoreCore"]

S = TypeVar("S")
C = TypeVar("C")

FIRST_PAUSE_S = 0.005  # before an append is tried again; each further pause is twice as long
MAX_PAUSE_S = 0.5

MAX_UNCLEAR = 12  # tries of an append that is refused although nothing new is stored; they take some seconds


class Conflict(Exception):
    """The refusal of an append. `current` is the aggregate as it is now; `events` were stored meanwhile."""

    def __init__(self, current: Cached, events: list[Event]) -> None:
        super().__init__()
        self.current = current
        self.events = events

    def without_frames(self) -> Conflict:
        """Return this without its traceback, by which the frame that keeps it would refer to itself."""
        error: BaseException = self
        error.__context__ = None
        return self.with_traceback(None)

    @property
    def actual(self) -> int:
        """Return the version after `events`. `current` may have been read later."""
        return self.events[-1].version if self.events else self.current.version


class StoreCore(StoreReader[S, C]):
    """The parts of an open event store: it reads aggregates and appends to them.

    `RUNS_HOOKS`: all appends go through `append`, because it runs hooks. Otherwise `singles` sends single events.
    """

    RUNS_HOOKS = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        parts = self.parts
        self.singles: Singles = Singles(
            LoopCheck(asyncio.get_running_loop(), running_loop),
            parts.opened,
            parts,
            parts.appending.known,
            self._client,
            self.decider,
            self.cache,
            parts.turns.taken,
            None if self.snapshots is None else self._snapshot_if_due,
        )

    async def append(
        self,
        aggregate: str,
        known: Cached,
        events: list[Event],
        command_id: str | None,
        ids: list[str] | None = None,
        folded: Sequence[Event] | None = None,
    ) -> Appended[S]:
        """Append the events after `known`, and return the result.

        The events are folded first, so that an event that `evolve` refuses is never stored. `ids`: the ids of the
        events, if they have been made already. `folded`: the events that are folded instead, as hooks have changed
        them.

        Raises Conflict if something else was stored meanwhile, and none of these events. Raises VersionConflict if some
        of their ids are stored, and Timeout if it is not known whether they are stored. Stored events are never
        reported as a conflict.
        """
        if len(events) != 1:
            return await self._append_batch(aggregate, known, events, command_id, ids, folded)
        event_id = None if ids is None else ids[0]
        single = self.singles.make(aggregate, known, events[0], command_id, event_id, folded)
        stream, left_s = await self.parts.appending.ready(single.id)
        self.singles.send(single, stream, left_s)
        return await self.sent(single)

    async def sent(self, single: Single) -> Appended[S]:
        """Wait for the outcome of a single event that was sent, and return the result. Raises as `append` does."""
        try:
            sequence = await single.waiter
        except EdaError as error:
            return await self._outcome(single, 0, error)
        if sequence > 0 and self.snapshots is None:
            return single.stored(sequence)
        return await self._outcome(single, sequence)

    async def _outcome(self, single: Single, sequence: int, error: EdaError | None = None) -> Appended[S]:
        """Return the result of an append of a single event. Raises as `append` does.

        `sequence`: where the server has stored the event; negative if its id was stored before. `error`: the server has
        refused the event, or has not answered.
        """
        failed: Refused | Timeout | None = None
        if error is not None:
            single.forget_waiter()
            try:
                sequence = await self.parts.appending.find_out(single, error)
            except Refused as refused:
                failed = refused.with_traceback(None)  # its traceback would refer to itself, by this frame
            except Timeout as late:
                failed = late
        if sequence <= 0:
            message = (single.type, single.envelope, single.id)
            sequences, found = await self._settle(single.aggregate, single.before, [message], [single.id], failed)
            if found is not None:
                return found
            sequence = sequences[0]
        result: Appended[S] = single.stored(sequence)
        if self.snapshots is not None:
            self._snapshot_if_due(single.aggregate, single.after)
        return result

    async def _append_batch(
        self,
        aggregate: str,
        known: Cached,
        events: list[Event],
        command_id: str | None,
        ids: list[str] | None,
        folded: Sequence[Event] | None,
    ) -> Appended[S]:
        """Append several events, all or none, as `append` does."""
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
        # If the connection was lost meanwhile, the epoch is out of date. Then this append is checked before it is used.
        earlier = with_all(known.earlier, sequences)
        current = known.after(version, sequences[-1], ids[-1], state, has_state, earlier)
        self.cache.put(aggregate, current)
        if self.snapshots is not None:
            self._snapshot_if_due(aggregate, current)
        stream = self.stream
        receipts = [Receipt(each, stream, sequence, 0, False) for each, sequence in zip(ids, sequences, strict=True)]
        return Appended(aggregate, version, receipts, state)

    def stored_before(
        self, aggregate: str, known: Cached, command_id: str, version: int, sequence: int, n: int
    ) -> Appended[S]:
        """Return the result of a command that was executed before. Its events are stored one after the other."""
        ids = event_ids(command_id, aggregate, n)
        receipts = [Receipt(each, self.stream, sequence + at, 0, True) for at, each in enumerate(ids)]
        return Appended(aggregate, version + n - 1, receipts, known.state)

    async def _settle(
        self,
        aggregate: str,
        known: Cached,
        messages: list[tuple[str, bytes, str]],
        ids: list[str],
        failed: Refused | Timeout | None,
    ) -> tuple[list[int], Appended[S] | None]:
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

    async def _look(self, aggregate: str, known: Cached, ids: list[str]) -> Appended[S] | None:
        """Return the result of an append that was refused or got no answer; None if nothing was stored.

        Raises Conflict and VersionConflict as `append` does.
        """
        current, events = await self.catch_up(aggregate, known)
        found = self._find_stored(aggregate, known.version, current, events, ids)
        if found is not None:
            return found
        if events or current.sequence < known.sequence:  # the stream was emptied, made again or restored
            raise Conflict(current, events)
        # Nothing is new. The ids may be those of an earlier append, which the server still remembers.
        return (await self.look_at_all(aggregate, known.version, current, ids))[0]

    async def look_at_all(
        self, aggregate: str, version: int, current: Cached, ids: list[str]
    ) -> tuple[Appended[S] | None, list[Event]]:
        """Return what `_find_stored` finds among all events of the aggregate, and all its events."""
        events = await self.all_events(aggregate)
        found = self._find_stored(aggregate, version, current, events, ids)
        if found is not None and found.version > current.version:  # stored since `current` was read
            found = self._find_stored(aggregate, version, (await self.read(aggregate))[0], events, ids)
        return found, events

    async def _try_to_look(self, aggregate: str, known: Cached, ids: list[str]) -> Appended[S] | None:
        """Return what `_look` returns; None also if the look fails, so that the outcome stays unknown."""
        try:
            return await self._look(aggregate, known, ids)
        except (Conflict, VersionConflict, AggregateForgotten):
            raise  # something else was stored first, so a late copy of the append would be refused
        except EdaError as error:
            self._logger.debug(
                "event store of stream %s: could not look for an append that got no answer: %s",
                self.stream, error, extra={"eda_stream": self.stream},
            )  # fmt: skip
            return None

    def _find_stored(
        self, aggregate: str, version: int, current: Cached, events: Sequence[Event], ids: list[str]
    ) -> Appended[S] | None:
        """Return the `stored_result` of an append, with the current state."""
        return stored_result(self.stream, aggregate, version, events, ids, current.state)
