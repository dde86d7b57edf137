"""ProjectionStats: how far a projection is, and how far it lags behind its streams."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ProjectionStats", "StreamProgress"]


@dataclass(frozen=True)
class StreamProgress:
    """How far a projection has applied one stream."""

    stream: str
    """the name of the stream"""
    position: int
    """the sequence up to which every message of the stream is wholly applied; with several lanes the lowest. 0: none
    yet. While a pack is partly applied, it is the sequence before the pack"""
    lag: int | None
    """how many messages are not wholly applied; None: unknown. A pack counts as one, however many events it has. Where
    only eda itself can filter, or in a view, messages that the projection's `types` and `aggregate` leave out may count
    as well"""
    lag_s: float | None
    """the age of the oldest event that is not applied, in seconds; 0.0: all are applied; None: unknown"""
    lanes: tuple[int, ...]
    """the position of each lane; empty if the projection has not read this stream yet"""


@dataclass(frozen=True)
class ProjectionStats:
    """How far a projection is, and what this process has done for it since it was opened."""

    name: str
    """the name of the projection"""
    version: int | None
    """the version of the projection. Of a view: the current version; None: no version was opened yet"""
    streams: tuple[StreamProgress, ...]
    """its streams, by name"""
    transactions: int = 0
    """committed by this process"""
    applied: int = 0
    """events that this process has applied"""
    failed: int = 0
    """attempts that failed: `apply` raised an exception, or ran too long. Database outages are not counted"""
    dead_lettered: int = 0
    """events that this process has moved to the dead-letter stream"""
    active: bool = False
    """whether this process applies the events of all streams. False: a view; or another process applies some"""

    @property
    def lag(self) -> int | None:
        """Return how many messages of all streams are not wholly applied; None: unknown for a stream."""
        lags = [each.lag for each in self.streams if each.lag is not None]
        return sum(lags) if len(lags) == len(self.streams) else None

    @property
    def lag_s(self) -> float | None:
        """Return the age of the oldest event of all streams that is not applied, in seconds; None: unknown."""
        ages = [each.lag_s for each in self.streams if each.lag_s is not None]
        return max(ages, default=0.0) if len(ages) == len(self.streams) else None
