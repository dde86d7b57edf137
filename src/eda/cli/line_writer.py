"""Writes to standard output in a thread, so that a slow reader does not stop the event loop."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["LineWriter", "OutputLost"]

CHUNK = 1 << 20  # bytes that are written at once
LOOK_S = 0.5  # between two looks whether the reader of a pipe has gone
LAST_S = 1.0  # after a signal, so long a write may take


class OutputLost(Exception):
    """Standard output can't be written. `error` says why: BrokenPipeError if the reader of a pipe has gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error: OSError = error


class LineWriter:
    """Writes bytes to standard output, in order. Use it as an async context manager.

    One chunk is written while the next one is collected. So a slow reader slows down the caller, and memory is bounded.
    `gone` is done when the reader of a pipe has gone, or the output can't be written.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = sys.stdout.fileno()
        self._parts: list[bytes] = []
        self._n = 0
        self._chunk = b""
        self._written: asyncio.Future[None] | None = None  # done when the chunk is written
        self._error: OSError | None = None
        self._wake = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="eda-stdout", daemon=True)
        self._timer: asyncio.TimerHandle | None = None
        self.gone: asyncio.Future[None] = self._loop.create_future()

    async def __aenter__(self) -> Self:
        sys.stdout.flush()
        self._thread.start()
        self._look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            if kind is None:
                await self.flush()
            else:
                # Lines stay whole, unless nobody reads them.
                with suppress(TimeoutError, OutputLost):
                    async with asyncio.timeout(LAST_S):
                        await self.flush()
        finally:
            self._chunk = b""
            self._wake.release()

    async def write(self, data: bytes) -> None:
        """Write whole lines. Waits while much is not written yet. Raises OutputLost."""
        self._raise_error()
        self._parts.append(data)
        self._n += len(data)
        if self._written is None:
            self._begin()
        elif self._n >= CHUNK:
            await asyncio.shield(self._written)
            self._raise_error()

    async def flush(self) -> None:
        """Wait until all is written. Raises OutputLost."""
        while self._written is not None:
            await asyncio.shield(self._written)
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise OutputLost(self._error)

    def _begin(self) -> None:
        """Give the thread what was collected."""
        self._chunk = b"".join(self._parts)
        self._parts, self._n = [], 0
        self._written = self._loop.create_future()
        self._wake.release()

    def _finish(self, error: OSError | None) -> None:
        written, self._written = self._written, None
        if error is not None:
            self._error, self._parts, self._n = error, [], 0
            self._tell_gone()
        elif self._parts:
            self._begin()
        if written is not None:
            written.set_result(None)

    def _tell_gone(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            if not self._chunk:
                return
            error: OSError | None = None
            try:
                view = memoryview(self._chunk)
                while view:
                    view = view[os.write(self._fd, view) :]
            except OSError as failed:
                error = failed
            try:
                self._loop.call_soon_threadsafe(self._finish, error)
            except RuntimeError:
                return  # the loop is closed

    # --- a reader that has gone --------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Find out whether the reader of a pipe has gone, although nothing is written."""
        if not hasattr(select, "poll"):
            return  # Windows: the next write tells
        poll = select.poll()
        poll.register(self._fd, 0)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            self._tell_gone()
            return
        self._timer = self._loop.call_later(LOOK_S, self._look)
