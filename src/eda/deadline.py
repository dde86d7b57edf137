"""The time by which something must have ended, which may be moved closer while that is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

__all__ = ["Deadline"]

T = TypeVar("T")

CANCELLED_WAIT_S = 1.0  # for what was cancelled to end


class Deadline:
    """One deadline for several waits, one after the other. Made in the loop in which it is waited for."""

    def __init__(self, timeout_s: float = float("inf")) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + timeout_s
        self._moved: asyncio.Future[None] = self._loop.create_future()

    @property
    def left_s(self) -> float:
        """The seconds that are left, 0 when it has passed, `inf` while there is no deadline."""
        return max(self._at - self._loop.time(), 0.0)

    def shorten(self, timeout_s: float) -> None:
        """Have it end in `timeout_s` from now; no effect if it ends sooner already."""
        at = self._loop.time() + timeout_s
        if at < self._at:
            self._at = at
            self._moved.set_result(None)
            self._moved = self._loop.create_future()

    async def wait(
        self, futures: Iterable[asyncio.Future[Any]], at_most_s: float = float("inf"), *, keeps_s: float = 0.0
    ) -> set[asyncio.Future[Any]]:
        """Wait until all are done; returns those that are not done `keeps_s` before the deadline, or in `at_most_s`.

        Half of the time that is left is for this wait at least, also when the deadline is moved meanwhile.
        """
        keeps_s = min(keeps_s, self.left_s / 2)  # it may have been moved since the caller has looked
        left = {each for each in futures if not each.done()}
        until = self._loop.time() + at_most_s
        while left:
            by = self._at if self._at == float("inf") else self._at - keeps_s  # half of for ever may be kept
            patience_s = min(by, until) - self._loop.time()
            if patience_s <= 0:
                break
            timeout_s = None if patience_s == float("inf") else patience_s
            moved = self._moved
            await asyncio.wait({*left, moved}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if moved.done():
                keeps_s = min(keeps_s, self.left_s / 2)  # what was kept may be more than there is now
            left = {each for each in left if not each.done()}
        return left

    async def run(
        self, work: Coroutine[Any, Any, T], at_most_s: float = float("inf"), *, keeps_s: float = 0.0
    ) -> T | None:
        """Run something, at least as far as it goes without waiting; returns None when it had to be cancelled.

        Raises what it raises.
        """
        task = self._loop.create_task(work)
        try:
            await asyncio.sleep(0)  # however late it is, it is begun
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
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody waits for it any more
    task.cancel()
