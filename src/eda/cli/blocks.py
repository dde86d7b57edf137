"""Reads a file or standard input in blocks of whole lines, without stopping the event loop."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress

from eda._event_lines import n_lines_of

__all__ = ["MAX_LINE", "LineBlocks"]

BLOCK = 1 << 18  # bytes that are read at once
HELD = 1 << 20  # bytes that the thread reads ahead
MAX_LINE = 1 << 27  # bytes; more than the largest event takes


class LineBlocks:
    """The lines of an open file, in blocks. `n_bytes`: how much was read. `size`: the size of a regular file, or None.

    A regular file is read in the event loop. Anything else, which may make a read wait, is read in a thread: then
    `may_wait` is set.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        about = os.fstat(fd)
        self.may_wait: bool = not stat.S_ISREG(about.st_mode)
        self.size: int | None = None if self.may_wait else about.st_size
        self.n_bytes: int = 0
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Condition()
        self._ahead: list[bytes] = []
        self._n_ahead = 0
        self._ended: bool | OSError = False
        self._waiter: asyncio.Future[None] | None = None

    async def blocks(self) -> AsyncGenerator[tuple[int, bytes, bool], None]:
        """Return blocks of whole lines: the number of the first line, the lines, and whether a line is too long.

        A line that is too long is left out; its block is empty. Raises OSError.
        """
        number, rest = 1, [b""]  # the pieces of a line whose end was not read yet
        n_rest, is_too_long = 0, False
        while data := await self._read():
            self.n_bytes += len(data)
            end = data.rfind(b"\n") + 1
            if not end:
                if n_rest + len(data) > MAX_LINE:
                    rest, n_rest, is_too_long = [], 0, True
                elif not is_too_long:
                    rest.append(data)
                    n_rest += len(data)
                continue
            if is_too_long:
                first = data.index(b"\n") + 1
                yield number, b"", True
                number += 1
                lines, is_too_long = data[first:end], False
            else:
                lines = b"".join([*rest, memoryview(data)[:end]])
            if lines:
                yield number, lines, False
                number += n_lines_of(lines)
            rest, n_rest = [data[end:]], len(data) - end
            await asyncio.sleep(0)
        if is_too_long:
            yield number, b"", True
        elif n_rest:
            yield number, b"".join(rest) + b"\n", False

    async def _read(self) -> bytes:
        if not self.may_wait:
            return os.read(self._fd, BLOCK)
        if self._waiter is None:
            threading.Thread(target=self._run, name="eda-stdin", daemon=True).start()
        while True:
            self._waiter = self._loop.create_future()
            with self._lock:
                if self._ahead:
                    data = b"".join(self._ahead)
                    self._ahead, self._n_ahead = [], 0
                    self._lock.notify()
                    return data
                if self._ended:
                    if isinstance(self._ended, OSError):
                        raise self._ended
                    return b""
            await self._waiter

    def _run(self) -> None:
        """Read in a thread, until the end."""
        ended: bool | OSError = False
        while not ended:
            data = b""
            try:
                data = os.read(self._fd, BLOCK)
            except OSError as error:
                ended = error
            with self._lock:
                if data:
                    self._ahead.append(data)
                    self._n_ahead += len(data)
                else:
                    ended = ended or True
                    self._ended = ended
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._on_read)
                while self._n_ahead >= HELD:
                    self._lock.wait()

    def _on_read(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
