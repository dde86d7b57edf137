"""nats-py's client, with fixes for failures in log-in, reconnecting, reading and closing.

Only this file uses private parts of nats-py. `tests/live/transport/test_nats_client.py` checks these parts. If one has
changed, the test names the version of nats-py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from importlib.metadata import version
from typing import Any, NamedTuple

from nats.aio.client import Client, Server
from nats.aio.subscription import Subscription as NatsSubscription
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError

from eda.errors import EdaError, NotSupported, printable
from eda.transport.server_info import check_info, usable_urls

__all__ = ["SUPPORTED", "ByteStream", "MendedClient", "describe"]

SUPPORTED = "nats-py >=2.12,<2.17"

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0


class ByteStream(NamedTuple):
    """The objects with which nats-py reads a connection, and the bytes that it has read but not parsed."""

    reader: asyncio.StreamReader
    protocol: asyncio.Protocol
    transport: asyncio.Transport
    rest: bytes


class MendedClient(Client):
    """A client that can be closed in any state, reconnects after any error, and leaves no sockets or tasks behind.

    A subclass may extend `handshake_done` and `connection_broke`.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self.logger = logger
        self._attempts = 0
        self.n_failed_attempts: int = 0  # to reconnect, since the connection was opened
        self.last_failure: str = ""  # why the last of these attempts failed
        self._nuid: Any = _Secrets()
        self._had_tls = False
        self._lame_duck = ""  # the id of the server that said last that it is about to shut down

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
            # nats-py tries the next server only after an error that it expects, such as a NatsError.
            raise NatsError(f"nats: the handshake failed: {describe(error)}") from error
        self._had_tls = self._had_tls or bool(self._server_info.get("tls_required"))
        if self._status == Client.CONNECTING:
            # The server did not answer the first PING with a PONG, and nats-py ignores this.
            if self._transport is None or self._transport.at_eof():
                raise NatsError("nats: the server closed the connection during the handshake")
            self._status = Client.CONNECTED
        self.handshake_done()

    def handshake_done(self) -> None:
        """Do nothing. A subclass does here the work that follows a log-in and precedes the next read."""

    def take_stream(self) -> ByteStream:
        """Return the objects that read the connection. Take the unparsed bytes from nats-py. Raises NotSupported."""
        try:
            streams: Any = self._transport
            reader = streams._io_reader
            transport = streams._io_writer.transport
            stream = ByteStream(reader, transport.get_protocol(), transport, bytes(reader._buffer))
            reader._buffer.clear()
        except AttributeError as error:
            # This version of nats-py has other private parts.
            raise NotSupported(f"nats-py {version('nats-py')}", needs=SUPPORTED) from error
        return stream

    async def _connect_to_server(self, s: Any) -> None:
        # nats-py leaves the socket of a failed handshake open.
        self._abort()
        await super()._connect_to_server(s)
        if isinstance(self._transport, TcpTransport):
            transport: Any = self._transport
            # From Python 3.12 onwards, `writelines` on a lost connection makes the loop watch the number of its closed
            # socket (cpython 136234). The next connection may have the same number, and could then never be made.
            transport.writelines = lambda chunks: transport.write(b"".join(chunks))

    async def _attempt_reconnect(self) -> None:
        self._attempts = 0
        while not self.is_closed:
            try:
                await super()._attempt_reconnect()
                return
            except Exception as error:
                # nats-py expects only some errors. Any other error would end its attempts to reconnect.
                self.note_trouble(error)
                await asyncio.sleep(BACKOFF_MAX_S * random.random())

    def note_trouble(self, error: Exception) -> None:
        """Log a problem of the connection. While it is lost, these are failed attempts to reconnect: count them.

        Such attempts go on for ever, some in each second. So the log of the connection tells of them once a minute.
        """
        if self.is_up:
            self.logger.warning("the connection has a problem: %s", describe(error))
            return
        self.n_failed_attempts += 1
        self.last_failure = describe(error)
        self.logger.debug("an attempt to reconnect failed, the next attempt follows: %s", self.last_failure)

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

    async def _process_op_err(self, e: Exception) -> None:
        if self.is_connected:
            self.connection_broke()
            self._abort()
        await super()._process_op_err(e)

    def connection_broke(self) -> None:
        """Do nothing. A subclass does here the work that precedes a reconnect."""

    # --- the server's INFO -------------------------------------------------------------------------------------------

    @property
    def info(self) -> dict[str, Any]:
        """Return the INFO that the server sent when the connection was made."""
        return self._server_info

    @property
    def address(self) -> str:
        """Return the address of the server that it uses, or tries to reach, without credentials."""
        server = self._current_server
        if server is None or not server.uri.hostname:
            return ""
        host = f"[{server.uri.hostname}]" if ":" in server.uri.hostname else server.uri.hostname
        return f"{server.uri.scheme or 'nats'}://{host}:{server.uri.port or 4222}"

    def note_info(self, info: dict[str, Any]) -> None:
        """Note what a later INFO of the server announces: another limit of bytes, or that it is about to shut down."""
        self._max_payload = info.get("max_payload", self._max_payload)
        if info.get("ldm"):
            self._lame_duck = info.get("server_id", "")

    @property
    def is_lame_duck(self) -> bool:
        """Return whether the server has said that it is about to shut down, and sends its clients away."""
        return bool(self._lame_duck) and self._lame_duck == self.info.get("server_id")

    @property
    def answers_subject(self) -> str:
        """Return the subject on which `request` gets its answers; empty before the first request."""
        return f"{self._resp_sub_prefix.decode()}*" if self._resp_sub_prefix else ""

    # --- subscriptions -----------------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Return whether bytes that are written now reach the connection."""
        return self.is_connected

    async def subscribe_now(self, subject: str) -> tuple[NatsSubscription, int]:
        """Subscribe, and return the subscription and its id. If the caller is cancelled, nothing is left behind."""
        next_id = self._sid + 1
        try:
            subscription = await self.subscribe(subject)
        except BaseException:
            self._forget(next_id)
            raise
        self.write_commands()
        return subscription, subscription._id

    async def unsubscribe_now(self, subscription: NatsSubscription) -> None:
        """Unsubscribe, unless that was done before."""
        if not self.is_closed and subscription._id in self._subs:
            await subscription.unsubscribe()
            self.write_commands()

    @staticmethod
    def id_of(subscription: NatsSubscription) -> int:
        """Return the id that the server uses for a subscription."""
        return subscription._id

    def _forget(self, subscription_id: int) -> None:
        """Take back a subscription whose caller was cancelled while nats-py made it."""
        if self._subs.pop(subscription_id, None) is not None:
            command = b"UNSUB %d\r\n" % subscription_id
            self._pending.append(command)
            self._pending_data_size += len(command)
            self.write_commands()

    def write_commands(self) -> None:
        """Write nats-py's commands now. nats-py writes them one turn of the loop later, after eda's own frames."""
        if self._pending and self.is_up and self._transport is not None:
            self._transport.writelines(self._pending)
            self._pending = []
            self._pending_data_size = 0

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

    async def stop_reconnecting(self) -> None:
        """End a reconnect that is under way."""
        # Python 3.11's wait_for may swallow a cancellation. Then nats-py would still open a connection.
        while self._reconnection_task is not None and not self._reconnection_task.done():
            self._reconnection_task.cancel()
            await asyncio.wait({self._reconnection_task}, timeout=0.1)

    @property
    def has_begun(self) -> bool:
        """Return whether there is something to close."""
        return self._flush_queue is not None

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
