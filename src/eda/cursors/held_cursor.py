"""The cursor while this member holds it: writes of the position, the lease that each write renews, and the fence.

`advance` is called often and does little. Everything else happens at most a few hundred times a second, or once for
each event with `serial="strict"`, where the subscription waits for the answer to each write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from eda._clock import read_monotonic_ns
from eda.cursors.entry import ANSWER_S, RETRY_S, CursorEntry, Write, is_stored, passing_to
from eda.cursors.position import Position
from eda.cursors.value import CursorValue, Snapshot, new_value, template_of
from eda.errors import Closed, EdaError
from eda.jetstream.bucket import BUCKET_STREAM
from eda.jetstream.publish_answers import Answer
from eda.log import with_fields
from eda.server_codes import CONFLICTS
from eda.times import NS
from eda.transport._waits import Wait
from eda.transport.wire import Wire

__all__ = ["LEASE_S", "HeldCursor", "HeldCursorOwner"]

LEASE_S = 4.0  # counted from when the last confirmed write was sent
SIGN_OF_LIFE_S = 1.0
PAUSE_S = 0.005  # the least time between two writes of the position
BYTES_PER_S = 256 * 1024  # each write contains the whole filter, so with a long filter there are fewer writes


class HeldCursorOwner(Protocol):
    """What a held cursor calls on its owner; no call may block. Leases are in nanoseconds of `read_monotonic_ns`."""

    def on_confirmed(self, place: tuple[int, int], lease_until_ns: int) -> None:
        """The position is stored up to this place; handlers may start until `lease_until_ns`. Both may be unchanged."""

    def on_fenced(self) -> None:
        """The lease has expired: cancel the running handlers. `on_unfenced`, `on_lost` or `on_end` follows."""

    def on_unfenced(self) -> None:
        """This member still holds the cursor and has a new lease: handlers may start again."""


class HeldCursor:
    """The cursor of one holder, from the write that took it (`value`, stored as `revision`) until it is given up.

    `on_gone(snapshot)` is called once, when a read shows that this holder has lost the cursor. `on_failed(error)` is
    called if the entry can't be read, or holds no cursor.
    """

    def __init__(
        self,
        wire: Wire,
        entry: CursorEntry,
        logger: logging.Logger,
        owner: HeldCursorOwner,
        value: CursorValue,
        revision: int,
        sent_ns: int,
        on_gone: Callable[[Snapshot], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._wire = wire
        self._entry = entry
        self._logger = with_fields(logger, eda_stream=entry.stream, eda_subscription=entry.name)
        self._owner = owner
        self._holder = value.holder
        self._epoch = value.epoch
        self._filter = value.filter
        self._has_packs = value.has_packs
        self._on_gone = on_gone
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self.created: str = value.created
        self.start_at: int = value.start
        self.tries: int = value.tries
        self.position: Position = value.position  # all events up to it are done
        self._taken = self.position.place  # where the cursor was taken
        self.confirmed: tuple[int, int] = self.position.place  # of the position that the server has confirmed
        self.lease_until_ns: int = sent_ns + int(LEASE_S * NS)
        self.is_fenced: bool = False
        self._fence_level = logging.WARNING  # of the line that says so
        self._revision = revision
        self._sent_ns = sent_ns
        self._refusal = ""  # why the server refused the last write permanently
        self._is_over = False
        self._is_ready = False  # no write is under way or scheduled, so the next progress starts one
        self._write: Write | None = None  # under way
        self._written = (self.position.place, "")  # the place and `created` in the last write
        self._is_rewound = False  # the entry may have a later position than `rewind` has set
        self._n_bytes = 0  # of the last write
        self._template: Callable[[Position], bytes] | None = None  # makes the text of writes; None: to be made again
        self._write_timer: asyncio.TimerHandle | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._checking: asyncio.Task[None] | None = None
        self._waiters: list[tuple[tuple[int, int], Wait[None]]] = []  # the place that each waits for

    def start(self) -> None:
        """Begin to write and to watch the time."""
        self._watch()
        self._write_next()

    # --- progress ----------------------------------------------------------------------------------------------------

    def advance(self, position: Position, *, forget_tries: bool = False) -> None:
        """Note that all events up to `position` are done; write this soon.

        `forget_tries`: the stream has no event after this position, so no event made the earlier holders vanish.
        """
        if position.place > self.position.place or (forget_tries and self.tries):
            self._move(position)
            if forget_tries:
                self.tries = 0
                self._template = None
            if self._is_ready:
                self._write_soon()

    def store(self, position: Position) -> Awaitable[None]:
        """Note that all events up to `position` are done, and write this at once.

        Return an awaitable that ends when the server has confirmed it, and raises Closed if the cursor is lost first.
        """
        self._move(position)
        waiter: Wait[None] = self._wire.waits.new()
        if self.confirmed >= position.place:
            waiter.set_result(None)
        elif self._is_over:
            waiter.set_exception(self._closed())
        else:
            self._waiters.append((position.place, waiter))
            self._write_now()
        return waiter

    def note_packs(self) -> None:
        """Note that the stream has packs: all further writes are of version 2."""
        if not self._has_packs:
            self._has_packs = True
            self._template = None

    def rewind(self, created: str, position: Position) -> None:
        """Set the position back: the stream has lost its end or a pack, or was created again at `created`."""
        self.created = created
        self.start_at = 0
        self.position = position
        self._taken = self.confirmed = position.place
        self._is_rewound = True  # a write under way may store the later position
        self.tries = 0
        self._template = None
        self.end_waits(position.place)
        self._write_now()

    def end_waits(self, place: tuple[int, int] = (-1, 0)) -> None:
        """Raise Closed in each `store` that waits for a position after this place."""
        waiters, self._waiters = self._waiters, []
        for wanted, waiter in waiters:
            if wanted <= place:
                self._waiters.append((wanted, waiter))
            elif not waiter.done():
                waiter.set_exception(self._closed())

    def _value(self, holder: str) -> CursorValue:
        tries = self.tries if self.position.place == self._taken else 0
        return new_value(
            self.position, self._epoch, holder, tries, self._filter, self.created, self.start_at,
            has_packs=self._has_packs,
        )  # fmt: skip

    def _move(self, position: Position) -> None:
        """Move forward to this position, unless the cursor is there already."""
        if position.place > self.position.place:
            if self.position.place == self._taken:
                self._template = None  # `tries` counts holders that vanished at the old position
            if position.idx:
                self.note_packs()
            self.position = position

    def _write_soon(self) -> None:
        pause_s = min(max(PAUSE_S, self._n_bytes / BYTES_PER_S), SIGN_OF_LIFE_S)
        pause_ns = self._sent_ns + int(pause_s * NS) - read_monotonic_ns()
        if pause_ns <= 0:
            self._write_now()
        else:
            self._is_ready = False
            self._write_timer = self._loop.call_later(pause_ns / NS, self._write_now)

    def _write_now(self) -> None:
        """Write the position, unless another write is under way or its result is unknown."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        self._is_ready = False
        if self._is_over or self._write is not None or self._checking is not None or not self._wire.is_up:
            return  # this method is called again when the write, the check or the reconnect is done
        if self._template is None:
            self._template = template_of(self._value(self._holder))
        self._written = (self.position.place, self.created)
        self._is_rewound = False
        text = self._template(self.position)
        self._n_bytes = len(text)
        self._write = self._entry.write(text, self._revision, self._on_answer)
        self._sent_ns = self._write.sent_ns

    def _write_next(self) -> None:
        """Write the progress made during the last write; if there is none, wait for progress."""
        if self._waiters or self._is_rewound:
            self._write_now()
        elif self.position.place > self.confirmed:
            self._write_soon()
        else:
            self._is_ready = True

    # --- answers -----------------------------------------------------------------------------------------------------

    def _on_answer(self, write: Write, answer: Answer) -> None:
        if write is not self._write or self._is_over:
            return
        self._write = None
        error = answer.error
        if is_stored(answer):
            self._stop_checking()  # the answer was late, and now the result is known
            self._revision = answer.seq
            self._refusal = ""
            self.lease_until_ns = max(self.lease_until_ns, write.sent_ns + int(LEASE_S * NS))
            self._confirm(*self._written)
            if self.is_fenced and read_monotonic_ns() < self.lease_until_ns:
                self.is_fenced = False
                self._logger.log(
                    min(self._fence_level, logging.INFO),
                    "subscription %s to %s: its position is stored again; handlers may start",
                    self._entry.name, self._entry.stream,
                )  # fmt: skip
                self._owner.on_unfenced()
            self._write_next()
        elif error is None or error.err_code in CONFLICTS:
            self._check()
        elif error.is_transient:
            self._write_timer = self._loop.call_later(RETRY_S, self._check)
        else:
            refusal = str(error.as_error(BUCKET_STREAM))
            if refusal != self._refusal:
                self._logger.error(
                    "subscription %s to %s: storing its position failed and is tried again: %s",
                    self._entry.name, self._entry.stream, refusal,
                )  # fmt: skip
            self._refusal = refusal
            self._write_timer = self._loop.call_later(SIGN_OF_LIFE_S, self._write_now)

    def _confirm(self, place: tuple[int, int], created: str) -> None:
        if created == self.created:
            # A write from before `rewind` may have a later position than the current one.
            self.confirmed = max(self.confirmed, min(place, self.position.place))
        waiters, self._waiters = self._waiters, []
        for wanted, waiter in waiters:
            if wanted > self.confirmed:
                self._waiters.append((wanted, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._owner.on_confirmed(self.confirmed, self.lease_until_ns)

    def _check(self) -> None:
        if self._checking is None and not self._is_over:
            self._checking = self._loop.create_task(self._check_entry())

    async def _check_entry(self) -> None:
        """Read the entry to find out whether a write was stored.

        This does not renew the lease, because the entry does not tell when it was written.
        """
        try:
            snapshot = await self._entry.read_patiently(self._logger)
        except Exception as error:
            self._checking = None
            if not isinstance(error, EdaError):
                self._logger.critical(
                    "subscription %s to %s failed", self._entry.name, self._entry.stream, exc_info=error
                )
            self._on_failed(error)
            return
        if self._checking is not asyncio.current_task():
            return  # this task was cancelled, but wait_for of Python 3.11 may swallow a cancellation
        self._checking = self._write = None
        if snapshot.value is not None and self.is_ours(snapshot):
            self._revision = snapshot.revision
            self._confirm(snapshot.value.position.place, snapshot.value.created)
            self._write_now()
        else:
            self._on_gone(snapshot)

    def _stop_checking(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None

    def is_ours(self, snapshot: Snapshot) -> bool:
        """Return whether this holder, in this epoch, holds the cursor in the snapshot."""
        value = snapshot.value
        return value is not None and value.holder == self._holder and value.epoch == self._epoch

    # --- time --------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Fence when the lease expires, check the entry when an answer is late, and write as a sign of life."""
        if self._is_over:
            return
        self._template = None  # the template contains the time, which must be right to the second
        now = read_monotonic_ns()
        fences = not self.is_fenced and now >= self.lease_until_ns
        self.is_fenced |= fences
        if self._write is not None and now - self._write.sent_ns >= int(ANSWER_S * NS):
            self._check()
        elif self._write is None and now - self._sent_ns >= int(SIGN_OF_LIFE_S * NS):
            self._write_now()
        # A write that is sent before this timer fires becomes due only after it. So only this method sets the timer.
        due_ns = [now + int(min(SIGN_OF_LIFE_S, ANSWER_S) * NS)]
        if not self.is_fenced:
            due_ns.append(self.lease_until_ns)
        if self._write is not None and self._checking is None:
            due_ns.append(self._write.sent_ns + int(ANSWER_S * NS))
        elif self._is_ready:
            due_ns.append(self._sent_ns + int(SIGN_OF_LIFE_S * NS))
        self._watch_timer = self._loop.call_later(max((min(due_ns) - now) / NS, 0.001), self._watch)
        if fences:
            self._fence_level = self._wire.trouble_level
            self._logger.log(
                self._fence_level,
                "subscription %s to %s: for %g s its position could not be stored; handlers are stopped until it is",
                self._entry.name, self._entry.stream, LEASE_S,
            )  # fmt: skip
            self._owner.on_fenced()

    def on_wire_lost(self) -> None:
        """Note that the connection is lost, and with it the answer to the write under way.

        If that write was stored, the server refuses the next write, and then the entry is read.
        """
        self._write = None
        self._is_ready = False

    def on_wire_restored(self) -> None:
        """Write at once after a reconnect."""
        self._stop_checking()  # its request was lost; the answer to the next write replaces its result
        self._write_now()

    # --- the end -----------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Stop writing. The entry stays as it is, so other members see a silent holder."""
        self._is_over = True
        self._is_ready = False
        for timer in (self._write_timer, self._watch_timer):
            if timer is not None:
                timer.cancel()
        self._stop_checking()
        self.end_waits()

    async def release(self, position: Position, *, keep_holder: bool = False) -> bool:
        """Give the cursor up: write this position or a later one, without a holder. Return whether it is stored.

        With `keep_holder` the holder stays in the entry, so other members wait until it has been silent for long
        enough. There is no time limit. Raises EdaError.
        """
        write = self._write
        self.abandon()
        self._move(position)
        if write is not None:
            waiter: asyncio.Future[Answer] = self._loop.create_future()
            write.on_answer = passing_to(waiter)
            answer = await self._entry.answer_to(waiter)
            self._revision = answer.seq if is_stored(answer) else 0
        while True:
            if not self._revision:
                snapshot = await self._entry.read_patiently(self._logger)
                if not self.is_ours(snapshot):
                    return self._is_kept_in(snapshot)
                self._revision = snapshot.revision
            value = self._value(self._holder if keep_holder else "")
            answer, _ = await self._entry.put(value, self._revision)
            if is_stored(answer):
                self.confirmed = self.position.place
                return True
            self._revision = 0

    def _is_kept_in(self, snapshot: Snapshot) -> bool:
        """Return whether our last position is stored, in an entry that is not ours any more.

        Then we gave the cursor up at this position, or another member took it over and keeps at least this position.
        """
        value = snapshot.value
        if value is None or value.epoch < self._epoch or value.created != self.created:
            return False
        is_kept = value.position.place >= self.position.place
        return is_kept and (value.epoch > self._epoch or not value.holder)

    def _closed(self) -> Closed:
        return Closed(f"the cursor {self._entry.stream}.{self._entry.name}")
