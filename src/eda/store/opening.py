"""Opens an event store: checks whether the server and the stream can hold one, and creates the stream."""

from __future__ import annotations

import logging
from collections.abc import Callable

from eda.errors import ConfigError, EdaError
from eda.jetstream.api import Api
from eda.jetstream.store_mark import check_can_hold_store
from eda.jetstream.stream_info import StreamInfo
from eda.log import with_fields
from eda.publishing.known_streams import KnownStreams

__all__ = ["OpenedStream", "open_store"]


async def open_store(api: Api, known_streams: KnownStreams, logger: logging.Logger, stream: str) -> OpenedStream:
    """Return the stream of an event store; create it if it is missing and the connection may create streams.

    Raises NotSupported if the server or the stream lacks what an event store needs; ConfigError, which names the
    setting, if the stream is not marked for event stores or can't hold one, or if it is missing and `stream_defaults`
    do not allow an event store; StreamNotFound, ServerError, Timeout, Closed.
    """
    api.check_has_expectations()
    info = await known_streams.ensure_for_store(stream)
    _check(api, info)
    return OpenedStream(api, known_streams, logger, info)


class OpenedStream:
    """The stream of an open event store. The connection looks at it again at each reconnect and every 30 s.

    `info` is what the last look has found. The functions in `on_replaced` are called, without arguments, if the stream
    was deleted and made again, or restored from a backup. Then all that was read before is out of date.
    """

    def __init__(self, api: Api, known_streams: KnownStreams, logger: logging.Logger, info: StreamInfo) -> None:
        self._api = api
        self._known_streams = known_streams
        self._looks = known_streams.looks
        self._logger = with_fields(logger, eda_stream=info.name)
        self.info: StreamInfo = info
        self.on_replaced: list[Callable[[], None]] = []
        self._is_gone = False
        self.is_unfit: bool = False  # the last look has found that the stream or server can't hold the store now
        self._has_one_copy = False
        self._count_copies(info)
        self._looks.listen(info.name, self._on_look)
        self._looks.on_missed.append(self._on_missed)

    def close(self) -> None:
        """Stop looking at the stream."""
        self._looks.unlisten(self.info.name, self._on_look)
        self._looks.on_missed.remove(self._on_missed)

    async def ensure(self) -> None:
        """Create the stream again if this connection knows that it was deleted, as `open_store` does."""
        if self._is_gone:
            await self._known_streams.ensure_for_store(self.name)  # calls `_on_look`
            self.check()

    def check(self) -> None:
        """Raise ConfigError or NotSupported if somebody has changed the stream so that it can't hold the store now."""
        if self.is_unfit:
            _check(self._api, self.info)

    @property
    def name(self) -> str:
        """Return the stream's name."""
        return self.info.name

    def has_one_copy(self) -> bool:
        """Return whether the last look, on this connection, has found that the server has the only copy of the stream.

        The server must be the one to which the client is connected. So nobody can make it part of a cluster without
        ending the connection, after which False is returned until the next look.
        """
        return self._has_one_copy

    def forget_copies(self) -> None:
        """Let `has_one_copy` return False until the next look."""
        self._has_one_copy = False

    def _count_copies(self, info: StreamInfo) -> None:
        if info.single_server is not None:
            self._has_one_copy = info.single_server and not self._api.wire.info.get("cluster")

    def _on_missed(self, stream: str) -> None:
        if stream == self.name:
            self._is_gone = True

    def _on_look(self, info: StreamInfo) -> None:
        was_gone, self._is_gone = self._is_gone, False
        before, self.info = self.info, info
        self._count_copies(info)
        try:
            _check(self._api, info)
            self.is_unfit = False
        except EdaError as error:
            if not self.is_unfit:
                self._logger.warning("the event store of stream %s can't be used now: %s", info.name, error)
            self.is_unfit = True
        if was_gone or _is_another(before, info):
            for call in list(self.on_replaced):
                call()


def _is_another(before: StreamInfo, info: StreamInfo) -> bool:
    """Return whether the stream was replaced after the look that has found `before`.

    Up to nats-server 2.12, a restored stream is as old as the stream in the backup. But the sequences begin again at
    those of the backup, and an event that is stored later has another time.
    """
    if info.created != before.created or info.last_sequence < before.last_sequence:
        return True
    return info.last_sequence == before.last_sequence and info.last_time_ns != before.last_time_ns


def _check(api: Api, info: StreamInfo) -> None:
    """Raise NotSupported or ConfigError unless the server and the stream can hold an event store."""
    api.check_has_expectations()
    check_can_hold_store(info)
    if not info.options.store:
        message = (
            f"stream {info.name!r} does not belong to event stores, so other programs may publish to it: "
            f"await conn.streams.update({info.name!r}, store=True) marks it, if each of its events has a version"
        )
        raise ConfigError(message, argument="stream")
