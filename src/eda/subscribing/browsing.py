"""Reads the events of a stream without a trace: `conn.browse`. Nothing is acknowledged, kept or removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from typing import cast

from eda._event import Event
from eda._pack import index_in_pack
from eda.cursors.position import sequence_at
from eda.errors import Closed, ConsumerDeleted, EdaError, ServerError
from eda.handlers import AnyHandler
from eda.jetstream.stream_info import StreamInfo
from eda.options import SubscriptionOptions
from eda.server_codes import FORBIDDEN, MESSAGE_NOT_FOUND
from eda.subscribing.direct_pages import DirectPages
from eda.subscribing.events_iterator import Events
from eda.subscribing.ordered_source import OrderedSource
from eda.subscribing.services import Services
from eda.subscribing.subscription import Subscription
from eda.times import since_epoch_ns

__all__ = ["browse"]

LOOK_S = 0.25  # between two looks for new messages of a stream that can't be read with a consumer
IDLE_S = 0.02  # without an event for this long, it is checked whether the reading is over
PROBE_EVERY = 50  # so many times `IDLE_S` are between two questions to the server whether any event is left

NewSubscription = Callable[[AnyHandler, SubscriptionOptions], Subscription]


async def browse(
    services: Services, options: SubscriptionOptions, stream: str, new_subscription: NewSubscription, *, follow: bool
) -> AsyncGenerator[list[Event], None]:
    """Read the events that the options ask for. Without `follow`, end with the last event that is stored now.

    Raises StreamNotFound, ConsumerDeleted, ServerError, Timeout. It ends when the connection is closed.
    """
    info = await services.streams.info(stream)
    last = None if follow else info.last_sequence
    if last is not None and (not info.events or (isinstance(options.start, int) and options.start > last)):
        return
    if info.retention == "limits":
        reading = _read(services, info, options, new_subscription, last)
    else:
        reading = _read_directly(services, info, options, last)
    wanted = _matcher(options)
    try:
        async for events in reading:
            chosen = wanted(events)
            if last is not None and chosen and chosen[-1].sequence > last:
                chosen = [event for event in chosen if event.sequence <= last]
            if chosen:
                yield chosen
            if last is not None and events[-1].sequence > last:
                return
    except Closed:
        return
    finally:
        await reading.aclose()


def _matcher(options: SubscriptionOptions) -> Callable[[list[Event]], list[Event]]:
    """Return a function that leaves out the events that were not asked for. A subscription also gets tombstones."""
    types, aggregate = options.types, options.aggregate
    if types is None and aggregate is None:
        return lambda events: events
    names = None if types is None else frozenset(types)
    return lambda events: [
        event
        for event in events
        if (names is None or event.type in names) and (aggregate is None or event.aggregate == aggregate)
    ]


# --- with a throw-away consumer --------------------------------------------------------------------------------------


async def _read(
    services: Services,
    info: StreamInfo,
    options: SubscriptionOptions,
    new_subscription: NewSubscription,
    last: int | None,
) -> AsyncGenerator[list[Event], None]:
    events: Events[list[Event]] = Events(new_subscription, options, services.logger)
    ending = None if last is None else _Ending(services, info.name, events.subscription, last)
    async with events:
        while True:
            try:
                async with asyncio.timeout(None if ending is None else IDLE_S):
                    batch = await anext(events)
            except StopAsyncIteration:  # the connection was closed
                return
            except TimeoutError:
                if ending is not None and await ending.is_reached():
                    return
                continue
            yield batch
            if ending is not None and ending.is_certain_after(batch[-1]):
                return


class _Ending:
    """Finds out whether a reader has read everything up to the last event, which may have been removed meanwhile."""

    def __init__(self, services: Services, stream: str, subscription: Subscription, last: int) -> None:
        self._api = services.api
        self._stream = stream
        self._dispatcher = subscription._pipeline.dispatcher
        self._source = cast("OrderedSource", subscription._pipeline.source)
        self._last = last
        self._n_quiet = 0  # how often in a row no event came
        self._asks_at = 1  # the server is asked when that many times were quiet

    def is_certain_after(self, event: Event) -> bool:
        """Return whether nothing is left to read after this event."""
        self._n_quiet = 0
        # More events of a pack may follow in the next batch.
        return event.sequence >= self._last and index_in_pack(event) is None

    async def is_reached(self) -> bool:
        """Return whether nothing is left to read. Called after `IDLE_S` without an event."""
        dispatcher = self._dispatcher
        self._n_quiet += 1
        if dispatcher.n_held:
            return False
        if dispatcher.position >= self._last:
            return True
        if self._n_quiet < self._asks_at:
            return False
        self._n_quiet, self._asks_at = 0, PROBE_EVERY
        for subject in self._source.server_filter or [">"]:
            try:
                message = await self._api.message(
                    self._stream, {"seq": dispatcher.position + 1, "next_by_subj": subject}
                )
            except ServerError as error:
                if error.code == FORBIDDEN:
                    return dispatcher.intake.n_pending == 0
                if error.err_code != MESSAGE_NOT_FOUND:
                    raise
            else:
                if message.seq <= self._last:
                    return False
        return dispatcher.n_held == 0


# --- without a consumer ----------------------------------------------------------------------------------------------


async def _read_directly(
    services: Services, info: StreamInfo, options: SubscriptionOptions, last: int | None
) -> AsyncGenerator[list[Event], None]:
    begin = await _first_sequence(services, info, options)
    async with DirectPages(services, info) as pages:
        while last is None or begin <= last:
            try:
                after, events = await pages.page(begin, is_exact=last is not None)
                if after == begin:
                    if last is not None:
                        return
                    await asyncio.sleep(LOOK_S)
                    await _check_is_same(services, info)
                    continue
            except EdaError as error:
                if last is not None or not error.retryable:
                    raise
                services.logger.info(
                    "stream %s can't be read, trying again: %s", info.name, error, extra={"eda_stream": info.name}
                )
                await asyncio.sleep(LOOK_S)
                continue
            begin = after
            if events:
                yield events


async def _first_sequence(services: Services, info: StreamInfo, options: SubscriptionOptions) -> int:
    if options.backfill:
        return info.first_sequence
    if options.start is None:
        return info.last_sequence + 1
    if isinstance(options.start, datetime):
        return await sequence_at(services.api, info.name, since_epoch_ns(options.start), info)
    return options.start


async def _check_is_same(services: Services, info: StreamInfo) -> None:
    """Raise StreamNotFound or ConsumerDeleted if the stream was deleted, or deleted and made again."""
    if (await services.streams.info(info.name)).created != info.created:
        raise ConsumerDeleted(info.name, "browse", "the stream was deleted and made again")
