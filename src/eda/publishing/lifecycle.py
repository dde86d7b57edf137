"""Opens and closes an object once each, however many callers ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from eda.errors import Closed

__all__ = ["Lifecycle"]


class Lifecycle:
    """Opens and closes an object that is called `name` in errors.

    `open` is the coroutine function that opens the object. Closing has two parts: `stop` runs at once. `clean_up` runs
    in a task of its own, after `open` has ended.
    """

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        *,
        open: Callable[[], Coroutine[Any, Any, None]],
        stop: Callable[[], None],
        clean_up: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._name = name
        self._loop = loop
        self._open = open
        self._stop = stop
        self._clean_up = clean_up
        self._opening: asyncio.Task[None] | None = None
        self._n_waiting = 0  # callers of `open`
        self._closing: asyncio.Task[None] | None = None

    @property
    def has_begun(self) -> bool:
        """Return whether somebody has called `open`."""
        return self._opening is not None

    async def open(self) -> None:
        """Open the object. If another caller is opening it, wait for that. Raises what opening raises, and Closed.

        If all callers are cancelled while they wait, the object is closed.
        """
        if self._closing is not None:
            raise Closed(self._name)
        if self._opening is None:
            self._opening = self._loop.create_task(self._open())
        opening = self._opening
        self._n_waiting += 1
        try:
            # With `await opening`, a caller that is cancelled would cancel the opening for all callers.
            await asyncio.wait({opening})
        except BaseException:
            if self._n_waiting == 1:
                await self.close()
            raise
        finally:
            self._n_waiting -= 1
        if self._closing is not None or opening.cancelled():
            raise Closed(self._name)
        if (error := opening.exception()) is not None:
            await self.close()
            raise error

    async def close(self) -> None:
        """Close the object, or wait if another caller is closing it. If the caller is cancelled, closing goes on."""
        if self._closing is None:
            if self._opening is not None:
                self._opening.cancel()
            # The task is made first, so that `open` and `close` see it if `stop` calls code of the user.
            self._closing = self._loop.create_task(self._finish())
            self._stop()
        await asyncio.shield(self._closing)

    async def _finish(self) -> None:
        try:
            if self._opening is not None:
                await asyncio.wait({self._opening})
                if not self._opening.cancelled():
                    self._opening.exception()  # read it, because all callers may have been cancelled
        finally:
            await self._clean_up()
