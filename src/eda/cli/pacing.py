"""The pace of a replay: the time between two events is that between their storing, divided by the speed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import eda

__all__ = ["StoredPace"]

TINY_S = 0.001  # shorter waits are left out: the next wait makes up for them


class StoredPace:
    """Waits until it is time for an event. Times that go backwards count as no time.

    `speed`: how many seconds of the past pass in a second. `longest_s`: the longest wait between two events.
    `on_wait` is called before each wait.
    """

    def __init__(self, speed: float, longest_s: float | None, on_wait: Callable[[], None] = lambda: None) -> None:
        self._speed = speed
        self._longest_s = longest_s
        self._on_wait = on_wait
        self._last_ns = 0  # when the last event was stored; 0: there was none
        self._due = 0.0

    async def wait(self, event: eda.Event) -> None:
        """Return when it is time for the event."""
        now = asyncio.get_running_loop().time()
        if not self._last_ns:
            self._due = now
        else:
            gap_s = max(event.ack_time_ns - self._last_ns, 0) / 1e9 / self._speed
            self._due += gap_s if self._longest_s is None else min(gap_s, self._longest_s)
        self._last_ns = event.ack_time_ns
        if self._due - now > TINY_S:
            self._on_wait()
            await asyncio.sleep(self._due - now)
