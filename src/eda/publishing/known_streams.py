"""The streams that a connection publishes to. Each is looked up or created once, and checked again after trouble."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from time import monotonic
from typing import Any

from eda._event import Event
from eda.errors import ConfigError, EdaError, StreamNotFound
from eda.jetstream.api import Api
from eda.jetstream.bucket import Bucket, bucket_for
from eda.jetstream.pack_mark import check_packed, refusal_of_packs
from eda.jetstream.store_mark import check_unmarked
from eda.jetstream.stream_info import StreamInfo, check_takes_events, check_takes_subject
from eda.jetstream.streams import Streams
from eda.jetstream.subjects import subject_of
from eda.options import StreamOptions
from eda.publishing._stream_sender import Destination
from eda.publishing.stream_looks import StreamLooks
from eda.publishing.stream_publisher import StreamPublisher, StreamPublishers
from eda.transport.wire import Wire

__all__ = ["PUBLISH_TIMEOUT_S", "KnownStream", "KnownStreams"]

LOOK_TIMEOUT_S = 10.0
PUBLISH_TIMEOUT_S = 30.0


class KnownStream:
    """A stream that events are published to, as it was when last checked at `checked_at` (monotonic).

    `longest_s` is the longest time-out of a publish that the stream's duplicate window allows. `usual_s` is the
    time-out of a publish without the option. `max_message` is the stream's limit for the bytes of a message, 0 if there
    is none. `publisher` publishes to the stream. `is_marked`: the stream belongs to event stores.
    """

    __slots__ = ("checked_at", "destination", "is_marked", "longest_s", "max_message", "publisher", "usual_s")

    def __init__(self, destination: Destination, info: StreamInfo, publisher: StreamPublisher) -> None:
        self.destination: Destination = destination
        self.is_marked: bool = info.options.store
        self.max_message: int = info.max_event_bytes or 0
        self.publisher: StreamPublisher = publisher
        self.longest_s: float = info.options.dedup_window_s / 2
        self.usual_s: float = min(PUBLISH_TIMEOUT_S, self.longest_s)
        self.checked_at: float = monotonic()

    def check_timeout(self, timeout_s: object) -> None:
        """Raise ConfigError unless a publish may have this time-out."""
        if isinstance(timeout_s, float | int) and timeout_s is not True and 0.001 <= timeout_s <= self.longest_s:
            return
        raise ConfigError(
            f"timeout_s={timeout_s!r} must be between 0.001 and {self.longest_s:g}: half of the duplicate window "
            f"({self.longest_s * 2:g} s) of stream {self.destination.stream!r}, past which a late retry could be "
            "stored twice",
            argument="timeout_s",
        )


class KnownStreams:
    """The streams that a connection publishes to, by name."""

    def __init__(
        self,
        api: Api,
        streams: Streams,
        logger: logging.Logger,
        defaults: StreamOptions,
        *,
        auto_create: bool,
    ) -> None:
        self._wire: Wire = api.wire
        self._api = api
        self._streams = streams
        self._logger = logger
        self._defaults = defaults
        self._auto_create = auto_create
        self.known: dict[str, KnownStream] = {}
        # The streams of event stores. One that was deleted must not come back as a stream like any other.
        self.never_created: set[str] = set()
        # What the event stores of a stream share, by its name. It is here so that it ends with the connection.
        self.parts_of_stores: dict[str, asyncio.Task[Any]] = {}
        self.stream_publishers: StreamPublishers = StreamPublishers(
            api.wire, api.client, logger, self.recover, self.longest_s, self.is_marked
        )
        self.looks: StreamLooks = StreamLooks(api.wire, logger, streams.info, self._on_look, self._on_gone)
        self._resolving: dict[str, asyncio.Task[KnownStream]] = {}
        streams.when_changed(self._on_changed)
        self._wire.on_info.append(self._on_info)
        self._wire.on_restored.append(self._on_info)

    async def ensure(self, stream: str, *, packed: bool = False) -> StreamInfo:
        """Return the stream. If it is missing, create it if that is allowed. Raises StreamNotFound, ServerError.

        `packed`: create it for packs, and then not for event stores, whatever `stream_defaults` say.
        """
        may_create = self._auto_create and stream not in self.never_created
        defaults = replace(self._defaults, packed=True, store=False) if packed else self._defaults
        info = await self._streams.ensure(stream, defaults, create=may_create)
        self.looks.saw(info)
        return info

    async def ensure_for_store(self, stream: str) -> StreamInfo:
        """Return the stream. If it is missing, create it for event stores if that is allowed.

        Raises what `ensure` raises; ConfigError if the stream is missing and `stream_defaults` do not allow an event
        store; NotSupported.
        """
        try:
            info = await self._streams.info(stream)
        except StreamNotFound:
            if not self._auto_create:
                raise
            info = await self._streams.ensure(stream, self._defaults_of_store(), create=True)
        self.looks.saw(info)
        return info

    def _defaults_of_store(self) -> StreamOptions:
        try:
            return replace(self._defaults, store=True)
        except ConfigError as error:
            message = f"stream_defaults do not allow a stream for an event store: {error}"
            raise ConfigError(message, argument="stream_defaults") from error

    def bucket_for(self, stream: StreamOptions) -> Bucket:
        """Return the settings for the bucket that keeps the cursors of subscriptions to a stream with these options."""
        return bucket_for(stream, self._defaults)

    async def find(self, stream: str) -> KnownStream:
        """Look up or create the stream, and return its new entry in `known`. Concurrent callers share one look-up.

        Raises what `ensure` raises; ConfigError if events can't be published to the stream.
        """
        task = self._resolving.get(stream)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._resolve(stream))
            self._resolving[stream] = task
            task.add_done_callback(lambda done: self._resolved(stream, done))
        return await asyncio.shield(task)

    async def recover(self, stream: str) -> None:
        """Check a stream: nobody answers for it, or an event must be sent again. Raises what `find` raises.

        If the check fails with an error that may pass, the stream stays in `known`: during an election, the cluster may
        take longer to answer the check than to store events.
        """
        try:
            await self.find(stream)
        except EdaError as error:
            if not error.retryable:
                self.known.pop(stream, None)
            raise

    def longest_s(self, stream: str, not_before: float) -> float | None:
        """Return the longest time-out of a publish to the stream; None if the last check was before `not_before`.

        `not_before` is a time of the monotonic clock.
        """
        known = self.known.get(stream)
        return known.longest_s if known is not None and known.checked_at >= not_before else None

    def max_message(self, stream: str) -> int:
        """Return the stream's limit for the bytes of a message, as far as is known; 0 if there is none."""
        known = self.known.get(stream)
        return known.max_message if known is not None else 0

    def is_marked(self, stream: str) -> bool:
        """Return whether the stream belonged to event stores when it was last checked."""
        known = self.known.get(stream)
        return known is not None and known.is_marked

    async def check(
        self, stream: str, max_pending: int, *, is_new_server: bool, packed: bool = False
    ) -> tuple[Destination, StreamInfo, bool]:
        """Return the destination of events, the stream, and whether fast ingest is possible.

        The destination of a stream of event stores refuses all events. With `packed`, so does the destination of a
        stream that takes no packs; and events that are over the stream's max_msg_size are refused.

        `max_pending` is the size of the publisher's window, which fast ingest needs to be 4 or more. `is_new_server`
        says that the connection may have changed to another server, of another version. Raises what `find` raises.
        """
        if is_new_server:
            await self._api.discover(LOOK_TIMEOUT_S)
        info = await self.ensure(stream, packed=packed)
        can_fast = info.fast_ingest and self._api.has_fast_ingest and max_pending >= 4
        return self._destination(info, packed=packed), info, can_fast

    def _destination(self, info: StreamInfo, *, packed: bool = False) -> Destination:
        """Return the destination of the stream's events. Raises ConfigError if it takes no events.

        The destination of a stream of event stores refuses each event when it is published. With `packed`, so does the
        destination of a stream that takes no packs.
        """
        check = None
        takes_all = check_takes_events(info)
        # Event stores name the event that is too large. A pack that is too large would fail with all its events.
        limit = (info.max_event_bytes or 0) if info.options.store or packed else 0
        if info.options.store or (packed and refusal_of_packs(info) is not None):

            def check(event: Event) -> None:
                check_unmarked(info)
                check_packed(info)

        elif not takes_all:

            def check(event: Event) -> None:
                check_takes_subject(info, subject_of(info.name, event.type, event.aggregate))

        return Destination(info.name, self._wire.max_payload, self._api.domain, check, limit)

    async def _resolve(self, stream: str) -> KnownStream:
        info = await self.ensure(stream)
        destination = self._destination(info)
        return self._remember(info, destination, await self.stream_publishers.open(info.name))

    def _remember(self, info: StreamInfo, destination: Destination, publisher: StreamPublisher) -> KnownStream:
        known = KnownStream(destination, info, publisher)
        self.known[info.name] = known
        self.looks.watch(info.name)
        return known

    def _resolved(self, stream: str, task: asyncio.Task[KnownStream]) -> None:
        del self._resolving[stream]
        if not task.cancelled():
            task.exception()  # read it, because all callers may have been cancelled

    # --- what may have changed ---------------------------------------------------------------------------------------

    def _on_changed(self, stream: str, info: StreamInfo | None) -> None:
        """Update `known` after this connection has changed a stream, or deleted it (`info` is None)."""
        known = self.known.pop(stream, None)
        if info is None:
            self.looks.unwatch(stream)
            self.looks.missed(stream)
            return
        if known is not None:
            try:
                self._remember(info, self._destination(info), known.publisher)
            except ConfigError as error:
                # The next publish raises the same error.
                self._logger.warning(
                    "stream %s takes no events of publish now: %s", stream, error, extra={"eda_stream": stream}
                )
        self.looks.saw(info)

    def _on_info(self) -> None:
        for known in self.known.values():
            known.destination.set_max_payload(self._wire.max_payload)

    def _on_look(self, info: StreamInfo) -> None:
        """Note how a known stream is now.

        After a reconnect, new events are published as before until this call. No event is sent again unchecked.
        """
        known = self.known.get(info.name)
        if known is None:
            return
        try:
            self._remember(info, self._destination(info), known.publisher)
        except ConfigError:
            self._on_gone(info.name)

    def _on_gone(self, stream: str) -> None:
        """Forget a stream, so that the next publish looks it up."""
        self.known.pop(stream, None)
        self.looks.unwatch(stream)
