"""The protocol between the transport and nats-py's stream reader: takes our frames out, hands the rest on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from eda.transport._frame import FrameError, Parser
from eda.transport._waits import Waits

__all__ = ["Interceptor", "InterceptorOwner"]


class InterceptorOwner(Protocol):
    """What a tap needs of its connection."""

    parser: Parser
    waits: Waits
    logger: logging.Logger

    def server_error(self, text: str) -> None:
        """Take the text of an -ERR line."""

    def server_info(self, line: bytes) -> None:
        """Take the JSON of an INFO line. Raises FrameError when it is none."""

    def connection_lost(self, interceptor: Interceptor) -> None:
        """The tap's connection is gone."""

    def set_paused(self, interceptor: Interceptor, paused: bool) -> None:
        """The transport's write buffer is full, or has room again."""


class Interceptor(asyncio.BufferedProtocol):
    """Stands between the transport and nats-py's stream reader."""

    def __init__(self, wire: InterceptorOwner, inner: Any, reader: asyncio.StreamReader, transport: Any) -> None:
        self.wire = wire
        self.inner = inner
        self.reader = reader
        self.transport = transport
        self.parser: Parser = wire.parser
        self.is_lost: bool = False

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.parser.room()

    def buffer_updated(self, n: int) -> None:
        if self.is_lost:
            return
        waits = self.wire.waits
        waits.begin_read()
        try:
            others = self.parser.received(n)
            if others is not None:
                self.pass_on(others)
        except Exception as error:
            self.fail(error)
        finally:
            waits.end_read()

    def feed(self, data: bytes) -> None:
        """Parse what nats-py's reader had already read when the tap was put in."""
        others = self.parser.feed(data)
        if others is not None:
            self.pass_on(others)

    def pass_on(self, others: list[tuple[bytes, bytes]]) -> None:
        for verb, data in others:
            if verb == b"MSG":
                self.reader.feed_data(data)
            elif verb == b"-ERR":
                self.wire.server_error(data.decode("utf-8", "replace").strip().strip("'"))
            elif verb == b"INFO":
                self.wire.server_info(data)
                self.reader.feed_data(b"INFO " + data + b"\r\n")
            else:
                self.reader.feed_data(verb + b"\r\n")

    def fail(self, error: Exception) -> None:
        self.wire.logger.error(
            "the connection is dropped: %s", error, exc_info=None if isinstance(error, FrameError) else error
        )
        self.note_lost()
        self.transport.abort()

    def note_lost(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.wire.connection_lost(self)

    def eof_received(self) -> Any:
        self.note_lost()
        # nats-py's protocol does not know when it is over TLS, where a connection can't stay half open.
        return self.inner.eof_received() and self.transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self.note_lost()
        self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self.inner.pause_writing()
        self.wire.set_paused(self, True)

    def resume_writing(self) -> None:
        self.inner.resume_writing()
        self.wire.set_paused(self, False)
