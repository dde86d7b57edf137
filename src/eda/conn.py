"""Conn: the connection as users see it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from typing import Any, Self

from eda._event import Event
from eda._nuid import next_nuid
from eda._send import Target
from eda._wire import Wire
from eda.addresses import Addresses, parse_addresses
from eda.api import Api
from eda.errors import Closed, ConfigError, ConnectError, PublishFailed, Timeout
from eda.options import StreamOptions, SubscriptionOptions, merge_options
from eda.publisher import Mode, Publisher, check_publisher_options
from eda.server import EmbeddedServer
from eda.single import SinglePublisher
from eda.streams import StreamInfo, Streams
from eda.subjects import check_stream_name
from eda.subscription import Handler, Subscription, check_built, durable_name

__all__ = ["Conn"]

CLOSE_TIMEOUT_S = 30.0
_EMPTY = Event()


class Conn:
    """A connection to the event streams. Made by `connect`; await it or enter it to open it.

    Safe to use from any task of the event loop that opened it.
    """

    def __init__(
        self,
        addresses: Addresses,
        domain: str | None,
        client: str | None,
        logger: logging.Logger,
        security: dict[str, Any],
        connect_timeout_s: float,
        auto_create: bool,
        stream_defaults: StreamOptions,
        on_state: Callable[[str], object] | None,
    ) -> None:
        self.client = client or f"eda-{next_nuid()}"
        self._named = client is not None
        self._addresses = addresses
        self._domain = domain
        self._logger = logger
        self._security = security
        self._connect_timeout_s = connect_timeout_s
        self._auto_create = auto_create
        self._stream_defaults = stream_defaults
        self._on_state = on_state
        self._state = "new"
        self._server: EmbeddedServer | None = None
        self._wire: Wire | None = None
        self._api: Api | None = None
        self._streams: Streams | None = None
        self._single: SinglePublisher | None = None
        self._targets: dict[str, tuple[Target, float]] = {}
        self._resolving: dict[str, asyncio.Task[tuple[Target, float]]] = {}
        self._subscriptions: set[Subscription] = set()
        self._publishers: set[Publisher] = set()
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Conn {self.client!r} to {self._addresses}, {self._state}>"

    # --- opening and closing -----------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self._opened().__await__()

    async def __aenter__(self) -> Self:
        return await self._opened()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _opened(self) -> Self:
        if self._state == "closed":
            raise Closed("connection")
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        try:
            await self._opening
        except BaseException:
            self._set_state("closed")
            raise
        return self

    async def _open(self) -> None:
        addresses = self._addresses
        options = dict(self._security)
        wire = Wire(self._logger)
        try:
            if addresses.embedded:
                self._server = EmbeddedServer(addresses.embedded_dir)
                await self._server.start()
                addresses = parse_addresses(self._server.url)
            given = {"user": addresses.user, "password": addresses.password, "token": addresses.token}
            options = {key: value for key, value in given.items() if value is not None} | options
            deadline = time.monotonic() + self._connect_timeout_s
            await wire.open(addresses.urls, timeout_s=self._connect_timeout_s, name=self.client, **options)
            api = Api(wire, self._domain)
            await api.look(max(deadline - time.monotonic(), 0.1))
            single = SinglePublisher(wire, self.client, self._logger, self._recover)
            await single.open()
        except BaseException as error:
            await wire.shut()
            await self._stop_server()
            if isinstance(error, Timeout | Closed):
                raise ConnectError(str(addresses), str(error)) from error
            raise
        self._wire, self._api, self._streams, self._single = wire, api, Streams(api), single
        wire.on_lost.append(self._on_lost)
        wire.on_restored.append(self._on_restored)
        wire.on_info.append(self._on_info)
        self._set_state("connected")

    async def close(self) -> None:
        """Close subscriptions, flush what is being published, then the connection, within 30 s; logs what was left.

        Safe to call twice, and from a handler: there it returns at once, and closing goes on when the handler is done.
        """
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        task = asyncio.current_task()
        if not any(each.is_run_by(task) for each in self._subscriptions):
            await asyncio.shield(self._closing)

    async def _close(self) -> None:
        wire, single = self._wire, self._single
        if wire is None or single is None:
            self._set_state("closed")
            return
        try:
            # Handlers that are running may publish until they are done.
            closing = [asyncio.ensure_future(each.close()) for each in self._subscriptions]
            if closing:
                _, late = await asyncio.wait(closing, timeout=CLOSE_TIMEOUT_S)
                if late:
                    self._logger.warning(
                        "closing the connection: %d subscriptions did not close in %g s", len(late), CLOSE_TIMEOUT_S
                    )
                    for each in self._subscriptions:
                        each.cancel_handlers()
                    await asyncio.wait(late, timeout=1.0)
            await self._close_publishers()
            for task in self._tasks:
                task.cancel()
            wire.closing = True
            await single.drain(CLOSE_TIMEOUT_S)
        finally:
            self._wire = None
            single.close()
            await wire.shut()
            await self._stop_server()
            self._set_state("closed")

    async def _close_publishers(self) -> None:
        for publisher in list(self._publishers):
            try:
                await asyncio.wait_for(publisher.flush(), CLOSE_TIMEOUT_S)
            except (PublishFailed, TimeoutError) as error:
                self._logger.warning("closing the connection: publisher to %s: %s", publisher.stream, error)
            await publisher.close()

    async def _stop_server(self) -> None:
        if self._server is not None:
            await self._server.stop()
            self._server = None

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """`connected`, `disconnected` or `reconnected` (up again after it was down), `closed`; `new` before opening."""
        return self._state

    def _set_state(self, state: str) -> None:
        if state == self._state:
            return
        self._state = state
        if self._on_state is None:
            return
        try:
            self._on_state(state)
        except Exception:
            self._logger.exception("on_state(%r) failed", state)

    def _on_lost(self) -> None:
        self._logger.warning("disconnected from %s", self._addresses)
        self._set_state("disconnected")

    def _on_restored(self) -> None:
        assert self._wire is not None
        self._logger.info("reconnected to %s", self._addresses)
        self._on_info()
        task = asyncio.get_running_loop().create_task(self._look_again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._set_state("reconnected")

    def _on_info(self) -> None:
        for target, _ in self._targets.values():
            target.set_max_payload(self._wire.max_payload if self._wire is not None else target.max_payload)

    async def _look_again(self) -> None:
        """It may be another server, of another version."""
        try:
            await self._require_api().look(self._connect_timeout_s)
        except Exception as error:
            self._logger.warning("asking the server what it can do: %s", error)

    def _require_api(self) -> Api:
        if self._wire is None or self._api is None:
            raise Closed("connection (await eda.connect(...) first)" if self._state == "new" else "connection")
        return self._api

    # --- streams -----------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> Streams:
        """The administration of streams."""
        self._require_api()
        assert self._streams is not None
        return self._streams

    async def _ensure_stream(self, stream: str) -> StreamInfo:
        return await self.streams.ensure(stream, self._stream_defaults, create=self._auto_create)

    async def _recover(self, stream: str) -> None:
        """Nobody answers for a stream that was published to: see whether it is there, create it if that is wanted."""
        self._targets.pop(stream, None)
        await self._target(stream)

    async def _target(self, stream: str) -> tuple[Target, float]:
        """Return where events of the stream go, and the longest publish timeout it allows; asks once per stream."""
        task = self._resolving.get(stream)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._resolve(stream))
            self._resolving[stream] = task
            task.add_done_callback(lambda _: self._resolving.pop(stream, None))
        return await asyncio.shield(task)

    async def _resolve(self, stream: str) -> tuple[Target, float]:
        info = await self._ensure_stream(stream)
        assert self._wire is not None
        known = Target(stream, self._wire.max_payload), info.options.dedup_window_s / 2
        self._targets[stream] = known
        return known

    # --- publishing --------------------------------------------------------------------------------------------------

    async def publish(self, stream: str, event: Event | None = None, *, timeout_s: float = 30.0) -> str:
        """Publish an event and return its id once the stream has stored and acknowledged it.

        Sent again under the same id until it is acknowledged, refused for good, or past `timeout_s` seconds (0.001 to
        half of the stream's duplicate window). None publishes an empty event. Concurrent calls share writes.

        Raises ConfigError or EncodeError before anything is sent; StreamNotFound, ServerError, Closed; Timeout, and
        then the event may be stored or not. Cancelled, it may be stored or not, too.
        """
        known = self._targets.get(stream) if type(stream) is str else None
        single = self._single
        if known is None or single is None or self._wire is None:
            self._require_api()
            check_stream_name(stream)
            known = await self._target(stream)
            single = self._single
            assert single is not None
        if event is None:
            event = _EMPTY
        elif type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        if not isinstance(timeout_s, float | int) or not 0.001 <= timeout_s <= known[1]:
            raise ConfigError(
                f"timeout_s={timeout_s!r} must be between 0.001 and {known[1]:g}: half of the duplicate window "
                f"({known[1] * 2:g} s) of stream {stream!r}, past which a late retry could be stored twice",
                argument="timeout_s",
            )
        left_s = timeout_s if single.is_ready else await single.ready(timeout_s, event.id)
        event_id, acknowledged = single.send(known[0], event, left_s)
        try:
            await acknowledged
        except Timeout as error:
            error.event_id, error.timeout_s = event_id, timeout_s
            raise
        return event_id

    def publisher(
        self,
        stream: str,
        *,
        mode: Mode = "auto",
        dedup: bool = True,
        max_pending: int = 4096,
        max_pending_bytes: int = 8 * 2**20,
        ack_timeout_s: float = 5.0,
        timeout_s: float = 30.0,
        on_ack: Callable[[str, int], object] | None = None,
        on_error: Callable[[Event, Exception], object] | None = None,
    ) -> Publisher:
        """Make a publisher for volume: an async context manager; leaving it flushes.

        `mode`: "fast" (one acknowledgement for hundreds of events; nats-server 2.14, a stream that allows it),
        "window" (one each), "auto" (fast where it can be). `dedup=False` leaves the message id out: a third faster on
        the server, and an event that has to be sent again may be stored twice. `max_pending` (1 to 65,536 events) and
        `max_pending_bytes` bound what is unacknowledged. `ack_timeout_s`: an event without an answer for so long is
        sent again. `timeout_s`: after so long it fails with Timeout; at most half of the stream's duplicate window.
        `on_ack(event_id, sequence)` (sequence 0 in fast mode) and `on_error(event, error)`: each event reaches exactly
        one of them, exactly once.

        Raises ConfigError; entered, also NotSupported for a mode that can't be had, StreamNotFound, ServerError,
        Closed.
        """
        self._require_api()
        assert self._wire is not None
        check_stream_name(stream)
        check_publisher_options(mode, max_pending, max_pending_bytes, ack_timeout_s, timeout_s, on_ack, on_error)
        publisher = Publisher(
            self._wire,
            self._logger,
            self.client,
            stream,
            lambda: self._look_at(stream, max_pending),
            self._publishers.discard,
            mode=mode,
            dedup=bool(dedup),
            max_pending=max_pending,
            max_pending_bytes=max_pending_bytes,
            ack_timeout_s=float(ack_timeout_s),
            timeout_s=float(timeout_s),
            on_ack=on_ack,
            on_error=on_error,
        )
        self._publishers.add(publisher)
        return publisher

    async def _look_at(self, stream: str, max_pending: int) -> tuple[Target, StreamInfo, bool]:
        """Return where a stream's events go, its state, and whether it takes fast ingest from such a window."""
        info = await self._ensure_stream(stream)
        api = self._require_api()
        assert self._wire is not None
        can_fast = info.fast_ingest and api.has_fast_ingest and max_pending >= 4
        return Target(stream, self._wire.max_payload), info, can_fast

    # --- subscribing -------------------------------------------------------------------------------------------------

    def subscribe(
        self, stream: str, handler: Handler, options: SubscriptionOptions | None = None, **overrides: Any
    ) -> Subscription:
        """Subscribe a handler to a stream; await the result or enter it to begin.

        `handler(event)` is an `async def` or a plain function: returning acknowledges the event, an exception is logged
        and the event comes again. Options are fields of SubscriptionOptions, also as keywords.

        Raises ConfigError for options that are unknown or contradict each other; awaited, also for a kept subscription
        of that name that contradicts them, and StreamNotFound, ServerError, Closed.
        """
        api = self._require_api()
        if self._wire is None or self._closing is not None:
            raise Closed("connection")
        check_stream_name(stream)
        if not callable(handler):
            raise ConfigError(f"handler must be callable, not {type(handler).__name__}", argument="handler")
        merged = merge_options(options, overrides)
        check_built(merged)
        subscription = Subscription(
            self._wire,
            api,
            self._logger,
            stream,
            handler,
            merged,
            durable_name(merged, self.client if self._named else None),
            lambda: self._ensure_stream(stream),
            self._subscriptions.discard,
        )
        self._subscriptions.add(subscription)
        return subscription
