"""The cursor of one member: position, lease and fence in one entry of a key-value bucket.

One of the members is the holder (`HeldCursor`): at least once a second it writes its position. Each write names the
revision that it replaces, so if two members write, one of the writes fails. The other members stand by. A standby that
sees the same revision for 5 s takes the cursor over, with the next epoch. A holder starts no handler later than 4 s
after it sent its last confirmed write. The entry on the server decides who is the holder; clocks of different machines
are never compared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from eda._nuid import next_nuid
from eda.cursors.entry import RETRY_S, CursorEntry
from eda.cursors.filter_check import FilterCheck, OnFilterChange
from eda.cursors.held_cursor import HeldCursor, HeldCursorOwner
from eda.cursors.liveness import TAKEOVER_S, HolderLiveness
from eda.cursors.position import FIRST, Position
from eda.cursors.standby import Standby
from eda.cursors.takeover import Taken, Takeover
from eda.cursors.value import CursorValue, Snapshot
from eda.errors import Closed, ConsumerDeleted, EdaError, ServerError, Timeout
from eda.jetstream.api import Api
from eda.jetstream.bucket import Bucket
from eda.jetstream.grace_period import GracePeriod
from eda.log import Seldom, with_fields
from eda.transport.listener import ConnectionListener
from eda.transport.wire import Wire

__all__ = ["Cursor", "CursorOwner"]

OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
MAX_CLIENT = 128  # characters of the client's name in `holder`

TAKES_OVER = "subscription %s to %s takes over, after position %s"
NOT_TAKEN_OVER = "subscription %s to %s: taking over failed and is tried again: %s"


class CursorOwner(HeldCursorOwner, Protocol):
    """What a cursor calls on its owner, in addition to the calls of a held cursor; no call may block."""

    def on_active(self, position: Position, tries: int, lease_until_ns: int) -> None:
        """This member is the holder now: handle the events after `position`. There `tries` holders have vanished."""

    def on_lost(self) -> None:
        """Another member is the holder now: stop everything. `on_active` may follow later."""

    def on_end(self, error: Exception) -> None:
        """The cursor has ended and calls nothing more: it was deleted or reset (ConsumerDeleted), or can't be used."""


class Cursor:
    """The cursor of one member. Call `close` at the end, also after `on_end` or an `open` that failed.

    `filter`: the subjects that the subscription asks for. `on_filter_change`: what to do if the filter in the
    entry differs (see FilterCheck). `bucket`: the settings that the subscription needs of the bucket. `start`: the
    sequence at which the options tell the subscription to start, else 0. `has_packs`: the stream is a packed one.
    """

    def __init__(
        self,
        wire: Wire,
        api: Api,
        logger: logging.Logger,
        owner: CursorOwner,
        *,
        stream: str,
        name: str,
        client: str,
        filter: list[str],
        on_filter_change: OnFilterChange = "refuse",
        bucket: Bucket,
        start: int = 0,
        has_packs: bool = False,
    ) -> None:
        self._wire = wire
        self._logger = with_fields(logger, eda_stream=stream, eda_subscription=name)
        self._owner = owner
        self._stream = stream
        self._name = name
        self._bucket = bucket
        readable = client[:MAX_CLIENT].encode("utf-8", "replace").decode()
        self.holder: str = f"{readable}-{next_nuid()}"
        self._entry = CursorEntry(wire, api, stream, name)
        self._filter = FilterCheck(logger, stream, name, filter, on_filter_change)
        self._takeover = Takeover(api, logger, self._entry, self.holder, self._filter, start, has_packs)
        self.liveness: HolderLiveness = HolderLiveness()  # of the holder that this member stands by for
        self._standby = Standby(wire, api, stream, name, self.liveness.on_hint)
        self._retries = Seldom()
        self._patience = GracePeriod()  # ends the retries of a takeover that the server refuses
        self._loop = asyncio.get_running_loop()
        self._first_position: Callable[[], Awaitable[Position]] | None = None
        self._held: HeldCursor | None = None  # while this member is the holder
        self._task: asyncio.Task[None] | None = None  # opens or stands by
        self._is_open = False
        self._is_closed = False
        self._error: Exception | None = None
        self._listener = ConnectionListener(
            wire, on_lost=self._on_wire_lost, on_restored=self._on_wire_restored,
            on_refused=self._on_wire_refused, on_closed=lambda: self._end(Closed("connection")),
        )  # fmt: skip

    # --- calls of the owner ------------------------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Return whether this member is the holder, as far as it knows."""
        return self._held is not None

    @property
    def epoch(self) -> int:
        """Return the epoch of this member's last attempt to become the holder."""
        return self._takeover.epoch

    @property
    def lease_until_ns(self) -> int:
        """Return until when a handler may start, in nanoseconds of `read_monotonic_ns`; 0 while not the holder."""
        return self._held.lease_until_ns if self._held is not None else 0

    @property
    def created(self) -> str:
        """Return when the position's stream was created, as the server writes it; empty while not the holder."""
        return self._held.created if self._held is not None else ""

    @property
    def held(self) -> HeldCursor | None:
        """Return the cursor as this member holds it; None: it is not the holder."""
        return self._held

    @property
    def start(self) -> int:
        """Return the sequence at which the options told the subscription to start; 0: none, or not the holder."""
        return self._held.start_at if self._held is not None else 0

    async def open(self, *, reset: bool, first_position: Callable[[], Awaitable[Position]]) -> None:
        """Become the holder if there is none (`on_active` is called before this returns), or else stand by.

        `reset`: forget a kept position first. `first_position` returns the position to start at if no position is kept,
        or if the stream was deleted and created again since.

        Raises ConfigError (the entry has another filter, or holds no cursor), StreamNotFound, ServerError, Timeout,
        Closed.
        """
        self._first_position = first_position
        self._listener.start()
        opening = self._task = self._loop.create_task(self._open(reset))
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await opening
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_closed and task is not None and not task.cancelling():
                raise (self._error or Closed("the cursor")) from None
            raise
        except Timeout:
            raise
        except TimeoutError as error:
            raise Timeout(f"opening the cursor {self._stream}.{self._name}", OPEN_TIMEOUT_S) from error
        if self._error is not None:
            raise self._error
        self._is_open = True

    def advance(self, position: Position, *, forget_tries: bool = False) -> None:
        """Note that all events up to `position` are done (see HeldCursor)."""
        if self._held is not None:
            self._held.advance(position, forget_tries=forget_tries)

    async def store(self, position: Position) -> None:
        """Write at once that all events up to `position` are done; return when confirmed. Raises Closed if lost."""
        if self._held is None:
            raise Closed(f"the cursor {self._stream}.{self._name}")
        await self._held.store(position)

    def note_packs(self) -> None:
        """Note that the stream has packs, so that older code must refuse the cursor."""
        if self._held is not None:
            self._held.note_packs()

    def rewind(self, created: str, position: Position) -> None:
        """Set the position back: the stream has lost its end or a pack, or was created again at `created`."""
        if self._held is not None:
            self._held.rewind(created, position)

    def end_waits(self) -> None:
        """Raise Closed in each `store` that still waits."""
        if self._held is not None:
            self._held.end_waits()

    async def close(
        self, position: Position = FIRST, *, keep_holder: bool = False, timeout_s: float = CLOSE_TIMEOUT_S
    ) -> bool:
        """Store the position, unless a later one was noted, and give the cursor up, so that a standby takes it over.

        With `keep_holder` the cursor is not given up, so a standby takes it over only after 5 s.

        Return whether the position is stored. Return True for a standby, which has nothing to store, and False after
        `on_end`.
        """
        held, unconfirmed = self._stop()
        try:
            async with asyncio.timeout(timeout_s):
                await self._task_end()
                if held is not None:
                    return await held.release(position, keep_holder=keep_holder)
                if unconfirmed is not None:
                    # Nobody knows whether the takeover was stored. `release` reads the entry to find out.
                    await self._new_held(Taken(unconfirmed, 0, 0)).release(FIRST)
                return self._error is None
        except (TimeoutError, EdaError) as error:
            self._logger.warning(
                "subscription %s to %s: its last position may not be stored; events may be handled again: %s",
                self._name, self._stream, str(error) or f"no answer within {timeout_s:g} s",
            )  # fmt: skip
            return False
        finally:
            await self._detach()

    async def forget(self) -> None:
        """Close, and delete the entry, which ends all members. Raises ServerError, Timeout, Closed."""
        held, _ = self._stop()
        if held is not None:
            held.abandon()
        await self._task_end()
        await self._detach()
        await self._entry.delete()

    # --- becoming the holder -----------------------------------------------------------------------------------------

    async def _open(self, reset: bool) -> None:
        await self._entry.open()
        if reset:
            await self._entry.delete()
        snapshot = await self._entry.first_read()
        await self._entry.ensure_bucket(self._bucket)
        while True:
            if snapshot.value is not None:
                self._filter.check(snapshot.value)
                self._takeover.check_not_stopped()
                if snapshot.value.holder:
                    self.liveness.on_read(snapshot)
                    await self._standby.start()
                    self._task = self._loop.create_task(self._stand_by())
                    return
            other = await self._take_over(snapshot)
            if other is None:
                return
            snapshot = other

    async def _take_over(self, snapshot: Snapshot) -> Snapshot | None:
        """Try to replace this snapshot. Return None if this member is the holder now, else the entry as it is.

        Raises StreamNotFound, ConfigError, ServerError, Timeout, Closed, and what `first_position` raises.
        """
        assert self._first_position is not None
        result = await self._takeover.attempt(snapshot, self._first_position)
        if isinstance(result, Snapshot):
            return result
        await self._standby.stop()
        self._takeover.check_not_stopped()
        held = self._held = self._new_held(result)
        self._takeover.held()
        value, position = result.value, result.value.position
        if self._is_open:
            self._logger.info(TAKES_OVER, self._name, self._stream, position.text)
        if snapshot.value is not None:
            self._filter.log_change(snapshot.value)
        try:
            self._owner.on_active(position, value.tries, held.lease_until_ns)
        finally:
            held.start()
        return None

    def _new_held(self, taken: Taken) -> HeldCursor:
        return HeldCursor(self._wire, self._entry, self._logger, self._owner, *taken, self._on_gone, self._end)

    def _on_gone(self, snapshot: Snapshot) -> None:
        """Stand by again if another member took the cursor over; end if the cursor was deleted or reset."""
        held, self._held = self._held, None
        if held is not None:
            held.abandon()
        if snapshot.value is None or snapshot.value.epoch <= self.epoch:
            self._end(self._deleted(snapshot))
            return
        self._logger.warning(
            "subscription %s to %s: %s has taken over, and this member stands by",
            self._name, self._stream, snapshot.value.holder or "another member",
        )  # fmt: skip
        self.liveness.on_read(snapshot)
        self._task = self._loop.create_task(self._stand_by())
        self._owner.on_lost()

    def _deleted(self, snapshot: Snapshot) -> ConsumerDeleted:
        done = "deleted" if snapshot.value is None else "reset"
        return ConsumerDeleted(self._stream, self._name, f"its position was {done}")

    # --- standing by -------------------------------------------------------------------------------------------------

    async def _stand_by(self) -> None:
        """Wait until there is no holder or the holder is silent, and take the cursor over."""
        try:
            await self._standby.start()
            while not await self._try_take_over():
                await self.liveness.until_next_read(has_hints=self._standby.has_hints)
        except Exception as error:  # also what `first_position` raises
            if not isinstance(error, EdaError):
                self._logger.critical("subscription %s to %s failed", self._name, self._stream, exc_info=error)
            self._end(error)

    async def _try_take_over(self) -> bool:
        """Read the entry, take the cursor over if this member may, and return whether it did.

        Raises EdaError if this member must end.
        """
        snapshot = await self._entry.read_patiently(self._logger)
        self._note(snapshot)
        value = snapshot.value
        assert value is not None
        if value.holder and not self.liveness.is_silent:
            self._patience = GracePeriod()
            return False
        if not self._filter.may_take_over(value):
            await asyncio.sleep(TAKEOVER_S)
            return False
        if value.holder:
            self._logger.warning(
                "subscription %s to %s: %s is silent; taking over", self._name, self._stream, value.holder
            )
        try:
            other = await self._take_over(snapshot)
        except (ServerError, Timeout) as error:
            if not self._patience.allows(error):
                raise
            level = self._retries.level(self._wire.trouble_level)
            self._logger.log(level, NOT_TAKEN_OVER, self._name, self._stream, error)
            await asyncio.sleep(RETRY_S)
            return False
        if other is not None:
            self._note(other)
        return other is None

    def _note(self, snapshot: Snapshot) -> None:
        """Note what was read. Raises ConsumerDeleted if the cursor was deleted or reset since the last read."""
        if not self.liveness.can_follow(snapshot):
            raise self._deleted(snapshot)
        self.liveness.on_read(snapshot)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _stop(self) -> tuple[HeldCursor | None, CursorValue | None]:
        """Stop all tasks and callbacks. Return the held cursor, and the value of a takeover whose result is unknown."""
        self._is_closed = True
        self._listener.stop()
        if self._task is not None and self._task is not asyncio.current_task(self._loop):
            self._task.cancel()
        held, self._held = self._held, None
        return held, self._takeover.stop()

    async def _task_end(self) -> None:
        """Wait until the task has ended."""
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    async def _detach(self) -> None:
        """End all subscriptions to subjects."""
        await self._standby.stop()
        await self._entry.close()

    def _end(self, error: Exception) -> None:
        if self._is_closed:
            return
        self._error = error
        held, _ = self._stop()
        if held is not None:
            held.abandon()
        if self._is_open:
            self._owner.on_end(error)

    # --- the connection ----------------------------------------------------------------------------------------------

    def _on_wire_lost(self) -> None:
        if self._held is not None:
            self._held.on_wire_lost()

    def _on_wire_restored(self) -> None:
        self.liveness.on_restored()
        if self._held is not None:
            self._held.on_wire_restored()

    def _on_wire_refused(self, kind: str, subject: str) -> None:
        if subject == self._entry.subject and kind == "subscription":
            self._logger.warning("no permission to subscribe to %s: takeovers take longer", subject)
        elif subject in self._entry.required_subjects:
            self._end(ServerError(403, 0, f"no permission for {subject}, where cursors are kept"))
