"""Starts and watches the two sides of a run, which are processes of eda.cli.worker that use one server."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

import msgspec

import eda
from eda.amounts import duration_text
from eda.cli.work import Work
from eda.transport.addresses import parse_addresses

__all__ = ["Figures", "SideFailed", "run_sides"]

STOP_TIMEOUT_S = 5.0
MAX_LOG_LINES = 50


class SideFailed(Exception):
    """The error of a side that ended without a result. Its text says why."""


@dataclass(frozen=True)
class Figures:
    """The results of a run: the server's name, and what each side measured."""

    server: str
    published: dict[str, Any]
    handled: dict[str, Any]


async def run_sides(
    work: Work,
    addr: str | None,
    on_server: Callable[[str], None],
    on_progress: Callable[[str, int], None],
    on_log: Callable[[str], None],
) -> Figures:
    """Do the work on the server at `addr` (None: an embedded server), in a new stream that is deleted at the end.

    Raises EdaError if the server can't be used, SideFailed if a side fails.
    """
    async with AsyncExitStack() as stack:
        addresses = parse_addresses(addr or "embedded:")
        if addresses.embedded:
            server = await stack.enter_async_context(eda.EmbeddedServer(addresses.embedded_dir))
            url, name = server.url, f"nats-server {server.version()}, embedded, file storage"
        else:
            assert addr is not None
            url, name = addr, f"server {addresses}, file storage"
        conn = await stack.enter_async_context(eda.connect(url, client=f"{work.client}-admin"))
        stream = f"{work.client}-{secrets.token_hex(8)}"
        # The window is short, because the server keeps millions of ids for it. A publish may still take half: 30 s.
        try:
            await conn.streams.create(stream, eda.StreamOptions(dedup_window_s=60.0, packed=work.packed))
        except (asyncio.CancelledError, eda.Timeout):  # the stream may have been created in spite of this
            await _delete(conn, stream, on_log)
            raise
        stack.push_async_callback(_delete, conn, stream, on_log)
        on_server(name)
        # The handling side starts first, so that it is subscribed when the first event comes.
        handling = Side("handle", url, stream, work, on_progress, on_log)
        stack.push_async_callback(_forget, conn, stream, work, handling, on_log)
        await stack.enter_async_context(handling)
        await handling.ready()
        publishing = Side("publish", url, stream, work, on_progress, on_log)
        await stack.enter_async_context(publishing)
        await asyncio.wait({publishing.outcome, handling.outcome}, return_when=asyncio.FIRST_COMPLETED)
        if handling.outcome.done():
            handling.outcome.result()
        published = await publishing.outcome
        handling.write_line(json.dumps(published["published"]))
        return Figures(name, published, await handling.outcome)


async def _delete(conn: eda.Conn, stream: str, on_log: Callable[[str], None]) -> None:
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await conn.streams.delete(stream)
    except eda.StreamNotFound:
        pass
    except (eda.EdaError, TimeoutError) as error:
        on_log(f"the stream {stream} could not be deleted: {_why(error)}")


async def _forget(conn: eda.Conn, stream: str, work: Work, handling: Side, on_log: Callable[[str], None]) -> None:
    """Remove the cursors that a killed handling side left behind. A side that ends by itself leaves none."""
    if not handling.was_killed or work.kind == "shared":
        return
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            for number in range(1, work.subscriptions + 1):
                await (await conn.subscribe(stream, lambda _: None, work.options(number))).unsubscribe()
    except (eda.EdaError, TimeoutError) as error:
        on_log(f"the cursors of {stream} in the bucket eda-cursors could not be removed: {_why(error)}")


def _why(error: Exception) -> str:
    return str(error) or f"no answer within {duration_text(STOP_TIMEOUT_S)}"


class Side:
    """A process that publishes or handles. It runs from `__aenter__` until the end of `__aexit__`.

    `outcome` is the task that returns the result, or raises SideFailed if there is none. `was_killed` tells, after
    `__aexit__`, whether the process ended before it could clean up.
    """

    outcome: asyncio.Task[dict[str, Any]]

    def __init__(
        self,
        name: str,
        url: str,
        stream: str,
        work: Work,
        on_progress: Callable[[str, int], None],
        on_log: Callable[[str], None],
    ) -> None:
        self.name = name
        self._url = url
        self._arguments = [name, stream, msgspec.json.encode(work).decode()]
        self._on_progress = on_progress
        self._on_log = on_log
        self._ready = asyncio.Event()
        self.was_killed: bool = False

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "eda.cli.worker",
            *self._arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # In a session of its own, the side gets no Ctrl-C. Only the parent gets it, and ends its sides in order.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self.write_line(self._url)
        self.outcome = asyncio.ensure_future(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            if self._process.returncode is None:
                self.was_killed = True
                self._process.kill()
                await self._process.wait()
            self.was_killed = self.was_killed or (self._process.returncode or 0) < 0
            await asyncio.wait({self.outcome})
            if not self.outcome.cancelled():
                self.outcome.exception()

    async def ready(self) -> None:
        """Return when the side has begun its work. Raises SideFailed if it ended before."""
        ready = asyncio.ensure_future(self._ready.wait())
        await asyncio.wait({ready, self.outcome}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self.outcome.done():
            self.outcome.result()

    def write_line(self, text: str) -> None:
        """Write a line to the stdin of the process."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")

    async def _follow(self) -> dict[str, Any]:
        """Read the messages of the process until it ends, and return its result."""
        result: dict[str, Any] | None = None
        error = ""
        log = asyncio.ensure_future(self._follow_log())
        try:
            assert self._process.stdout is not None
            async for line in self._process.stdout:
                message = json.loads(line)
                if "n" in message:
                    self._on_progress(self.name, message["n"])
                elif "ready" in message:
                    self._ready.set()
                result = message.get("result", result)
                error = message.get("error", error)
            code = await self._process.wait()
            last = await log
        finally:
            log.cancel()
        if result is None:
            raise SideFailed(f"the {self.name} side failed: {error or last or f'it ended with code {code}'}")
        return result

    async def _follow_log(self) -> str:
        """Pass on the lines that the process logs, and return the last one: the error, if there is a traceback."""
        assert self._process.stderr is not None
        last = ""
        n_lines = 0
        async for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            n_lines += 1
            if n_lines <= MAX_LOG_LINES:
                self._on_log(f"{self.name}: {text}")
            last = text or last
        return last
