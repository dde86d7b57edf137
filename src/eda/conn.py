"""Conn: the connection as its users see it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable
from typing import Any, Self, Unpack, overload

from eda._event import Event
from eda._nuid import next_nuid
from eda._router import routed
from eda.closing import CLOSE_TIMEOUT_S
from eda.conn_admin import ConnAdmin
from eda.conn_services import ConnectOptions, ConnServices
from eda.conn_sides import ConnSides
from eda.errors import ConfigError, NotSupported, Timeout
from eda.handlers import AnyHandler, BatchHandler, Handler, check_handler
from eda.health import Health
from eda.jetstream.streams import Streams
from eda.jetstream.subjects import check_stream_name
from eda.keywords import EventsBatchKeywords, EventsKeywords, SubscribeBatchKeywords, SubscribeKeywords
from eda.life import CANCELLED_CLOSE_S
from eda.lifetime import ConnState, Lifetime
from eda.log import with_fields
from eda.options import SubscriptionOptions, merge_options
from eda.publishing.atomic_batch import AtomicBatch, encode_batch
from eda.publishing.pack import Pack
from eda.publishing.publisher import Publisher
from eda.publishing.publisher_options import Mode, PublisherOptions
from eda.receipt import Receipt
from eda.subscribing.events_iterator import Events
from eda.subscribing.spec import SubscriptionSpec, spec_of
from eda.subscribing.subscription import Subscription
from eda.totals import ConnStats
from eda.transport.addresses import Addresses
from eda.typed.upcasters import check_upcasters

__all__ = ["Conn"]

_EMPTY = Event()


class Conn(ConnSides, ConnAdmin):
    """A connection to the event streams. `connect` makes it. Await it or enter it with `async with` to open it.

    Leaving the context closes it, within 30 s. If the block is cancelled, it closes within 2 s.

    Any task of the event loop that opened the connection may use it. In another event loop or thread, every call
    raises ConfigError and sends nothing: use asyncio.run_coroutine_threadsafe there, or open another connection.
    """

    def __init__(
        self,
        addresses: Addresses,
        client: str | None,
        logger: logging.Logger,
        options: ConnectOptions,
        on_state: Callable[[ConnState], object] | None,
    ) -> None:
        self.client: str = client or f"eda-{next_nuid()}"
        self._is_named = client is not None
        self._logger = with_fields(logger, eda_client=self.client)
        self._lifetime = Lifetime(addresses, self.client, self._logger, options, on_state)
        self._health = Health(self._lifetime, self.client, self._logger)

    def __repr__(self) -> str:
        return f"<Conn {self.client!r} to {self._lifetime.addresses}, {self.state}>"

    # --- opening and closing -----------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self._opened().__await__()

    async def __aenter__(self) -> Self:
        return await self._opened()

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        is_cancelled = exc_type is not None and not issubclass(exc_type, Exception)
        await self._lifetime.close(CANCELLED_CLOSE_S if is_cancelled else CLOSE_TIMEOUT_S)

    async def _opened(self) -> Self:
        await self._lifetime.open()
        return self

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Close subscriptions, flush publishers, then close the connection, all within `timeout_s` seconds.

        Handlers that still run are cancelled early enough for their subscription's position to be stored. A warning in
        the log says what was not finished.

        Further calls are allowed: the shorter time counts. A call from a handler returns at once, and the connection
        closes when the handler is done; this also holds for a task or thread that a running handler has started. If
        the caller is cancelled, the connection still closes, within 2 s.

        Raises ConfigError if `timeout_s` is not a number of seconds.
        """
        await self._lifetime.close(timeout_s)

    @property
    def state(self) -> ConnState:
        """The state: "new", "connected", "disconnected", "reconnected" (connected again after a loss), or "closed"."""
        return self._lifetime.state

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop in which the connection was opened; None: it was not opened yet."""
        return self._lifetime.loop

    def stats(self) -> ConnStats:
        """Return what this connection has published and handled since it was opened. Asks no server.

        Any thread may call it, at any time. Publishers and subscriptions that have closed are included. So counts never
        go down while this object lives.
        """
        return self._lifetime.totals.read(self.state)

    @property
    def server(self) -> tuple[str, int] | None:
        """The host and port of the server that the connection uses; None while it is not connected."""
        return self._lifetime.server

    # --- streams -----------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> Streams:
        """The administration of streams."""
        return self._lifetime.require_open().streams

    # --- publishing --------------------------------------------------------------------------------------------------

    async def publish(self, stream: str, event: Event | None = None, *, timeout_s: float | None = None) -> Receipt:
        """Publish an event, and return its receipt when the stream has stored it.

        The event is sent again under the same id until the server acknowledges it, rejects it permanently, or
        `timeout_s` seconds are over. `timeout_s` is at least 0.001 and at most half of the stream's duplicate window.
        The default (None) is 30 s, or half of the duplicate window if that is shorter. `event=None` publishes an empty
        event. Concurrent calls share writes.

        Raises ConfigError or EncodeError before anything is sent. Raises StreamNotFound, ServerError, Closed, Timeout.
        After a Timeout, Closed or a cancellation the event may be stored or not.
        """
        services = self._lifetime.require_open()
        known = services.known_streams.known.get(stream) if type(stream) is str else None
        if known is None:
            stream = check_stream_name(stream)
            known = services.known_streams.known.get(stream) or await services.known_streams.find(stream)
        if event is None:
            event = _EMPTY
        elif type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        if timeout_s is None:
            timeout_s = known.usual_s
        else:
            known.check_timeout(timeout_s)
        publisher = known.publisher
        left_s = timeout_s if publisher.is_ready else await publisher.ready(timeout_s, event.id)
        event_id, acknowledged = publisher.send(known.destination, event, left_s)
        try:
            sequence = await acknowledged
        except Timeout as error:
            error.event_id, error.timeout_s = event_id, error.timeout_s or timeout_s
            raise
        duplicate = sequence < 0
        return Receipt(event_id, known.destination.stream, -sequence if duplicate else sequence, 0, duplicate)

    def publisher(
        self,
        stream: str,
        *,
        pack: Pack | None = None,
        mode: Mode = "auto",
        dedup: bool = True,
        max_pending: int | None = None,
        max_pending_bytes: int | None = None,
        ack_timeout_s: float = 5.0,
        timeout_s: float | None = None,
        on_ack: Callable[[str, int], object] | None = None,
        on_error: Callable[[Event, Exception], object] | None = None,
    ) -> Publisher:
        """Return a publisher for many events. Await it or enter it with `async with`; leaving the context flushes it.

        `pack`: an `eda.Pack`, which says how many events are put into one message; None: each event is a message. Packs
        need a stream with `packed=True`; a missing stream is created with it. All else counts single events.

        `mode`: "fast" has one acknowledgement for hundreds of messages, and needs nats-server 2.14 and a stream that
        allows it; "window" has one for each; "auto" is fast where it is possible. `dedup=False` sends no message id:
        the server is a third faster, and an event that is sent again may be stored twice. `max_pending` (1 to 65,536
        events) and `max_pending_bytes` limit the events that are not acknowledged yet. None: 4,096 and 8 MiB, with
        `pack` 65,536 and 16 MiB.

        An event without an answer for `ack_timeout_s` seconds is sent again. An event that is not acknowledged after
        `timeout_s` seconds fails with Timeout. `timeout_s` is at most half of the stream's duplicate window. Its
        default (None) is 30 s, or half of the duplicate window if that is shorter.

        `on_ack(event_id, sequence)` (the sequence is 0 in fast mode) and `on_error(event, error)` are plain functions.
        For each event exactly one of them is called, once.

        Raises ConfigError. Opening it also raises ConfigError if the stream takes no packs, NotSupported if the server
        can't do the mode, StreamNotFound, ServerError, Closed.
        """
        services = self._lifetime.require_open()
        stream = check_stream_name(stream)
        options = PublisherOptions(
            pack=pack,
            mode=mode,
            dedup=dedup,
            max_pending=max_pending,
            max_pending_bytes=max_pending_bytes,
            ack_timeout_s=ack_timeout_s,
            timeout_s=timeout_s,
            on_ack=on_ack,
            on_error=on_error,
        )
        return self._new_publisher(services, stream, options)

    def _new_publisher(
        self, services: ConnServices, stream: str, options: PublisherOptions, cls: type[Publisher] = Publisher
    ) -> Publisher:
        """Return a publisher. A connection with middleware makes one of another class."""
        return cls(
            services.wire,
            self._logger,
            self.client,
            stream,
            options,
            lambda is_new_server: services.known_streams.check(
                stream, options.window_events, is_new_server=is_new_server, packed=options.pack is not None
            ),
            services.known_streams.looks,
            on_opening=self._lifetime.admit_publisher,
            on_closed=self._lifetime.discard_publisher,
        )

    async def publish_batch(self, stream: str, events: Iterable[Event]) -> list[Receipt]:
        """Publish up to 1,000 events, all or nothing, and return their receipts when they are stored.

        Needs nats-server 2.12.1 and a stream that takes atomic batches. Batches are for events that belong together;
        they are not faster. If the server's answer is lost, the stream is searched for the batch.

        Raises NotSupported; ConfigError or EncodeError before anything is sent; StreamNotFound. Raises ServerError if
        the server rejects the batch, for example because one of its ids was published before: then nothing is stored.
        Raises Timeout if the outcome is not known after 30 s, or after half of the stream's duplicate window if that is
        shorter; and earlier if it is certain that the outcome can't be found out. Raises Closed. After a Timeout,
        Closed or a cancellation either all events are stored or none is.
        """
        services = self._lifetime.require_open()
        stream = check_stream_name(stream)
        messages = encode_batch(stream, events, self.client)
        batch = AtomicBatch(services.wire, services.api, self._logger, stream, messages, services.known_streams.recover)
        info = await services.known_streams.ensure(stream)
        batch.check_taken_by(info)
        if not (services.api.has_atomic and info.atomic):
            raise NotSupported(
                f"an atomic batch into stream {stream!r}",
                needs="nats-server 2.12.1 or later, and a stream with atomic on",
                server=f"nats-server {services.wire.server_version}",
            )
        done = asyncio.get_running_loop().create_future()
        batches = self._lifetime.batches
        batches.add(done)
        try:
            with services.stream_publishers.batches(stream).under_way(len(messages)):
                return await batch.publish(
                    last_seq=info.last_sequence, created=info.created, longest_s=info.options.dedup_window_s / 2
                )
        finally:
            batches.discard(done)
            done.set_result(None)

    # --- subscribing -------------------------------------------------------------------------------------------------

    @overload
    def subscribe(
        self, stream: str, handler: Handler, options: None = None, **overrides: Unpack[SubscribeKeywords]
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        stream: str,
        handler: BatchHandler,
        options: SubscriptionOptions | None = None,
        **overrides: Unpack[SubscribeBatchKeywords],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        stream: str,
        handler: Handler | BatchHandler,
        options: SubscriptionOptions,
        **overrides: Unpack[SubscribeKeywords],
    ) -> Subscription: ...
    def subscribe(
        self,
        stream: str,
        handler: Handler | BatchHandler,
        options: SubscriptionOptions | None = None,
        **overrides: Any,
    ) -> Subscription:
        """Subscribe a handler to a stream. Await the subscription or enter it with `async with` to begin.

        `handler(event)` is an `async def` or a plain function. When it returns, the event is acknowledged. When it
        raises, the exception is logged and the event is delivered again. A Router passes each event, decoded, to the
        handler of its payload class, and the server sends only its types. Options are the fields of
        SubscriptionOptions; they may also be given as keywords.

        Raises ConfigError for options that are unknown or contradict each other, and for a handler that can't be used,
        such as a generator function. Opening it also raises ConfigError if the server keeps a subscription of the same
        name whose options contradict these. Opening it raises StreamNotFound, ServerError, Closed as well.
        """
        lifetime = self._lifetime
        services = lifetime.require_open()
        lifetime.check_not_closing()
        stream = check_stream_name(stream)
        handler, merged = routed(handler, merge_options(options, overrides))
        check_handler(handler, batch=merged.batch is not None)
        check_upcasters()
        spec = spec_of(stream, merged, self.client if self._is_named else None)
        return self._new_subscription(services, spec, handler)

    def _new_subscription(self, services: ConnServices, spec: SubscriptionSpec, handler: AnyHandler) -> Subscription:
        """Return a subscription. A connection with middleware puts its hooks around the handler."""
        lifetime = self._lifetime
        return Subscription(services, spec, handler, lifetime.admit_subscription, lifetime.dismiss)

    @overload
    def events(self, stream: str, options: None = None, **overrides: Unpack[EventsKeywords]) -> Events[Event]: ...
    @overload
    def events(
        self, stream: str, options: SubscriptionOptions | None = None, **overrides: Unpack[EventsBatchKeywords]
    ) -> Events[list[Event]]: ...
    @overload
    def events(self, stream: str, options: SubscriptionOptions, **overrides: Unpack[EventsKeywords]) -> Events[Any]: ...
    def events(self, stream: str, options: SubscriptionOptions | None = None, **overrides: Any) -> Events[Any]:
        """Subscribe without a handler: `async for event in conn.events(stream, ...)`.

        Takes the options of `subscribe` except `concurrency`. With `batch` it returns lists of events. An event is
        acknowledged when the next one is requested. If that takes longer than `timeout_s`, the event is delivered
        again. It is also an async context manager: leaving the context acknowledges the current event, and leaving it
        by an exception gives the event back at once.

        Raises what `subscribe` raises. The iteration also raises the error that ends the subscription.
        """
        merged = merge_options(options, overrides)
        return Events(lambda handler, each: self.subscribe(stream, handler, each), merged, self._logger)
