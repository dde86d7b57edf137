"""The tail of an aggregate: its events after a baseline."""

from __future__ import annotations

from dataclasses import dataclass

from eda._event import Event

__all__ = ["NOTHING", "Baseline", "Tail"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Up to where the caller knows the aggregate: the version, sequence and id of its last event there."""

    version: int = 0
    sequence: int = 0
    last_id: str = ""


NOTHING = Baseline()


@dataclass(frozen=True, slots=True)
class Tail:
    """The events of an aggregate after a baseline.

    `is_continued`: whether the stream has the baseline's event where the baseline says. If not, the stream was restored
    or made again, or the aggregate was forgotten, and `events` are all events of the aggregate.
    """

    events: list[Event]
    is_continued: bool
