"""EventStore: aggregates as their users see them (`conn.store`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar

from eda._event import Event
from eda.errors import ConfigError
from eda.publishing.atomic_batch import MAX_EVENTS
from eda.store._cache import Cached
from eda.store._call import StoreCalls
from eda.store._earlier import MOST
from eda.store._single import Single
from eda.store.aggregate_names import aggregate_names
from eda.store.cause import with_cause
from eda.store.command_ids import check_command_id
from eda.store.core import Conflict, StoreCore
from eda.store.decider import Decider
from eda.store.executing import decide_and_append
from eda.store.outgoing import check_aggregate, ids_of, plain_events
from eda.store.results import Appended, Loaded
from eda.store_errors import VersionConflict

__all__ = ["EventStore", "Expected"]

S = TypeVar("S")
C = TypeVar("C")

MAX_VERSION = 2**63 - 1 - MAX_EVENTS  # before an append

Expected: TypeAlias = int | Loaded[Any] | Appended[Any] | Literal["new", "exists", "any"]
"""What an append expects of its aggregate: see `EventStore.append`."""


class EventStore(Generic[S, C], StoreCalls[S, C]):
    """The aggregates of a stream. `Conn.store` makes it.

    It opens when it is first used; or await it, or enter it with `async with`, to open it earlier. Leaving the context
    waits until the snapshots that are being written are stored. Calls may run concurrently; those that append to the
    same aggregate take turns.

    Every call raises NotSupported or ConfigError if the server or the stream can't hold a store, StreamNotFound,
    ServerError, Timeout and Closed.
    """

    def __init__(
        self, stream: str, make_core: Callable[[], Awaitable[Any]], attempts: int, decider: Decider[S, C] | None = None
    ) -> None:
        self.stream: str = stream
        self._decider = decider
        self._make_core = make_core
        self._attempts = attempts
        self._core: StoreCore[S, C] | None = None

    def __repr__(self) -> str:
        return f"<EventStore {self.stream!r}>"

    def __await__(self) -> Generator[Any, None, Self]:
        return self._opened().__await__()

    async def __aenter__(self) -> Self:
        return await self._opened()

    async def __aexit__(self, *_: object) -> None:
        if self._core is not None:
            await self._core.flush()

    async def _opened(self) -> Self:
        await self._open()
        return self

    async def _open(self) -> StoreCore[S, C]:
        core = self._core
        if core is None:
            self._core = core = await self._make_core()
            self._singles = None if core.RUNS_HOOKS else core.singles
        core.check()
        return core

    # --- reading -----------------------------------------------------------------------------------------------------

    async def load(self, aggregate: str) -> Loaded[S]:
        """Return the aggregate with all events that were acknowledged before this call.

        If it has no events, `exists` is False, and the state is the decider's initial state. Without a decider the
        state is None. The state must not be changed in place.

        Raises AggregateForgotten, HistoryIncomplete, and what `evolve` raises.
        """
        aggregate = check_aggregate(aggregate)
        core = await self._open()
        known, events = await core.read(aggregate)
        return Loaded(aggregate, known.state, known.version, events, self.stream, known.sequence, known.last_id)

    async def history(self, aggregate: str, after: int = 0) -> list[Event]:
        """Return the aggregate's events with a version above `after`, in order. Raises as `load` does."""
        aggregate = check_aggregate(aggregate)
        if type(after) is not int or after < 0:
            raise ConfigError(f"after must be a version, 0 or more, not {after!r}", argument="after")
        core = await self._open()
        return [event for event in await core.all_events(aggregate) if event.version > after]

    async def aggregates(self) -> AsyncIterator[str]:
        """Iterate over the names of all aggregates that have events, each once, in no particular order."""
        core = await self._open()
        async for name in aggregate_names(core.history.api, self.stream):
            yield name

    async def forget(self, aggregate: str) -> None:
        """Remove the aggregate's events and its snapshot, and leave a tombstone: it can't be used again.

        The tombstone is an event of type `eda.forgotten` with the next version. Subscriptions receive it. Copies of the
        events in mirrors, dead letters, read models and backups stay. If the aggregate has no events, nothing happens.
        If this fails or is cancelled, call it again: it goes on where it stopped.

        Raises ConfigError if the stream can't be purged; HistoryIncomplete.
        """
        aggregate = check_aggregate(aggregate)
        core = await self._open()
        turns = core.parts.turns
        await turns.take(aggregate)
        try:
            core.cache.drop(aggregate)
            await core.forgetting.forget(aggregate)
        finally:
            core.cache.drop(aggregate)
            turns.give(aggregate)

    # --- appending ---------------------------------------------------------------------------------------------------

    async def _rest_of_execute(
        self, single: Single | None, aggregate: str, command: C, command_id: str | None, handled: Event | None
    ) -> Appended[S]:
        """Execute a command. `single`: it was decided on the cached state already, and the turn is taken."""
        core = self._core
        if core is None or single is None:
            core, aggregate, command_id = await self._turn_to_execute(aggregate, command_id)
        turns = core.parts.turns
        try:
            conflict = None
            if single is not None and single.waiter is not None:
                try:
                    return await core.sent(single)
                except Conflict as refused:
                    conflict = refused.without_frames()
            return await decide_and_append(
                core, self._attempts, aggregate, command, command_id, handled, single, conflict
            )
        finally:
            turns.give(aggregate)

    async def _turn_to_execute(self, aggregate: str, command_id: str | None) -> tuple[StoreCore[S, C], str, str | None]:
        """Check the arguments of a command, wait for the aggregate's turn, and return the core and the arguments."""
        aggregate = check_aggregate(aggregate)
        if command_id is not None:
            command_id = check_command_id(command_id)
        if self._decider is None or self._decider.decide is None:
            raise _no_decide(self.stream, self._decider)
        core = await self._open()
        await core.parts.turns.take(aggregate)
        return core, aggregate, command_id

    async def _rest_of_append(
        self,
        single: Single | None,
        aggregate: str,
        events: Iterable[Event | object],
        expected: Expected,
        command_id: str | None,
        handled: Event | None,
    ) -> Appended[S]:
        """Append any events under any expectation. `single`: the event was sent already, and the turn is taken."""
        if single is not None:
            return await self._sent(single)
        aggregate = check_aggregate(aggregate)
        plain = plain_events(aggregate, events)
        if handled is not None:
            plain = with_cause(plain, handled)
        if command_id is not None:
            command_id = check_command_id(command_id)
        check_expected(expected, aggregate, self.stream)
        if self._decider is not None:
            self._decider.check_takes(plain)
        core = await self._open()
        turns = core.parts.turns
        if not turns.take_now(aggregate):
            await turns.take(aggregate)
        try:
            known = None
            label = expected.version if isinstance(expected, Loaded | Appended) else expected
            if command_id is not None:
                known = await core.last(aggregate, with_commands=True)
                if known.commands.find(command_id) is not None:  # the stream may have been replaced by an older backup
                    known = (await core.catch_up(aggregate, known))[0]
                done = known.commands.find(command_id)
                if done is not None:
                    if done[2] != len(plain):  # only some of its ids are stored
                        raise VersionConflict(self.stream, aggregate, label, known.version)
                    return core.stored_before(aggregate, known, command_id, *done)
            if label in ("any", "exists"):
                must_exist = label == "exists"
                return await self._append_to_any(core, aggregate, known, plain, command_id, must_exist=must_exist)
            while True:
                known = await self._expected(core, aggregate, expected)
                if known is not None:
                    return await core.append(aggregate, known, plain, command_id)
                assert isinstance(label, int)
                found = await self._refused(core, aggregate, plain, label, command_id)
                if found is not None:
                    return found
        except Conflict as conflict:
            raise VersionConflict(self.stream, aggregate, label, conflict.actual, conflict.events) from None
        finally:
            turns.give(aggregate)

    async def _sent(self, single: Single) -> Appended[S]:
        """Wait for the outcome of an append that was sent, and give the turn back."""
        core, aggregate = self._core, single.aggregate
        assert core is not None
        turns = core.parts.turns
        try:
            return await core.sent(single)
        except Conflict as conflict:
            label = single.before.version
            raise VersionConflict(self.stream, aggregate, label, conflict.actual, conflict.events) from None
        finally:
            turns.give(aggregate)

    async def _expected(self, core: StoreCore[S, C], aggregate: str, expected: Any) -> Cached | None:
        """Return the aggregate at the expected version; None if its version is known to be another."""
        if expected == "new" or expected == 0:
            return core.nothing_known()
        cached = core.cached(aggregate)
        if isinstance(expected, Appended):
            expected = expected.version
        if isinstance(expected, Loaded):
            if cached is not None and _is_at(cached, expected):
                return cached
            if expected.version == 0:
                return core.nothing_known()
            if core.parts.epoch == 0:
                sequences = [event.sequence for event in expected.events[-MOST:-1]]
                return core.at_version(expected.version, [*sequences, expected.sequence], expected.last_id)
            # The stream may have been replaced since the load, and have another event at this sequence.
            known = await core.newest(aggregate)
            if known.version == expected.version and not _is_at(known, expected):
                error = VersionConflict(self.stream, aggregate, expected.version, known.version)
                error.add_note(f"The last event is {known.last_id}, not {expected.last_id}: the stream was replaced.")
                raise error
            return known if known.version == expected.version else None
        if cached is not None and cached.version == expected:
            return cached
        known = await core.newest(aggregate)
        return known if known.version == expected else None

    async def _append_to_any(
        self,
        core: StoreCore[S, C],
        aggregate: str,
        known: Cached | None,
        events: list[Event],
        command_id: str | None,
        *,
        must_exist: bool,
    ) -> Appended[S]:
        """Append to whatever version the aggregate has. Raises VersionConflict if it must exist, and has no events."""
        if known is None:
            known = await core.last(aggregate)
        while True:
            if must_exist and known.version == 0:
                known = await core.newest(aggregate)
                if known.version == 0:
                    raise VersionConflict(self.stream, aggregate, "exists", 0)
            try:
                return await core.append(aggregate, known, events, command_id)
            except Conflict as conflict:
                known = conflict.current

    async def _refused(
        self, core: StoreCore[S, C], aggregate: str, events: list[Event], expected: int, command_id: str | None
    ) -> Appended[S] | None:
        """Return the result of an earlier, equal append. Raises VersionConflict if there is none.

        Return None if the aggregate has got the expected version by now.
        """
        current = await core.last(aggregate)
        found, stored = await core.look_at_all(aggregate, expected, current, ids_of(aggregate, events, command_id))
        if found is not None:
            return found
        actual = stored[-1].version if stored else 0
        if actual == expected:
            return None
        later = [event for event in stored if event.version > expected]
        raise VersionConflict(self.stream, aggregate, expected, actual, later)


def _is_at(known: Cached, loaded: Loaded[Any]) -> bool:
    """Return whether the aggregate's last event is that of the load."""
    return (known.version, known.sequence, known.last_id) == (loaded.version, loaded.sequence, loaded.last_id)


def _no_decide(stream: str, decider: Decider[Any, Any] | None) -> ConfigError:
    if decider is None:
        message = f"execute needs a decider, and the store has none: conn.store({stream!r}, eda.Decider(...))"
        return ConfigError(message, argument="decider")
    message = f"execute needs a decider with `decide`, and {decider!r} has none: eda.Decider(initial, evolve, decide)"
    return ConfigError(message, argument="decide")


def check_expected(expected: object, aggregate: str, stream: str) -> None:
    """Raise ConfigError unless this is an expectation of the aggregate in this stream."""
    if isinstance(expected, Loaded | Appended):
        if expected.aggregate != aggregate:
            raise ConfigError(
                f"expected is of aggregate {expected.aggregate!r}, not of {aggregate!r}", argument="expected"
            )
        if isinstance(expected, Loaded):
            found, numbers = expected.stream, [expected.version, expected.sequence]
        else:
            found, numbers = expected.receipt.stream if expected.receipt else "", [expected.version]
        if found not in ("", stream):
            raise ConfigError(f"expected is of stream {found!r}, not of {stream!r}", argument="expected")
        if not all(type(each) is int and 0 <= each <= MAX_VERSION for each in numbers):
            raise ConfigError(f"expected is not the result of this store: {expected!r}", argument="expected")
    elif isinstance(expected, str):
        if expected not in ("new", "exists", "any"):
            raise ConfigError(
                f"expected must be a version, a Loaded, 'new', 'exists' or 'any', not {expected!r}", argument="expected"
            )
    elif type(expected) is not int or not 0 <= expected < 2**63:
        raise ConfigError(
            f"expected must be a version (0 or more), a Loaded, 'new', 'exists' or 'any', not {expected!r}",
            argument="expected",
        )
