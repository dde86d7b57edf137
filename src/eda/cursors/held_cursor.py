"""Holding a cursor's key: progress goes into it, much at once, and each confirmed write is a lease for some seconds.

What is slow here (`advance` is not) happens a few hundred times a second at most, or once per event with
`serial="strict"`, where the answer to one write is all that is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from eda._clock import read_monotonic_ns
from eda.cursors.entry import ANSWER_S, RETRY_S, CursorKey, Write, is_stored, settling
from eda.cursors.value import Kept, Value, new_value, template_of
from eda.errors import Closed, EdaError, ServerError, Timeout
from eda.jetstream.bucket import BUCKET_STREAM
from eda.jetstream.bucket_requests import CONFLICTS
from eda.jetstream.grace_period import GracePeriod
from eda.jetstream.publish_answers import Answer
from eda.times import NS
from eda.transport._waits import Wait
from eda.transport.wire import Wire

__all__ = ["LEASE_S", "CursorOwner", "Hold", "HoldOwner", "read_patiently"]

LEASE_S = 4.0  # from the sending of the last confirmed write
SIGN_OF_LIFE_S = 1.0
PAUSE_S = 0.005  # between two writes of the position, at least
BYTES_PER_S = 256 * 1024  # each write has the whole filter: with a long one they are fewer


class HoldOwner(Protocol):
    """What a hold tells its subscription, without awaiting. Leases are in the nanoseconds of `read_monotonic_ns`."""

    def on_confirmed(self, seq: int, lease_until_ns: int) -> None:
        """Everything up to `seq` is kept, and handlers may start until then. Comes without progress, too."""

    def on_fenced(self) -> None:
        """The lease is over: cancel what runs. Followed by `on_unfenced`, `on_lost` or `on_end`."""

    def on_unfenced(self) -> None:
        """The key is still ours, and handlers may start again."""


class CursorOwner(HoldOwner, Protocol):
    """What a cursor tells its subscription, without awaiting: this, and what a hold tells."""

    def on_active(self, position: int, tries: int, lease_until_ns: int) -> None:
        """The key is ours: read on after `position`. `tries`: holders before us that vanished at this position."""

    def on_lost(self) -> None:
        """Somebody else has the key: drop everything. `on_active` may come again later."""

    def on_end(self, error: Exception) -> None:
        """Nothing comes any more: the key was deleted or reset (ConsumerDeleted), or can't be used."""


class Hold:
    """One holder's time with the key, from the write that took it (`value`, stored as `revision`) on.

    `on_gone(kept)` is called once when the key turns out to be no longer ours, `on_failed(error)` when it can't be read
    as a cursor.
    """

    def __init__(
        self,
        wire: Wire,
        key: CursorKey,
        logger: logging.Logger,
        owner: HoldOwner,
        value: Value,
        revision: int,
        sent_ns: int,
        on_gone: Callable[[Kept], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._wire = wire
        self._key = key
        self._logger = logger
        self._owner = owner
        self._holder = value.holder
        self._epoch = value.epoch
        self._filter = value.filter
        self._on_gone = on_gone
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self.created = value.created
        self.start_at = value.start
        self.tries = value.tries
        self.base = value.seq  # the position that was taken over
        self.target = value.seq  # what is done
        self.time_ns = value.time_ns  # when the stream stored the event at `target`; 0: not known
        self.stored = value.seq  # what is confirmed of it
        self.lease_ns = sent_ns + int(LEASE_S * NS)
        self.is_fenced = False
        self._revision = revision
        self._sent_ns = sent_ns
        self._refusal = ""  # why the last write failed for good
        self._is_over = False
        self._is_ready = False  # a write goes out when there is progress: none is under way or timed
        self._flight: Write | None = None
        self._says = (0, "")  # the position that it writes, and when the stream was made
        self._is_stale = False  # the key has a position that `restart` has taken back
        self._n_bytes = 0  # of the last write
        self._template = b""  # what is written, but for position and time; empty: to be made anew
        self._pause: asyncio.TimerHandle | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._waiters: list[tuple[int, Wait[None]]] = []

    def start(self) -> None:
        """Begin to write and to watch the time."""
        self._watch()
        self._next()

    # --- progress ----------------------------------------------------------------------------------------------------

    def advance(self, seq: int, time_ns: int = 0, *, untried: bool = False) -> None:
        """Note that everything up to `seq`, stored at `time_ns`, is done, and maybe that nobody has tried the next."""
        if seq > self.target or (untried and self.tries):
            self._move(seq, time_ns)
            if untried:
                self.tries = 0
                self._template = b""
            if self._is_ready:
                self._write_soon()

    def confirmed(self, seq: int, time_ns: int = 0) -> Awaitable[None]:
        """Return what is done when everything up to `seq` is kept. It raises Closed when the hold is over first."""
        self._move(seq, time_ns)
        waiter: Wait[None] = self._wire.waits.new()
        if self.stored >= seq:
            waiter.set_result(None)
        elif self._is_over:
            waiter.set_exception(self._lost())
        else:
            self._waiters.append((seq, waiter))
            self._write()
        return waiter

    def restart(self, created: str, seq: int, time_ns: int = 0) -> None:
        """Go back to `seq`, stored at `time_ns`: the event stream has lost its end, or was made again at `created`."""
        self.created = created
        self.start_at = 0
        self.target = self.base = self.stored = seq
        self.time_ns = time_ns
        self._is_stale = True  # also while a write is under way, which says more than is done
        self.tries = 0
        self._template = b""
        self.give_up_waiting(seq)
        self._write()

    def give_up_waiting(self, seq: int = -1) -> None:
        """End the waits for what is beyond `seq`: it will not come."""
        waiters, self._waiters = self._waiters, []
        for wanted, waiter in waiters:
            if wanted <= seq:
                self._waiters.append((wanted, waiter))
            elif not waiter.done():
                waiter.set_exception(self._lost())

    def _value(self, holder: str) -> Value:
        tries = self.tries if self.target == self.base else 0
        return new_value(
            self.target, self._epoch, holder, tries, self._filter, self.created, self.start_at, self.time_ns
        )

    def _move(self, seq: int, time_ns: int) -> None:
        """Note that everything up to `seq` is done."""
        if seq > self.target:
            if self.target == self.base:
                self._template = b""  # nobody vanished at the new position
            self.target = seq
            self.time_ns = time_ns

    def _write_soon(self) -> None:
        pause_s = min(max(PAUSE_S, self._n_bytes / BYTES_PER_S), SIGN_OF_LIFE_S)
        pause_ns = self._sent_ns + int(pause_s * NS) - read_monotonic_ns()
        if pause_ns <= 0:
            self._write()
        else:
            self._is_ready = False
            self._pause = self._loop.call_later(pause_ns / NS, self._write)

    def _write(self) -> None:
        """Write the position now, unless the outcome of another write is open."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._is_ready = False
        if self._is_over or self._flight is not None or self._looking is not None or not self._wire.is_up:
            return  # what ends that state writes
        if not self._template:
            self._template = template_of(self._value(self._holder))
        self._says = (self.target, self.created)
        self._is_stale = False
        text = self._template % (self.target, self.time_ns)
        self._n_bytes = len(text)
        self._flight = self._key.write(text, self._revision, self._on_answer)
        self._sent_ns = self._flight.sent_ns

    def _next(self) -> None:
        """Write what has come meanwhile, or wait for it."""
        if self._waiters or self._is_stale:
            self._write()
        elif self.target > self.stored:
            self._write_soon()
        else:
            self._is_ready = True

    # --- outcomes ----------------------------------------------------------------------------------------------------

    def _on_answer(self, write: Write, answer: Answer) -> None:
        if write is not self._flight or self._is_over:
            return
        self._flight = None
        error = answer.error
        if is_stored(answer):
            self._stop_looking()  # late, but no longer in doubt
            self._revision = answer.seq
            self._refusal = ""
            self.lease_ns = max(self.lease_ns, write.sent_ns + int(LEASE_S * NS))
            self._confirm(*self._says)
            if self.is_fenced and read_monotonic_ns() < self.lease_ns:
                self.is_fenced = False
                self._logger.info("subscription %s of %s: goes on", self._key.name, self._key.stream)
                self._owner.on_unfenced()
            self._next()
        elif error is None or error.err_code in CONFLICTS:
            self._look()
        elif error.is_transient:
            self._pause = self._loop.call_later(RETRY_S, self._look)
        else:
            refusal = str(error.as_error(BUCKET_STREAM))
            if refusal != self._refusal:
                self._logger.error(
                    "subscription %s of %s: keeping its position: %s", self._key.name, self._key.stream, refusal
                )
            self._refusal = refusal
            self._pause = self._loop.call_later(SIGN_OF_LIFE_S, self._write)

    def _confirm(self, seq: int, created: str) -> None:
        if created == self.created:
            # A write from before `restart` may say more than is done.
            self.stored = max(self.stored, min(seq, self.target))
        waiters, self._waiters = self._waiters, []
        for wanted, waiter in waiters:
            if wanted > self.stored:
                self._waiters.append((wanted, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._owner.on_confirmed(self.stored, self.lease_ns)

    def _look(self) -> None:
        if self._looking is None and not self._is_over:
            self._looking = self._loop.create_task(self._look_up())

    async def _look_up(self) -> None:
        """Find out what became of a write. This gives no lease: a value that is read says not when it was written."""
        try:
            kept = await read_patiently(self._key, self._logger)
        except Exception as error:
            self._looking = None
            if not isinstance(error, EdaError):
                self._logger.critical("subscription %s of %s failed", self._key.name, self._key.stream, exc_info=error)
            self._on_failed(error)
            return
        if self._looking is not asyncio.current_task():
            return  # cancelled, which Python 3.11's wait_for in nats-py's request may swallow
        self._looking = self._flight = None
        if kept.value is not None and self.is_ours(kept):
            self._revision = kept.revision
            self._confirm(kept.value.seq, kept.value.created)
            self._write()
        else:
            self._on_gone(kept)

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def is_ours(self, kept: Kept) -> bool:
        """Whether that was written by this hold, and it has not given the key up."""
        return kept.value is not None and kept.value.holder == self._holder and kept.value.epoch == self._epoch

    # --- time --------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Fence, look for a lost answer, give a sign of life, each when it is due."""
        if self._is_over:
            return
        self._template = b""  # it holds the time, for people: to the second
        now = read_monotonic_ns()
        fences = not self.is_fenced and now >= self.lease_ns
        self.is_fenced |= fences
        if self._flight is not None and now - self._flight.sent_ns >= int(ANSWER_S * NS):
            self._look()
        elif self._flight is None and now - self._sent_ns >= int(SIGN_OF_LIFE_S * NS):
            self._write()
        # What is written later than now is due later than this, so nothing else moves the timer.
        due_ns = [now + int(min(SIGN_OF_LIFE_S, ANSWER_S) * NS)]
        if not self.is_fenced:
            due_ns.append(self.lease_ns)
        if self._flight is not None and self._looking is None:
            due_ns.append(self._flight.sent_ns + int(ANSWER_S * NS))
        elif self._is_ready:
            due_ns.append(self._sent_ns + int(SIGN_OF_LIFE_S * NS))
        self._watchdog = self._loop.call_later(max((min(due_ns) - now) / NS, 0.001), self._watch)
        if fences:
            self._logger.warning(
                "subscription %s of %s: its position could not be kept for %g s; nothing is handled until it is",
                self._key.name, self._key.stream, LEASE_S,
            )  # fmt: skip
            self._owner.on_fenced()

    def on_wire_lost(self) -> None:
        """The connection is gone: a write under way is not answered, and the next one shows what became of it."""
        self._flight = None
        self._is_ready = False

    def on_wire_restored(self) -> None:
        """The connection is back: give a sign of life at once."""
        self._stop_looking()  # its question went down with the connection; the write asks the same
        self._write()

    # --- the end -----------------------------------------------------------------------------------------------------

    def drop(self) -> None:
        """End the hold, here; in the key it stays."""
        self._is_over = True
        self._is_ready = False
        for timer in (self._pause, self._watchdog):
            if timer is not None:
                timer.cancel()
        self._stop_looking()
        self.give_up_waiting()

    async def release(self, seq: int, time_ns: int = 0, *, keeps: bool = False) -> bool:
        """End the hold, the key without a holder and with the position `seq` at least; returns whether it is kept.

        `keeps`: the key stays ours, for others to wait until it has aged. Raises EdaError. Takes as long as it takes.
        """
        flight = self._flight
        self.drop()
        self._move(seq, time_ns)
        if flight is not None:
            waiter: asyncio.Future[Answer] = self._loop.create_future()
            flight.on_answer = settling(waiter)
            answer = await self._key.outcome(waiter)
            self._revision = answer.seq if is_stored(answer) else 0
        while True:
            if not self._revision:
                kept = await read_patiently(self._key, self._logger)
                if not self.is_ours(kept):
                    return self._covers(kept)
                self._revision = kept.revision
            answer, _ = await self._key.put(self._value(self._holder if keeps else ""), self._revision)
            if is_stored(answer):
                self.stored = self.target
                return True
            self._revision = 0

    def _covers(self, kept: Kept) -> bool:
        """Whether our last position is in there: given up by us, or taken over from that."""
        value = kept.value
        if value is None or value.epoch < self._epoch or value.created != self.created:
            return False
        return value.seq >= self.target and (value.epoch > self._epoch or not value.holder)

    def _lost(self) -> Closed:
        return Closed(f"the hold on the cursor {self._key.stream}.{self._key.name}")


async def read_patiently(key: CursorKey, logger: logging.Logger) -> Kept:
    """Read the key, however long that takes. Raises ConfigError, Closed, and ServerError when refused for good."""
    grace = GracePeriod()
    while True:
        try:
            return await key.read()
        except (ServerError, Timeout) as error:
            if not grace.allows(error):
                raise
            logger.debug("subscription %s of %s: reading its position: %s", key.name, key.stream, error)
        await asyncio.sleep(RETRY_S)
