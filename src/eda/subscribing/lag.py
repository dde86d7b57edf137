"""`conn.subscriptions`: the positions of kept subscriptions, and how far they lag behind their streams."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from time import monotonic
from typing import Any, Protocol, TypeVar

from eda.cursors.entry import CursorEntry
from eda.cursors.standby import count_standbys
from eda.cursors.value import Snapshot
from eda.errors import ConfigError, EdaError, ServerError, StreamNotFound, Timeout
from eda.jetstream.api import Api
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM
from eda.jetstream.listing import LIST_TIMEOUT_S, consumers_of, every_stream
from eda.jetstream.schemas import Subjects
from eda.jetstream.stream_info import info_of
from eda.jetstream.subjects import check_stream_name
from eda.names import STREAM_NAME, SUBSCRIPTION_NAME
from eda.server_codes import STREAM_NOT_FOUND
from eda.subscribing.behind import Behind, Lag, SubscriptionInfo
from eda.subscribing.remaining import Remaining, StreamState
from eda.times import time_of
from eda.transport.wire import Wire

__all__ = ["Lag", "Lags", "SubscriptionInfo", "for_each", "lags_of"]

MAX_REQUESTS = 16  # under way at the same time
MAX_QUESTIONS = 256  # to the standbys of so many streams at the same time; each waits half a second

_T = TypeVar("_T")
_R = TypeVar("_R")
_N = TypeVar("_N", int, float)


class Lags:
    """Reads the positions and lags of subscriptions. This changes no stream, consumer or cursor."""

    def __init__(self, wire: Wire, api: Api) -> None:
        self._wire = wire
        self._api = api
        self._remaining = Remaining(wire, api)
        self._behind = Behind(api, self._remaining)

    async def read(self, stream: str, *, standbys: bool = True) -> list[SubscriptionInfo]:
        """Return the kept subscriptions of a stream, by name. Raises StreamNotFound, ServerError, Timeout, Closed."""
        check_stream_name(stream)
        state = await self._remaining.stream(stream)
        names = await self._names(stream)
        return await self._read([state], names, standbys=standbys)

    async def read_all(self, *, standbys: bool = True) -> list[SubscriptionInfo]:
        """Return the kept subscriptions of all streams, by stream and name. Raises ServerError, Timeout, Closed.

        A cursor of a stream that does not exist any more is returned as well; its lag is not known.
        """
        names = await self._names("*")
        states = []
        known = set()
        async for answer in every_stream(self._api):
            name, state = answer["config"]["name"], answer["state"]
            known.add(name)
            if STREAM_NAME.fullmatch(name) and (name in names or state.get("consumer_count", 1)):
                states.append(StreamState(info_of(answer), answer))
        found = await self._read(states, names, standbys=standbys, may_vanish=True)
        left = [(stream, name) for stream in names.keys() - known for name in names[stream]]
        found += [each for each in await for_each(left, self._of_no_stream) if each is not None]
        return sorted(found, key=lambda each: (each.stream, each.name, each.kind))

    async def _read(
        self, states: list[StreamState], names: dict[str, list[str]], *, standbys: bool, may_vanish: bool = False
    ) -> list[SubscriptionInfo]:
        """Return the subscriptions of these streams. `may_vanish`: leave out a stream that is deleted meanwhile."""

        unless = _unless_gone if may_vanish else _as_it_is
        with self._counting(*(state.info.name for state in states)):
            listed = await for_each(states, unless(self._consumers))
            consumers = [(state, each) for state, found in zip(states, listed, strict=True) for each in found or ()]
            described = await for_each(consumers, unless(lambda each: self.of_consumer(*each)))
            shared = [each for each in described if each is not None]
            has_consumer = {(each.stream, each.name) for each in shared}
            cursors = [(state, name) for state in states for name in names.get(state.info.name, ())]
            found = await for_each(cursors, unless(lambda each: self.of_cursor(*each)))
        # A moved position of a shared subscription does not count once there is a consumer.
        kept = [
            each
            for each in found
            if each is not None and (each.kind == "ordered" or (each.stream, each.name) not in has_consumer)
        ]
        if standbys:
            kept = await self._with_standbys(kept)
        return sorted([*shared, *kept], key=lambda each: (each.name, each.kind))

    # --- one subscription --------------------------------------------------------------------------------------------

    async def of_consumer(self, state: StreamState, consumer: dict[str, Any]) -> SubscriptionInfo:
        """Return the shared subscription with this consumer. Raises StreamNotFound, ServerError, Timeout, Closed."""
        return await self._behind.of_consumer(state, consumer)

    async def of_cursor(self, state: StreamState, name: str) -> SubscriptionInfo | None:
        """Return the subscription whose position is in the bucket; None: it has none. Raises as `of_consumer`."""
        snapshot = await self._entry(state.info.name, name)
        return None if snapshot.value is None else await self._behind.of_cursor(state, name, snapshot)

    async def of_shared(self, stream: str, name: str) -> Lag:
        """Return the lag of a shared subscription. Raises as `of_consumer`."""
        state = await self._remaining.stream(stream)
        consumer = await self._api.consumer_info(stream, name)
        if consumer is None:
            return Lag(None, None)
        with self._counting(stream):
            found = await self.of_consumer(state, consumer)
        return Lag(found.lag, found.lag_s)

    async def of_ordered(self, stream: str, name: str) -> Lag:
        """Return the lag of the kept position of an ordered subscription. Raises as `of_consumer`."""
        state = await self._remaining.stream(stream)
        with self._counting(stream):
            found = await self.of_cursor(state, name)
        return Lag(None, None) if found is None else Lag(found.lag, found.lag_s)

    async def of_position(self, stream: str, position: int, filter: list[str]) -> Lag:
        """Return the lag of a subscription that has handled all events up to a position. Raises as `of_consumer`."""
        state = await self._remaining.stream(stream)
        with self._counting(stream):
            return await self._behind.of_position(state, position, filter)

    # --- ordered -----------------------------------------------------------------------------------------------------

    async def _names(self, stream: str) -> dict[str, list[str]]:
        """Return the names that have a cursor in the bucket, by stream. `stream` may be "*"."""
        prefix = f"$KV.{BUCKET}."
        keys: dict[str, None] = {}
        n_seen = 0
        deadline = monotonic() + LIST_TIMEOUT_S
        while monotonic() < deadline:
            body = {"subjects_filter": f"{prefix}{stream}.*", "offset": n_seen}
            try:
                answer = await self._api.request(f"STREAM.INFO.{BUCKET_STREAM}", body, schema=Subjects)
            except ServerError as error:
                if error.err_code == STREAM_NOT_FOUND:
                    return {}
                raise
            page = [subject.removeprefix(prefix) for subject in answer["state"].get("subjects") or {}]
            n_seen, n_known = n_seen + len(page), len(keys)
            keys |= dict.fromkeys(page)
            if n_seen >= answer.get("total", 0) or len(keys) == n_known:
                names: dict[str, list[str]] = {}
                for key in keys:
                    of, _, name = key.partition(".")
                    if STREAM_NAME.fullmatch(of) and SUBSCRIPTION_NAME.fullmatch(name):
                        names.setdefault(of, []).append(name)
                return names
        raise Timeout("listing the positions of subscriptions", LIST_TIMEOUT_S)

    async def _entry(self, stream: str, name: str) -> Snapshot:
        """Return the entry. It has no value if it holds something, though not a cursor."""
        try:
            return await CursorEntry(self._wire, self._api, stream, name).read()
        except ConfigError:
            return Snapshot(0, None)

    async def _of_no_stream(self, key: tuple[str, str]) -> SubscriptionInfo | None:
        """Return the subscription of a cursor whose stream does not exist."""
        stream, name = key
        value = (await self._entry(stream, name)).value
        if value is None:
            return None
        return SubscriptionInfo(
            name=name,
            stream=stream,
            kind="shared" if value.is_of_shared else "ordered",
            position=value.seq,
            lag=None,
            lag_s=None,
            holder=value.holder or None,
            standbys=None,
            in_flight=None,
            redelivered=None,
            updated=time_of(value.updated),
        )

    async def _with_standbys(self, kept: list[SubscriptionInfo]) -> list[SubscriptionInfo]:
        held: dict[str, set[str]] = {}
        for each in kept:
            if each.holder is not None:
                held.setdefault(each.stream, set()).add(each.name)
        counted = await for_each(
            held,
            lambda stream: count_standbys(self._wire, self._api.domain, stream, held[stream]),
            at_once=MAX_QUESTIONS,
        )
        counts = dict(zip(held, counted, strict=True))
        result = []
        for each in kept:
            found = counts.get(each.stream, Counter())
            is_ordered = each.kind == "ordered"
            result.append(replace(each, standbys=found.get(each.name, 0)) if is_ordered and found is not None else each)
        return result

    # --- streams and consumers ---------------------------------------------------------------------------------------

    async def _consumers(self, state: StreamState) -> list[dict[str, Any]]:
        """Return the consumers that members can share. This excludes eda's readers, which acknowledge nothing."""
        found = await consumers_of(self._api, state.info.name)
        return [each for each in found if _is_shared(each["config"])]

    def _counting(self, *streams: str) -> AbstractContextManager[None]:
        """Count the events of streams in this block. Reads may be forbidden: there is another request, or an error."""
        reads = ("DIRECT.GET", "STREAM.MSG.GET")
        return self._wire.may_be_forbidden.during(
            f"{self._api.prefix}.{read}.{name}" for name in streams for read in reads
        )


def _is_shared(config: dict[str, Any]) -> bool:
    """Return whether members can share a consumer with these settings."""
    return config.get("ack_policy") == "explicit" and not config.get("deliver_subject")


def _as_it_is(work: Callable[[_T], Awaitable[_R | None]]) -> Callable[[_T], Awaitable[_R | None]]:
    return work


def _unless_gone(work: Callable[[_T], Awaitable[_R | None]]) -> Callable[[_T], Awaitable[_R | None]]:
    """Return what does the same work, and returns None if the stream does not exist any more."""

    async def run(item: _T) -> _R | None:
        try:
            return await work(item)
        except StreamNotFound:
            return None

    return run


async def for_each(
    items: Iterable[_T], work: Callable[[_T], Awaitable[_R]], *, at_once: int = MAX_REQUESTS
) -> list[_R]:
    """Return what `work` returns for each item, in order. `at_once` run at a time; an error cancels the others."""
    waiting = iter(enumerate(items))
    done: dict[int, _R] = {}

    async def run() -> None:
        for index, item in waiting:
            done[index] = await work(item)

    runs = [asyncio.ensure_future(run()) for _ in range(at_once)]
    try:
        await asyncio.gather(*runs)
    finally:
        for each in runs:
            each.cancel()
        await asyncio.wait(runs)
    return [done[index] for index in sorted(done)]


class HasLag(Protocol):
    """A subscription."""

    async def lag(self) -> Lag:
        """Return how far it is behind."""


async def lags_of(subscriptions: Iterable[tuple[tuple[str, str], HasLag]]) -> dict[tuple[str, str], Lag]:
    """Return the largest lag of the subscriptions of each key. If none of a key is known, its lag is unknown."""
    given = list(subscriptions)
    found: dict[tuple[str, str], Lag] = {}

    async def lag_of(subscription: HasLag) -> Lag:
        try:
            return await subscription.lag()
        except EdaError:
            return Lag(None, None)

    lags = await for_each([each for _, each in given], lag_of)
    for (key, _), lag in zip(given, lags, strict=True):
        known = found.setdefault(key, lag)
        found[key] = Lag(_larger(known.events, lag.events), _larger(known.seconds, lag.seconds))
    return found


def _larger(first: _N | None, second: _N | None) -> _N | None:
    known = [each for each in (first, second) if each is not None]
    return max(known, default=None)
