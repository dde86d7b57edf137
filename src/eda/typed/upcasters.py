"""Upcasters: functions that bring plain data of an old schema to a newer one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from eda.errors import ConfigError
from eda.typed.registry import payload_class_for

__all__ = ["Upcaster", "check_upcasters", "upcast", "upcasters_of"]

F = TypeVar("F", bound=Callable[[Any], Any])


@dataclass(frozen=True, slots=True, eq=False)
class Upcaster:
    """A function from plain data of schema `old` to plain data of schema `new`."""

    type: str
    old: str
    new: str
    function: Callable[[Any], Any]


_declared: dict[str, dict[str, Upcaster]] = {}


def upcast(type: str, old: str, new: str) -> Callable[[F], F]:
    """Return a decorator that declares a function as the upcaster of a type from schema `old` to schema `new`.

    The function takes plain data (as `event.data.decode()` returns it) and returns the new plain data. It is called
    with data of its own, which it may change.

    Raises ConfigError for wrong arguments, a second upcaster from the same schema, and a cycle.
    """

    def declare(function: F) -> F:
        steps = _declared.setdefault(type, {})
        if old in steps:
            raise ConfigError(f"type {type!r} already has an upcaster from schema {old!r}", argument="old")
        steps[old] = Upcaster(type, old, new, function)
        return function

    return declare


def upcasters_of(type: str) -> dict[str, Upcaster]:
    """Return the upcasters of a type or alias, by the schema from which they lead."""
    declared = payload_class_for(type)
    names = (type,) if declared is None else (declared.type, *declared.aliases)
    return {old: step for name in names for old, step in _declared.get(name, {}).items()}


def check_upcasters() -> None:
    """Check that each chain of upcasters leads to the schema of its class. Raises ConfigError."""
