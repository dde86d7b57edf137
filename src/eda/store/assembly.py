"""Puts an event store together: checks its arguments, and opens its parts when the store is first used."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from eda.errors import ConfigError
from eda.jetstream.api import Api
from eda.jetstream.direct_get import DirectGet
from eda.jetstream.subjects import check_stream_name
from eda.publishing.known_streams import KnownStreams
from eda.store._cache import Cache
from eda.store.appending import Appending
from eda.store.core import StoreCore
from eda.store.decider import Decider
from eda.store.event_store import EventStore
from eda.store.forgetting import Forgetting
from eda.store.history import History
from eda.store.hooked_core import HookedStoreCore
from eda.store.opening import open_store
from eda.store.snapshot_stream import SnapshotStream, check_snapshot_stream_name
from eda.store.snapshots import Snapshots, StoreHooks
from eda.store.state_codec import StateCodec
from eda.store.stream_parts import StreamParts
from eda.transport.wire import Wire

__all__ = ["StoreServices", "new_store"]

S = TypeVar("S")
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class StoreServices:
    """The parts of an open connection that its event stores use.

    Closing the connection waits for the futures in `under_way`.
    """

    wire: Wire
    api: Api
    logger: logging.Logger
    known_streams: KnownStreams
    client: str
    under_way: set[asyncio.Future[None]]


def new_store(
    require_open: Callable[[], object],
    services: Callable[[], StoreServices],
    stream: str,
    decider: Decider[S, C] | None,
    *,
    snapshot_every: int | None,
    cache: int,
    attempts: int,
    hooks: StoreHooks | None = None,
) -> EventStore[S, C]:
    """Return the event store of a stream, as `Conn.store` says. `require_open` and `services` may raise Closed.

    `hooks` are those of the connection's middleware.

    Raises ConfigError for wrong arguments.
    """
    require_open()
    stream = check_stream_name(stream)
    if decider is not None and not isinstance(decider, Decider):
        raise ConfigError(f"decider must be an eda.Decider, not {decider!r}", argument="decider")
    if snapshot_every is not None:
        _check_number("snapshot_every", snapshot_every, 1)
        if decider is None:
            raise ConfigError("snapshot_every needs a decider, whose states the snapshots have", argument="decider")
        check_snapshot_stream_name(stream)
    _check_number("cache", cache, 0)
    _check_number("attempts", attempts, 1)
    codec = None if snapshot_every is None or decider is None else StateCodec(decider.state, decider.new_state())
    opener = _Opener(require_open, services, stream, decider, cache, snapshot_every, codec, hooks)
    return EventStore(stream, opener.core, attempts, decider)


def _check_number(name: str, value: object, least: int) -> None:
    if type(value) is not int or value < least:
        raise ConfigError(f"{name} must be an int of {least} or more, not {value!r}", argument=name)


class _Opener(Generic[S, C]):
    """Opens the core of one event store, once."""

    def __init__(
        self,
        require_open: Callable[[], object],
        services: Callable[[], StoreServices],
        stream: str,
        decider: Decider[S, C] | None,
        cache: int,
        snapshot_every: int | None,
        codec: StateCodec | None,
        hooks: StoreHooks | None,
    ) -> None:
        self._require_open = require_open
        self._services = services
        self._stream = stream
        self._decider = decider
        self._cache = cache
        self._snapshot_every = snapshot_every
        self._codec = codec
        self._hooks = hooks
        self._core: StoreCore[S, C] | None = None

    async def core(self) -> StoreCore[S, C]:
        """Return the core. Raises Closed, and what `open_store` raises."""
        if self._core is None:
            services = self._services()
            parts = await _parts_of(services, self._stream)
            core = await self._open(services, parts)
            if self._core is None:  # two callers may have opened it at the same time
                self._core = core
        return self._core

    async def _open(self, services: StoreServices, parts: StreamParts) -> StoreCore[S, C]:
        options = parts.opened.info.options
        snapshot_stream = SnapshotStream(services.api, self._stream, options)
        snapshots = None
        if self._codec is not None and self._decider is not None:
            parts.check_snapshots_of(self._decider)
            snapshots = Snapshots[S](
                services.api,
                services.logger,
                self._stream,
                snapshot_stream,
                snapshot_version=self._decider.snapshot_version,
                codec=self._codec,
                every=self._snapshot_every or 1,
                under_way=services.under_way,
                hooks=self._hooks,
            )
            await snapshots.check()
        make = StoreCore[S, C] if self._hooks is None else functools.partial(HookedStoreCore[S, C], self._hooks)
        return make(
            parts,
            self._require_open,
            services.client,
            services.logger,
            self._decider,
            Cache(self._cache),
            Forgetting(services.api, self._stream, parts.history, snapshot_stream),
            snapshots,
            self._snapshot_every,
        )


async def _parts_of(services: StoreServices, stream: str) -> StreamParts:
    """Return the open stream; open it if no store has done so. Concurrent callers share one opening.

    All stores of a stream share it, so that a program may make a store for each request.
    """
    tasks = services.known_streams.parts_of_stores
    opening = tasks.get(stream)
    if opening is None:
        opening = tasks[stream] = asyncio.get_running_loop().create_task(_open_parts(services, stream))

        def on_done(task: asyncio.Task[StreamParts]) -> None:
            # The exception is read here, because all callers may have been cancelled.
            if task.cancelled() or task.exception() is not None:
                tasks.pop(stream, None)

        opening.add_done_callback(on_done)
    parts: StreamParts = await asyncio.shield(opening)
    await parts.opened.ensure()
    return parts


async def _open_parts(services: StoreServices, stream: str) -> StreamParts:
    api = services.api
    opened = await open_store(api, services.known_streams, services.logger, stream)
    try:
        direct = DirectGet(api, stream)
        await direct.open()
    except BaseException:
        opened.close()
        raise
    appending = Appending(
        services.known_streams,
        api,
        services.logger,
        stream,
        services.under_way,
        lambda: opened.info.options.replicas,
    )
    history = History(api, stream, direct, opened.has_one_copy, opened.forget_copies)
    parts = StreamParts(opened, history, appending)
    services.wire.on_lost.append(opened.forget_copies)
    services.wire.on_restored.append(opened.forget_copies)
    services.wire.on_lost.append(parts.begin_epoch)  # not later: a command may decide before the connection is back
    services.wire.on_restored.append(parts.begin_epoch)
    opened.on_replaced.append(parts.begin_epoch)
    return parts
