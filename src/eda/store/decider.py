"""Decider: how the commands of users become events, and how events become a state."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types as python_types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar, overload

from eda._data import Data
from eda._event import Event
from eda.errors import ConfigError, UnknownType, printable
from eda.handler_signatures import Unresolved
from eda.handlers import shown_handler
from eda.store.decider_arguments import (
    NO_LISTS,
    check_functions,
    check_snapshot_version,
    check_state,
    check_types,
    maker_of,
    read_evolve,
    shown_type,
)
from eda.typed.registry import payload_class_of

__all__ = ["Decider", "decided_events"]

S = TypeVar("S")
C = TypeVar("C")

MAX_TAKEN = 1001  # events of an iterator: one more than an append takes, which then refuses them

_COMMON = (list, Event, type(None))  # what most `decide` return; the test for an awaitable is slower


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Decider(Generic[S, C]):
    """How commands on an aggregate become events, and how its events become its state. It never changes.

    `initial`: the state of an aggregate without events. It is a value, or a class or function without arguments that
    makes one. Each aggregate gets a value of its own: a function is called each time, and a value is copied.

    `evolve(state, event)` returns the state after an event; it is a plain function. The annotation of its second
    parameter says what it gets: for `OrderPaid | OrderShipped`, which are declared with `eda.payload`, the payload. An
    event of another type then raises UnknownType. If the annotation also has `eda.Event`, `evolve` gets such an event
    as it is. Without an annotation, and for `eda.Event` alone, `evolve` gets every event as it is. `evolve` may change
    the state and return it.

    `decide(state, command)` returns the events of a command: None or an empty list, one event, or several events. An
    event is an `eda.Event` or a payload. `decide` is an `async def` or a plain function, or a generator function. It
    must not change the state. It may run several times for one command.

    `types`: the types of all events that the aggregates have: type names, or payload classes, whose aliases are
    included. With them a load of many events saves a request. If an aggregate has other events too, they are read all
    the same.
    `snapshot_version`: change it when the state changes its form or its meaning, so that no old snapshot is read. Only
    one decider of a stream can have snapshots.
    `state`: the type into which a snapshot is decoded.

    Raises ConfigError for an argument that is wrong.
    """

    initial: Any
    evolve: Callable[[S, Any], S]
    decide: Callable[[S, C], object] | None
    types: tuple[str, ...] | None
    snapshot_version: str
    state: Any
    _make: Callable[[], S]
    # The types whose payloads `evolve` gets, or None, and whether it gets all other events as they are. None if its
    # annotation names a class that is not defined yet.
    _reading: tuple[frozenset[str] | None, bool] | None

    @overload
    def __init__(
        self,
        initial: Callable[[], S],
        evolve: Callable[[S, Any], S],
        decide: Callable[[S, C], object],
        *,
        types: Iterable[str | type[Any]] | None = None,
        snapshot_version: str = "1",
        state: Any = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        initial: S,
        evolve: Callable[[S, Any], S],
        decide: Callable[[S, C], object],
        *,
        types: Iterable[str | type[Any]] | None = None,
        snapshot_version: str = "1",
        state: Any = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Decider[S, typing.Never],
        initial: Callable[[], S],
        evolve: Callable[[S, Any], S],
        decide: None = None,
        *,
        types: Iterable[str | type[Any]] | None = None,
        snapshot_version: str = "1",
        state: Any = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Decider[S, typing.Never],
        initial: S,
        evolve: Callable[[S, Any], S],
        decide: None = None,
        *,
        types: Iterable[str | type[Any]] | None = None,
        snapshot_version: str = "1",
        state: Any = None,
    ) -> None: ...
    def __init__(
        self,
        initial: Any,
        evolve: Callable[[Any, Any], Any],
        decide: Callable[[Any, Any], object] | None = None,
        *,
        types: Iterable[str | type[Any]] | None = None,
        snapshot_version: str = "1",
        state: Any = None,
    ) -> None:
        """Make a decider of the user's functions."""
        check_functions(evolve, decide)
        make = maker_of(initial)
        put = functools.partial(object.__setattr__, self)  # the instance is frozen
        put("initial", initial)
        put("evolve", evolve)
        put("decide", decide)
        put("types", check_types(types))
        put("snapshot_version", check_snapshot_version(snapshot_version))
        put("state", check_state(state))
        put("_make", make)
        put("_reading", None)
        try:
            self._read_annotation(None)
        except Unresolved:
            # If it names a class that is defined later, it is read again at the first fold.
            with contextlib.suppress(Unresolved):
                self._read_annotation(_locals_of_caller())

    def new_state(self) -> S:
        """Return the state of an aggregate without events; it belongs to the caller."""
        return self._make()

    def fold(self, state: S, events: Iterable[Event]) -> S:
        """Return the state after these events. `evolve` may change `state`, so do not use it afterwards.

        Raises the errors of `evolve`, DecodeError for a payload that can't be decoded, and UnknownType for an event
        that `evolve` does not take. Each has a note that names the event.
        """
        evolve = self.evolve
        known, takes_others = self._settled()
        event: Event | None = None
        try:
            if known is None:
                for event in events:
                    state = evolve(state, event)
            else:
                for event in events:
                    if event.type in known:
                        state = evolve(state, event.payload())
                    elif takes_others:
                        state = evolve(state, event)
                    else:
                        raise self._unknown(event)
        except Exception as error:
            if event is not None:
                self.explain(error, event, state)
            raise
        if isinstance(state, python_types.CoroutineType):
            self.refuse_coroutine(state)
        return state

    def explain(self, error: Exception, event: Event, state: object) -> None:
        """Add notes to an error that was raised while the event was folded into the state."""
        _add_note(error, f"while folding {_shown_event(event)}")
        if state is None and self.initial is not None:
            _add_note(error, f"the state is None: perhaps evolve {shown_handler(self.evolve)} returns nothing")

    def refuse_coroutine(self, state: python_types.CoroutineType[Any, Any, Any]) -> typing.NoReturn:
        """Raise ConfigError, because `evolve` has returned a coroutine."""
        state.close()
        shown = shown_handler(self.evolve)
        raise ConfigError(f"evolve {shown} returned a coroutine; it must return the state", argument="evolve")

    def payload_types(self) -> frozenset[str] | None:
        """Return the types whose payloads `evolve` gets; None if it gets all events as they are."""
        return self._settled()[0]

    async def decided(self, state: S, command: C) -> list[Event]:
        """Return the events that `decide` returns for a command; raises its errors as they are.

        Raises ConfigError if the decider has no `decide`, or if `decide` returns anything else than events.
        """
        if self.decide is None:
            raise ConfigError(f"{self!r} has no decide, so it can't execute commands", argument="decide")
        return await self.events_of(self.decide(state, command))

    async def events_of(self, result: object) -> list[Event]:
        """Return the events in a result of `decide`, which may be awaitable. Raises as `decided` does."""
        if type(result) not in _COMMON and inspect.isawaitable(result):
            result = await result
        return decided_events(result, most=MAX_TAKEN)

    def check_takes(self, events: Iterable[Event]) -> None:
        """Raise ConfigError if `evolve` does not take the type of an event, so that no load could fold the event."""
        known, takes_others = self._settled()
        if known is None or takes_others:
            return
        for index, event in enumerate(events):
            if event.type not in known:
                raise ConfigError(
                    f"events[{index}] has the type {printable(event.type)!r}, which evolve "
                    f"{shown_handler(self.evolve)} does not take: add its payload class to the annotation of evolve, "
                    "or eda.Event for all other events",
                    argument="events",
                )

    def __repr__(self) -> str:
        decide = "" if self.decide is None else f" decide={shown_handler(self.decide)}"
        return f"<Decider evolve={shown_handler(self.evolve)}{decide}>"

    def _settled(self) -> tuple[frozenset[str] | None, bool]:
        """Return the types whose payloads `evolve` gets, or None, and whether it gets all other events as they are."""
        if self._reading is None:
            try:
                self._read_annotation(None)
            except Unresolved as error:
                raise ConfigError(f"evolve {shown_handler(self.evolve)}: {error}", argument="evolve") from error
            assert self._reading is not None
        return self._reading

    def _read_annotation(self, local_names: Mapping[str, Any] | None) -> None:
        """Read from the annotation of `evolve` what it gets. Raises Unresolved, and ConfigError for a wrong one."""
        reading = read_evolve(self.evolve, local_names)
        known, takes_others = reading
        if known is not None and not takes_others and self.types is not None:
            unknown = [each for each in self.types if each not in known]
            if unknown:
                raise ConfigError(
                    f"types has {', '.join(map(repr, unknown))}, which evolve {shown_handler(self.evolve)} does not "
                    "take: add the payload class to its annotation, or eda.Event for all other events",
                    argument="types",
                )
        object.__setattr__(self, "_reading", reading)

    def _unknown(self, event: Event) -> UnknownType:
        error = UnknownType(event.type, encoding=event.data.type, event_id=event.id, router=repr(self))
        error.add_note("add its payload class to the annotation of evolve, or eda.Event for all other events")
        return error


def decided_events(
    result: object, what: str = "decide returned", argument: str = "decide", most: int | None = None
) -> list[Event]:
    """Return the result of a `decide`, or what else a user gave as events, as a list; payloads become events.

    `most`: the events that are taken from an iterator, which may be endless.

    Raises ConfigError for anything else. Its text begins with `what`.
    """
    if type(result) is list:
        return [each if isinstance(each, Event) else _event_of(each, what, argument) for each in result]
    if result is None:
        return []
    if isinstance(result, Event) or payload_class_of(type(result)) is not None:
        return [_event_of(result, what, argument)]
    if not isinstance(result, Iterable) or isinstance(result, NO_LISTS) or hasattr(type(result), "model_dump"):
        raise _no_event(result, what, argument)
    return [_event_of(each, what, argument) for each in islice(result, most)]


def _event_of(value: object, what: str, argument: str) -> Event:
    if isinstance(value, Event):
        return value
    if value is None or isinstance(value, Data):
        raise _no_event(value, what, argument)  # an event of them would have no type
    try:
        return Event(data=value)
    except ConfigError as error:
        if payload_class_of(type(value)) is not None:
            raise  # the class is declared, but it can't be used
        raise _no_event(value, what, argument) from error


def _no_event(value: object, what: str, argument: str) -> ConfigError:
    return ConfigError(
        f"{what} {shown_type(value)}: an event is an eda.Event, or an instance of a class that is declared with "
        "eda.payload",
        argument=argument,
    )


# --- errors ----------------------------------------------------------------------------------------------------------


def _add_note(error: Exception, note: str) -> None:
    # A program may raise the same exception object again and again.
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def _shown_event(event: Event) -> str:
    where = [
        f"{name} {number}" for name, number in (("version", event.version), ("sequence", event.sequence)) if number
    ]
    return (
        f"event {printable(event.id)} of type {printable(event.type)!r}, aggregate {printable(event.aggregate)!r}"
        f"{', ' if where else ''}{', '.join(where)}"
    )


def _locals_of_caller() -> Mapping[str, Any]:
    """Return the local names of the function that makes a Decider: it may have defined the classes of `evolve`."""
    frame: python_types.FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") == "typing":  # Decider[Order, Command](...)
        frame = frame.f_back
    return {} if frame is None else frame.f_locals
