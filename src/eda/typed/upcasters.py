"""Upcasters: functions that bring plain data of an old schema to a newer one.

For each type the upcasters are steps from one schema to another, at most one from each schema. So from every schema
there is one way at most, its chain, and the chain must end at the schema of the class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from eda.callables import kind_of_call
from eda.errors import ConfigError
from eda.typed.kinds import shown_class
from eda.typed.registry import (
    LOCK,
    PayloadClass,
    check_text,
    check_type,
    make_usable,
    n_declared,
    payload_class_for,
    payload_classes,
)

__all__ = ["Upcaster", "chain_of", "check_upcasters", "upcast", "upcasters_of"]

F = TypeVar("F", bound=Callable[[Any], Any])


@dataclass(frozen=True, slots=True, eq=False)
class Upcaster:
    """A function from plain data of schema `old` to plain data of schema `new`."""

    type: str
    old: str
    new: str
    function: Callable[[Any], Any]

    def __repr__(self) -> str:
        return f"<Upcaster of {self.type!r} from {self.old!r} to {self.new!r}>"


_all: list[Upcaster] = []
_by_type: dict[str, dict[str, Upcaster]] = {}  # by the name as it was given (a type or an alias), by `old`

# How many classes and upcasters there were when all were checked, and the chains found since then. Both numbers only
# grow, so they show whether anything was declared since.
_checked: tuple[int, int] | None = None
_chains: dict[tuple[str, str], tuple[Upcaster, ...]] = {}
_chains_of: tuple[int, int] = (0, 0)


def upcast(type: str, old: str, new: str) -> Callable[[F], F]:
    """Return a decorator that declares a plain function as the upcaster of a type from schema `old` to schema `new`.

    The function takes the data of an event of schema `old`, as `event.data.decode()` returns it, and returns the data
    as schema `new` has it. It may change and return its argument, which nobody else has. It must depend on nothing but
    its argument: an event is decoded again at each delivery and each replay. `type` may be an alias. `old` may be "",
    for events without a schema.

    Raises ConfigError for wrong arguments, for a function that is not plain or does not take one argument, for a second
    upcaster from the same schema, and for a cycle. `eda.connect` raises ConfigError for a chain of upcasters that does
    not lead to the schema of the type's class.
    """
    type, old, new = check_type("type", type), check_text("old", old), check_text("new", new)
    if not new:
        raise ConfigError("new must be the schema that the upcaster returns, not ''", argument="new")

    def declare(function: F) -> F:
        _check_function(function, type, old, new)
        with LOCK:
            steps = upcasters_of(type)
            if old in steps:
                raise ConfigError(
                    f"type {type!r} already has an upcaster from schema {old!r}, which leads to {steps[old].new!r}",
                    argument="old",
                )
            way, at = [old], new
            while at in steps and at != old:
                way.append(at)
                at = steps[at].new
            if at == old:
                shown = " → ".join(map(repr, [*way, old]))
                raise ConfigError(f"the upcasters of type {type!r} would go in a circle: {shown}", argument="new")
            step = Upcaster(type, old, new, function)
            _by_type.setdefault(type, {})[old] = step
            _all.append(step)
        return function

    return declare


def upcasters_of(type: str) -> dict[str, Upcaster]:
    """Return the upcasters of a type or alias, by the schema from which they lead."""
    declared = payload_class_for(type)
    names = (type,) if declared is None else (declared.type, *declared.aliases)
    steps: dict[str, Upcaster] = {}
    for name in names:
        # `update` is one step for other threads. A loop over the table would fail if one of them adds an upcaster.
        steps.update(_by_type.get(name, ()))
    return steps


def chain_of(declared: PayloadClass, schema: str) -> tuple[Upcaster, ...] | None:
    """Return the upcasters that lead from a schema to that of the class; None if there is no such chain."""
    global _chains_of
    if not declared.schema or schema == declared.schema:
        return ()
    now = _generation()
    if now != _chains_of:
        _chains.clear()
        _chains_of = now
    chain = _chains.get((declared.type, schema))
    if chain is None:
        steps, at = upcasters_of(declared.type), schema
        found: list[Upcaster] = []
        while at != declared.schema:
            if at not in steps or len(found) > len(steps):
                return None  # not kept: an event can bring any schema, so there would be no bound
            found.append(steps[at])
            at = steps[at].new
        chain = _chains[declared.type, schema] = tuple(found)
    return chain


def check_upcasters() -> None:
    """Check all payload classes and upcasters of the process. Quick if nothing was declared since the last check.

    Raises ConfigError for a payload class that can't be used, and for an upcaster that does not lead to the schema of
    its class.
    """
    global _checked
    now = _generation()
    if now == _checked:
        return
    with LOCK:
        for declared in payload_classes():
            make_usable(declared)
        for step in _all:
            _check_step(step)
    _checked = now


def _generation() -> tuple[int, int]:
    return n_declared(), len(_all)


def _check_step(step: Upcaster) -> None:
    name = step.type
    what = f"the upcaster of type {name!r} from schema {step.old!r} to {step.new!r}"
    declared = payload_class_for(name)
    if declared is None:
        raise ConfigError(f"{what} has no class: no payload class declares the type (eda.payload)")
    if not declared.schema:
        raise ConfigError(
            f"{what} would never be called: {shown_class(declared.cls)} is declared without a schema, so it reads "
            "events of any schema"
        )
    if declared.kind == "protobuf":
        raise ConfigError(
            f"{what} would never be called: {shown_class(declared.cls)} is a protobuf message, which has no plain data"
        )
    steps = upcasters_of(name)
    if steps[step.old] is not step:
        raise ConfigError(
            f"{what} is the second one from schema {step.old!r}: one is declared for an alias of the type"
        )
    if step.old == declared.schema:
        raise ConfigError(f"{what} leads away from the schema {declared.schema!r} of {shown_class(declared.cls)}")
    if chain_of(declared, step.old) is None:
        at = step.new
        way = [step.old, at]
        while at in steps and len(way) <= len(steps):
            at = steps[at].new
            way.append(at)
        raise ConfigError(
            f"{what} does not lead to the schema {declared.schema!r} of {shown_class(declared.cls)}: "
            f"{' → '.join(map(repr, way))}, and from {at!r} there is no further upcaster"
        )


def _check_function(function: object, type: str, old: str, new: str) -> None:
    what = f"the upcaster of type {type!r} from schema {old!r} to {new!r}"
    if not callable(function):
        raise ConfigError(f"{what} must be a function, not {function!r}", argument="function")
    kind = "a class" if inspect.isclass(function) else kind_of_call(function)
    if kind:
        raise ConfigError(f"{what} must be a plain function, not {kind}", argument="function")
    try:
        signature = inspect.signature(function)
    except Exception:
        return  # some compiled functions have no readable signature
    try:
        signature.bind(object())
    except TypeError as error:
        raise ConfigError(
            f"{what} must take one argument, the plain data: its signature is {signature} ({error})",
            argument="function",
        ) from error
