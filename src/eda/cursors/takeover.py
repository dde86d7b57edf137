"""One attempt to become the holder of a cursor: the write that takes it, and the value that this write stores."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from eda.cursors.entry import CursorEntry, is_stored
from eda.cursors.filter_check import FilterCheck
from eda.cursors.position import Position
from eda.cursors.value import CursorValue, Snapshot, new_value, successor
from eda.errors import Closed
from eda.jetstream.api import Api
from eda.jetstream.streams import stream_created
from eda.log import with_fields

__all__ = ["Taken", "Takeover"]


class Taken(NamedTuple):
    """The write that took the cursor: its value, the revision under which it is stored, and when it was sent."""

    value: CursorValue
    revision: int
    sent_ns: int


class Takeover:
    """The attempts of one member to become the holder.

    `start`: the sequence at which the options tell the subscription to start, else 0. `has_packs`: the stream is a
    packed one.
    """

    def __init__(
        self,
        api: Api,
        logger: logging.Logger,
        entry: CursorEntry,
        holder: str,
        filter: FilterCheck,
        start: int,
        has_packs: bool,
    ) -> None:
        self._api = api
        self._logger = with_fields(logger, eda_stream=entry.stream, eda_subscription=entry.name)
        self._entry = entry
        self._holder = holder
        self._filter = filter
        self._start = start
        self._has_packs = has_packs
        self.epoch: int = 0  # of the last attempt
        self._unconfirmed: CursorValue | None = None  # may be stored, and `held` was not called for it yet
        self._is_stopped = False

    def stop(self) -> CursorValue | None:
        """Make no more attempts. Return the value of a write that may be stored; None if `held` was called since."""
        self._is_stopped = True
        unconfirmed, self._unconfirmed = self._unconfirmed, None
        return unconfirmed

    def held(self) -> None:
        """Note that the caller holds the cursor now, so that `stop` returns None."""
        self._unconfirmed = None

    def check_not_stopped(self) -> None:
        """Raise Closed after `stop`. A cancellation may get lost in nats-py's requests, in wait_for of Python 3.11."""
        if self._is_stopped:
            raise Closed("the cursor")

    async def attempt(self, snapshot: Snapshot, first_position: Callable[[], Awaitable[Position]]) -> Taken | Snapshot:
        """Take the cursor with a write that replaces this snapshot. Return the write, or the entry if it has changed.

        If the write is returned, the caller calls `held`. Until then `stop` returns its value, so that the caller can
        give the cursor up.

        Raises StreamNotFound, ConfigError, ServerError, Timeout, Closed, and what `first_position` raises.
        """
        value = await self._successor(snapshot.value, first_position)
        self.check_not_stopped()
        self.epoch = value.epoch
        self._unconfirmed = value
        revision = snapshot.revision
        while True:
            answer, sent_ns = await self._entry.put(value, revision)
            if is_stored(answer):
                return Taken(value, answer.seq, sent_ns)
            snapshot = await self._entry.read_patiently(self._logger)
            found = snapshot.value
            if found is None or found.holder != self._holder or found.epoch != self.epoch:
                self._unconfirmed = None
                return snapshot
            # The write is stored, but its answer was lost. Write again: only a confirmed write gives a lease.
            revision = snapshot.revision

    async def _successor(
        self, old: CursorValue | None, first_position: Callable[[], Awaitable[Position]]
    ) -> CursorValue:
        """Return the value with which this member takes the cursor over from the old value."""
        created = await stream_created(self._api, self._entry.stream)
        if old is not None and old.created in ("", created):
            old = msgspec.structs.replace(old, created=created)
            return successor(old, self._holder, self._filter.own, has_packs=self._has_packs)
        if old is not None:
            self._logger.warning(
                "subscription %s to %s: the stream was made again at %s; its position %s was in the stream made at %s "
                "and is dropped",
                self._entry.name, self._entry.stream, created, old.position.text, old.created,
            )  # fmt: skip
        position = await first_position()
        epoch = old.epoch + 1 if old is not None else 1
        return new_value(
            position, epoch, self._holder, 0, self._filter.own, created, self._start, has_packs=self._has_packs
        )
