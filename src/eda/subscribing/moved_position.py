"""The moved position of a shared subscription, kept in the bucket until the subscription has a consumer at it.

The server can't change where a consumer starts. So whoever moves the position writes the new one to the bucket, under
the subscription's name, and then deletes the consumer: before the deletion the old position holds, and after it the new
one. The next member finds the position there, and makes the consumer start at it.

A member may look for the position before it is written, and create a consumer after the other one is deleted. So both
the mover and the member look again when a consumer exists. A consumer that is elsewhere is replaced, by the one of them
that first writes into the entry that it replaces it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from eda.cursors.entry import CursorEntry, is_stored
from eda.cursors.value import CursorValue, encode_value
from eda.errors import ConsumerDeleted, ServerError, Timeout
from eda.jetstream.api import REQUEST_TIMEOUT_S, Api
from eda.jetstream.bucket import BUCKET
from eda.jetstream.labels import KIND
from eda.jetstream.stream_info import StreamInfo
from eda.server_codes import CONSUMER_EXISTS, FORBIDDEN
from eda.times import time_of

__all__ = ["SAME_S", "MovedPosition", "MovedPositions", "delete_exactly", "is_same_consumer", "started_at"]

# Two consumers whose creation times differ by less than this are the same consumer: to delete one and create another
# takes at least one round trip.
SAME_S = 0.02
MAX_TRIES = 5
PAUSE_S = 0.05  # between two tries
CLAIM_TIMEOUT_S = 10.0


class MovedPosition:
    """A moved position in the bucket: the entry, and its value at `revision`."""

    def __init__(self, entry: CursorEntry, value: CursorValue, revision: int) -> None:
        self._entry = entry
        self._value = value
        self.revision: int = revision

    @property
    def sequence(self) -> int:
        """Return the sequence up to which all events are done."""
        return self._value.seq

    def holds_for(self, stream: StreamInfo) -> bool:
        """Return whether it is a position in this stream, and not in a deleted one of the same name."""
        return time_of(self._value.created) == stream.created

    def replaces(self, consumer: dict[str, Any]) -> bool:
        """Return whether this is the consumer that whoever moves the position is about to delete."""
        return is_same_consumer(self._value.consumer, consumer.get("created"))

    def is_start_of(self, consumer: dict[str, Any]) -> bool:
        """Return whether the consumer has started at this position."""
        config = consumer["config"]
        by_sequence = config.get("deliver_policy") == "by_start_sequence"
        return by_sequence and bool(config.get("opt_start_seq") == self.sequence + 1)

    async def remove(self) -> None:
        """Remove the position unless the entry has changed. Raises ServerError, Timeout, Closed."""
        await self._entry.remove(self.revision)

    async def enforce(self, api: Api, consumer: dict[str, Any]) -> None:
        """Replace the consumer, which is not at this position, by one that is. The entry must be open.

        If the entry has changed, somebody else does so, and nothing is done. Raises ServerError, Timeout, Closed.
        """
        if await self.claim(consumer.get("created")):
            await self.delete(api, consumer)
            await self.start(api, consumer)

    async def delete(self, api: Api, consumer: dict[str, Any]) -> None:
        """Delete this consumer. From then on the moved position holds. Raises ServerError, Timeout, Closed."""
        await delete_exactly(api, self._entry.stream, self._entry.name, consumer)

    async def start(self, api: Api, consumer: dict[str, Any]) -> None:
        """Create a deleted consumer again, at this position. If a member has created one, see that it is there.

        Raises ServerError, Timeout, Closed. Then the next member starts at the position.
        """
        stream, name = self._entry.stream, self._entry.name
        try:
            for _ in range(MAX_TRIES):
                try:
                    await api.create_consumer(stream, name, _copied(started_at(consumer["config"], self.sequence)))
                except ServerError as error:
                    if error.err_code != CONSUMER_EXISTS:
                        raise
                    found = await api.consumer_info(stream, name)
                    if found is not None and not self.is_start_of(found):
                        if not _is_ours(found):
                            raise
                        if not await self.claim(found.get("created")):
                            return
                        await self.delete(api, found)
                    elif found is not None:
                        return  # a member was quicker
                else:
                    return
            raise Timeout(f"creating the consumer {name} of stream {stream}, which others create as well", 0)
        except (ServerError, Timeout) as error:
            error.add_note("the position is moved, and the next member starts there")
            raise

    async def claim(self, created: Any) -> bool:
        """Write into the entry that it replaces the consumer of this time. Return False if the entry has changed.

        Raises ServerError, Timeout, Closed.
        """
        value = msgspec.structs.replace(self._value, consumer=created)
        was_lost = False
        try:
            async with asyncio.timeout(CLAIM_TIMEOUT_S):
                while True:
                    answer, _ = await self._entry.put(value, self.revision)
                    if is_stored(answer):
                        self._value, self.revision = value, answer.seq
                        return True
                    was_lost = was_lost or answer.error is None
                    snapshot = await self._entry.read()
                    if was_lost and snapshot.text == encode_value(value):
                        self._value, self.revision = value, snapshot.revision
                        return True
                    if snapshot.revision != self.revision:
                        return False
        except TimeoutError as error:
            if isinstance(error, Timeout):
                raise
            what = f"writing the moved position of subscription {self._entry.name} to {self._entry.stream}"
            raise Timeout(what, CLAIM_TIMEOUT_S) from error


class MovedPositions:
    """Looks for a moved position while a member opens. `found` is what it has found last.

    Without an entry, the subscription is not durable, and its position can't be moved.
    """

    def __init__(self, entry: CursorEntry | None, logger: logging.Logger) -> None:
        self._entry = entry
        self._logger = logger
        self._is_forbidden = False  # whether the server forbids to look
        self._is_told = False  # whether the log says so
        self.found: MovedPosition | None = None

    async def look(self) -> CursorValue | None:
        """Return the value of the entry, which may be a cursor. Raises ConfigError, ServerError, Timeout, Closed.

        If the server forbids to read the bucket, there seems to be no entry.
        """
        self.found = None
        if self._entry is None or self._is_forbidden:
            return None
        try:
            snapshot = await self._entry.read()
        except ServerError as error:
            if error.code != FORBIDDEN:
                raise
            self._is_forbidden = True
            return None
        if snapshot.value is not None and snapshot.value.is_of_shared:
            self.found = MovedPosition(self._entry, snapshot.value, snapshot.revision)
        return snapshot.value

    async def consumer(
        self, api: Api, stream: StreamInfo, name: str, make: Callable[[MovedPosition | None], Awaitable[Any]]
    ) -> tuple[dict[str, Any], bool]:
        """Return the subscription's consumer, and whether this member has created it.

        `make(position)` creates it, and returns it as the server describes it; None if another member was quicker. If
        the consumer is not at the moved position, it is replaced. Raises ConfigError, ConsumerDeleted, ServerError,
        Timeout, Closed.
        """
        for _ in range(MAX_TRIES):
            info = await api.consumer_info(stream.name, name)
            is_new, position = info is None, None
            if info is None:
                # The position may have been written, and the consumer deleted, since this member has looked.
                await self._look_for_new()
                position = self.found
                info = await make(position)
                # A mover that found no consumer replaces none.
                await self.look()
            if info is not None and await self._is_settled(api, stream, info, position):
                return info, is_new
            await asyncio.sleep(PAUSE_S)
            await self.look()
        raise ConsumerDeleted(stream.name, name, "while subscribing")

    async def _look_for_new(self) -> None:
        """Look for the position of a new consumer. If that is forbidden, say so."""
        await self.look()
        if self._is_forbidden and not self._is_told and self._entry is not None:
            self._is_told = True
            self._logger.warning(
                "subscription %s to %s: the server forbids to read the bucket %s, so it is not known whether somebody "
                "has moved the position; a new consumer starts as the options say",
                self._entry.name, self._entry.stream, BUCKET,
            )  # fmt: skip

    async def _is_settled(
        self, api: Api, stream: StreamInfo, consumer: dict[str, Any], used: MovedPosition | None
    ) -> bool:
        """Return whether members can use the consumer. If not, replace it, and return False.

        `used` is the position at which this member has just created it. The position is removed once a consumer is at
        it. It stays while it is about to replace the consumer.
        """
        found, entry, is_settled = self.found, self._entry, True
        if found is None or entry is None:
            return True
        if found.holds_for(stream) and (used is None or used.revision != found.revision):
            if found.replaces(consumer):
                return True
            if not found.is_start_of(consumer) and _is_ours(consumer):
                is_settled = False
                await entry.open()
                try:
                    await found.enforce(api, consumer)
                finally:
                    await entry.close()
        try:
            await found.remove()
        except (ServerError, Timeout) as error:
            self._logger.warning(
                "subscription %s to %s: its moved position is in use, and could not be removed: %s",
                entry.name, entry.stream, error,
            )  # fmt: skip
        return is_settled


async def delete_exactly(api: Api, stream: str, name: str, consumer: dict[str, Any]) -> None:
    """Delete this consumer. If the answer is lost, members may have created the next one by now, which must stay.

    Raises ServerError, Timeout, Closed.
    """
    for _ in range(MAX_TRIES):
        try:
            await api.delete_consumer(stream, name, once=True)
        except Timeout:
            found = await api.consumer_info(stream, name)
            if found is not None and is_same_consumer(consumer.get("created"), found.get("created")):
                continue
        return
    raise Timeout(f"deleting the consumer {name} of stream {stream}", MAX_TRIES * REQUEST_TIMEOUT_S)


def is_same_consumer(created: object, other: object) -> bool:
    """Return whether two creation times, as servers write them, are those of one consumer.

    A server that was killed restores a durable consumer with a creation time that may differ by less than a millisecond
    (seen with 2.10.26).
    """
    one, two = time_of(created), time_of(other)
    if one is None or two is None:
        return created == other
    return abs((one - two).total_seconds()) < SAME_S


def started_at(config: dict[str, Any], sequence: int) -> dict[str, Any]:
    """Return the settings of a consumer that starts after this sequence."""
    others = {key: value for key, value in config.items() if key not in ("opt_start_time", "opt_start_seq")}
    return others | {"deliver_policy": "by_start_sequence", "opt_start_seq": sequence + 1}


def _copied(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a consumer without what the server has added."""
    metadata = config.get("metadata") or {}
    return config | {"metadata": {key: text for key, text in metadata.items() if not key.startswith("_nats.")}}


def _is_ours(consumer: dict[str, Any]) -> bool:
    """Return whether a member has created the consumer. Those of other programs are not replaced."""
    return (consumer["config"].get("metadata") or {}).get(KIND) == "shared"
