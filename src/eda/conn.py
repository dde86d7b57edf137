"""Conn: the connection as users see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from eda._event import Event
from eda.errors import Closed, ConfigError, NotSupported, Timeout
from eda.handlers import check_handler
from eda.jetstream.streams import Streams
from eda.jetstream.subjects import check_stream_name
from eda.lifetime import Lifetime
from eda.options import SubscriptionOptions, merge_options
from eda.publishing.atomic_batch import AtomicBatch
from eda.publishing.publisher import Mode, Publisher
from eda.publishing.publisher_options import check_publisher_options
from eda.receipt import Receipt
from eda.subscribing.events_iterator import Events
from eda.subscribing.lag import Lags, SubscriptionInfo
from eda.subscribing.pipeline import Handler
from eda.subscribing.spec import spec_of
from eda.subscribing.subscription import Subscription

__all__ = ["Conn"]

_EMPTY = Event()


class Conn(Lifetime):
    """A connection to the event streams. Made by `connect`; await it or enter it to open it.

    Leaving the context closes it, within 30 s; when the block is cancelled, within 2 s.

    Safe to use from any task of the event loop that opened it. From another loop or thread every call raises
    ConfigError, and nothing is sent: use asyncio.run_coroutine_threadsafe there, or a connection of its own.
    """

    # --- streams -----------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> Streams:
        """The administration of streams."""
        return self._open_link().streams

    # --- publishing --------------------------------------------------------------------------------------------------

    async def publish(self, stream: str, event: Event | None = None, *, timeout_s: float | None = None) -> Receipt:
        """Publish an event; returns its receipt once the stream has stored and acknowledged it.

        Sent again under the same id until it is acknowledged, refused for good, or past `timeout_s` seconds (0.001 to
        half of the stream's duplicate window; None: 30, or that half if it is less). None publishes an empty event.
        Concurrent calls share writes.

        Raises ConfigError or EncodeError before anything is sent; StreamNotFound, ServerError, Closed; Timeout, and
        then the event may be stored or not. Cancelled, it may be stored or not, too.
        """
        link = self._open_link()
        known = link.known_streams.known.get(stream) if type(stream) is str else None
        if known is None:
            stream = check_stream_name(stream)
            known = link.known_streams.known.get(stream) or await link.known_streams.find(stream)
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
        mode: Mode = "auto",
        dedup: bool = True,
        max_pending: int = 4096,
        max_pending_bytes: int = 8 * 2**20,
        ack_timeout_s: float = 5.0,
        timeout_s: float | None = None,
        on_ack: Callable[[str, int], object] | None = None,
        on_error: Callable[[Event, Exception], object] | None = None,
    ) -> Publisher:
        """Make a publisher for volume: an async context manager; leaving it flushes.

        `mode`: "fast" (one acknowledgement for hundreds of events; nats-server 2.14, a stream that allows it),
        "window" (one each), "auto" (fast where it can be). `dedup=False` leaves the message id out: a third faster on
        the server, and an event that has to be sent again may be stored twice. `max_pending` (1 to 65,536 events) and
        `max_pending_bytes` bound what is unacknowledged. `ack_timeout_s`: an event without an answer for so long is
        sent again. `timeout_s`: after so long it fails with Timeout; at most half of the stream's duplicate window.
        None: 30 s, or that half if it is less. `on_ack(event_id, sequence)` (sequence 0 in fast mode) and
        `on_error(event, error)`, plain functions: each event reaches exactly one of them, exactly once.

        Raises ConfigError; entered, also NotSupported for a mode that can't be had, StreamNotFound, ServerError,
        Closed.
        """
        link = self._open_link()
        stream = check_stream_name(stream)
        check_publisher_options(mode, dedup, max_pending, max_pending_bytes, ack_timeout_s, timeout_s, on_ack, on_error)
        return Publisher(
            link.wire,
            self._logger,
            self.client,
            stream,
            lambda is_new: link.known_streams.look_at(stream, max_pending, is_new=is_new),
            self._admit_publisher,
            self._publishers.discard,
            mode=mode,
            dedup=dedup,
            max_pending=max_pending,
            max_pending_bytes=max_pending_bytes,
            ack_timeout_s=float(ack_timeout_s),
            timeout_s=None if timeout_s is None else float(timeout_s),
            on_ack=on_ack,
            on_error=on_error,
        )

    async def publish_batch(self, stream: str, events: Iterable[Event]) -> list[Receipt]:
        """Publish up to 1,000 events, all or nothing; returns their receipts once they are stored.

        Needs nats-server 2.12.1 and a stream that takes atomic batches. For all-or-nothing, not for speed. A lost
        answer is looked up, not guessed. Raises NotSupported; ConfigError or EncodeError before anything is sent;
        StreamNotFound; ServerError when the server refuses the batch, also because one of its ids was published
        already: nothing is stored then. Timeout after 30 s without an outcome, or after half of the stream's duplicate
        window if that is shorter, and at once where nobody can know the outcome; Closed: then, and when cancelled, all
        of it is stored, or nothing.
        """
        link = self._open_link()
        stream = check_stream_name(stream)
        batch = AtomicBatch(link.wire, link.api, self._logger, self.client, stream, events, link.known_streams.recover)
        info = await link.known_streams.ensure(stream)
        batch.check_taken_by(info)
        if not (link.api.has_atomic and info.atomic):
            raise NotSupported(
                f"an atomic batch into stream {stream!r}",
                needs="nats-server 2.12.1 or later, and a stream with atomic on",
                server=f"nats-server {link.wire.server_version}",
            )
        done = asyncio.get_running_loop().create_future()
        self._batches.add(done)
        try:
            return await batch.publish(
                last_seq=info.last_sequence, created=info.created, longest_s=info.options.dedup_window_s / 2
            )
        finally:
            self._batches.discard(done)
            done.set_result(None)

    # --- subscribing -------------------------------------------------------------------------------------------------

    def subscribe(
        self, stream: str, handler: Handler, options: SubscriptionOptions | None = None, **overrides: Any
    ) -> Subscription:
        """Subscribe a handler to a stream; await the result or enter it to begin.

        `handler(event)` is an `async def` or a plain function: returning acknowledges the event, an exception is logged
        and the event comes again. Options are fields of SubscriptionOptions, also as keywords.

        Raises ConfigError for options that are unknown or contradict each other, and for a handler that can't be one,
        such as a generator function; awaited, also for a kept subscription
        of that name that contradicts them, and StreamNotFound, ServerError, Closed.
        """
        link = self._open_link()
        if self._closing is not None:
            raise Closed("connection")
        stream = check_stream_name(stream)
        merged = merge_options(options, overrides)
        check_handler(handler, batch=merged.batch is not None)
        return Subscription(
            link,
            spec_of(stream, merged, self.client if self._named else None),
            handler,
            self._admit,
            self._subscriptions.discard,
        )

    def events(self, stream: str, options: SubscriptionOptions | None = None, **overrides: Any) -> Events:
        """Subscribe without a handler: `async for event in conn.events(stream, ...)`.

        Takes the options of `subscribe` but `concurrency`; with `batch` it gives lists. An event is acknowledged when
        the next one is asked for, which may take `timeout_s`: past that it comes again. Also an async context manager:
        leaving it acknowledges the event in hand, leaving it by an exception gives it back at once. Raises what
        `subscribe` does; iterated, what ends the subscription.
        """
        merged = merge_options(options, overrides)
        return Events(lambda handler, each: self.subscribe(stream, handler, each), merged, self._logger)

    async def subscriptions(self, stream: str) -> list[SubscriptionInfo]:
        """Return the kept subscriptions of a stream, by name: where each is, how far behind, who holds it.

        Those of members that are away as well. Nothing is changed on the server. Asking those that stand by takes half
        a second where there are holders. Raises StreamNotFound, ServerError (403: what may not be asked), Timeout,
        Closed.
        """
        link = self._open_link()
        return await Lags(link.wire, link.api, link.streams).read(stream)

    # --- dead letters ------------------------------------------------------------------------------------------------

    async def replay_dead(
        self, stream: str, name: str, *, limit: int | None = None, dead_letter: str | None = None
    ) -> int:
        """Publish the dead letters of subscription `name` back into `stream` for it alone; returns how many.

        In their order; each is removed from the dead-letter stream (None: `{stream}-dead`) once `stream` has
        acknowledged it. At most `limit`, and none that die while this runs. What was undecodable stays: replaying it
        can't help. An event comes back under a new id, its `cause` and all else unchanged.

        Raises ConfigError; StreamNotFound for either stream; ServerError, Timeout, Closed: those before it failed have
        been replayed then, as they have when it is cancelled.
        """
        return await self._open_link().replay.replay(stream, name, limit=limit, dead_letter=dead_letter)
