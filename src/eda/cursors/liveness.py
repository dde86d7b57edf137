"""How long the holder of a cursor has been silent, measured by the clock of a standby."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from eda._clock import read_monotonic_ns
from eda.cursors.value import Snapshot
from eda.times import NS

__all__ = ["TAKEOVER_S", "HolderLiveness"]

TAKEOVER_S = 5.0  # without a write for this long a holder is silent: its lease, and a second for its handlers to end
HINT_PAUSE_S = 0.1  # hints lead to no more than one read in this time
DEAF_PAUSE_S = 1.0  # between two reads, if hints can't arrive


class HolderLiveness:
    """The cursor as a standby last read it, and the latest time at which this revision can have been written.

    Only reads decide. A hint is a message to the cursor's key, which anybody may have published. If a read finds a
    revision whose text had arrived as a hint, the revision counts as written when the hint arrived. Without such a hint
    it counts as written when the standby first read it.
    """

    def __init__(self) -> None:
        self.last: Snapshot = Snapshot(0, None)
        self._written_ns = 0
        self._read_ns = 0
        self._hints: deque[tuple[bytes, int]] = deque(maxlen=8)
        self._wake = asyncio.Event()

    def on_read(self, snapshot: Snapshot) -> None:
        """Note the snapshot that the standby has just read."""
        self._read_ns = read_monotonic_ns()
        if snapshot.revision != self.last.revision or self.last.value is None:
            times = (at_ns for text, at_ns in self._hints if text == snapshot.text)
            self._written_ns = next(times, self._read_ns)
        self.last = snapshot

    def can_follow(self, snapshot: Snapshot) -> bool:
        """Return whether later writes and takeovers can have led to this snapshot. If not, the cursor was reset.

        A takeover raises the epoch. Within an epoch the holder stays the same until it gives the cursor up.
        """
        before, now = self.last.value, snapshot.value
        if before is None or now is None or now.epoch < before.epoch:
            return False
        return now.epoch > before.epoch or now.holder in (before.holder, "")

    @property
    def holder(self) -> str:
        """Return the holder as of the last read; empty: there was none."""
        return self.last.value.holder if self.last.value is not None else ""

    @property
    def is_silent(self) -> bool:
        """Return whether the last read found the cursor unchanged for long enough to take it over."""
        return self._read_ns - self._written_ns >= int(TAKEOVER_S * NS)

    def on_hint(self, text: bytes, may_be_free: bool) -> None:
        """Note a message that somebody published to the cursor's key."""
        self._hints.appendleft((text, read_monotonic_ns()))
        if may_be_free:
            self._wake.set()

    def on_restored(self) -> None:
        """Restart the count after a reconnect: the holder may have lost its connection too, and gets time to return."""
        self._written_ns = read_monotonic_ns()

    async def until_next_read(self, *, has_hints: bool = True) -> None:
        """Return when the standby should read the cursor again. Without hints it reads more often."""
        is_held = self.last.value is not None and self.last.value.holder
        while is_held and not self._wake.is_set():
            left_s = (self._written_ns - read_monotonic_ns()) / NS + TAKEOVER_S
            if not has_hints:
                left_s = min(left_s, (self._read_ns - read_monotonic_ns()) / NS + DEAF_PAUSE_S)
            if left_s <= 0:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._wake.wait()
        await asyncio.sleep(max((self._read_ns - read_monotonic_ns()) / NS + HINT_PAUSE_S, 0.0))
        self._wake.clear()
