"""What the streams of one relay share, and what they count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from eda.projections.outbox_cursor import OutboxCursor
from eda.projections.outbox_rows import OutboxRows
from eda.publishing.publisher import Publisher
from eda.subscribing.services import Services

__all__ = ["RelayCounts", "RelayHost"]


@dataclass(slots=True)
class RelayCounts:
    """What a relay has done since it was opened, in events."""

    sent: int = 0
    acknowledged: int = 0
    found: int = 0
    refused: int = 0
    buried: int = 0


@dataclass(slots=True)
class RelayHost:
    """What the streams of one relay share."""

    table: str
    services: Services
    rows: OutboxRows
    new_publisher: Callable[..., Publisher]
    buries: bool
    counts: RelayCounts
    look: asyncio.Event
    """set when rows can be read that could not be read before"""
    n_given_back: int = 0
    """how often rows were given back"""
    cursor: OutboxCursor = field(default_factory=OutboxCursor)
    taken: set[int] = field(default_factory=set)
    """the serials of all rows that must not be read now: they wait, are published, or are being deleted"""

    def gave_back(self, serials: set[int]) -> None:
        """Note that rows can be read again."""
        self.taken -= serials
        self.cursor.reset()
        self.n_given_back += 1
        self.look.set()
