"""What several test files share: waiting for conditions, and a TCP proxy that can misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client as NatsClient

import eda
from eda.publishing._stream_sender import StreamSender
from eda.transport.wire import Wire

__all__ = [
    "LOOPS",
    "N_QUICK",
    "Admin",
    "Connect",
    "Logged",
    "Proxy",
    "free_port",
    "freeze",
    "listening",
    "needs_freeze",
    "sender_of",
    "until",
    "wire_of",
]

# A shared subscription holds a second's work as it has measured it: after so many quick events, all it may.
N_QUICK = 20

# Event loops that a connection must work under.
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if sys.platform != "win32":
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Return what `condition` gives (awaited if need be) as soon as it is true. AssertionError after the deadline.

    A look that takes long is followed by a longer pause, of 50 ms at most: what the test waits for needs the processor.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        now = time.monotonic()
        assert now < deadline, f"not within {timeout_s:g} s: {inspect.getsource(condition).strip()}"
        await asyncio.sleep(min(max(0.003, 3 * (now - began)), 0.05))


# For tests that `freeze` a process.
needs_freeze = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes can't be frozen")


def freeze(pid: int) -> None:
    """Stop a child process; it has stopped when this returns, all its threads."""
    os.kill(pid, signal.SIGSTOP)
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    else:  # macOS before Python 3.13
        os.waitpid(pid, os.WUNTRACED)


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Give the port of a server that runs `serve` for every connection, until the end of the context."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        while tasks:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await server.wait_closed()


def wire_of(conn: eda.Conn) -> Wire:
    """Return an open connection's wire."""
    assert conn._lifetime._services is not None
    return conn._lifetime._services.wire


def sender_of(conn: eda.Conn) -> StreamSender:
    """Return what publishes the events of `conn.publish`, where there is one stream."""
    assert conn._lifetime._services is not None
    (single,) = conn._lifetime._services.stream_publishers._of_stream.values()
    return single.sender


class Proxy:
    """A TCP proxy on loopback between a client and a server.

    `sent` collects what clients sent. `inject` gives the clients bytes that the server never sent; `hold` stops reading
    from the clients until `release`; `drop` cuts all connections.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self.sent = bytearray()
        self.n_accepted = 0
        self.refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Proxy:
        self.port = await self._stack.enter_async_context(listening(self._serve))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._flowing.set()
        await self._stack.aclose()

    def url(self, server_url: str) -> str:
        """Give the server's URL with the proxy's port."""
        return re.sub(r":\d+$", f":{self.port}", server_url)

    def inject(self, data: bytes) -> None:
        for writer in self._writers:
            writer.write(data)

    def hold(self) -> None:
        self._flowing.clear()

    def release(self) -> None:
        self._flowing.set()

    def drop(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_accepted += 1
        if self.refusing:
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers.add(writer)
        try:
            ways = {
                asyncio.ensure_future(self._pump(reader, up_writer, upstream=True)),
                asyncio.ensure_future(self._pump(up_reader, writer, upstream=False)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        finally:
            self._writers.discard(writer)
            up_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upstream: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if upstream:
                    self.sent += data
                    await self._flowing.wait()
                writer.write(data)
                await writer.drain()


class Admin:
    """A plain nats-py client that sees what is really on the server."""

    def __init__(self, client: NatsClient) -> None:
        self.client = client
        self.js = client.jetstream()

    async def flush(self) -> None:
        """Wait until the server has all that was published: nats-py's own flush overtakes its queue."""
        await self.client._flush_pending(force_flush=True)
        await self.client.flush()

    async def api(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a JetStream API request."""
        reply = await self.client.request(f"$JS.API.{verb}", json.dumps(body).encode() if body else b"", timeout=5)
        answer: dict[str, Any] = json.loads(reply.data)
        assert "error" not in answer, f"{verb}: {answer['error']}"
        return answer

    async def last_seq(self, stream: str) -> int:
        """Return the sequence of the stream's last message."""
        return int((await self.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"])

    async def consumer(self, stream: str, name: str) -> dict[str, Any]:
        return await self.api(f"CONSUMER.INFO.{stream}.{name}")

    async def consumers(self, stream: str) -> list[str]:
        return (await self.api(f"CONSUMER.NAMES.{stream}")).get("consumers") or []

    async def stream_names(self) -> list[str]:
        return (await self.api("STREAM.NAMES")).get("streams") or []

    async def ids(self, stream: str) -> list[str]:
        """Return the message ids in the stream, in order."""
        info = (await self.api(f"STREAM.INFO.{stream}"))["state"]
        subscription = await self.js.subscribe(f"{stream}.>", stream=stream, ordered_consumer=True)
        ids = []
        for _ in range(info["messages"]):
            message = await subscription.next_msg(timeout=5)
            ids.append((message.headers or {}).get("Nats-Msg-Id", ""))
        await subscription.unsubscribe()
        return ids


Connect = Callable[..., Awaitable[eda.Conn]]


class Logged(logging.Handler):
    """Collects what eda, asyncio and nats-py log; `expect` says which errors a test causes on purpose.

    asyncio's log is where the loop's exception handler ends up, and what a pending task that is destroyed says.
    """

    LOGGERS = ("eda", "asyncio", "nats")

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._expected: list[str] = []
        self._allowed: list[str] = []
        if sys.platform == "win32":
            # asyncio shuts a socket down that the peer has reset, and logs the error: python/cpython#83037.
            self.allow(r"Exception in callback _ProactorBasePipeTransport\._call_connection_lost")

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def expect(self, *patterns: str) -> None:
        """Allow errors whose message the pattern finds; each must have come by the end of the test."""
        self._expected += patterns

    def allow(self, *patterns: str) -> None:
        """Allow errors whose message the pattern finds, should they come."""
        self._allowed += patterns

    def find(self, pattern: str, level: int = logging.DEBUG) -> list[logging.LogRecord]:
        """Return the records of at least that level whose message the pattern finds."""
        return [each for each in self.records if each.levelno >= level and re.search(pattern, each.getMessage())]

    def text(self) -> str:
        """Return everything logged, tracebacks included."""
        formatter = logging.Formatter("%(levelname)s %(name)s: %(message)s")
        return "\n".join(formatter.format(record) for record in self.records)

    def problems(self) -> list[str]:
        """Return what should fail the test: errors that were not expected, and expected ones that did not come."""
        formatter = logging.Formatter("%(levelname)s %(name)s: %(message)s")
        unexpected = [
            formatter.format(each)
            for each in self.records
            if each.levelno >= logging.ERROR
            and not any(re.search(pattern, each.getMessage()) for pattern in self._expected + self._allowed)
        ]
        missing = [f"never logged: {pattern}" for pattern in self._expected if not self.find(pattern, logging.ERROR)]
        return unexpected + missing
