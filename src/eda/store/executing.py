"""Commands that need more than one decision on a cached aggregate: reads, conflicts, refusals, several events."""

from __future__ import annotations

from typing import TypeVar

from eda._event import Event
from eda.store._single import Single
from eda.store.cause import with_cause
from eda.store.core import Conflict, StoreCore
from eda.store.outgoing import plain_events
from eda.store.results import Appended
from eda.store_errors import VersionConflict

__all__ = ["decide_and_append"]

S = TypeVar("S")
C = TypeVar("C")


async def decide_and_append(
    core: StoreCore[S, C],
    attempts: int,
    aggregate: str,
    command: C,
    command_id: str | None,
    handled: Event | None,
    single: Single | None,
    conflict: Conflict | None,
) -> Appended[S]:
    """Decide on a command and append the events, until no other process has appended in between.

    `single`: the command was decided on the cached state. `conflict`: the server has refused the event.
    """
    if single is None:
        known = core.cached(aggregate)
        is_cached = known is not None and known.has_state
        if known is None or not is_cached:
            known = await core.current(aggregate)
    else:
        known, is_cached = single.before, True
    n_conflicts = 0
    while True:
        if conflict is not None:
            n_conflicts += 1
            if n_conflicts == attempts:
                error = VersionConflict(core.stream, aggregate, known.version, conflict.actual, conflict.events)
                error.retryable = True
                raise error
            known, is_cached, single = conflict.current, False, None
            if not known.has_state:
                known = await core.current(aggregate)
        if command_id is not None:
            done = known.commands.find(command_id)
            if done is not None:
                if is_cached:  # the stream may have been replaced by an older backup
                    is_cached, known = False, (await core.catch_up(aggregate, known))[0]
                    single, conflict = None, None
                    continue
                return core.stored_before(aggregate, known, command_id, *done)
        refusal: Exception | None = None
        try:
            decided, refusal = await _decision(core, known.state, command, single)
            if not decided:
                # The server checks an append, but nobody checks a refusal: the cached state may be out of date.
                if is_cached:
                    is_cached, single, before = False, None, known
                    known = (await core.catch_up(aggregate, known))[0]
                    if (known.sequence, known.last_id) != (before.sequence, before.last_id):
                        conflict = None
                        continue
                if refusal is not None:
                    raise refusal
                return Appended(aggregate, known.version, [], known.state)
        finally:
            refusal = None  # it refers to this frame
        events = plain_events(aggregate, decided)
        if handled is not None:
            events = with_cause(events, handled)
        try:
            return await core.append(aggregate, known, events, command_id)
        except Conflict as refused:
            conflict = refused.without_frames()


async def _decision(
    core: StoreCore[S, C], state: S, command: C, single: Single | None
) -> tuple[list[Event], Exception | None]:
    """Return the events that `decide` returns, or the error that it raises. `single`: it was asked already."""
    decider = core.decider
    assert decider is not None
    try:
        if single is None:
            return await decider.decided(state, command), None
        refusal = single.take_refusal()
        return ([], refusal) if refusal is not None else (await decider.events_of(single.decided), None)
    except Exception as error:
        return [], error
