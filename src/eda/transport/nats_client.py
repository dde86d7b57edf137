"""nats-py's client, mended where it hurts: what it does for each connection is its own, what goes wrong is ours.

With `_wire` the only file that touches nats-py's inside.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from typing import Any

from nats.aio.client import Client, Server
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError

from eda.errors import EdaError, printable
from eda.transport.server_info import check_info, usable_urls

__all__ = ["MendedClient", "describe"]

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0


class MendedClient(Client):
    """A client that closes in any state, reconnects after any error, and leaves no sockets and tasks behind."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self.logger = logger
        self._attempts = 0
        self._nuid: Any = _Secrets()
        self._had_tls = False

    # --- connecting --------------------------------------------------------------------------------------------------

    def _setup_nkeys_connect(self) -> None:
        try:
            super()._setup_nkeys_connect()
        except Exception as error:
            failed = _unusable(error)
        else:
            return
        raise failed

    def _connect_command(self) -> bytes:
        try:
            return super()._connect_command()
        except Exception as error:
            failed = _unusable(error)
        raise failed

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        check_info(info)
        server = self._current_server
        is_asked_for = self.options.get("tls") or (server is not None and server.uri.scheme == "tls")
        if initial_connection and (is_asked_for or self._had_tls):
            if not info.get("tls_required") and not info.get("tls_available"):
                # nats-py would go on in the clear, with the credentials.
                why = "asked for" if is_asked_for else "used before"
                raise NatsError(f"nats: TLS was {why}, and the server has none")
            info["tls_required"] = True
        if info.get("connect_urls"):
            info["connect_urls"] = named = usable_urls(info)
            # nats-py keeps every server that it has ever heard of.
            self._server_pool[:] = [
                each for each in self._server_pool if not each.discovered or each is server or each.uri.netloc in named
            ]
        await super()._process_info(info, initial_connection)

    async def _process_connect_init(self) -> None:
        # nats-py forgets the tasks of an attempt that failed after it had begun them.
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        try:
            await super()._process_connect_init()
        except (TimeoutError, OSError, NatsError, EdaError):
            raise
        except Exception as error:
            # nats-py expects some errors only; any other would keep it from the next server.
            raise NatsError(f"nats: the handshake failed: {describe(error)}") from error
        self._had_tls = self._had_tls or bool(self._server_info.get("tls_required"))
        if self._status == Client.CONNECTING:
            # The answer to the first PING was no PONG: nats-py goes on without a word.
            if self._transport is None or self._transport.at_eof():
                raise NatsError("nats: the server closed the connection during the handshake")
            self._status = Client.CONNECTED

    async def _connect_to_server(self, s: Any) -> None:
        # nats-py leaves the socket of a handshake that failed open.
        self._abort()
        await super()._connect_to_server(s)
        if isinstance(self._transport, TcpTransport):
            transport: Any = self._transport
            # From Python 3.12 on (cpython 136234), `writelines` on a connection that was lost has the loop watch the
            # number of its socket, which may be that of the next connection by now: that one would never be made.
            transport.writelines = lambda chunks: transport.write(b"".join(chunks))

    async def _attempt_reconnect(self) -> None:
        self._attempts = 0
        while not self.is_closed:
            try:
                await super()._attempt_reconnect()
                return
            except Exception as error:
                # nats-py expects some errors only; any other would end its reconnecting.
                self.logger.warning("reconnecting: %s", describe(error))
                await asyncio.sleep(BACKOFF_MAX_S * random.random())

    def _choose_server(self, servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
        """Pick the servers in turn, waiting longer after each round without success."""
        at = self._attempts
        self._attempts += 1
        backoff = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(at // len(servers), 10))
        return servers[at % len(servers)], backoff * random.uniform(0.5, 1.0)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _read_loop(self) -> None:
        await super()._read_loop()
        task = asyncio.current_task()
        if task is not None and task is self._reading_task and self.is_connected and not task.cancelling():
            # It ended without a word, on something that it did not expect: a subject that is not UTF-8, for one.
            await self._process_op_err(ConnectionError("reading failed"))

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception as error:
            # Anybody may publish to an inbox, with a subject that is not UTF-8 or headers that are none: nats-py's own
            # would end its read loop, and with it the connection.
            self.logger.warning("a message that makes no sense is dropped: %s", describe(error))

    async def _process_pong(self) -> None:
        # nats-py's own fails on a waiter that has given up, and that ends its read loop.
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
        else:
            await super()._process_pong()

    # --- closing -----------------------------------------------------------------------------------------------------

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if not self.is_connected:
            # nats-py would write it to a connection that is gone, fail, and leave its tasks running.
            self._pending, self._pending_data_size = [], 0
        try:
            await super()._close(status, do_cbs)
        except (OSError, NatsError) as error:
            # The connection broke just now, with something left to write. Again, for the rest of what there is to do.
            self.logger.warning("closing the connection: %s", describe(error))
            self._pending, self._pending_data_size = [], 0
            self._status = Client.DISCONNECTED
            await super()._close(status, do_cbs)

    def _abort(self) -> None:
        """Cut the connection: closing it in good order waits, without end, until the peer has taken everything."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


def describe(error: BaseException) -> str:
    """Return an error's text, which may be a peer's, or its type where it has none."""
    return printable(str(error)) or type(error).__name__


def _unusable(error: Exception) -> NatsError:
    """Return what to raise, with nothing behind it: the error's text might quote a file that holds a secret."""
    return NatsError(f"nats: authentication: the credentials can't be used ({type(error).__name__})")


class _Secrets:
    """In place of nats-py's NUID: of its tokens, whoever sees one can guess the next.

    A publish shows its inbox to all who may read the stream; the others, which pulls and requests are answered to, must
    not follow from it.
    """

    def next(self) -> bytearray:
        """Return 22 characters, 128 random bits."""
        return bytearray(secrets.token_urlsafe(16).encode())
