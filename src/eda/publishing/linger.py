"""Closes a publisher's open pack in time."""

from __future__ import annotations

import asyncio

from eda.publishing._packing_core import PackingCore
from eda.transport._outbound import Outbound

__all__ = ["Linger"]

WAIT_S = 0.002  # while a pack can't be written now: how long until the next look
EARLY_S = 0.0001  # a timer may fire this much early
LATE_S = 0.001  # and this much late: event loops wait in whole milliseconds
MOST_S = 0.25  # while packs wait: an open pack is closed at this age, if `linger_s` is not longer,
SHARE = 20  # and if it is not more than one twentieth of the events' time-out


class Linger:
    """Closes the open pack `linger_s` seconds after its first event, or up to a millisecond earlier.

    The timer does not run once for each pack: when it fires, it looks at the pack that is open then. While closed packs
    wait to be written, the open pack gets more events instead of being closed, because it could only wait behind them.
    But it does not stay open for long, because all its events fail at the same time: `timeout_s` after it was opened.

    If closing a pack fails, the pack stays open, and the timer tries again.
    """

    def __init__(self, core: PackingCore, out: Outbound, loop: asyncio.AbstractEventLoop, linger_s: float) -> None:
        self._core = core
        self._out = out
        self._loop = loop
        self._linger_s = linger_s
        self._open_s = linger_s - min(LATE_S, linger_s / 2)  # how long a pack is to be open, for an event loop's timer
        self._timer: asyncio.Handle | None = None

    def start(self) -> None:
        """Start the timer. Called when a pack is opened while the timer does not run."""
        if self._linger_s == 0:
            self._timer = self._loop.call_soon(self._on_time)
        else:
            self._timer = self._loop.call_later(self._open_s, self._on_time)
        self._core.linger_runs = True

    def stop(self) -> None:
        """Stop the timer for good."""
        self._core.linger_runs = True  # the core must not start it again
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self) -> None:
        core = self._core
        self._timer = None
        open_s = core.open_s()
        left_s = self._open_s - open_s
        if open_s >= 0 and left_s > EARLY_S:
            self._timer = self._loop.call_later(left_s, self._on_time)
        elif (
            open_s >= 0
            and (core.n_waiting or self._out.paused)
            and open_s < max(self._linger_s, min(MOST_S, core.give_up_s / SHARE))
        ):
            self._timer = self._loop.call_later(max(self._linger_s, WAIT_S), self._on_time)
        else:
            self._close_pack()

    def _close_pack(self) -> None:
        core = self._core
        core.linger_runs = False
        try:
            core.close_pack()
        except BaseException:
            if not core.linger_runs:
                self._timer = self._loop.call_later(max(self._linger_s, MOST_S), self._on_time)
                core.linger_runs = True
            raise
