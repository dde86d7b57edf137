"""For how long the holder of a cursor's key has been silent, by the clock of the member that stands by."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from eda._clock import read_monotonic_ns
from eda.cursors.value import Kept
from eda.times import NS

__all__ = ["TAKEOVER_S", "Silence"]

TAKEOVER_S = 5.0  # without a new revision; a second more than a lease, so that running handlers can end
HINT_PAUSE_S = 0.1  # hints have the key read no more often
DEAF_PAUSE_S = 1.0  # between two reads, where no hints arrive


class Silence:
    """What a standby has read last, and by when that was written at the latest.

    Only what was read counts. A hint of the same text, received earlier, dates it: without hints a revision is taken to
    be as young as the first read that found it.
    """

    def __init__(self) -> None:
        self.seen = Kept(0, None)
        self._since_ns = 0
        self._read_ns = 0
        self._hints: deque[tuple[bytes, int]] = deque(maxlen=8)
        self._wake = asyncio.Event()

    def note(self, kept: Kept) -> None:
        """Take what was just read."""
        self._read_ns = read_monotonic_ns()
        if kept.revision != self.seen.revision or self.seen.value is None:
            dates = (at_ns for text, at_ns in self._hints if text == kept.text)
            self._since_ns = next(dates, self._read_ns)
        self.seen = kept

    def follows(self, kept: Kept) -> bool:
        """Whether what was just read is what the holders of the key may have made of what was read before.

        A new holder has a new epoch; in the same one only its holder writes, and may give it up.
        """
        seen, now = self.seen.value, kept.value
        if seen is None or now is None or now.epoch < seen.epoch:
            return False
        return now.epoch > seen.epoch or now.holder in (seen.holder, "")

    @property
    def is_long(self) -> bool:
        """Whether, when it was read last, the key had not changed for as long as it takes."""
        return self._read_ns - self._since_ns >= int(TAKEOVER_S * NS)

    def on_hint(self, text: bytes, may_be_free: bool) -> None:
        """Take what was published to the key, by whomever."""
        self._hints.appendleft((text, read_monotonic_ns()))
        if may_be_free:
            self._wake.set()

    def restart(self) -> None:
        """Begin anew: the connection is back. The holder may have been cut off as well, and gets its time to return."""
        self._since_ns = read_monotonic_ns()

    async def last(self, *, is_told: bool = True) -> None:
        """Return when the key should be read again. `is_told`: hints may arrive, and it need not be read for them."""
        is_held = self.seen.value is not None and self.seen.value.holder
        while is_held and not self._wake.is_set():
            left_s = (self._since_ns - read_monotonic_ns()) / NS + TAKEOVER_S
            if not is_told:
                left_s = min(left_s, (self._read_ns - read_monotonic_ns()) / NS + DEAF_PAUSE_S)
            if left_s <= 0:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._wake.wait()
        await asyncio.sleep(max((self._read_ns - read_monotonic_ns()) / NS + HINT_PAUSE_S, 0.0))
        self._wake.clear()
