"""Tests of a decider without a server: given some events, when a command is executed, then these events are decided."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import GeneratorType
from typing import Any, Generic, TypeVar

from eda._codec import encode_event, stored_event
from eda._event import Event
from eda.errors import ConfigError
from eda.store.decider import Decider, decided_events
from eda.store.state_codec import StateCodec, UnfitState
from eda.testing.comparing import difference, shown_events

__all__ = ["Decision", "Given", "given"]

S = TypeVar("S")
C = TypeVar("C")

_STREAM = "test"
_TIME_NS = 1_700_000_000_000_000_000


def given(decider: Decider[S, C], events: Iterable[Any] = (), *, aggregate: str = "test") -> Given[S, C]:
    """Return an aggregate that has these events, for a test of a decider. It needs no server and no event loop.

        def test_order_when_paid_twice_refuses():
            given(orders, [OrderPlaced("4711", 30), OrderPaid(30)]).when(Pay(30)).then_raises(AlreadyPaid)

    `events` are events or payloads, oldest first. They are encoded, decoded and folded, as when a store loads them. So
    an event that can't be stored, and a state that can't be kept in a snapshot (if the decider names its type with
    `state`), fail here too. Raises ConfigError for a wrong argument, and the errors of `evolve`.
    """
    if not isinstance(decider, Decider):
        raise ConfigError(f"decider must be an eda.Decider, not {decider!r}", argument="decider")
    return Given(decider, _stored(decided_events(events, "events has", "events"), aggregate, 0), aggregate)


class Given(Generic[S, C]):
    """An aggregate with some events, in a test of a decider."""

    def __init__(self, decider: Decider[S, C], events: list[Event], aggregate: str) -> None:
        self._decider = decider
        self._events = events
        self._aggregate = aggregate
        self._state()

    def when(self, command: C) -> Decision[S]:
        """Have the decider decide on a command; returns its decision. An error of `decide` is kept for `then_raises`.

        If `decide` is an `async def`, it runs in a thread of its own, with its own event loop.
        """
        __tracebackhide__ = True
        decider = self._decider
        if decider.decide is None:
            raise ConfigError(f"{decider!r} has no decide, so it can't execute commands", argument="decide")
        state, same_state = self._state(), self._state()
        is_comparable = bool(state == same_state)
        try:
            result = decider.decide(state, command)
            if inspect.isawaitable(result):
                result = _awaited(result)
            if isinstance(result, GeneratorType):
                result = list(result)
        except Exception as error:
            return Decision([], same_state, error)
        finally:
            if is_comparable and not state == same_state:
                raise AssertionError(
                    f"decide has changed the state. It must only return events.\n  before: {same_state!r}\n"
                    f"  after: {state!r}"
                )
        decided = _stored(decided_events(result), self._aggregate, len(self._events))
        return Decision(decided, _checked(decider, decider.fold(same_state, decided)), None)

    def then_state(self, state: S) -> Given[S, C]:
        """Check the state after the events. Raises AssertionError."""
        __tracebackhide__ = True
        _check_state(state, self._state())
        return self

    def _state(self) -> S:
        return _checked(self._decider, self._decider.fold(self._decider.new_state(), self._events))


class Decision(Generic[S]):
    """What a decider has decided on a command, in a test. Each check raises AssertionError if it fails."""

    def __init__(self, events: list[Event], state: S, error: Exception | None) -> None:
        self._events = events
        self._state = state
        self._error = error

    @property
    def events(self) -> list[Event]:
        """The decided events, as they would be read back; empty if `decide` has raised an error."""
        return self._events

    @property
    def error(self) -> Exception | None:
        """The error that `decide` has raised, or None."""
        return self._error

    def then(self, events: Iterable[Any]) -> Decision[S]:
        """Check that exactly these events, or payloads, were decided.

        Their types and decoded data must be equal. Schema, cause, client and metadata are compared as far as an
        expected event sets them. Ids, times and versions are not compared.
        """
        __tracebackhide__ = True
        expected = _stored(decided_events(events, "then has", "events"), "test", 0)
        self._check_no_error(f"these events were expected:\n{shown_events(expected)}")
        shown = difference(expected, self._events)
        if shown:
            raise AssertionError(f"decide returned other events than expected {shown}")
        return self

    def then_nothing(self) -> Decision[S]:
        """Check that no event was decided, and no error raised."""
        __tracebackhide__ = True
        self._check_no_error("no event was expected")
        if self._events:
            raise AssertionError(f"no event was expected, but decide returned\n{shown_events(self._events)}")
        return self

    def then_raises(
        self, error: type[Exception] | tuple[type[Exception], ...] | Exception, match: str | None = None
    ) -> Decision[S]:
        """Check that `decide` has raised an error of this type, or an error that equals this one in type and text.

        `match`: a regular expression that is searched for in the error's text.
        """
        __tracebackhide__ = True
        types = error if isinstance(error, tuple) else (error if isinstance(error, type) else type(error),)
        if not types or not all(isinstance(each, type) and issubclass(each, Exception) for each in types):
            raise ConfigError(f"error must be an exception or its type, not {error!r}", argument="error")
        wanted = " or ".join(each.__name__ for each in types) if not isinstance(error, Exception) else repr(error)
        if self._error is None:
            raise AssertionError(
                f"decide was expected to raise {wanted}, but it returned\n{shown_events(self._events)}"
            )
        found = self._error
        is_other = isinstance(error, Exception) and (type(found) is not type(error) or str(found) != str(error))
        if is_other or not isinstance(found, types):
            raise AssertionError(f"decide was expected to raise {wanted}, but it raised {found!r}") from found
        if match is not None and not re.search(match, str(found)):
            raise AssertionError(
                f"the text of the error that decide has raised was expected to match {match!r}, but it is "
                f"{str(found)!r}"
            ) from found
        return self

    def then_state(self, state: S) -> Decision[S]:
        """Check the state after the decided events. If `decide` has raised an error, it is the state before."""
        __tracebackhide__ = True
        _check_state(state, self._state)
        return self

    def _check_no_error(self, expected: str) -> None:
        __tracebackhide__ = True
        if self._error is not None:
            raise AssertionError(f"decide raised {self._error!r}, but {expected}") from self._error

    def __repr__(self) -> str:
        return f"<Decision {self._events!r}>" if self._error is None else f"<Decision {self._error!r}>"


def _stored(events: list[Event], aggregate: str, version: int) -> list[Event]:
    """Return the events as a load returns them when they were appended to an aggregate with this version."""
    read = []
    for number, event in enumerate(events, version + 1):
        if not event.aggregate:
            event = event.replace(aggregate=aggregate)
        envelope = encode_event(event, event.id or f"test-{number}", event.client or "test", _TIME_NS, number)
        read.append(stored_event(envelope, _STREAM, number, _TIME_NS))
    return read


def _checked(decider: Decider[S, Any], state: S) -> S:
    """Return the state as a snapshot would give it back, if the decider says which type it has."""
    __tracebackhide__ = True
    if decider.state is None:
        return state
    codec = StateCodec(decider.state, None)
    try:
        return codec.decode(codec.encode(state))  # type: ignore[no-any-return]
    except UnfitState as error:
        raise AssertionError(f"the state can't be kept in a snapshot: {error}\n  state: {state!r}") from error


def _check_state(expected: object, found: object) -> None:
    __tracebackhide__ = True
    if not expected == found:
        raise AssertionError(f"the state is not as expected\n  expected: {expected!r}\n  found:    {found!r}")


def _awaited(result: Any) -> Any:
    """Return the result of an awaitable. A thread of its own has no running loop, whoever the caller is."""

    async def wait() -> Any:
        return await result

    with ThreadPoolExecutor(1, thread_name_prefix="eda decide") as threads:
        return threads.submit(contextvars.copy_context().run, asyncio.run, wait()).result()
