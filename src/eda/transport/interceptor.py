"""The asyncio protocol between the transport and nats-py's stream reader.

It gives all bytes to eda's parser, and passes on to nats-py everything that is not for a subscription of eda.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from eda.transport._frame import FrameError, Parser
from eda.transport._waits import Waits

__all__ = ["Interceptor", "InterceptorOwner"]


class InterceptorOwner(Protocol):
    """The part of a connection that its interceptor uses."""

    parser: Parser
    waits: Waits
    logger: logging.Logger

    def server_error(self, text: str) -> None:
        """Handle the text of an -ERR line."""

    def server_info(self, line: bytes) -> None:
        """Handle the JSON of an INFO line. Raises FrameError if it is invalid."""

    def connection_lost(self, interceptor: Interceptor) -> None:
        """Note that the interceptor's connection is lost."""

    def set_paused(self, interceptor: Interceptor, paused: bool) -> None:
        """Note whether the transport's write buffer is full."""


class Interceptor(asyncio.BufferedProtocol):
    """The protocol of one connection's transport; `inner` is nats-py's protocol."""

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
        """Parse the bytes that nats-py's reader had already read when the interceptor was installed."""
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
            "the connection is cut, because its input could not be processed: %s",
            error,
            exc_info=None if isinstance(error, FrameError) else error,
        )
        self.note_lost()
        self.transport.abort()

    def note_lost(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.wire.connection_lost(self)

    def eof_received(self) -> Any:
        self.note_lost()
        # Over TLS, a connection can't stay half open, and nats-py's protocol does not know whether it is over TLS.
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
