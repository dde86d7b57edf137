"""The life of what a connection runs for a user: it is opened once, waited for, and closed within a deadline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import Any, Literal, Self

from eda.deadline import Deadline
from eda.errors import Closed, error_text

__all__ = ["CANCELLED_CLOSE_S", "Life", "OnLife"]

CANCELLED_CLOSE_S = 2.0

# Tells the owner of a connection that a member begins to open (then it may raise Closed or ConfigError) or is closed.
OnLife = Callable[[Any], None]


class Life:
    """What subscriptions, projections, views and relays have in common. Await it or enter it to open it.

    Leaving the `async with` block closes it. If an error has ended it, leaving the block raises the error, as `wait`
    does. If the block is cancelled, closing takes at most 2 s. `label` names it in errors and log lines.
    """

    _health_group: str  # the list in which a health check shows it
    _has_lags: bool = False  # whether it has lags, which `_lags` finds out

    def __init__(self, label: str, logger: logging.Logger, on_opening: OnLife, on_closed: OnLife) -> None:
        self._label = label
        self._logger = logger
        self._on_opening = on_opening
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._error: Exception | None = None
        self._deadline = Deadline()  # by when it must be closed; none until `hurry` sets one
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._life_level: int = logging.INFO  # of the log lines that say that it is opened and closed

    @property
    def label(self) -> str:
        """Its name in messages."""
        return self._label

    @property
    def _key(self) -> str:
        """What tells it apart from others: one with the same key that is opened later takes its place."""
        return self._label

    @property
    def _stage(self) -> Literal["new", "opening", "open", "closing", "closed", "ended"]:
        """How far its life is; "ended" is closed by an error."""
        if self._closed.is_set():
            return "closed" if self._error is None else "ended"
        if self._closing is not None:
            return "closing"
        if self._opening is None:
            return "new"
        return "open" if self._has_opened else "opening"

    @property
    def _has_opened(self) -> bool:
        opening = self._opening
        return opening is not None and opening.done() and not opening.cancelled() and opening.exception() is None

    def _condition(self) -> dict[str, Any]:
        """Return what a health check says about it, ready for JSON; without asking any server."""
        error = None if self._error is None else error_text(self._error)
        return {"name": self._label, "state": self._stage, "error": error}

    async def _lags(self) -> dict[str, Any]:
        """Return what only the server knows of its condition. Raises ServerError, Timeout, Closed."""
        return {}

    # --- what each kind does -----------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Open it. If this fails or is cancelled, closing undoes everything that it has done."""
        raise NotImplementedError

    async def _close_all(self) -> None:
        """Close it by the deadline, whatever fails, and call `_finished` at last."""
        raise NotImplementedError

    def stop(self) -> None:
        """Begin nothing any more. `close` does the rest."""
        raise NotImplementedError

    def is_run_by_caller(self) -> bool:
        """Return whether the caller is a function of the user that this object runs, or was started by one.

        Such a caller can't wait until the function ends, because the function may wait for the caller.
        """
        raise NotImplementedError

    # --- opening -----------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self.opened().__await__()

    async def __aenter__(self) -> Self:
        return await self.opened()

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is not None and not issubclass(exc_type, Exception):
            self.hurry(CANCELLED_CLOSE_S)
        await self.close()
        if exc_type is None and self._error is not None:
            raise self._error

    async def opened(self, *, gives_up: bool = True) -> Self:
        """Open it, unless it is open already. Raises Closed, and what its opening raises.

        If the caller is cancelled, it is closed, unless `gives_up` is False because the caller may come back.
        """
        if self._opening is None:
            if self._closing is not None:
                raise Closed(self._label)
            self._on_opening(self)
            self._opening = self._loop.create_task(self._open(), name=f"eda opens {self._label}")
            self._opening.add_done_callback(_retrieve)
        opening = self._opening
        try:
            # If a caller awaited the task itself, its cancellation would cancel the task for all callers.
            if not opening.done():
                await asyncio.wait({opening})
        except BaseException:
            # The caller was cancelled, perhaps in the same turn of the loop in which the opening has ended.
            if gives_up:
                self.hurry(CANCELLED_CLOSE_S)
                self.begin_close()
            raise
        if opening.cancelled():
            # It was closed meanwhile, perhaps because another caller of this method was cancelled.
            raise self._error or Closed(self._label)
        error = opening.exception()
        if error is not None:
            await asyncio.shield(self.begin_close())
            raise error
        return self

    # --- the end -----------------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Return whether it is closed completely."""
        return self._closed.is_set()

    async def wait(self) -> None:
        """Wait until it is closed. If an error has ended it, raise the error."""
        await self.opened()
        await self._closed.wait()
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Finish what is under way, and close. Further calls are allowed.

        If a function that it runs calls it, or a task or thread that such a function has started, it returns at once,
        and closing continues when the function has ended. If the caller is cancelled, closing continues for at most
        2 s.
        """
        closing = self.begin_close()
        if self.is_run_by_caller():
            return
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            self.hurry(CANCELLED_CLOSE_S)
            raise

    def hurry(self, timeout_s: float) -> None:
        """Shorten the time for closing to `timeout_s` from now."""
        self._deadline.shorten(timeout_s)

    def begin_close(self) -> asyncio.Task[None]:
        """Begin to close, and return the task that does it."""
        if self._closing is None:
            self.stop()
            if self._opening is not None and self._opening is not asyncio.current_task():
                self._opening.cancel()
            self._closing = self._loop.create_task(self._close_all(), name=f"eda closes {self._label}")
            self._closing.add_done_callback(_retrieve)
        return self._closing

    def _finished(self) -> None:
        """Note that it is closed completely."""
        if self._has_opened:
            self._logger.log(self._life_level, "%s closed", self._label)
        self._closed.set()
        self._on_closed(self)

    def _end(self, error: Exception) -> None:
        """Close because of an error, which `wait` raises."""
        if self._closing is None:
            self._error = error
            self._logger.error("%s ends: %s", self._label, error)
            self.begin_close()


def _retrieve(task: asyncio.Task[None]) -> None:
    """Take the error out of the task, so that asyncio does not report it when no caller waits any more."""
    if not task.cancelled():
        task.exception()
