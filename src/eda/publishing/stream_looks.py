"""Looks at the streams that a connection publishes to again and again, because other programs may change them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from eda.errors import EdaError, StreamNotFound
from eda.jetstream.stream_info import StreamInfo
from eda.transport.wire import Wire

__all__ = ["LOOK_EVERY_S", "StreamLooks"]

LOOK_EVERY_S = 30.0


class StreamLooks:
    """Looks at each watched stream after a reconnect and every 30 s, and tells the listeners of the stream.

    A look is one request for the stream's description: `look(stream)` makes it. `on_look(info)` is called for each
    stream that was looked at, before its listeners; `on_gone(stream)` is called if the stream does not exist.
    """

    def __init__(
        self,
        wire: Wire,
        logger: logging.Logger,
        look: Callable[[str], Awaitable[StreamInfo]],
        on_look: Callable[[StreamInfo], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self._wire = wire
        self._logger = logger
        self._look = look
        self._on_look = on_look
        self._on_gone = on_gone
        self._watched: set[str] = set()
        self._listeners: dict[str, list[Callable[[StreamInfo], None]]] = {}
        # Called with the name of a stream that was deleted, as far as this connection knows.
        self.on_missed: list[Callable[[str], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        wire.on_lost.append(self._stop)
        wire.on_closed.append(self._stop)
        wire.on_restored.append(self._on_restored)

    def watch(self, stream: str) -> None:
        """Look at this stream from now on."""
        self._watched.add(stream)
        self._arm()

    def unwatch(self, stream: str) -> None:
        """Look at this stream no more, unless it has listeners."""
        if stream not in self._listeners:
            self._watched.discard(stream)

    def listen(self, stream: str, on_look: Callable[[StreamInfo], None]) -> None:
        """Watch the stream, and call `on_look(info)` whenever this connection has learned how the stream is now."""
        self._listeners.setdefault(stream, []).append(on_look)
        self.watch(stream)

    def unlisten(self, stream: str, on_look: Callable[[StreamInfo], None]) -> None:
        """Stop calling `on_look`."""
        of_stream = self._listeners.get(stream, [])
        if on_look in of_stream:
            of_stream.remove(on_look)
        if not of_stream:
            self._listeners.pop(stream, None)

    def saw(self, info: StreamInfo) -> None:
        """Tell the listeners how the stream is now. Called for each description that the connection has asked for."""
        for call in list(self._listeners.get(info.name, ())):
            call(info)

    def missed(self, stream: str) -> None:
        """Say that the stream does not exist."""
        for call in list(self.on_missed):
            call(stream)

    # --- looking -----------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._timer is None and self._looking is None and self._wire.is_up and not self._wire.closing:
            self._timer = self._wire.loop.call_later(LOOK_EVERY_S, self._start)

    def _on_restored(self) -> None:
        self._stop()
        if self._watched:
            self._start()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _start(self) -> None:
        self._timer = None
        self._looking = self._wire.loop.create_task(self._look_at_all())

    async def _look_at_all(self) -> None:
        for stream in list(self._watched):
            try:
                info = await self._look(stream)
            except StreamNotFound:
                self._on_gone(stream)
                self.missed(stream)
            except EdaError as error:
                self._logger.debug(
                    "could not look at stream %s, which may have changed: %s", stream, error,
                    extra={"eda_stream": stream},
                )  # fmt: skip
            except Exception:
                self._logger.exception("looking at stream %s failed", stream, extra={"eda_stream": stream})
            else:
                self._on_look(info)
                self.saw(info)
        self._looking = None
        if self._watched:
            self._arm()
