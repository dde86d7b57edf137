"""A schedule for an open loop, kept by a timer of the kernel: an event loop's own timers are a millisecond coarse."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
import time

__all__ = ["Pace"]

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1


class Pace:
    """`due` waits for what comes next and gives all that is due by now, as monotonic nanoseconds."""

    def __init__(self, rate: float) -> None:
        self._step = 1e9 / rate
        self._begin = time.monotonic_ns() + 2_000_000
        self._n = 0
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            self._loop = asyncio.get_running_loop()
            self._rang = asyncio.Event()
            self._loop.add_reader(self._fd, self._ring)

    def _ring(self) -> None:
        os.read(self._fd, 8)
        self._rang.set()

    def _time_of(self, n: int) -> int:
        return self._begin + int(n * self._step)

    async def due(self, n_all: int) -> list[int]:
        """Return when the next events of `n_all` were due, at least one."""
        at = self._time_of(self._n)
        if (wait := at - time.monotonic_ns()) > 0:
            if self._fd >= 0:
                self._rang.clear()
                timer = struct.pack("@4q", 0, 0, *divmod(at, 1_000_000_000))
                self._libc.timerfd_settime(self._fd, _ABSOLUTE, timer, None)
                await self._rang.wait()
            else:
                await asyncio.sleep(wait / 1e9)
        else:
            await asyncio.sleep(0)
        now = time.monotonic_ns()
        times = []
        while self._n < n_all and self._time_of(self._n) <= now:
            times.append(self._time_of(self._n))
            self._n += 1
        return times

    def close(self) -> None:
        """Give the timer back."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
