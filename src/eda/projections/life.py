"""The life of a projection, a view or a relay: it is opened once, waited for, and closed within a deadline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any, Self

from eda.deadline import Deadline
from eda.errors import Closed

__all__ = ["CANCELLED_CLOSE_S", "Life", "OnLife"]

CANCELLED_CLOSE_S = 2.0
OPENING_SHARE = 0.5  # of the time for closing, this share is kept while the opening is cancelled

# Tells the owner of a connection that a member begins to open (then it may raise Closed or ConfigError) or is closed.
OnLife = Callable[["Life"], None]

# What has started the running code: the tokens of those whose user functions have. Tasks and threads inherit it.
_RUN_IN: ContextVar[tuple[object, ...]] = ContextVar("eda_applied_in", default=())


class Life:
    """What projections, views and relays have in common. Await it or enter it with `async with` to open it.

    Leaving the `async with` block closes it. If an error has ended it, leaving the block raises the error, as `wait`
    does. If the block is cancelled, closing takes at most 2 s.
    """

    def __init__(self, label: str, logger: logging.Logger, on_opening: OnLife, on_closed: OnLife) -> None:
        self._label = label  # names it in errors and log lines: "projection 'orders' version 1"
        self._logger = logger
        self._on_opening = on_opening
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline()
        self._error: Exception | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._token = object()  # and not the object itself: what a function has started may outlive this

    def __repr__(self) -> str:
        opening = self._opening
        is_open = opening is not None and opening.done() and not opening.cancelled() and opening.exception() is None
        state = "closed" if self._closed.is_set() else "open" if is_open else "not opened"
        return f"<{type(self).__name__} {self._label}, {state}>"

    @property
    def label(self) -> str:
        """Its name in messages."""
        return self._label

    # --- what each kind does -----------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Open it. If this fails or is cancelled, `_close` undoes everything that it has done."""
        raise NotImplementedError

    async def _close(self, deadline: Deadline) -> None:
        """Close it by the deadline."""
        raise NotImplementedError

    def _stop(self) -> None:
        """Begin nothing any more."""

    @property
    def _is_busy(self) -> bool:
        """Whether a function of the user runs, for `run_as_user`."""
        return False

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

    async def opened(self) -> Self:
        """Open it, unless it is open already. If the caller is cancelled, it is closed."""
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
            self.hurry(CANCELLED_CLOSE_S)
            self.begin_close()
            raise
        if opening.cancelled():
            raise self._error or Closed(self._label)
        error = opening.exception()
        if error is not None:
            await asyncio.shield(self.begin_close())
            raise error
        return self

    async def _in_use(self) -> None:
        """Open it, unless it is open already. Raises the error that has ended it, or Closed if it is being closed."""
        await self.opened()
        if self._closing is not None:
            raise self._error or Closed(self._label)

    # --- the end -----------------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether it is closed completely."""
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

    def stop(self) -> None:
        """Begin nothing any more. `close` does the rest."""
        self._stop()

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

    async def _close_all(self) -> None:
        try:
            if self._opening is not None:
                await self._deadline.wait({self._opening}, keeps_s=self._deadline.left_s * OPENING_SHARE)
            await self._close(self._deadline)
        except Exception as error:
            self._error = self._error or error
            self._logger.exception("closing %s failed", self._label)
        finally:
            self._closed.set()
            self._on_closed(self)

    def _end(self, error: Exception) -> None:
        """Close because of an error, which `wait` raises."""
        if self._closing is None:
            self._error = error
            self._logger.error("%s ends: %s", self._label, error)
            self.begin_close()

    # --- functions of the user ---------------------------------------------------------------------------------------

    def is_run_by_caller(self) -> bool:
        """Return whether the caller is a function that this object runs, or was started by one.

        Such a caller can't wait until the function ends, because the function may wait for the caller.
        """
        return self._is_busy and self._token in _RUN_IN.get()

    def _note_user_code(self) -> None:
        """Note that the running task, and what it starts, runs functions of the user for this object."""
        _RUN_IN.set((*_RUN_IN.get(), self._token))


def _retrieve(task: asyncio.Task[None]) -> None:
    """Take the error out of the task, so that asyncio does not report it when no caller waits any more."""
    if not task.cancelled():
        task.exception()
