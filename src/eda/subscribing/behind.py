"""How far one kept subscription is behind its stream: a shared consumer, or the cursor of an ordered subscription."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from eda.cursors.moving import is_held
from eda.cursors.position import surviving_position
from eda.cursors.value import CursorValue, Snapshot
from eda.jetstream.api import Api
from eda.jetstream.consumer_settings import is_attended, subjects_of
from eda.subscribing.filters import server_filter, shared_filter
from eda.subscribing.remaining import Remaining, StreamState
from eda.times import time_of

__all__ = ["Behind", "Lag", "SubscriptionInfo"]


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
    is_active: bool = False
    """whether a member gets events. Ordered: the holder has written in the last 5 s. Shared: a member has asked for
    events, or has unacknowledged ones"""


@dataclass(frozen=True)
class Lag:
    """How far a subscription is behind its stream, as the server knows it."""

    events: int | None
    """how many events are not done; None: unknown. A pack counts as one event, also if the filter matches none of its
    events. If only the client filters, events that don't match count as well"""
    seconds: float | None
    """the age of the oldest event that is not done; 0.0: all are done; None: unknown"""


class Behind:
    """Reads how far subscriptions are behind. This changes no stream, consumer or cursor."""

    def __init__(self, api: Api, remaining: Remaining) -> None:
        self._api = api
        self._remaining = remaining

    # --- ordered -----------------------------------------------------------------------------------------------------

    async def of_cursor(self, state: StreamState, name: str, snapshot: Snapshot) -> SubscriptionInfo:
        """Return the subscription whose cursor was read as `snapshot`, which has a value.

        It may also be a shared one, of which only the moved position is kept.
        """
        value = snapshot.value
        assert value is not None
        position, lag, lag_s = await self._lag_of_cursor(state, value)
        is_shared = value.is_of_shared
        return SubscriptionInfo(
            name=name,
            stream=state.info.name,
            kind="shared" if is_shared else "ordered",
            position=position,
            lag=lag,
            lag_s=lag_s,
            holder=value.holder or None,
            standbys=None,
            in_flight=0 if is_shared else None,
            redelivered=0 if is_shared else None,
            updated=time_of(value.updated),
            is_active=is_held(snapshot, state.now),
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
        lag = await self.of_position(state, after, value.filter)
        return after, lag.events, lag.seconds

    async def of_position(self, state: StreamState, after: int, wanted: list[str]) -> Lag:
        """Return the lag of a subscription with this filter that has handled all events up to a position."""
        if state.last <= after:
            return Lag(0, 0.0)
        # Only filters with several subjects are unreliable on old servers, and each request here has one subject.
        filter = server_filter(state.info, wanted, filters_reliably=True)
        n: int | None = None
        if not filter and state.is_whole:
            n = state.last - max(after, state.first - 1)
        n, oldest = await self._remaining.count(state, after + 1, filter, n)
        return Lag(n, state.age_s(oldest) if oldest is not None else 0.0 if n == 0 else None)

    # --- shared ------------------------------------------------------------------------------------------------------

    async def of_consumer(self, state: StreamState, consumer: dict[str, Any]) -> SubscriptionInfo:
        """Return the shared subscription with this consumer."""
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
            is_active=is_attended(consumer),
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
