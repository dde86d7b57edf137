"""A deadline for several waits. The deadline may be moved closer during a wait."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

__all__ = ["Deadline"]

T = TypeVar("T")

CANCELLED_WAIT_S = 1.0  # how long a cancelled task may take to end


class Deadline:
    """One deadline for several waits, one after the other. Make it in the event loop that waits."""

    def __init__(self, timeout_s: float = float("inf")) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + timeout_s
        self._moved: asyncio.Future[None] = self._loop.create_future()

    @property
    def left_s(self) -> float:
        """Return the seconds that are left: 0 after the deadline, `inf` without one."""
        return max(self._at - self._loop.time(), 0.0)

    def shorten(self, timeout_s: float) -> None:
        """Move the deadline to `timeout_s` seconds from now, unless it is earlier already."""
        at = self._loop.time() + timeout_s
        if at < self._at:
            self._at = at
            self._moved.set_result(None)
            self._moved = self._loop.create_future()

    async def wait(
        self, futures: Iterable[asyncio.Future[Any]], at_most_s: float = float("inf"), *, keeps_s: float = 0.0
    ) -> set[asyncio.Future[Any]]:
        """Wait until all futures are done, and return those that are not done in time.

        The wait ends after `at_most_s` seconds, or `keeps_s` seconds before the deadline. Of the time that is
        left, at most half is kept free, also after the deadline was moved.
        """
        keeps_s = min(keeps_s, self.left_s / 2)  # the caller may have computed keeps_s for a later deadline
        left = {each for each in futures if not each.done()}
        until = self._loop.time() + at_most_s
        while left:
            by = self._at if self._at == float("inf") else self._at - keeps_s  # inf - inf would be NaN
            patience_s = min(by, until) - self._loop.time()
            if patience_s <= 0:
                break
            timeout_s = None if patience_s == float("inf") else patience_s
            moved = self._moved
            await asyncio.wait({*left, moved}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if moved.done():
                keeps_s = min(keeps_s, self.left_s / 2)  # the new deadline may leave less than keeps_s
            left = {each for each in left if not each.done()}
        return left

    async def run(
        self, work: Coroutine[Any, Any, T], at_most_s: float = float("inf"), *, keeps_s: float = 0.0
    ) -> T | None:
        """Run the coroutine and return its result; None if it did not end in time and was cancelled.

        It always runs up to its first wait. The time is limited as in `wait`. Raises the coroutine's exception.
        """
        task = self._loop.create_task(work)
        try:
            await asyncio.sleep(0)  # the task begins, even after the deadline
            late = await self.wait({task}, at_most_s, keeps_s=keeps_s)
        except BaseException:
            _give_up(task)
            raise
        if late:
            _give_up(task)
            await asyncio.wait({task}, timeout=min(self.left_s, CANCELLED_WAIT_S))
            return None
        return task.result()


def _give_up(task: asyncio.Task[Any]) -> None:
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # retrieves the error
    task.cancel()
