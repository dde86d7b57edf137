"""`conn.subscriptions`: the positions of a stream's kept subscriptions, and how far they lag behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from typing import Any, Literal, TypeVar

from eda.cursors.entry import CursorEntry
from eda.cursors.position import surviving_position
from eda.cursors.standby import count_standbys
from eda.cursors.value import CursorValue
from eda.errors import ConfigError, ServerError, Timeout
from eda.jetstream.api import Api, stream_error
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM
from eda.jetstream.consumer_settings import subjects_of
from eda.jetstream.schemas import ConsumerPage, Subjects
from eda.jetstream.streams import LIST_TIMEOUT_S
from eda.jetstream.subjects import check_stream_name
from eda.names import SUBSCRIPTION_NAME
from eda.server_codes import STREAM_NOT_FOUND
from eda.subscribing.filters import server_filter, shared_filter
from eda.subscribing.remaining import Remaining, StreamState, time_of
from eda.transport.wire import Wire

__all__ = ["Lags", "SubscriptionInfo"]

MAX_REQUESTS = 16  # under way at the same time

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class SubscriptionInfo:
    """A kept subscription as the server knows it, whether or not a member of it is open."""

    name: str
    """the name under which the position is kept"""
    stream: str
    """the stream that the subscription reads"""
    kind: Literal["shared", "ordered"]
    """shared: the members share the events; ordered (exclusive, serial or key): one member gets all events"""
    position: int
    """the stream sequence up to which all events are done; 0: none is done yet"""
    lag: int | None
    """how many events are not done; None: unknown. A pack counts as one event, also if the filter matches none of its
    events. If only the client filters, events that don't match count as well"""
    lag_s: float | None
    """the age of the oldest event that is not done, in seconds; 0.0: all are done; None: unknown"""
    holder: str | None
    """ordered: the member that handles the events: its client's name and a random part; None: no member, or shared"""
    standbys: int | None
    """ordered: how many standbys answered in time; None: the server forbids to ask them, or shared"""
    in_flight: int | None
    """shared: how many events are delivered and not acknowledged; None: ordered"""
    redelivered: int | None
    """shared: how many of the events in flight were delivered more than once; None: ordered"""
    updated: datetime | None
    """ordered: when the holder last wrote; shared: when an event was last delivered or acknowledged; None: never"""


class Lags:
    """Reads the positions and lags of subscriptions. This changes no stream, consumer or cursor."""

    def __init__(self, wire: Wire, api: Api) -> None:
        self._wire = wire
        self._api = api
        self._remaining = Remaining(wire, api)

    async def read(self, stream: str) -> list[SubscriptionInfo]:
        """Return the kept subscriptions of a stream, by name. Raises StreamNotFound, ServerError, Timeout, Closed."""
        check_stream_name(stream)
        state = await self._remaining.stream(stream)
        names = await self._names(stream)
        consumers = await self._consumers(stream)
        direct = f"{self._api.prefix}.DIRECT.GET.{stream}"
        self._wire.may_be_forbidden.add(direct)  # then `Remaining` sends another request instead
        try:
            shared = await _for_each(consumers, lambda each: self._shared(state, each))
            ordered = [
                each for each in await _for_each(names, lambda name: self._ordered(state, name)) if each is not None
            ]
        finally:
            self._wire.may_be_forbidden.discard(direct)
        held = {each.name for each in ordered if each.holder is not None}
        standbys = await count_standbys(self._wire, self._api.domain, stream, held) if held else Counter()
        for index, each in enumerate(ordered):
            ordered[index] = replace(each, standbys=standbys[each.name] if standbys is not None else None)
        return sorted([*shared, *ordered], key=lambda each: (each.name, each.kind))

    # --- ordered -----------------------------------------------------------------------------------------------------

    async def _names(self, stream: str) -> list[str]:
        """Return the names that have a cursor in the bucket."""
        prefix = f"$KV.{BUCKET}.{stream}."
        names: dict[str, None] = {}
        n_seen = 0
        deadline = monotonic() + LIST_TIMEOUT_S
        while monotonic() < deadline:
            body = {"subjects_filter": f"{prefix}*", "offset": n_seen}
            try:
                answer = await self._api.request(f"STREAM.INFO.{BUCKET_STREAM}", body, schema=Subjects)
            except ServerError as error:
                if error.err_code == STREAM_NOT_FOUND:
                    return []
                raise
            page = [subject.removeprefix(prefix) for subject in answer["state"].get("subjects") or {}]
            n_seen, n_known = n_seen + len(page), len(names)
            names |= dict.fromkeys(name for name in page if SUBSCRIPTION_NAME.fullmatch(name))
            if n_seen >= answer.get("total", 0) or len(names) == n_known:
                return list(names)
        raise Timeout(f"listing the positions of {stream}", LIST_TIMEOUT_S)

    async def _ordered(self, state: StreamState, name: str) -> SubscriptionInfo | None:
        try:
            value = (await CursorEntry(self._wire, self._api, state.info.name, name).read()).value
        except ConfigError:
            return None  # the entry holds something, though not a cursor
        if value is None:
            return None
        position, lag, lag_s = await self._lag_of_cursor(state, value)
        return SubscriptionInfo(
            name=name,
            stream=state.info.name,
            kind="ordered",
            position=position,
            lag=lag,
            lag_s=lag_s,
            holder=value.holder or None,
            standbys=None,
            in_flight=None,
            redelivered=None,
            updated=time_of(value.updated),
        )

    async def _lag_of_cursor(self, state: StreamState, value: CursorValue) -> tuple[int, int | None, float | None]:
        """Return the position, and how many events and seconds it lags behind."""
        if value.created and value.created != state.created:
            return 0, None, None  # the position is in a deleted stream; the next member decides where to start
        kept = value.position
        after = kept.seq
        if after and value.start != after + 1:  # otherwise the stream may just not have reached the start yet
            # If the stream has lost its end, the next member continues after the last event that is left.
            after = (await surviving_position(self._api, state.info.name, kept, state.info)).seq
        if state.last <= after:
            return after, 0, 0.0
        # Only filters with several subjects are unreliable on old servers, and each request here has one subject.
        filter = server_filter(state.info, value.filter, filters_reliably=True)
        n: int | None = None
        if not filter and state.is_whole:
            n = state.last - max(after, state.first - 1)
        n, oldest = await self._remaining.count(state, after + 1, filter, n)
        return after, n, state.age_s(oldest) if oldest is not None else 0.0 if n == 0 else None

    # --- shared ------------------------------------------------------------------------------------------------------

    async def _consumers(self, stream: str) -> list[dict[str, Any]]:
        """Return the consumers that members can share. This excludes eda's readers, which acknowledge nothing."""
        found: dict[str, dict[str, Any]] = {}
        n_seen = 0
        deadline = monotonic() + LIST_TIMEOUT_S
        while monotonic() < deadline:
            try:
                answer = await self._api.request(f"CONSUMER.LIST.{stream}", {"offset": n_seen}, schema=ConsumerPage)
            except ServerError as error:
                raise stream_error(error, stream) from error
            page = answer.get("consumers") or []
            n_seen, n_known = n_seen + len(page), len(found)
            found |= {each["name"]: each for each in page}
            if n_seen >= answer.get("total", 0) or len(found) == n_known:
                return [each for each in found.values() if _is_shared(each["config"])]
        raise Timeout(f"listing the consumers of {stream}", LIST_TIMEOUT_S)

    async def _shared(self, state: StreamState, consumer: dict[str, Any]) -> SubscriptionInfo:
        delivered, floor = consumer.get("delivered") or {}, consumer.get("ack_floor") or {}
        in_flight = consumer.get("num_ack_pending", 0)
        position = floor.get("stream_seq", 0)
        if not in_flight:
            position = max(position, delivered.get("stream_seq", 0))
        lag = in_flight + await self._pending(state, consumer)
        lag_s: float | None = 0.0
        if lag:
            lag_s = await self._age_of_oldest(state, consumer, position)
        times = [time_of(each.get("last_active")) for each in (delivered, floor)]
        return SubscriptionInfo(
            name=consumer["name"],
            stream=state.info.name,
            kind="shared",
            position=position,
            lag=lag,
            lag_s=lag_s,
            holder=None,
            standbys=None,
            in_flight=in_flight,
            redelivered=consumer.get("num_redelivered", 0),
            updated=max((time for time in times if time is not None), default=None),
        )

    async def _pending(self, state: StreamState, consumer: dict[str, Any]) -> int:
        """Return how many events were not delivered yet."""
        config, pending = consumer["config"], int(consumer.get("num_pending", 0))
        filter = server_filter(state.info, shared_filter(config), filters_reliably=True)
        if not pending or not filter or subjects_of(config):
            return pending
        # The members filter, because the server is too old to filter reliably. So its count includes other events.
        delivered = (consumer.get("delivered") or {}).get("stream_seq", 0)
        matching, _ = await self._remaining.count(state, delivered + 1, filter, None)
        return pending if matching is None else matching

    async def _age_of_oldest(self, state: StreamState, consumer: dict[str, Any], position: int) -> float | None:
        config = consumer["config"]
        filter = server_filter(state.info, shared_filter(config), filters_reliably=True)
        begin = max(position + 1, config.get("opt_start_seq") or 0)
        _, oldest = await self._remaining.count(state, begin, filter, 0)
        if oldest is None:
            return None
        # If nothing is acknowledged yet, the consumer may have started after this event.
        since = [time_of(config.get("opt_start_time"))]
        if config.get("deliver_policy") == "new":
            since.append(time_of(consumer.get("created")))
        return state.age_s(max([oldest, *(time for time in since if time is not None)]))


def _is_shared(config: dict[str, Any]) -> bool:
    """Return whether members can share a consumer with these settings."""
    return config.get("ack_policy") == "explicit" and not config.get("deliver_subject")


async def _for_each(items: Iterable[_T], work: Callable[[_T], Awaitable[_R]]) -> list[_R]:
    """Return what `work` returns for each item, in order. MAX_REQUESTS run at a time; an error cancels the others."""
    waiting = iter(enumerate(items))
    done: dict[int, _R] = {}

    async def run() -> None:
        for index, item in waiting:
            done[index] = await work(item)

    runs = [asyncio.ensure_future(run()) for _ in range(MAX_REQUESTS)]
    try:
        await asyncio.gather(*runs)
    finally:
        for each in runs:
            each.cancel()
        await asyncio.wait(runs)
    return [done[index] for index in sorted(done)]
