"""One connection to the servers: nats-py's client, with eda's parser and write buffer.

nats-py connects, logs in, upgrades to TLS and reconnects. After each handshake an `Interceptor` becomes the transport's
protocol. It gives the frames of eda's subscriptions to their sinks and passes all other bytes to nats-py's stream
reader, as if nats-py had read them itself. Outgoing frames go to the same transport, once per turn of the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import Any

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from eda.errors import Closed, ConnectError, EdaError, Timeout, printable
from eda.log import Seldom
from eda.transport._frame import FrameError, Parser, Sink
from eda.transport._outbound import Outbound
from eda.transport._waits import Waits
from eda.transport.interceptor import Interceptor
from eda.transport.nats_client import MendedClient, describe
from eda.transport.server_info import check_info
from eda.transport.tolerated import Tolerated

__all__ = ["Wire"]

# With nats-py's defaults (120 s, 2) a half-open connection is noticed only after minutes.
PING_INTERVAL_S = 10
MAX_PINGS = 2
SHUT_TIMEOUT_S = 5.0
ABANDON_S = 1.0

OPTIONAL = "$EDA."  # subjects that the server may forbid: only the count of standbys needs them


class Wire(MendedClient):
    """One connection to the servers.

    `out` takes outgoing frames. `attach` gives the frames of a subject to a sink. `waits` makes futures that sinks
    complete.

    The lists hold callbacks. `on_lost()`: the connection is lost. `on_restored()`: it is back, with all subscriptions.
    `on_refused(kind, subject)`: the server forbids a "publish" or "subscription" on a subject. `on_closed()`: it is
    closed for good. `on_info()`: the server has sent a new INFO.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger)
        self.parser: Parser = Parser()
        self._loop = asyncio.get_running_loop()
        self.waits: Waits = Waits(self._loop, asyncio.current_task, asyncio.CancelledError)
        self.out: Outbound = Outbound(self._schedule_flush)
        self.on_lost: list[Callable[[], None]] = []
        self.on_restored: list[Callable[[], None]] = []
        self.on_refused: list[Callable[[str, str], None]] = []
        self.on_closed: list[Callable[[], None]] = []
        self.on_info: list[Callable[[], None]] = []
        self._interceptor: Interceptor | None = None
        self._fatal: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._pinging: asyncio.Task[float] | None = None
        self._refusals = Seldom()  # a program may publish to a forbidden subject without end
        self._opened = False
        self.may_be_forbidden: Tolerated = Tolerated()  # subjects whose refusal is not logged as an error

    # --- opening and closing ---------------------------------------------------------------------------------------

    async def open(self, urls: tuple[str, ...], *, timeout_s: float, **options: Any) -> None:
        """Connect to one of `urls` within `timeout_s`; `options` are nats-py's. Raises ConnectError."""
        address = ", ".join(urls)
        self._fatal = self._loop.create_future()
        last: list[Exception] = []

        async def remember(error: Exception) -> None:
            if self._opened:
                if not self.closing:
                    self.note_trouble(error)
                return
            last[:] = [error]
            if _is_final(error) and self._fatal is not None and not self._fatal.done():
                self._fatal.set_exception(error)

        # Several servers share the time, so that a silent one leaves time for the others. For a single server,
        # nats-py gets a bit more time than we wait: if both time-outs ended together, Python 3.11 could lose our
        # cancellation.
        share_s = timeout_s / len(urls) if len(urls) > 1 else timeout_s + ABANDON_S
        options.update(connect_timeout=share_s, reconnect_time_wait=0.1)
        connecting = self._loop.create_task(
            self.connect(
                list(urls),
                error_cb=remember,
                reconnected_cb=self._on_restored,
                closed_cb=self._on_closed,
                max_reconnect_attempts=-1,
                ping_interval=PING_INTERVAL_S,
                max_outstanding_pings=MAX_PINGS,
                reconnect_to_server_handler=self._choose_server,
                **options,
            )
        )
        try:
            done, _ = await asyncio.wait(
                {connecting, self._fatal}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if connecting in done:
                await connecting
            elif self._fatal in done:
                raise self._fatal.exception() or ConnectionError("refused")
            else:
                raise TimeoutError(f"no server answered within {timeout_s:g} s")
        except BaseException as error:
            await _abandon(connecting)
            await self._quietly_close()
            if isinstance(error, EdaError) or not isinstance(error, Exception):
                raise
            cause = last[0] if last and isinstance(error, TimeoutError) else error
            raise ConnectError(address, describe(cause), retryable=not _is_refusal(cause)) from cause
        finally:
            if self._fatal.done():
                self._fatal.exception()
            self._fatal = None
        self._opened = True
        self._connected()

    async def close_within(self, timeout_s: float = float("inf")) -> bool:
        """Write the remaining bytes and close the connection for good, in any state.

        Return whether all was written within `timeout_s` seconds, at most 5. After that time the connection is cut.
        """
        self.closing = True
        self._end_ping()
        in_time = True
        timeout_s = min(timeout_s, SHUT_TIMEOUT_S)
        try:
            if self._opened and not self.is_closed:
                self.out.flush()
                in_time = await self._close_in_time(timeout_s)
            await self.stop_reconnecting()
            if self._opened and not self.is_closed:
                await self._close_in_time(timeout_s)
        finally:
            self.out.set_write(None)
            self._release_writers()
        return in_time

    async def _close_in_time(self, timeout_s: float) -> bool:
        closing = self._loop.create_task(self.close())
        in_time = False
        try:
            in_time = bool((await asyncio.wait({closing}, timeout=timeout_s))[0])
        finally:
            if not closing.done():
                self._abort()
        await asyncio.wait({closing})
        if not closing.cancelled() and (error := closing.exception()) is not None:
            self.logger.warning("closing the connection failed: %s", describe(error))
        return in_time

    async def _quietly_close(self) -> None:
        self.closing = True
        self.out.set_write(None)
        self._abort()
        if self.has_begun:
            await self.close()

    def _schedule_flush(self) -> None:
        self._loop.call_soon(self.out.flush)

    # --- what nats-py does, extended ---------------------------------------------------------------------------------

    def handshake_done(self) -> None:
        """Put the interceptor between the transport and nats-py's reader. Raises NotSupported, NatsError."""
        stream = self.take_stream()
        self.parser.reset()
        interceptor = Interceptor(self, stream.protocol, stream.reader, stream.transport)
        stream.transport.set_protocol(interceptor)
        self._interceptor = interceptor
        if stream.rest:
            try:
                interceptor.feed(stream.rest)
            except FrameError as error:
                raise NatsError(f"nats: {error}") from error

    def connection_broke(self) -> None:
        """Write nothing more to a connection that nats-py gives up."""
        self.out.set_write(None)

    # --- states ------------------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        interceptor = self._interceptor
        if interceptor is None or interceptor.is_lost:
            return
        self.out.set_write(interceptor.transport.write)

    async def _on_restored(self) -> None:
        self._connected()
        self._tell(self.on_restored)
        self._release_writers()

    async def _on_closed(self) -> None:
        self.out.set_write(None)
        self._release_writers()
        self._tell(self.on_closed)

    def connection_lost(self, interceptor: Interceptor) -> None:
        """Note that the interceptor's connection is lost."""
        if interceptor is not self._interceptor:
            return
        self.out.set_write(None)
        self._end_ping()
        self._release_writers()  # `out` keeps the bytes, or the publisher sends them again
        if self._opened and not self.closing:
            self._tell(self.on_lost)

    @property
    def closing(self) -> bool:
        """Return whether the connection is being closed, or is closed: then nothing new may be sent."""
        return self.out.closing

    @closing.setter
    def closing(self, value: bool) -> None:
        self.out.closing = value

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop that opened the connection."""
        return self._loop

    @property
    def is_up(self) -> bool:
        """Return whether frames that are added to `out` are written now."""
        return self._interceptor is not None and not self._interceptor.is_lost and self.is_connected

    @property
    def trouble_level(self) -> int:
        """Return the level at which to log that something can't go on, which may be due to a lost connection.

        While the connection is lost, only its own log tells of that, once a minute, however many wait for it.
        """
        return logging.WARNING if self.is_up else logging.DEBUG

    def ping(self) -> asyncio.Task[float]:
        """Return the task that measures the seconds of a round trip to the server. All callers at a time share one.

        The task raises an error of nats-py if no answer comes within 10 s. It is cancelled if the connection is lost.
        """
        if self._pinging is None or self._pinging.done():
            self._pinging = self._loop.create_task(self._measure_round_trip())
            self._pinging.add_done_callback(_retrieve)
        return self._pinging

    async def _measure_round_trip(self) -> float:
        began = self._loop.time()
        await self.flush(timeout=PING_INTERVAL_S)
        return self._loop.time() - began

    def _end_ping(self) -> None:
        if self._pinging is not None:
            self._pinging.cancel()

    def _tell(self, calls: list[Callable[..., None]], *arguments: str) -> None:
        """Call each callback, even if one raises an exception, because every user of the connection must know."""
        for call in list(calls):
            try:
                call(*arguments)
            except BaseException as error:
                self.logger.critical("a callback for a change of the connection failed", exc_info=error)
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    self._loop.call_soon(_raise, error)  # ends the loop, after all calls

    # --- back-pressure -----------------------------------------------------------------------------------------------

    def set_paused(self, interceptor: Interceptor, paused: bool) -> None:
        """Note whether the transport's write buffer is full."""
        if interceptor is self._interceptor:
            self.out.set_paused(paused)
            if not paused:
                self._release_writers()

    def _release_writers(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    async def wait_writable(self) -> None:
        """Wait until the transport's write buffer has room. Raises Closed."""
        while self.out.paused and not self.is_closed:
            if self._writable is None:
                self._writable = self._loop.create_future()
            await asyncio.shield(self._writable)
        if self.is_closed:
            raise Closed("connection")

    # --- ERR and INFO of the server ----------------------------------------------------------------------------------

    def server_error(self, text: str) -> None:
        """Handle an -ERR line. A refused subject is reported to `on_refused`; any other error is only logged."""
        text = printable(text)
        lower = text.lower()
        if "permissions violation" in lower:
            kind = "subscription" if "subscription to" in lower else "publish"
            subject = text.partition('"')[2].partition('"')[0]
            is_optional = subject in self.may_be_forbidden or subject.startswith(OPTIONAL)
            level = logging.DEBUG if is_optional else self._refusals.level(logging.ERROR, text)
            self.logger.log(level, "the server forbids: %s", text)
            self._tell(self.on_refused, kind, subject)
            return
        self.logger.log(self._refusals.level(self.trouble_level, text), "the server reports an error: %s", text)

    def server_info(self, line: bytes) -> None:
        """Handle an INFO line. Raises FrameError if it is invalid."""
        try:
            info = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FrameError("an INFO line that is not a JSON object") from error
        try:
            check_info(info)
        except ValueError as error:
            raise FrameError(describe(error)) from error
        self.note_info(info)
        self._tell(self.on_info)

    @property
    def server_version(self) -> str:
        """Return the version that the server names, "" if it names none."""
        version = self.info.get("version", "")
        return version if isinstance(version, str) else ""

    # --- subscriptions -----------------------------------------------------------------------------------------------

    async def attach(self, subject: str, sink: Sink) -> NatsSubscription:
        """Subscribe the sink to `subject`, across reconnects, and return the subscription."""
        subscription, subscription_id = await self.subscribe_now(subject)
        self.parser.register(subscription_id, sink)
        return subscription

    async def detach(self, subscription: NatsSubscription) -> None:
        """Unsubscribe. Messages that are under way still reach the sink, until `release`."""
        await self.unsubscribe_now(subscription)

    def release(self, subscription: NatsSubscription) -> None:
        """Stop giving frames of the subscription to its sink."""
        self.parser.register(self.id_of(subscription), None)

    async def barrier(self, timeout_s: float) -> None:
        """Wait until the server has read everything that was written before. Raises Timeout, Closed."""
        self.out.flush()
        self.write_commands()
        try:
            await self.flush(timeout=max(timeout_s, 0.001))  # type: ignore[arg-type]
        except NatsError as error:
            if self.is_closed:
                raise Closed("connection") from error
            raise Timeout("waiting for the server", timeout_s) from error


def _raise(error: BaseException) -> None:
    raise error


def _retrieve(task: asyncio.Task[float]) -> None:
    """Take the error out of the task, so that asyncio does not report it when no caller waits any more."""
    if not task.cancelled():
        task.exception()


def _is_final(error: BaseException) -> bool:
    """Return whether another attempt can't help: wrong credentials or an untrusted certificate."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return False  # the connection was lost during the handshake
    text = str(error).lower()
    return isinstance(error, ssl.SSLError) or "authorization" in text or "authentication" in text


def _is_refusal(error: BaseException) -> bool:
    """Return whether the server refused the client, or the client refused the server."""
    return _is_final(error) or "tls" in str(error).lower()


async def _abandon(task: asyncio.Task[Any]) -> None:
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    until = time.monotonic() + ABANDON_S
    while not task.done() and time.monotonic() < until:
        # Cancel again and again, because Python 3.11's wait_for may swallow a cancellation. Then nats-py would continue
        # to connect.
        task.cancel()
        await asyncio.wait({task}, timeout=0.02)
