"""nats-py's client, with fixes for failures in log-in, reconnecting, reading and closing.

Only this file and `wire` use private parts of nats-py.
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
    """A client that can be closed in any state, reconnects after any error, and leaves no sockets or tasks behind."""

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
                # nats-py would continue without encryption, and send the credentials.
                why = "asked for" if is_asked_for else "used before"
                raise NatsError(f"nats: TLS was {why}, and the server has none")
            info["tls_required"] = True
        if info.get("connect_urls"):
            info["connect_urls"] = named = usable_urls(info)
            # nats-py would keep every server that it has ever heard of.
            self._server_pool[:] = [
                each for each in self._server_pool if not each.discovered or each is server or each.uri.netloc in named
            ]
        await super()._process_info(info, initial_connection)

    async def _process_connect_init(self) -> None:
        # If an attempt fails after it has started these tasks, nats-py leaves them running.
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        try:
            await super()._process_connect_init()
        except (TimeoutError, OSError, NatsError, EdaError):
            raise
        except Exception as error:
            # nats-py tries the next server only after the errors that it expects, and this is one of them.
            raise NatsError(f"nats: the handshake failed: {describe(error)}") from error
        self._had_tls = self._had_tls or bool(self._server_info.get("tls_required"))
        if self._status == Client.CONNECTING:
            # The answer to the first PING was no PONG, and nats-py ignores that.
            if self._transport is None or self._transport.at_eof():
                raise NatsError("nats: the server closed the connection during the handshake")
            self._status = Client.CONNECTED

    async def _connect_to_server(self, s: Any) -> None:
        # nats-py leaves the socket of a failed handshake open.
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
                # nats-py expects some errors only; any other error would end its reconnecting.
                self.logger.warning("an attempt to reconnect failed, the next one follows: %s", describe(error))
                await asyncio.sleep(BACKOFF_MAX_S * random.random())

    def _choose_server(self, servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
        """Return the next server in turn, and the seconds to wait first, which grow with each round without success."""
        at = self._attempts
        self._attempts += 1
        backoff = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(at // len(servers), 10))
        return servers[at % len(servers)], backoff * random.uniform(0.5, 1.0)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _read_loop(self) -> None:
        await super()._read_loop()
        task = asyncio.current_task()
        if task is not None and task is self._reading_task and self.is_connected and not task.cancelling():
            # nats-py's loop ended silently, at input that it did not expect, such as a subject that is not UTF-8.
            await self._process_op_err(ConnectionError("reading failed"))

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception as error:
            # Any program may publish to an inbox, with invalid headers or a subject that is not UTF-8. Without this,
            # the error would end nats-py's read loop, and with it the connection.
            self.logger.warning("a message that can't be read is dropped: %s", describe(error))

    async def _process_pong(self) -> None:
        # If the waiter has given up, nats-py's method fails, which would end its read loop.
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
        else:
            await super()._process_pong()

    # --- closing -----------------------------------------------------------------------------------------------------

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if not self.is_connected:
            # nats-py would write the pending bytes to a lost connection, fail, and leave its tasks running.
            self._pending, self._pending_data_size = [], 0
        try:
            await super()._close(status, do_cbs)
        except (OSError, NatsError) as error:
            # The connection was lost just now, with bytes left to write. The second call does the rest of the clean-up.
            self.logger.warning("the connection was lost while it was closed: %s", describe(error))
            self._pending, self._pending_data_size = [], 0
            self._status = Client.DISCONNECTED
            await super()._close(status, do_cbs)

    def _abort(self) -> None:
        """Cut the connection. An orderly close would wait, without a limit, until the peer has read everything."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


def describe(error: BaseException) -> str:
    """Return an error's text, safe to log; the name of its type if the text is empty."""
    return printable(str(error)) or type(error).__name__


def _unusable(error: Exception) -> NatsError:
    """Return the error to raise, without a cause: the text of the cause might quote a file with a secret."""
    return NatsError(f"nats: authentication: the credentials can't be used ({type(error).__name__})")


class _Secrets:
    """A source of inbox tokens that can't be guessed, instead of nats-py's NUIDs.

    With NUIDs, a program that sees one token can guess the next ones. A publish shows its inbox to every reader of the
    stream, who must not be able to guess the inboxes for the answers to pulls and requests.
    """

    def next(self) -> bytearray:
        """Return a token of 22 characters with 128 random bits."""
        return bytearray(secrets.token_urlsafe(16).encode())
