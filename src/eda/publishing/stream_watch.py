"""What an open publisher learns of its connection and its stream: lost, restored, another one, forbidden."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from eda.errors import Closed, EdaError
from eda.jetstream.streams import StreamInfo
from eda.publishing._stream_sender import Destination
from eda.transport.wire import Wire

__all__ = ["Look", "Renewal", "RenewalOwner"]

# Where the stream's events go, the stream as it is, and whether it takes fast ingest from this publisher. The argument:
# whether it may be another server.
Look = Callable[[bool], Awaitable[tuple[Destination, StreamInfo, bool]]]

PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0
PATIENCE_FIRST_S = 0.5  # for one look: the answer may be lost
PATIENCE_MAX_S = 10.0


class RenewalOwner(Protocol):
    """Whom a renewal tells."""

    def on_lost(self) -> None:
        """What was asked of the server is without an answer: it is another connection."""

    def on_found(self, destination: Destination, info: StreamInfo, can_fast: bool) -> None:
        """The stream is there, and this is what it takes now."""

    def on_gone(self, error: Exception) -> None:
        """The stream is not there for anybody to publish to."""

    def on_forbidden(self, subject: str) -> None:
        """The server does not let us publish to a subject of the stream."""


class Renewal:
    """Watches the connection, and looks at the stream again when that may have changed."""

    def __init__(
        self,
        owner: RenewalOwner,
        wire: Wire,
        logger: logging.Logger,
        stream: str,
        look: Look,
    ) -> None:
        self._owner = owner
        self._wire = wire
        self._logger = logger
        self._stream = stream
        self._look = look
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._wire.on_lost.append(self._on_lost)
        self._wire.on_restored.append(self._on_restored)
        self._wire.on_refused.append(self._on_refused)

    def stop(self) -> None:
        """Watch no more."""
        self._stop_looking()
        if self._on_lost in self._wire.on_lost:
            self._wire.on_lost.remove(self._on_lost)
            self._wire.on_restored.remove(self._on_restored)
            self._wire.on_refused.remove(self._on_refused)

    def look_again(self, *, is_new: bool = False) -> None:
        """Find out, once at a time, what the stream allows now, and tell. `is_new`: it may be another server."""
        if self._looking is None or self._looking.done():
            self._looking = self._wire.loop.create_task(self._looked(is_new))

    async def _looked(self, is_new: bool) -> None:
        pause_s, patience_s = PAUSE_FIRST_S, PATIENCE_FIRST_S
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    destination, info, can_fast = await self._look(is_new)
                break
            except TimeoutError:
                patience_s = min(patience_s * 2, PATIENCE_MAX_S)
            except EdaError as error:
                if not error.retryable and not isinstance(error, Closed):
                    self._owner.on_gone(error)
                    return
            except Exception:
                self._logger.exception("publisher to %s: looking at the stream failed", self._stream)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
        self._owner.on_found(destination, info, can_fast)

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _on_lost(self) -> None:
        self._stop_looking()  # the answer will not come
        self._owner.on_lost()

    def _on_restored(self) -> None:
        self._on_lost()  # what was asked while nothing was written, too
        self.look_again(is_new=True)

    def _on_refused(self, kind: str, subject: str) -> None:
        if kind == "publish" and subject.partition(".")[0] == self._stream:
            self._owner.on_forbidden(subject)
