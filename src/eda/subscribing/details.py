"""`conn.subscription`: one kept subscription with all that the server knows of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from eda.cursors.entry import CursorEntry
from eda.cursors.standby import count_standbys
from eda.cursors.value import CursorValue
from eda.jetstream.api import Api
from eda.jetstream.consumer_settings import subjects_of
from eda.jetstream.labels import CLIENT, KIND
from eda.jetstream.subjects import check_name, check_stream_name
from eda.subscribing.behind import Behind, SubscriptionInfo
from eda.subscribing.filters import shared_filter
from eda.subscribing.remaining import Remaining
from eda.times import NS, time_of
from eda.transport.wire import Wire

__all__ = ["Details", "SubscriptionDetails"]


@dataclass(frozen=True)
class SubscriptionDetails:
    """A kept subscription, as `conn.subscription` returns it. A field of the other kind is None."""

    info: SubscriptionInfo
    """what `conn.subscriptions` tells of it"""
    filter: tuple[str, ...]
    """the subjects of the events that it asks for; empty: all"""
    done: str
    """the last event that is done: its sequence, or "7.2" for an event of a pack that is partly done; "0": none"""
    stream_created: datetime | None
    """ordered: when the stream was created in which the position is; if the stream is a later one, the position is
    dropped"""
    epoch: int | None
    """ordered: how often a member has taken the cursor over"""
    tries: int | None
    """ordered: how many holders in a row vanished at this position"""
    created: datetime | None
    """shared: when the consumer was created; None: the next member creates it, at the moved position"""
    made_by: str | None
    """shared: the client that has created the consumer; None: another program"""
    lease_s: float | None
    """shared: after how many seconds other members get the events of a killed member (`ack_wait`)"""
    max_ack_pending: int | None
    """shared: how many events may be delivered and not acknowledged"""
    max_deliver: int | None
    """shared: after how many deliveries the server gives an event up; -1: never"""
    is_durable: bool | None
    """shared: whether the position is kept without a member"""
    is_filtered_by_server: bool | None
    """shared: whether the server filters; else the members do"""
    pulls: int | None
    """shared: how many requests for events are open; each member that waits for events has one or more"""
    paused_until: datetime | None
    """shared: until when somebody has paused the consumer; None: it is not paused"""


class Details:
    """Reads single subscriptions. This changes no stream, consumer or cursor."""

    def __init__(self, wire: Wire, api: Api) -> None:
        self._wire = wire
        self._api = api
        self._remaining = Remaining(wire, api)
        self._behind = Behind(api, self._remaining)

    async def read(self, stream: str, name: str) -> SubscriptionDetails | None:
        """Return the subscription, or None if the server keeps no position of it.

        Raises ConfigError if its entry in the bucket can't be read; StreamNotFound, ServerError, Timeout, Closed.
        """
        stream, name = check_stream_name(stream), check_name(name)
        state = await self._remaining.stream(stream)
        snapshot = await CursorEntry(self._wire, self._api, stream, name).read()
        consumer = await self._api.consumer_info(stream, name)
        is_shared = consumer is not None and consumer["config"].get("ack_policy") == "explicit"
        if snapshot.value is not None and not (is_shared and snapshot.value.is_of_shared):
            info = await self._behind.of_cursor(state, name, snapshot)
            if info.holder is not None:
                counted = await count_standbys(self._wire, self._api.domain, stream, {name})
                info = replace(info, standbys=None if counted is None else counted[name])
            elif info.kind == "ordered":
                info = replace(info, standbys=0)
            return _of_cursor(info, snapshot.value)
        if consumer is None or not is_shared or consumer["config"].get("deliver_subject"):
            return None
        return _of_consumer(await self._behind.of_consumer(state, consumer), consumer)


def _of_cursor(info: SubscriptionInfo, value: CursorValue) -> SubscriptionDetails:
    is_ordered = info.kind == "ordered"
    return SubscriptionDetails(
        info=info,
        filter=tuple(value.filter),
        done=value.position.text,
        stream_created=time_of(value.created),
        epoch=value.epoch if is_ordered else None,
        tries=value.tries if is_ordered else None,
        created=None,
        made_by=None,
        lease_s=None,
        max_ack_pending=None,
        max_deliver=None,
        is_durable=None if is_ordered else True,
        is_filtered_by_server=None,
        pulls=None if is_ordered else 0,
        paused_until=None,
    )


def _of_consumer(info: SubscriptionInfo, consumer: dict[str, Any]) -> SubscriptionDetails:
    config = consumer["config"]
    metadata = config.get("metadata") or {}
    return SubscriptionDetails(
        info=info,
        filter=tuple(shared_filter(config)),
        done=str(info.position),
        stream_created=None,
        epoch=None,
        tries=None,
        created=time_of(consumer.get("created")),
        made_by=metadata.get(CLIENT) if metadata.get(KIND) == "shared" else None,
        lease_s=config.get("ack_wait", 0) / NS,
        max_ack_pending=config.get("max_ack_pending", -1),
        max_deliver=config.get("max_deliver", -1),
        is_durable=bool(config.get("durable_name")),
        is_filtered_by_server=bool(subjects_of(config)),
        pulls=consumer.get("num_waiting", 0),
        paused_until=time_of(config.get("pause_until")) if consumer.get("paused") else None,
    )
