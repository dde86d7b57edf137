"""The streams that a connection publishes to. Each is looked up or created once, and checked again after trouble."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from eda._event import Event
from eda.errors import ConfigError, EdaError, StreamNotFound
from eda.jetstream.api import Api
from eda.jetstream.bucket import Bucket, bucket_for
from eda.jetstream.streams import StreamInfo, Streams, check_takes_events, check_takes_subject
from eda.jetstream.subjects import subject_of
from eda.options import StreamOptions
from eda.publishing._stream_sender import Destination
from eda.publishing.stream_publisher import StreamPublisher, StreamPublishers
from eda.transport.wire import Wire

__all__ = ["PUBLISH_TIMEOUT_S", "KnownStream", "KnownStreams"]

LOOK_TIMEOUT_S = 10.0
PUBLISH_TIMEOUT_S = 30.0


class KnownStream:
    """A stream that events are published to, as it was when last checked at `checked_at` (monotonic).

    `longest_s` is the longest time-out of a publish that the stream's duplicate window allows. `usual_s` is the
    time-out of a publish without the option. `publisher` publishes to the stream.
    """

    __slots__ = ("checked_at", "destination", "longest_s", "publisher", "usual_s")

    def __init__(self, destination: Destination, window_s: float, publisher: StreamPublisher) -> None:
        self.destination: Destination = destination
        self.publisher: StreamPublisher = publisher
        self.longest_s: float = window_s / 2
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
        self.stream_publishers: StreamPublishers = StreamPublishers(
            api.wire, api.client, logger, self.recover, self.longest_s
        )
        self._resolving: dict[str, asyncio.Task[KnownStream]] = {}
        self._refreshing: asyncio.Task[None] | None = None
        streams.when_changed(self._on_changed)
        self._wire.on_info.append(self._on_info)
        self._wire.on_lost.append(self._stop_refreshing)
        self._wire.on_closed.append(self._stop_refreshing)
        self._wire.on_restored.append(self._on_restored)

    async def ensure(self, stream: str) -> StreamInfo:
        """Return the stream. If it is missing, create it if that is allowed. Raises StreamNotFound, ServerError."""
        may_create = self._auto_create and stream not in self.never_created
        return await self._streams.ensure(stream, self._defaults, create=may_create)

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

    async def check(
        self, stream: str, max_pending: int, *, is_new_server: bool
    ) -> tuple[Destination, StreamInfo, bool]:
        """Return the destination of events, the stream, and whether fast ingest is possible.

        `max_pending` is the size of the publisher's window, which fast ingest needs to be 4 or more. `is_new_server`
        says that the connection may have changed to another server, of another version. Raises what `find` raises.
        """
        if is_new_server:
            await self._api.discover(LOOK_TIMEOUT_S)
        info = await self.ensure(stream)
        can_fast = info.fast_ingest and self._api.has_fast_ingest and max_pending >= 4
        return self._destination(info), info, can_fast

    def _destination(self, info: StreamInfo) -> Destination:
        """Return the destination of the stream's events. Raises ConfigError if it takes no events."""
        check = None
        if not check_takes_events(info):

            def check(event: Event) -> None:
                check_takes_subject(info, subject_of(info.name, event.type, event.aggregate))

        return Destination(info.name, self._wire.max_payload, self._api.domain, check)

    async def _resolve(self, stream: str) -> KnownStream:
        info = await self.ensure(stream)
        destination = self._destination(info)
        return self._remember(info, destination, await self.stream_publishers.open(info.name))

    def _remember(self, info: StreamInfo, destination: Destination, publisher: StreamPublisher) -> KnownStream:
        self.known[info.name] = known = KnownStream(destination, info.options.dedup_window_s, publisher)
        return known

    def _resolved(self, stream: str, task: asyncio.Task[KnownStream]) -> None:
        del self._resolving[stream]
        if not task.cancelled():
            task.exception()  # read it, because all callers may have been cancelled

    # --- what may have changed ---------------------------------------------------------------------------------------

    def _on_changed(self, stream: str, info: StreamInfo | None) -> None:
        """Update `known` after this connection has changed a stream, or deleted it (`info` is None)."""
        known = self.known.pop(stream, None)
        if known is None or info is None:
            return
        try:
            self._remember(info, self._destination(info), known.publisher)
        except ConfigError as error:
            self._logger.warning("%s", error)  # the next publish raises the same error

    def _on_info(self) -> None:
        for known in self.known.values():
            known.destination.set_max_payload(self._wire.max_payload)

    def _on_restored(self) -> None:
        """Check all known streams again: this may be another server, and the streams may have changed."""
        self._on_info()
        self._stop_refreshing()
        self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    def _stop_refreshing(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            self._refreshing = None

    async def _refresh(self) -> None:
        """Check the known streams. Meanwhile new events are published as before; no event is sent again unchecked."""
        for stream, known in list(self.known.items()):
            try:
                info = await self._streams.info(stream)
                self._remember(info, self._destination(info), known.publisher)
            except (StreamNotFound, ConfigError):
                self.known.pop(stream, None)  # the next publish looks the stream up
            except EdaError as error:
                self._logger.info("could not check stream %s after a reconnect: %s", stream, error)
