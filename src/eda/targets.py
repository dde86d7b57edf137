"""The streams that a connection publishes to: looked up once, created where that is wanted."""

from __future__ import annotations

import asyncio

from eda._send import Target
from eda._wire import Wire
from eda.api import Api
from eda.errors import EdaError
from eda.options import StreamOptions
from eda.streams import StreamInfo, Streams

__all__ = ["Targets"]

LOOK_TIMEOUT_S = 10.0


class Targets:
    """Where events go, by stream, with the longest publish timeout (seconds) that the duplicate window allows."""

    def __init__(self, wire: Wire, api: Api, streams: Streams, defaults: StreamOptions, *, auto_create: bool) -> None:
        self._wire = wire
        self._api = api
        self._streams = streams
        self._defaults = defaults
        self._auto_create = auto_create
        self.known: dict[str, tuple[Target, float]] = {}
        self._resolving: dict[str, asyncio.Task[tuple[Target, float]]] = {}
        wire.on_info.append(self._on_info)
        wire.on_restored.append(self._on_info)

    async def ensure(self, stream: str) -> StreamInfo:
        """Return the stream as it is, created if it may be. Raises StreamNotFound, ServerError."""
        return await self._streams.ensure(stream, self._defaults, create=self._auto_create)

    async def find(self, stream: str) -> tuple[Target, float]:
        """Return what `known` has of the stream after looking it up, once at a time. Raises what `ensure` does."""
        task = self._resolving.get(stream)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._resolve(stream))
            self._resolving[stream] = task
            task.add_done_callback(lambda done: self._resolved(stream, done))
        return await asyncio.shield(task)

    async def recover(self, stream: str) -> None:
        """Nobody answers for a stream that was published to: see whether it is there. Raises what `ensure` does.

        What is known of it stays until an answer says otherwise: a cluster that elects a leader may take longer over
        this question than over the publishes.
        """
        try:
            await self.find(stream)
        except EdaError as error:
            if not error.retryable:
                self.known.pop(stream, None)
            raise

    async def look_at(self, stream: str, max_pending: int) -> tuple[Target, StreamInfo, bool]:
        """Return where events go, the stream, and whether it takes fast ingest from a window of this size."""
        await self._api.look(LOOK_TIMEOUT_S)
        info = await self.ensure(stream)
        can_fast = info.fast_ingest and self._api.has_fast_ingest and max_pending >= 4
        return Target(stream, self._wire.max_payload, self._api.domain), info, can_fast

    async def _resolve(self, stream: str) -> tuple[Target, float]:
        info = await self.ensure(stream)
        found = Target(stream, self._wire.max_payload, self._api.domain), info.options.dedup_window_s / 2
        self.known[stream] = found
        return found

    def _resolved(self, stream: str, task: asyncio.Task[tuple[Target, float]]) -> None:
        del self._resolving[stream]
        if not task.cancelled():
            task.exception()  # those who wanted to know may have been cancelled

    def _on_info(self) -> None:
        for target, _ in self.known.values():
            target.set_max_payload(self._wire.max_payload)
