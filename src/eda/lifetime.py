"""The life of a connection: opening, closing, and its state in between."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from eda.callbacks import Callback
from eda.closing import CLOSE_TIMEOUT_S, KEPT_SHARE, Closing, check_close_timeout
from eda.conn_services import ConnectOptions, ConnServices, connect_services
from eda.connection_log import ConnectionLog
from eda.deadline import Deadline
from eda.embedded.server import EmbeddedServer
from eda.errors import Closed, ConfigError
from eda.life import CANCELLED_CLOSE_S, Life
from eda.publishing.publisher import Publisher
from eda.subscribing.subscription import Subscription
from eda.times import time_text
from eda.totals import Totals
from eda.transport.addresses import Addresses, parse_addresses
from eda.transport.loops import check_loop, running_loop

__all__ = ["ConnState", "Ended", "Lifetime", "Watcher", "closing_what_is_left"]

ConnState: TypeAlias = Literal["new", "connected", "disconnected", "reconnected", "closed"]
"""The state of a connection: "reconnected" is connected again after a loss."""

SERVER_TIMEOUT_S = 5.0
MAX_ENDED = 100


class Ended(NamedTuple):
    """A subscription, projection, view or relay that an error has ended."""

    group: str
    condition: dict[str, Any]


DEFAULT_PORT = 4222


# The connections that were opened since `closing_what_is_left` was entered. Tasks inherit this variable.
_OPENED: ContextVar[list[Lifetime] | None] = ContextVar("eda_opened", default=None)


@asynccontextmanager
async def closing_what_is_left() -> AsyncIterator[None]:
    """At the end, close the connections that the block opened in this event loop and did not close."""
    opened: list[Lifetime] = []
    token = _OPENED.set(opened)
    timeout_s = CLOSE_TIMEOUT_S
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            timeout_s = CANCELLED_CLOSE_S
        raise
    finally:
        _OPENED.reset(token)
        await asyncio.gather(*(each.close_in_own_loop(timeout_s) for each in list(opened)))


class Watcher(Protocol):
    """Is told when a connection has opened and when it has closed."""

    async def opened(self) -> None:
        """Do what must be done before the program gets the connection. If it raises, the connection is closed."""

    async def closed(self, deadline: Deadline) -> None:
        """Do what must be done after the connection has closed, until the deadline."""


class Lifetime:
    """Opens and closes a connection, and knows its state and its users.

    `close` ends the `sides` (projections, views and relays), `subscriptions`, `publishers` and `batches`, in this
    order, before it closes the connection itself. A batch is
    represented by a future, which is done when the call of `publish_batch` ends.
    """

    def __init__(
        self,
        addresses: Addresses,
        client: str,
        logger: logging.Logger,
        options: ConnectOptions,
        on_state: Callable[[ConnState], object] | None,
    ) -> None:
        self.addresses = addresses
        self.subscriptions: set[Subscription] = set()
        self.publishers: set[Publisher] = set()
        self.sides: set[Life] = set()
        self.batches: set[asyncio.Future[None]] = set()
        self.totals: Totals = Totals()
        self._client = client
        self._logger = logger
        self._options = options
        self._on_state = None if on_state is None else Callback("on_state", on_state, logger)
        self._state: ConnState = "new"
        self._server: EmbeddedServer | None = None
        self._services: ConnServices | None = None
        self._opening: asyncio.Task[None] | None = None
        self._n_waiting = 0  # callers that wait until the connection is open
        self._was_opened = False  # whether one of these callers has seen it open
        self._closing: asyncio.Task[None] | None = None
        self._close_deadline: Deadline | None = None
        self._opened_in: list[Lifetime] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.watcher: Watcher | None = None  # the hooks of middleware
        self._loop: asyncio.AbstractEventLoop | None = None  # the event loop in which it was opened
        self.log: ConnectionLog | None = None  # None: not opened yet
        self.ended: dict[str, Ended] = {}  # by key: what an error has ended, and nobody has opened again since

    # --- opening -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the connection. Several callers may wait for the same opening.

        If all of them are cancelled, the connection is closed again. Raises what `connect` says, and Closed.
        """
        if self._state == "closed" or self._closing is not None:
            raise Closed("connection")
        check_loop(self._loop)
        if self._opening is not None and asyncio.current_task() is self._opening:
            raise ConfigError("the hook opened of a middleware can't open its connection again", argument="middleware")
        if self._opening is None:
            self._loop = asyncio.get_running_loop()
            self._opening = self._loop.create_task(self._open())
        self._n_waiting += 1
        try:
            # `wait` and not `await`: a caller that is cancelled must not cancel the opening for all others.
            await asyncio.wait({self._opening})
        except BaseException:
            if self._n_waiting == 1 and not self._was_opened:
                await self.close(CANCELLED_CLOSE_S)
            raise
        finally:
            self._n_waiting -= 1
        if self._opening.cancelled():
            raise Closed("connection")
        try:
            self._opening.result()
        except BaseException:
            if self._services is not None:  # a hook has failed after the connection was there
                await self.close(CANCELLED_CLOSE_S)
            self._set_state("closed")
            raise
        self._was_opened = True

    async def _open(self) -> None:
        addresses = self.addresses
        try:
            if addresses.embedded:
                self._server = EmbeddedServer(addresses.embedded_dir)
                await self._server.start()
                addresses = parse_addresses(self._server.url)
            services = await connect_services(addresses, self._client, self._logger, self._options, self.totals)
            if self._closing is not None:  # `close` cancelled this task, but something swallowed the cancellation
                await services.wire.close_within()
                raise Closed("connection")
        except BaseException:
            await self._stop_server()
            raise
        self._services = services
        self.log = ConnectionLog(self._logger, str(addresses), services.wire, self._n_unpublished)
        self._opened_in = _OPENED.get()
        if self._opened_in is not None:
            self._opened_in.append(self)
        services.wire.on_lost.append(self._on_lost)
        services.wire.on_restored.append(self._on_restored)
        self._set_state("connected")
        if self.watcher is not None:
            await self.watcher.opened()

    # --- closing -----------------------------------------------------------------------------------------------------

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Close the connection and everything that uses it, as `Conn.close` says."""
        timeout_s = check_close_timeout(timeout_s)
        check_loop(self._loop)
        if self._close_deadline is None:
            self._close_deadline = Deadline(timeout_s)
        else:
            self._hurry(timeout_s)
        if self._closing is None:
            for user in self._users:
                user.stop()
            self._closing = asyncio.get_running_loop().create_task(self._close(self._close_deadline))
        if any(user.is_run_by_caller() for user in self._users):
            self._closing.add_done_callback(self._log_failure)
            return
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            self._closing.add_done_callback(self._log_failure)
            self._hurry(CANCELLED_CLOSE_S)
            raise

    def _log_failure(self, closing: asyncio.Task[None]) -> None:
        """Log why closing failed: the caller of `close` may be gone."""
        error = None if closing.cancelled() else closing.exception()
        if error is not None:
            self._logger.error("closing the connection to %s failed", self.addresses, exc_info=error)

    async def close_in_own_loop(self, timeout_s: float) -> None:
        """Close the connection if it is open in the running event loop. A failure is logged."""
        if self._state == "closed" or self._opening is None or self._opening.get_loop() != asyncio.get_running_loop():
            return
        try:
            await self.close(timeout_s)
        except Exception:
            self._logger.exception("closing the connection to %s failed", self.addresses)

    @property
    def _users(self) -> list[Life]:
        """Return all that runs functions of the user."""
        return [*self.sides, *self.subscriptions]

    def _hurry(self, timeout_s: float) -> None:
        if self._close_deadline is not None:
            self._close_deadline.shorten(timeout_s)
            for user in self._users:
                user.hurry(timeout_s * (1 - KEPT_SHARE))

    async def _close(self, deadline: Deadline) -> None:
        closing = Closing(self._logger, deadline)
        if self._opening is not None:
            self._opening.cancel()
            await deadline.wait({self._opening})
        services = self._services
        try:
            if services is not None:
                await closing.close_users(self.sides, self.subscriptions, self.publishers, self.batches)
                for task in self._tasks:
                    task.cancel()
        finally:
            self._services = None
            if self.log is not None:
                self.log.close()
            try:
                if services is not None:
                    await closing.close_wire(services)
            finally:
                try:
                    await self._stop_server(deadline.left_s)
                finally:
                    if self._opened_in is not None and self in self._opened_in:
                        self._opened_in.remove(self)
                    self._set_state("closed")
                    if self.watcher is not None:
                        await self.watcher.closed(deadline)
        if closing.left_undone:
            self._logger.warning(
                "the connection was closed before these had ended: %s; events that were not acknowledged will be "
                "delivered again, and publishes that were not acknowledged may be stored or not",
                ", ".join(closing.left_undone),
            )

    async def _stop_server(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(min(timeout_s, SERVER_TIMEOUT_S))

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop in which it was opened; None: it was not opened."""
        return self._loop

    @property
    def state(self) -> ConnState:
        """The state, as `Conn.state` says."""
        return self._state

    @property
    def server(self) -> tuple[str, int] | None:
        """The host and port of the server, as `Conn.server` says."""
        url = None if self._services is None else self._services.wire.connected_url
        return None if url is None or url.hostname is None else (url.hostname, url.port or DEFAULT_PORT)

    def _set_state(self, state: ConnState) -> None:
        if state == self._state:
            return
        self._state = state
        if self._on_state is not None:
            self._on_state(state)

    def _on_lost(self) -> None:
        if self.log is not None:
            self.log.lost()
        self._set_state("disconnected")

    def _on_restored(self) -> None:
        if self.log is not None:
            self.log.restored()
        self.run_until_closed(asyncio.get_running_loop().create_task(self._discover_again()))
        self._set_state("reconnected")

    async def _discover_again(self) -> None:
        """Find out what the server supports: after a reconnect it may be another server, of another version."""
        services = self._services
        if services is None:  # it was closed meanwhile
            return
        try:
            await services.api.discover(self._options.timeout_s)
        except Exception as error:
            level = services.wire.trouble_level
            self._logger.log(level, "could not find out what the server supports: %s", error)

    def _n_unpublished(self) -> int:
        """Return how many events wait to be published, or for their acknowledgement."""
        n = sum(publisher.stats().pending for publisher in self.publishers)
        return (
            n
            if self._services is None
            else n + sum(each.pending for _, each in self._services.stream_publishers.stats())
        )

    @property
    def services(self) -> ConnServices | None:
        """The services of the open connection; None: it is not open."""
        return self._services

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called, and has not ended."""
        return self._closing is not None and self._state != "closed"

    def run_until_closed(self, task: asyncio.Task[None]) -> None:
        """Have `close` cancel the task, unless it ends before."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def require_open(self) -> ConnServices:
        """Return the services of the open connection. Raises Closed; ConfigError in another event loop or thread."""
        if self._loop is not None and running_loop() is not self._loop:
            check_loop(self._loop)
        if self._services is None:
            raise Closed("connection (await eda.connect(...) first)" if self._state == "new" else "connection")
        return self._services

    def check_not_closing(self) -> None:
        """Raise Closed if closing has begun."""
        if self._closing is not None:
            raise Closed("connection")

    def admit_publisher(self, publisher: Publisher) -> None:
        """Remember a publisher that is being opened, so that `close` closes it. Raises Closed."""
        self.check_not_closing()
        self.publishers.add(publisher)
        self.totals.add_publisher(publisher.stream, publisher)

    def discard_publisher(self, publisher: Publisher) -> None:
        """Forget a publisher that has closed. Its counts are kept."""
        self.publishers.discard(publisher)
        self.totals.retire_publisher(publisher)

    def admit_subscription(self, subscription: Subscription) -> None:
        """Remember a subscription that is being opened, so that `close` closes it. Raises Closed."""
        self.check_not_closing()
        self.ended.pop(subscription._key, None)
        self.subscriptions.add(subscription)

    def admit_side(self, side: Life) -> None:
        """Remember a projection, view or relay that is being opened, so that `close` closes it. Raises Closed."""
        self.check_not_closing()
        self.ended.pop(side._key, None)
        self.sides.add(side)

    def admit_projection(self, side: Life) -> None:
        """Remember a projection, as `admit_side` does. Raises ConfigError if this connection has the same one open."""
        self.check_not_closing()
        for each in self.sides:
            if each.label == side.label:
                raise ConfigError(f"this connection has {side.label} open already", argument="name")
        self.admit_side(side)

    def dismiss(self, life: Life) -> None:
        """Forget a subscription, projection, view or relay that is closed. Remember the error that has ended it."""
        self.subscriptions.discard(life)
        self.sides.discard(life)
        if life._error is not None and self._closing is None:
            self.ended.pop(life._key, None)
            self.ended[life._key] = Ended(life._health_group, life._condition() | {"ended": time_text(time.time_ns())})
            if len(self.ended) > MAX_ENDED:
                del self.ended[next(iter(self.ended))]
