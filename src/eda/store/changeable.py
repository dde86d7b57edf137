"""Whether the state of an aggregate may be changed in place, so that it is lost when an append fails."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import types
import uuid
from collections.abc import Callable, Hashable
from functools import lru_cache
from operator import attrgetter
from typing import Any, cast

import msgspec

__all__ = ["is_immutable", "quick_answer"]

_PLAIN: tuple[type[Any], ...] = (
    str,
    bytes,
    int,
    float,
    bool,
    complex,
    types.NoneType,
    types.EllipsisType,
    types.FunctionType,
    type,
    range,
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    decimal.Decimal,
    fractions.Fraction,
    uuid.UUID,
)
_Parts = Callable[[Any], tuple[Any, ...] | frozenset[Any]]


def is_immutable(state: object) -> bool:
    """Return whether nothing of the state can be changed in place; False also where that can't be told.

    A hash says nothing about this: a class may define one and still have attributes that change, and a frozen
    dataclass may hold such an object.
    """
    waiting = [state]
    while waiting:
        value = waiting.pop()
        parts = _parts_of(cast("Hashable", type(value)))
        if parts is None:
            return False
        if parts is not _no_parts:
            try:
                waiting += parts(value)
            except AttributeError:  # a field that was never set
                return False
    return True


def _quick_answer(cls: type) -> bool | None:
    """Return what `is_immutable` returns for every instance of the class; None if it depends on the instance."""
    parts = _parts_of(cast("Hashable", cls))
    if parts is None:
        return False
    return True if parts is _no_parts else None


quick_answer: Callable[[type], bool | None] = lru_cache(maxsize=1024)(_quick_answer)


def _no_parts(_: Any) -> tuple[Any, ...]:
    return ()


def _itself(value: Any) -> Any:
    return value


@lru_cache(maxsize=1024)
def _parts_of(cls: type) -> _Parts | None:
    """Return how to get what an instance consists of; None if the instance may be changed."""
    if cls in _PLAIN or issubclass(cls, enum.Enum):
        return _no_parts
    if cls in (tuple, frozenset) or (issubclass(cls, tuple) and hasattr(cls, "_fields") and _has_no_dict(cls)):
        return _itself
    if issubclass(cls, list | dict | set | bytearray):
        return None
    if dataclasses.is_dataclass(cls):
        # A subclass that is no dataclass may have further attributes.
        is_frozen = "__dataclass_params__" in cls.__dict__ and cls.__dict__["__dataclass_params__"].frozen
        names = [field.name for field in dataclasses.fields(cls)]
    elif issubclass(cls, msgspec.Struct):
        is_frozen = cls.__struct_config__.frozen and _has_no_dict(cls)
        names = list(cls.__struct_fields__)
    else:
        return None
    if not is_frozen:
        return None
    if not names:
        return _no_parts
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda value: (get(value),)


def _has_no_dict(cls: type) -> bool:
    return not cls.__dictoffset__
