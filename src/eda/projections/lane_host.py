"""What the lanes of a stream share: the sink, the user's function, and where failures and successes are noted."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from eda.handling.dead_lettering import DeadLettering
from eda.handling.failure_log import FailureLog
from eda.projections.options import ProjectionOptions
from eda.projections.outage_log import OutageLog
from eda.projections.sink import Sink

__all__ = ["Attempt", "Counts", "LaneHost", "Wrap"]

# Makes one attempt to apply events, or one event.
Attempt = Callable[[Any], Awaitable[None]]
# Puts the hooks of middleware around an attempt.
Wrap = Callable[[Attempt], Attempt]


class Counts:
    """What a projection has done with a stream so far: transactions, events applied, and failed attempts."""

    __slots__ = ("applied", "dead", "failed", "transactions")

    def __init__(self) -> None:
        self.transactions: int = 0
        self.applied: int = 0
        self.failed: int = 0
        self.dead: int = 0


class LaneHost:
    """What all lanes of a stream share: the sink, the function, and where failures are noted.

    `on_moved()` is called when rows have moved, `on_dead(sequence, index, reason)` when an event was given up.
    `is_awaited(place)` returns whether somebody waits for an event up to this one; any thread may call it.
    `key_errors`: by sequence and index, the errors of the function `key`; such an event belongs to the first lane, and
    is given up.
    """

    def __init__(
        self,
        sink: Sink,
        options: ProjectionOptions,
        apply: Callable[[Any, Any], object],
        logger: logging.Logger,
        outages: OutageLog,
        failures: FailureLog,
        dead_letters: DeadLettering,
        counts: Counts,
        wrap: Wrap | None,
        is_awaited: Callable[[tuple[int, int]], bool],
        on_moved: Callable[[], None],
        on_dead: Callable[[int, int, str], None],
    ) -> None:
        self.sink = sink
        self.options = options
        self.apply = apply
        self.logger = logger
        self.outages = outages
        self.failures = failures
        self.dead_letters = dead_letters
        self.counts = counts
        self.wrap = wrap
        self.is_awaited = is_awaited
        self.on_moved = on_moved
        self.on_dead = on_dead
        self.key_errors: dict[tuple[int, int], Exception] = {}
