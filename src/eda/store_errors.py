"""The errors of the event store, about an aggregate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eda.errors import EdaError, printable

__all__ = ["AggregateForgotten", "HistoryIncomplete", "VersionConflict"]

_EXPECTATIONS: dict[int | str, str] = {"new": "be new", "exists": "exist"}


class VersionConflict(EdaError):
    """An append to an aggregate that did not have the expected version. Nothing was stored.

    `expected`: the expectation as it was given: a version, "new" or "exists"; also "any", if only some of the ids are
    stored already. `actual`: the aggregate's version, 0 if it has no events. `events`: the events that were stored
    after the expected version, as far as they were read.
    """

    def __init__(
        self, stream: str, aggregate: str, expected: int | str, actual: int, events: Sequence[Any] = ()
    ) -> None:
        super().__init__()
        self.stream = stream
        self.aggregate = aggregate
        self.expected = expected
        self.actual = actual
        self.events: list[Any] = list(events)

    def __str__(self) -> str:
        if self.expected in ("any", self.actual):  # ids of the append are stored already, or the stream was replaced
            name = _aggregate(self.aggregate, self.stream)
            return f"the append conflicts with events that {name} has already; its version is {self.actual}"
        expected = _EXPECTATIONS.get(self.expected, f"have version {self.expected}")
        found = f"version {self.actual}" if self.actual else "no events"
        return f"{_aggregate(self.aggregate, self.stream)} was expected to {expected}, but it has {found}"


class HistoryIncomplete(EdaError):
    """An aggregate whose events can't all be read, so that its state can't be computed. `reason` says what is wrong."""

    def __init__(self, stream: str, aggregate: str, reason: str) -> None:
        super().__init__()
        self.stream = stream
        self.aggregate = aggregate
        self.reason = reason

    def __str__(self) -> str:
        return f"the history of {_aggregate(self.aggregate, self.stream)} is incomplete: {printable(self.reason)}"


class AggregateForgotten(EdaError):
    """An aggregate that was forgotten. It can't be loaded, and nothing can be appended to it."""

    def __init__(self, stream: str, aggregate: str) -> None:
        super().__init__()
        self.stream = stream
        self.aggregate = aggregate

    def __str__(self) -> str:
        return f"{_aggregate(self.aggregate, self.stream)} was forgotten"


def _aggregate(aggregate: str, stream: str) -> str:
    return f"aggregate {printable(aggregate)!r} of stream {stream!r}"
