"""The arguments of a decider: what is refused, and how its functions are called."""

from __future__ import annotations

import copy
import functools
import inspect
import types as python_types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_origin

from eda._event import Event
from eda.callables import kind_of_call
from eda.errors import ConfigError
from eda.handler_signatures import members_of, read_parameters, resolve_annotation, shown_annotation
from eda.handlers import shown_handler
from eda.names import FORGOTTEN
from eda.typed.registry import check_type, payload_class_of

__all__ = [
    "NO_LISTS",
    "check_functions",
    "check_snapshot_version",
    "check_state",
    "check_types",
    "maker_of",
    "read_evolve",
    "shown_type",
]

# Types that can be iterated over, but whose values are no lists of events or types.
NO_LISTS = (str, bytes, bytearray, memoryview, Mapping, type)

_MAX_SNAPSHOT_VERSION = 64


def check_types(types: object) -> tuple[str, ...] | None:
    """Return the names of types that a user gave as names and payload classes, aliases included; None for None."""
    if types is None:
        return None
    if isinstance(types, NO_LISTS) or not isinstance(types, Iterable):
        raise ConfigError(f"types must be a list of type names and payload classes, not {types!r}", argument="types")
    names: dict[str, None] = {}
    for each in types:
        if isinstance(each, str):
            names[check_type("types", each)] = None
            continue
        for cls in members_of(each):
            names.update(dict.fromkeys(_names_of(cls, "types has", "types")))
    if not names:
        raise ConfigError("types is empty: leave it out if the types are not known", argument="types")
    if FORGOTTEN in names:
        raise ConfigError(f"types has {FORGOTTEN!r}, which only the event store handles", argument="types")
    return tuple(names)


def _names_of(cls: Any, what: str, argument: str) -> tuple[str, ...]:
    """Return the type and the aliases of a payload class. Raises ConfigError for anything else."""
    declared = payload_class_of(cls) if isinstance(cls, type) else None
    if declared is None:
        is_own = isinstance(cls, type) and cls.__module__ != "builtins"
        hint = ": write @eda.payload(...) above it" if is_own else ""
        raise ConfigError(f"{what} {shown_annotation(cls)}, which is no payload class{hint}", argument=argument)
    return declared.type, *declared.aliases


def check_functions(evolve: Any, decide: Any) -> None:
    """Raise ConfigError for functions that can't be called as a decider calls them."""
    _check_function(evolve, "evolve", "only decide may be async, and evolve must return the state")
    _, returned = read_parameters(evolve, "evolve", "the state and an event: (state, event)", 2)
    if returned in (None, type(None), "None"):
        raise ConfigError(
            f"evolve {shown_handler(evolve)} is annotated to return None; it must return the state", argument="evolve"
        )
    if decide is None:
        return
    _check_function(decide, "decide", "return a list of events")
    read_parameters(decide, "decide", "the state and a command: (state, command)", 2)


def _check_function(function: Any, argument: str, hint: str) -> None:
    if not callable(function):
        raise ConfigError(f"{argument} must be callable, not {function!r}", argument=argument)
    kind = kind_of_call(function)
    if not kind or (argument == "decide" and kind in ("an async def", "a generator function")):
        return
    raise ConfigError(f"{argument} {shown_handler(function)} is {kind}: {hint}", argument=argument)


def maker_of(initial: Any) -> Callable[[], Any]:
    """Return a function that returns a new initial state at each call."""
    if inspect.isclass(initial) or inspect.isroutine(initial) or isinstance(initial, functools.partial):
        return _checked_maker(initial)
    try:
        # The caller may change its value later, and so may the first aggregate that gets it.
        return functools.partial(copy.deepcopy, copy.deepcopy(initial))
    except Exception as error:
        raise ConfigError(
            f"initial is {shown_type(initial)} that can't be copied for each aggregate ({error}): give a function "
            "that makes one",
            argument="initial",
        ) from error


def _checked_maker(initial: Any) -> Callable[[], Any]:
    kind = kind_of_call(initial)
    if kind:
        raise ConfigError(f"initial {shown_handler(initial)} is {kind}: give a plain function", argument="initial")
    try:
        signature = inspect.signature(initial)
    except Exception:  # some compiled classes and functions have no readable signature
        return initial  # type: ignore[no-any-return]
    try:
        signature.bind()
    except TypeError as error:
        raise ConfigError(
            f"initial {shown_handler(initial)}{signature} must be callable without arguments ({error}); or give a "
            "value",
            argument="initial",
        ) from error
    return initial  # type: ignore[no-any-return]


def check_snapshot_version(version: object) -> str:
    """Return a snapshot version as a plain str. Raises ConfigError for a wrong one: it is written into a header."""
    if not isinstance(version, str):
        raise ConfigError(f"snapshot_version must be a str, not {version!r}", argument="snapshot_version")
    is_plain = version.isascii() and version.isprintable() and " " not in version
    if not is_plain or not 0 < len(version) <= _MAX_SNAPSHOT_VERSION:
        raise ConfigError(
            f"snapshot_version must have 1 to {_MAX_SNAPSHOT_VERSION} printable ASCII characters without spaces, not "
            f"{version!r}",
            argument="snapshot_version",
        )
    return str.__str__(version)


def check_state(state: Any) -> Any:
    """Return the type of a state, or None. Raises ConfigError for a value that is no type."""
    is_type = isinstance(state, type | python_types.UnionType) or get_origin(state) is not None
    if state is None or (is_type and not isinstance(state, str)) or hasattr(state, "__value__"):
        return state
    raise ConfigError(f"state must be the type of the state, such as a class, not {state!r}", argument="state")


def read_evolve(evolve: Any, local_names: Mapping[str, Any] | None) -> tuple[frozenset[str] | None, bool]:
    """Return the types whose payloads `evolve` gets, or None, and whether it gets all other events as they are."""
    (_, second), _ = read_parameters(evolve, "evolve", "the state and an event: (state, event)", 2)
    annotation = resolve_annotation(second.annotation, evolve, local_names)
    members = members_of(annotation)
    if any(each in (Any, object) for each in members):
        return None, True
    what = f"the second parameter of evolve {shown_handler(evolve)} is annotated with"
    classes = [each for each in members if each is not Event]
    names = [name for cls in classes for name in _names_of(cls, what, "evolve")]
    return (frozenset(names) if names else None), Event in members


def shown_type(value: object) -> str:
    """Return what a value is, for messages."""
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    name = type(value).__qualname__
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"
