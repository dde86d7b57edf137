"""A TCP proxy between a projection and PostgreSQL that takes away the answers of commits."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Callable
from typing import Literal

from helpers import listening

__all__ = ["CommitProxy", "Fate"]

Fate = Literal["landed", "late", "lost"]
READ_SIZE = 65536
# The message that prepares a statement: P, the length, the name, and the text. psycopg prepares COMMIT, too.
PREPARED = re.compile(rb"P....(\w+)\0COMMIT", re.DOTALL)


class CommitProxy:
    """Passes bytes on, until `cut_next` says what becomes of the next COMMIT.

    "landed": the server commits, and the connection is cut before its answer arrives. "late": the client's connection
    is cut first, and the server gets the COMMIT `late_s` later. "lost": the server never gets it. `n_cut` counts the
    connections that were cut; `on_cut` is called for each. `refusing`: new connections are closed at once.
    """

    def __init__(self, port: int, on_cut: Callable[[], None], *, late_s: float = 0.5) -> None:
        self.target = port
        self.port = 0
        self.refusing = False
        self.late_s = late_s
        self.n_cut: Counter[Fate] = Counter()
        self._on_cut = on_cut
        self._next: Fate | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> CommitProxy:
        self.port = await self._stack.enter_async_context(listening(self._serve))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def cut_next(self, fate: Fate) -> None:
        """Cut the next connection that sends COMMIT."""
        self._next = fate

    def cut(self) -> None:
        """Cut all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            return
        self._writers |= {writer, up_writer}
        answers = asyncio.ensure_future(self._pass(up_reader, writer))
        requests = asyncio.ensure_future(self._pass_requests(reader, writer, up_writer, answers))
        try:
            await asyncio.wait({answers, requests}, return_when=asyncio.FIRST_COMPLETED)
            if answers.cancelled():  # the commit is cut: `requests` sees it through
                await asyncio.wait({requests})
        finally:
            self._writers -= {writer, up_writer}
            up_writer.transport.abort()
            for each in (answers, requests):
                each.cancel()
            await asyncio.wait({answers, requests})

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_SIZE):
                writer.write(data)
                await writer.drain()

    async def _pass_requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_writer: asyncio.StreamWriter,
        answers: asyncio.Future[None],
    ) -> None:
        prepared: set[bytes] = set()
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_SIZE):
                fate = self._next
                prepared.update(PREPARED.findall(data))
                if fate is not None and (b"COMMIT" in data or any(b"\0%b\0" % name in data for name in prepared)):
                    self._next = None
                    await self._cut_commit(fate, data, writer, up_writer, answers)
                    return
                up_writer.write(data)
                await up_writer.drain()

    async def _cut_commit(
        self,
        fate: Fate,
        data: bytes,
        writer: asyncio.StreamWriter,
        up_writer: asyncio.StreamWriter,
        answers: asyncio.Future[None],
    ) -> None:
        self._on_cut()
        answers.cancel()
        if fate == "landed":
            up_writer.write(data)
            await asyncio.sleep(0.1)  # nobody reads the answer; a commit takes a millisecond
            writer.transport.abort()
        else:
            writer.transport.abort()
            if fate == "late":
                await asyncio.sleep(self.late_s)
                up_writer.write(data)
                await asyncio.sleep(0.1)
        self.n_cut[fate] += 1
