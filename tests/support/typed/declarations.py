"""Payload classes, upcasters and encodings of one test, forgotten after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eda import encodings
from eda.typed import registry, upcasters

__all__ = ["own_declarations"]

_TABLES: list[dict[Any, Any]] = [
    encodings._registry,
    registry.DECODERS,
    registry.MADE_AS,
    registry._by_class,
    registry._by_type,
]


@contextmanager
def own_declarations() -> Iterator[None]:
    """Begin with the declarations that modules have made, and forget those that are made meanwhile."""
    kept = [table.copy() for table in _TABLES]
    steps = {name: dict(each) for name, each in upcasters._by_type.items()}
    n_steps = len(upcasters._all)
    _forget_checks()
    try:
        yield
    finally:
        for table, before in zip([*_TABLES, upcasters._by_type], [*kept, steps], strict=True):
            table.clear()
            table.update(before)
        del upcasters._all[n_steps:]
        _forget_checks()


def _forget_checks() -> None:
    upcasters._checked = None
    upcasters._chains.clear()
