"""Watches the connection of an open publisher, and the settings of its stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from eda.errors import Closed, EdaError
from eda.jetstream.stream_info import StreamInfo
from eda.log import with_fields
from eda.publishing._stream_sender import Destination
from eda.publishing.stream_looks import StreamLooks
from eda.transport.wire import Wire

__all__ = ["CheckStream", "StreamWatch", "StreamWatchOwner"]

# Returns the destination of the stream's events, the stream, and whether this publisher can use fast ingest. The
# argument says whether the connection may have changed to another server.
CheckStream = Callable[[bool], Awaitable[tuple[Destination, StreamInfo, bool]]]

# The pause between two checks, and the time-out of one check. Each doubles after a check that failed, up to a maximum.
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0
CHECK_FIRST_S = 0.5
CHECK_MAX_S = 10.0


class StreamWatchOwner(Protocol):
    """The object to which a watch reports what has happened."""

    def on_lost(self) -> None:
        """Handle a lost or new connection. Answers to messages that were sent before will not come."""

    def on_checked(self, destination: Destination, info: StreamInfo, can_fast: bool) -> None:
        """Handle a successful check of the stream, with its current settings."""

    def on_looked(self, info: StreamInfo) -> None:
        """Handle a description of the stream, for which this publisher has not asked."""

    def on_gone(self, error: Exception) -> None:
        """Handle a stream that does not exist, or can't be published to."""

    def on_forbidden(self, subject: str) -> None:
        """Handle a subject of the stream to which the server forbids publishing."""


class StreamWatch:
    """Watches the connection, and checks the stream again when it may have changed."""

    def __init__(
        self,
        owner: StreamWatchOwner,
        wire: Wire,
        logger: logging.Logger,
        stream: str,
        check_stream: CheckStream,
        looks: StreamLooks,
    ) -> None:
        self._owner = owner
        self._wire = wire
        self._logger = with_fields(logger, eda_stream=stream)
        self._stream = stream
        self._check_stream = check_stream
        self._looks = looks
        self._checking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start watching."""
        self._wire.on_lost.append(self._on_lost)
        self._wire.on_restored.append(self._on_restored)
        self._wire.on_refused.append(self._on_refused)
        self._looks.listen(self._stream, self._owner.on_looked)

    def stop(self) -> None:
        """Stop watching."""
        self._stop_checking()
        self._looks.unlisten(self._stream, self._owner.on_looked)
        if self._on_lost in self._wire.on_lost:
            self._wire.on_lost.remove(self._on_lost)
            self._wire.on_restored.remove(self._on_restored)
            self._wire.on_refused.remove(self._on_refused)

    def check_again(self, *, is_new_server: bool = False) -> None:
        """Check the stream in the background, and report to the owner. Do nothing while a check is under way."""
        if self._checking is None or self._checking.done():
            self._checking = self._wire.loop.create_task(self._check(is_new_server))

    async def _check(self, is_new_server: bool) -> None:
        pause_s, check_s = PAUSE_FIRST_S, CHECK_FIRST_S
        while True:
            try:
                async with asyncio.timeout(check_s):
                    destination, info, can_fast = await self._check_stream(is_new_server)
                break
            except TimeoutError:
                check_s = min(check_s * 2, CHECK_MAX_S)
            except EdaError as error:
                if not error.retryable and not isinstance(error, Closed):
                    self._owner.on_gone(error)
                    return
            except Exception:
                self._logger.exception("publisher to %s: checking the stream failed; trying again", self._stream)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
        self._owner.on_checked(destination, info, can_fast)

    def _stop_checking(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None

    def _on_lost(self) -> None:
        self._stop_checking()  # the answer to the check will not come
        self._owner.on_lost()

    def _on_restored(self) -> None:
        self._on_lost()  # a check may have begun while there was no connection
        self.check_again(is_new_server=True)

    def _on_refused(self, kind: str, subject: str) -> None:
        if kind == "publish" and subject.partition(".")[0] == self._stream:
            self._owner.on_forbidden(subject)
