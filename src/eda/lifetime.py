"""The life of a connection: opening, closing, and what state it is in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Self

from eda._nuid import next_nuid
from eda.callbacks import Callback
from eda.closing import CLOSE_TIMEOUT_S, KEEPS, Closing, check_close_timeout
from eda.conn_services import Link, LinkOptions, open_link
from eda.deadline import Deadline
from eda.embedded.server import EmbeddedServer
from eda.errors import Closed
from eda.publishing.publisher import Publisher
from eda.subscribing.subscription import CANCELLED_CLOSE_S, Subscription
from eda.transport.addresses import Addresses, parse_addresses
from eda.transport.loops import check_loop, running_loop

__all__ = ["Lifetime"]

SERVER_TIMEOUT_S = 5.0


# The connections that were opened since `closing_what_is_left` was entered. Tasks inherit it.
_OPENED: ContextVar[list[Lifetime] | None] = ContextVar("eda_opened", default=None)


@asynccontextmanager
async def closing_what_is_left() -> AsyncIterator[None]:
    """Close the connections that its block has opened in this loop, and left open."""
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


class Lifetime:
    """What `Conn` is made of, without what users do with it."""

    def __init__(
        self,
        addresses: Addresses,
        client: str | None,
        logger: logging.Logger,
        options: LinkOptions,
        on_state: Callable[[str], object] | None,
    ) -> None:
        self.client = client or f"eda-{next_nuid()}"
        self._named = client is not None
        self._addresses = addresses
        self._logger = logger
        self._options = options
        self._on_state = None if on_state is None else Callback("on_state", on_state, logger)
        self._state = "new"
        self._server: EmbeddedServer | None = None
        self._link: Link | None = None
        self._subscriptions: set[Subscription] = set()
        self._publishers: set[Publisher] = set()
        self._batches: set[asyncio.Future[None]] = set()  # done when the batch is
        self._opening: asyncio.Task[None] | None = None
        self._n_waiting = 0  # for it to open
        self._was_opened = False  # for somebody who was there to see it
        self._closing: asyncio.Task[None] | None = None
        self._deadline: Deadline | None = None  # of closing
        self._opened_in: list[Lifetime] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that has opened it

    def __repr__(self) -> str:
        return f"<Conn {self.client!r} to {self._addresses}, {self._state}>"

    # --- opening and closing -----------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self._opened().__await__()

    async def __aenter__(self) -> Self:
        return await self._opened()

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        is_cancelled = exc_type is not None and not issubclass(exc_type, Exception)
        await self.close(CANCELLED_CLOSE_S if is_cancelled else CLOSE_TIMEOUT_S)

    async def _opened(self) -> Self:
        """Open once, however many wait for it. When the last of those is cancelled, what was opened is closed again."""
        if self._state == "closed" or self._closing is not None:
            raise Closed("connection")
        check_loop(self._loop)
        if self._opening is None:
            self._loop = asyncio.get_running_loop()
            self._opening = asyncio.get_running_loop().create_task(self._open())
        self._n_waiting += 1
        try:
            # Not awaited itself: that would cancel it for all, and maybe too late for it to notice.
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
            self._set_state("closed")
            raise
        self._was_opened = True
        return self

    async def _open(self) -> None:
        addresses = self._addresses
        try:
            if addresses.embedded:
                self._server = EmbeddedServer(addresses.embedded_dir)
                await self._server.start()
                addresses = parse_addresses(self._server.url)
            link = await open_link(addresses, self.client, self._logger, self._options)
            if self._closing is not None:  # the cancellation may have been swallowed on its way
                await link.wire.close_within()
                raise Closed("connection")
        except BaseException:
            await self._stop_server()
            raise
        self._link = link
        self._opened_in = _OPENED.get()
        if self._opened_in is not None:
            self._opened_in.append(self)
        link.wire.on_lost.append(self._on_lost)
        link.wire.on_restored.append(self._on_restored)
        self._set_state("connected")

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Close subscriptions, flush what is being published, then close the connection, all within `timeout_s`.

        Handlers that still run are cancelled early enough for their subscription's position to be stored. A warning in
        the log says what was left undone.

        Safe to call twice: the shorter time counts. Called in a handler, or in a task or thread that a running handler
        has started, it returns at once, and closing goes on when the handler is done. Cancelled, it goes on without its
        caller, for 2 s at most. Raises ConfigError for a `timeout_s` that is no time.
        """
        timeout_s = check_close_timeout(timeout_s)
        check_loop(self._loop)
        if self._deadline is None:
            self._deadline = Deadline(timeout_s)
        else:
            self._hurry(timeout_s)
        if self._closing is None:
            for each in self._subscriptions:
                each.stop()
            self._closing = asyncio.get_running_loop().create_task(self._close(self._deadline))
        if any(each.is_run_by_caller() for each in self._subscriptions):
            self._closing.add_done_callback(self._log_failure)
            return
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            self._closing.add_done_callback(self._log_failure)
            self._hurry(CANCELLED_CLOSE_S)
            raise

    def _log_failure(self, closing: asyncio.Task[None]) -> None:
        """Tell of a failure that no caller of `close` may be there to hear of."""
        error = None if closing.cancelled() else closing.exception()
        if error is not None:
            self._logger.error("closing the connection to %s failed", self._addresses, exc_info=error)

    async def close_in_own_loop(self, timeout_s: float) -> None:
        """Close if it is open, and this is the loop in which it was opened. What goes wrong is logged."""
        if self._state == "closed" or self._opening is None or self._opening.get_loop() != asyncio.get_running_loop():
            return
        try:
            await self.close(timeout_s)
        except Exception:
            self._logger.exception("closing the connection to %s failed", self._addresses)

    def _hurry(self, timeout_s: float) -> None:
        if self._deadline is not None:
            self._deadline.shorten(timeout_s)
            for each in self._subscriptions:
                each.hurry(timeout_s * (1 - KEEPS))

    async def _close(self, deadline: Deadline) -> None:
        closing = Closing(self._logger, deadline)
        if self._opening is not None:
            self._opening.cancel()
            await deadline.wait({self._opening})
        link = self._link
        try:
            if link is not None:
                await closing.close_users(self._subscriptions, self._publishers, self._batches)
                for task in self._tasks:
                    task.cancel()
        finally:
            self._link = None
            try:
                if link is not None:
                    await closing.close_link(link)
            finally:
                try:
                    await self._stop_server(deadline.left_s)
                finally:
                    if self._opened_in is not None and self in self._opened_in:
                        self._opened_in.remove(self)
                    self._set_state("closed")
        if closing.left_undone:
            self._logger.warning(
                "the connection was closed before these had ended: %s; events that were not acknowledged come again, "
                "publishes that were not acknowledged may be stored or not", ", ".join(closing.left_undone),
            )  # fmt: skip

    async def _stop_server(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(min(timeout_s, SERVER_TIMEOUT_S))

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """`connected`, `disconnected` or `reconnected` (up again after it was down), `closed`; `new` before opening."""
        return self._state

    def _set_state(self, state: str) -> None:
        if state == self._state:
            return
        self._state = state
        if self._on_state is not None:
            self._on_state(state)

    def _on_lost(self) -> None:
        self._logger.warning("disconnected from %s", self._addresses)
        self._set_state("disconnected")

    def _on_restored(self) -> None:
        self._logger.info("reconnected to %s", self._addresses)
        task = asyncio.get_running_loop().create_task(self._look_again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._set_state("reconnected")

    async def _look_again(self) -> None:
        """It may be another server, of another version."""
        try:
            await self._open_link().api.discover(self._options.timeout_s)
        except Exception as error:
            self._logger.warning("asking the server what it can do failed: %s", error)

    def _open_link(self) -> Link:
        if self._loop is not None and running_loop() is not self._loop:
            check_loop(self._loop)
        if self._link is None:
            raise Closed("connection (await eda.connect(...) first)" if self._state == "new" else "connection")
        return self._link

    def _admit_publisher(self, publisher: Publisher) -> None:
        """Take a publisher that is opened into those that the connection closes. Raises Closed."""
        if self._closing is not None:
            raise Closed("connection")
        self._publishers.add(publisher)

    def _admit(self, subscription: Subscription) -> None:
        """Take a subscription that is opened into those that the connection closes. Raises Closed."""
        if self._closing is not None:
            raise Closed("connection")
        self._subscriptions.add(subscription)
