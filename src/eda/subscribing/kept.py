"""Kept subscriptions, changed from outside: looked at one by one, their positions moved, or forgotten.

A position is moved in one step: before it the old position holds, after it the new one. It does not matter when the
program that moves it dies. Each kind has its own step: `cursors/moving` and `moved_position` say which.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from eda.cursors.entry import CursorEntry, is_stored
from eda.cursors.liveness import TAKEOVER_S
from eda.cursors.moving import MOVE_TIMEOUT_S, give_up_move, is_held, move_cursor
from eda.cursors.position import Position
from eda.cursors.value import CursorValue, Snapshot, new_value
from eda.errors import ConfigError, ServerError, StreamNotFound, Timeout
from eda.jetstream.api import Api
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM, Bucket
from eda.jetstream.bucket_requests import key_subject
from eda.jetstream.consumer_settings import is_attended
from eda.jetstream.labels import KIND
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.subjects import check_name, check_stream_name
from eda.options import StreamOptions
from eda.server_codes import STREAM_NOT_FOUND
from eda.subscribing.filters import shared_filter
from eda.subscribing.moved_position import MovedPosition, delete_exactly
from eda.subscribing.remaining import Remaining, StreamState
from eda.subscribing.target import Target, position_before, target_of
from eda.times import NS
from eda.transport.wire import Wire

__all__ = ["KeptSubscriptions", "SubscriptionMove"]

MAX_CONFLICTS = 10


@dataclass(frozen=True)
class SubscriptionMove:
    """How `conn.move_subscription` has moved a position."""

    name: str
    """the subscription's name"""
    stream: str
    """its stream"""
    kind: Literal["shared", "ordered"]
    """the kind of the subscription"""
    before: str | None
    """the last event that was done: "7", or "7.2" in a pack that is partly done; "0": none; None: unknown"""
    after: str
    """the last event that counts as done now"""


class KeptSubscriptions:
    """Moves and forgets the positions of subscriptions. `bucket_for` returns what a stream needs of the bucket."""

    def __init__(
        self, wire: Wire, api: Api, logger: logging.Logger, bucket_for: Callable[[StreamOptions], Bucket]
    ) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._bucket_for = bucket_for
        self._remaining = Remaining(wire, api)

    # --- moving ------------------------------------------------------------------------------------------------------

    async def move(self, stream: str, name: str, to: Target, *, force: bool = False) -> SubscriptionMove:
        """Move the position of a subscription, as `Conn.move_subscription` says."""
        stream, name, target = check_stream_name(stream), check_name(name), target_of(to)
        state = await self._remaining.stream(stream)
        entry = CursorEntry(self._wire, self._api, stream, name)
        snapshot = await entry.read()
        consumer = await self._consumer(stream, name)
        has_cursor = snapshot.value is not None and not snapshot.value.is_of_shared
        where = _where(stream, name)
        if consumer is not None and has_cursor:
            raise ConfigError(f"{where} exists twice, as a shared and an ordered one: delete it first", argument="name")
        if consumer is None and snapshot.value is None:
            raise ConfigError(f"{where} does not exist: the server keeps no position of it", argument="name")
        if not force:
            _check_unattended(where, consumer, snapshot, state, "be moved")
        if consumer is not None:
            _check_movable(where, state.info, consumer["config"])
        position = await position_before(self._api, state.info, target)
        if not has_cursor and position.idx:
            raise ConfigError(
                f"to={position.part}.{position.idx}: {where} is a shared one, which acknowledges whole packs: give the "
                f"sequence {position.part}",
                argument="to",
            )
        await entry.open()
        try:
            if has_cursor:
                await self._move_cursor(entry, snapshot, position, state)
            else:
                await self._move_shared(entry, snapshot, consumer, position, state)
        finally:
            await entry.close()
        before = _before(state, consumer, snapshot)
        return SubscriptionMove(name, stream, "ordered" if has_cursor else "shared", before, position.text)

    async def _move_cursor(self, entry: CursorEntry, old: Snapshot, position: Position, state: StreamState) -> None:
        packed = state.info.options.packed
        value, revision = await move_cursor(entry, old, position, state.created, packed=packed)
        if value.holder:
            await give_up_move(entry, value, revision)

    async def _move_shared(
        self,
        entry: CursorEntry,
        snapshot: Snapshot,
        consumer: dict[str, Any] | None,
        position: Position,
        state: StreamState,
    ) -> None:
        stream, name = entry.stream, entry.name
        await entry.ensure_bucket(self._bucket_for(state.info.options))
        filter = shared_filter(consumer["config"]) if consumer is not None else _value_of(snapshot).filter
        replaced = consumer["created"] if consumer is not None else _value_of(snapshot).consumer
        moved = await self._note(entry, snapshot, position, filter, replaced, state)
        if consumer is not None:
            await self._replace(moved, consumer)
            await moved.remove()
            return
        # The next member makes the consumer. One that found another position before may have made it just now.
        consumer = await self._consumer(stream, name)
        if consumer is not None:
            _check_movable(_where(stream, name), state.info, consumer["config"])
            if not moved.is_start_of(consumer) and await moved.claim(consumer.get("created")):
                await self._replace(moved, consumer)
            await moved.remove()

    async def _replace(self, moved: MovedPosition, consumer: dict[str, Any]) -> None:
        """Replace the consumer by one that starts at the moved position."""
        try:
            await moved.delete(self._api, consumer)  # from now on the new position holds
        except ServerError as error:
            # The server has refused it, for example to a user without this permission. So the old position holds, and a
            # position that is left there would hold if the consumer were lost one day.
            try:
                await moved.remove()
            except (ServerError, Timeout) as other:
                error.add_note(f"the moved position, which is not in use, could not be removed: {other}")
            raise
        await self._forget_suspects(consumer["stream_name"], consumer["name"])
        await moved.start(self._api, consumer)

    async def _note(
        self,
        entry: CursorEntry,
        snapshot: Snapshot,
        position: Position,
        filter: list[str],
        consumer: Any,
        state: StreamState,
    ) -> MovedPosition:
        """Write the moved position of a shared subscription to the bucket, and return it."""
        try:
            async with asyncio.timeout(MOVE_TIMEOUT_S):
                while True:
                    value = new_value(position, 0, "", 0, filter, state.created)
                    value = msgspec.structs.replace(value, consumer=consumer)
                    answer, _ = await entry.put(value, snapshot.revision)
                    if is_stored(answer):
                        return MovedPosition(entry, value, answer.seq)
                    snapshot = await entry.read()
                    if snapshot.value is not None and not snapshot.value.is_of_shared:
                        raise ConfigError(
                            f"{_where(entry.stream, entry.name)} has become an ordered one", argument="name"
                        )
        except TimeoutError as error:
            if isinstance(error, Timeout):
                raise
            raise Timeout(f"moving the {_where(entry.stream, entry.name)}", MOVE_TIMEOUT_S) from error

    # --- forgetting --------------------------------------------------------------------------------------------------

    async def delete(self, stream: str, name: str, *, force: bool = False) -> bool:
        """Forget the position of a subscription, as `Conn.delete_subscription` says."""
        stream, name = check_stream_name(stream), check_name(name)
        entry = CursorEntry(self._wire, self._api, stream, name)
        is_readable = True
        try:
            snapshot = await entry.read()
        except ConfigError:  # it holds something, though not a cursor
            snapshot, is_readable = Snapshot(0, None), False
        has_entry = snapshot.value is not None or not is_readable
        try:
            state = await self._remaining.stream(stream)
            consumer = await self._consumer(stream, name)
        except StreamNotFound:
            if not has_entry:
                raise
        else:
            if consumer is None and not has_entry:
                return False
            # The entry goes first: it may be a moved position, which must not outlive the consumer.
            if not force:
                await self._delete_unattended(entry, snapshot, consumer, state)
            if has_entry and (force or not is_readable):
                await entry.delete()
            if consumer is not None:
                await delete_exactly(self._api, stream, name, consumer)
            await self._forget_suspects(stream, name)
            return True
        await entry.delete()
        await self._forget_suspects(stream, name)
        return True

    async def _delete_unattended(
        self, entry: CursorEntry, snapshot: Snapshot, consumer: dict[str, Any] | None, state: StreamState
    ) -> None:
        """Delete the entry that was read, if there is one. Raises ConfigError if the subscription has members.

        A member that opens meanwhile writes the entry, and then this revision can't be removed any more.
        """
        where = _where(entry.stream, entry.name)
        for _ in range(MAX_CONFLICTS):
            _check_unattended(where, consumer, snapshot, state, "be deleted")
            if snapshot.value is None or await entry.remove(snapshot.revision):
                return
            snapshot = await entry.read()
            state = await self._remaining.stream(entry.stream)
        raise Timeout(f"deleting the {where}, which others write", 0)

    # --- both --------------------------------------------------------------------------------------------------------

    async def _consumer(self, stream: str, name: str) -> dict[str, Any] | None:
        """Return the consumer of a shared subscription; None if there is none, or if members can't share it."""
        consumer = await self._api.consumer_info(stream, name)
        if consumer is None or consumer["config"].get("deliver_subject"):
            return None
        return consumer if consumer["config"].get("ack_policy") == "explicit" else None

    async def _forget_suspects(self, stream: str, name: str) -> None:
        """Remove the records of suspects: they belong to deliveries of the consumer that is gone."""
        body = {"filter": f"{key_subject(stream, name)}.>"}
        with suppress(Timeout):
            try:
                await self._api.request(f"STREAM.PURGE.{BUCKET_STREAM}", body)
            except ServerError as error:
                if error.err_code != STREAM_NOT_FOUND:
                    self._logger.warning(
                        "subscription %s to %s: its records of suspects could not be removed from the bucket %s: %s",
                        name, stream, BUCKET, error,
                        extra={"eda_stream": stream, "eda_subscription": name},
                    )  # fmt: skip


def _where(stream: str, name: str) -> str:
    return f"subscription {name!r} of stream {stream!r}"


def _value_of(snapshot: Snapshot) -> CursorValue:
    assert snapshot.value is not None
    return snapshot.value


def _before(state: StreamState, consumer: dict[str, Any] | None, snapshot: Snapshot) -> str | None:
    """Return the last event that was done before the move; None: the position was in a deleted stream."""
    if consumer is not None:
        return str((consumer.get("ack_floor") or {}).get("stream_seq", 0))
    value = _value_of(snapshot)
    return value.position.text if value.created in ("", state.created) else None


def _check_unattended(
    where: str, consumer: dict[str, Any] | None, snapshot: Snapshot, state: StreamState, what: str
) -> None:
    """Raise ConfigError if the subscription has members that are open."""
    if is_held(snapshot, state.now):
        holder = _value_of(snapshot).holder
        happens = f"with force=True its members go on at the new position after {TAKEOVER_S:g} s"
        if what == "be deleted":
            happens = "with force=True its members end with ConsumerDeleted"
        raise ConfigError(
            f"{where} can't {what} while {holder} handles its events. Close its members; {happens}", argument="force"
        )
    if consumer is not None and is_attended(consumer):
        lease_s = consumer["config"].get("ack_wait", 0) / NS
        raise ConfigError(
            f"{where} can't {what} while members are open (one that was killed counts for {lease_s:g} s). Close them; "
            "with force=True they end with ConsumerDeleted",
            argument="force",
        )


def _check_movable(where: str, info: StreamInfo, config: dict[str, Any]) -> None:
    """Raise ConfigError if the position of a shared subscription can't be moved."""
    why = ""
    if info.retention != "limits":
        why = (
            f"its stream has retention={info.retention!r}, which removes an event once it is acknowledged, and events "
            "without a consumer"
        )
    elif not config.get("durable_name"):
        why = "it is not durable, so it ends soon after its last member"
    elif (config.get("metadata") or {}).get(KIND) != "shared":
        why = "another program has made its consumer: use the tool of that program"
    if why:
        raise ConfigError(f"{where} can't be moved: {why}", argument="stream")
