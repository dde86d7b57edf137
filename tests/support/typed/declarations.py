"""Payload classes for tests: declared for the time of one test, and forgotten after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eda.typed import registry, upcasters

__all__ = ["own_declarations"]

_TABLES: list[Any] = [
    registry.DECODERS,
    registry.MADE_AS,
    registry._by_class,
    registry._by_type,
    upcasters._by_type,
    upcasters._all,
]


@contextmanager
def own_declarations() -> Iterator[None]:
    """Begin with the declarations that are there, and forget those that are made meanwhile."""
    kept = [table.copy() for table in _TABLES[:-2]]
    steps = {name: dict(each) for name, each in upcasters._by_type.items()}
    n_steps = len(upcasters._all)
    _forget_checks()
    try:
        yield
    finally:
        for table, before in zip(_TABLES[:-2], kept, strict=True):
            table.clear()
            table.update(before)
        upcasters._by_type.clear()
        upcasters._by_type.update(steps)
        del upcasters._all[n_steps:]
        _forget_checks()


def _forget_checks() -> None:
    upcasters._checked = None
    upcasters._chains.clear()
