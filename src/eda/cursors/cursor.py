"""The cursor of an ordered durable subscription: position, lease and fence in one key of a key-value bucket.

One member of a name holds the key (`cursor_hold`) and writes its position into it, at least every second. Each write
names the revision that it replaces, so of two holders one fails. The others stand by: one that sees the same revision
for 5 s takes the key, with the next epoch. A holder handles nothing 4 s after its last confirmed write was sent. What
the server has in the key decides; clocks of different machines are never compared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from eda._nuid import next_nuid
from eda.cursors.entry import RETRY_S, CursorKey, is_stored
from eda.cursors.filter_check import CursorFilter, OnFilterChange
from eda.cursors.held_cursor import CursorOwner, Hold, read_patiently
from eda.cursors.liveness import TAKEOVER_S, Silence
from eda.cursors.position import Position
from eda.cursors.value import Kept, Value, new_value, successor
from eda.errors import Closed, ConsumerDeleted, EdaError, ServerError, Timeout
from eda.jetstream.api import Api
from eda.jetstream.bucket import Bucket
from eda.jetstream.grace_period import GracePeriod
from eda.jetstream.streams import stream_created
from eda.transport.listener import ConnectionListener
from eda.transport.wire import Wire

__all__ = ["Cursor"]

OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
MAX_CLIENT = 128  # characters of the client's name in `holder`


class Cursor:
    """The cursor of one member. `close` it at the end, also after an `open` that failed or was cancelled and `on_end`.

    `filter`: the subjects that the subscription asks for; `on_filter_change`: what may be done where the kept ones
    differ (CursorFilter); `bucket`: what is wanted of the one it is kept in;
    `start`: the sequence that it begins at if that is what it was told.
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
    ) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._owner = owner
        self._stream = stream
        self._name = name
        self._filter = CursorFilter(logger, stream, name, filter, on_filter_change)
        self._bucket = bucket
        self._start = start
        readable = client[:MAX_CLIENT].encode("utf-8", "replace").decode()
        self.holder = f"{readable}-{next_nuid()}"
        self.epoch = 0  # of the last attempt to take the key
        self._key = CursorKey(wire, api, stream, name)
        self._loop = asyncio.get_running_loop()
        self._first: Callable[[], Awaitable[Position]] | None = None
        self._hold: Hold | None = None
        self._taking: Value | None = None  # what may be in the key by now
        self._task: asyncio.Task[None] | None = None  # opens or stands by
        self._is_open = False
        self._is_closed = False
        self._error: Exception | None = None
        self._listener = ConnectionListener(
            wire, on_lost=self._on_wire_lost, on_restored=self._on_wire_restored,
            on_refused=self._on_wire_refused, on_closed=lambda: self._end(Closed("connection")),
        )  # fmt: skip
        self._grace = GracePeriod()  # with refusals to let it take the key
        self._silence = Silence()  # of the holder that this one stands by for

    # --- what the owner calls ----------------------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Whether the key is ours, as far as we know."""
        return self._hold is not None

    @property
    def lease_until_ns(self) -> int:
        """Until when a handler may start, in the nanoseconds of `read_monotonic_ns`; 0 while the key is not ours."""
        return self._hold.lease_ns if self._hold is not None else 0

    @property
    def created(self) -> str:
        """When the event stream was made that the position is in, in the server's words; empty while not active."""
        return self._hold.created if self._hold is not None else ""

    @property
    def time_ns(self) -> int:
        """When the event at the position was stored, nanoseconds since 1970; 0 while not active or not known."""
        return self._hold.time_ns if self._hold is not None else 0

    @property
    def start(self) -> int:
        """The sequence that the position was told to begin at, while active; 0: none was told."""
        return self._hold.start_at if self._hold is not None else 0

    async def open(self, *, reset: bool, first: Callable[[], Awaitable[Position]]) -> None:
        """Take the key if it is free (`on_active` is called before this returns), else begin to stand by.

        `reset`: forget a kept position first. `first` gives the position to begin with where none is kept, or the kept
        one is of an event stream that was deleted and made again.

        Raises ConfigError (another filter, or no cursor in the key), StreamNotFound, ServerError, Timeout, Closed.
        """
        self._first = first
        self._listener.start()
        beginning = self._task = self._loop.create_task(self._begin(reset))
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await beginning
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

    def advance(self, seq: int, time_ns: int = 0, *, untried: bool = False) -> None:
        """Note that everything up to `seq`, stored at `time_ns`, is done, or that nobody has tried the next."""
        if self._hold is not None:
            self._hold.advance(seq, time_ns, untried=untried)

    async def confirmed(self, seq: int, time_ns: int = 0) -> None:
        """Return when everything up to `seq` is done and kept; written at once. Raises Closed when the key is lost."""
        if self._hold is None:
            raise Closed(f"the hold on the cursor {self._stream}.{self._name}")
        await self._hold.confirmed(seq, time_ns)

    def restart(self, created: str, seq: int, time_ns: int = 0) -> None:
        """Go back to `seq`, while active: the event stream has lost its end, or was made again at `created`."""
        if self._hold is not None:
            self._hold.restart(created, seq, time_ns)

    def give_up_waiting(self) -> None:
        """End the waits of `confirmed`, with Closed."""
        if self._hold is not None:
            self._hold.give_up_waiting()

    async def close(
        self, seq: int = 0, time_ns: int = 0, *, keeps: bool = False, timeout_s: float = CLOSE_TIMEOUT_S
    ) -> bool:
        """Keep the position `seq`, if it is further than what was said, and give the key up: a standby takes over.

        `keeps`: the key is not given up but left, so that a standby takes it over in 5 s.

        Returns whether the position is kept: True for one that stands by, which just stops; False after `on_end`.
        """
        hold, taking = self._stop()
        try:
            async with asyncio.timeout(timeout_s):
                await self._stopped()
                if hold is not None:
                    return await hold.release(seq, time_ns, keeps=keeps)
                if taking is not None:
                    # Whether it was stored is open. A hold that is given up looks.
                    await self._new_hold(taking, 0, 0).release(0)
                return self._error is None
        except (TimeoutError, EdaError) as error:
            self._logger.warning(
                "subscription %s of %s: its last position may not be kept, events may come again: %s",
                self._name, self._stream, str(error) or f"no answer within {timeout_s:g} s",
            )  # fmt: skip
            return False
        finally:
            await self._key.close()

    async def forget(self) -> None:
        """Delete what is kept, whoever holds it, and close: all members end. Raises ServerError, Timeout, Closed."""
        hold, _ = self._stop()
        if hold is not None:
            hold.drop()
        await self._stopped()
        await self._key.close()
        await self._key.delete()

    # --- taking ------------------------------------------------------------------------------------------------------

    async def _begin(self, reset: bool) -> None:
        await self._key.open()
        if reset:
            await self._key.delete()
        kept = await self._first_read()
        await self._key.ensure_bucket(self._bucket)
        while True:
            if kept.value is not None:
                self._filter.check(kept.value)
                self._check_open()
                if kept.value.holder:
                    self._silence.note(kept)
                    await self._key.watch(self._silence.on_hint)
                    self._task = self._loop.create_task(self._stand_by())
                    return
            taken = await self._take(kept)
            if taken is None:
                return
            kept = taken

    async def _first_read(self) -> Kept:
        while True:
            try:
                return await self._key.read()
            except (ServerError, Timeout) as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(RETRY_S)

    async def _take(self, kept: Kept) -> Kept | None:
        """Become the holder in place of what was read; None: we are. Else what is there now.

        Raises StreamNotFound, ServerError, Timeout, Closed, and what `first` raises.
        """
        old = kept.value
        value = await self._successor(old)
        self._check_open()
        self.epoch = value.epoch
        self._taking = value
        revision = kept.revision
        while True:
            answer, sent_ns = await self._key.put(value, revision)
            if is_stored(answer):
                await self._key.unwatch()
                break
            kept = await read_patiently(self._key, self._logger)
            if not (kept.value is not None and kept.value.holder == self.holder and kept.value.epoch == self.epoch):
                self._taking = None
                return kept
            revision = kept.revision  # the answer was lost. By when it was written is not known: the lease needs that
        self._taking = None
        hold = self._hold = self._new_hold(value, answer.seq, sent_ns)
        self._logger.info("subscription %s of %s: active, after %d", self._name, self._stream, value.seq)
        if old is not None:
            self._filter.tell_change(old)
        try:
            self._owner.on_active(value.seq, value.tries, hold.lease_ns)
        finally:
            hold.start()
        return None

    async def _successor(self, old: Value | None) -> Value:
        """Return what takes the key over in place of the old value."""
        assert self._first is not None
        created = await stream_created(self._api, self._stream)
        if old is not None and old.created in ("", created):
            return successor(msgspec.structs.replace(old, created=created), self.holder, self._filter.mine)
        if old is not None:
            self._logger.warning(
                "subscription %s of %s: the stream was made again at %s; the position %d is of the one of %s, and void",
                self._name, self._stream, created, old.seq, old.created,
            )  # fmt: skip
        position = await self._first()
        epoch = old.epoch + 1 if old is not None else 1
        return new_value(
            position.seq, epoch, self.holder, 0, self._filter.mine, created, self._start, position.stored_ns
        )

    def _check_open(self) -> None:
        # Python 3.11's wait_for, in nats-py's requests, may swallow the cancellation by `close`.
        if self._is_closed:
            raise Closed("the cursor")

    def _new_hold(self, value: Value, revision: int, sent_ns: int) -> Hold:
        return Hold(
            self._wire, self._key, self._logger, self._owner, value, revision, sent_ns, self._on_gone, self._end
        )

    def _on_gone(self, kept: Kept) -> None:
        """Stand by again after somebody took the key; end when it was deleted or made anew."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.drop()
        if kept.value is None or kept.value.epoch <= self.epoch:
            self._end(self._deleted(kept))
            return
        self._logger.warning(
            "subscription %s of %s: lost to %s", self._name, self._stream, kept.value.holder or "somebody"
        )
        self._silence.note(kept)
        self._task = self._loop.create_task(self._stand_by())
        self._owner.on_lost()

    def _deleted(self, kept: Kept) -> ConsumerDeleted:
        return ConsumerDeleted(self._stream, self._name, f"its position was {'reset' if kept.value else 'deleted'}")

    # --- standing by -------------------------------------------------------------------------------------------------

    async def _stand_by(self) -> None:
        """Wait until the key is free or its holder silent, and take it."""
        try:
            await self._key.watch(self._silence.on_hint)
            while not await self._try_once():
                await self._silence.last(is_told=self._key.has_hints)
        except Exception as error:  # what `first` raises among them
            if not isinstance(error, EdaError):
                self._logger.critical("subscription %s of %s failed", self._name, self._stream, exc_info=error)
            self._end(error)

    async def _try_once(self) -> bool:
        """Read the key and take it if we may; returns whether we did. EdaError: the end."""
        kept = await read_patiently(self._key, self._logger)
        self._judge(kept)
        value = kept.value
        assert value is not None
        if value.holder and not self._silence.is_long:
            self._grace = GracePeriod()
            return False
        if not self._filter.may_take_over(value):
            await asyncio.sleep(TAKEOVER_S)
            return False
        if value.holder:
            self._logger.warning(
                "subscription %s of %s: %s is silent; taking over", self._name, self._stream, value.holder
            )
        try:
            taken = await self._take(kept)
        except (ServerError, Timeout) as error:
            if not self._grace.allows(error):
                raise
            self._logger.warning("subscription %s of %s: taking over failed: %s", self._name, self._stream, error)
            await asyncio.sleep(RETRY_S)
            return False
        if taken is not None:
            self._judge(taken)
        return taken is None

    def _judge(self, kept: Kept) -> None:
        """Remember what was read. Raises ConsumerDeleted when it is not what the key was turned into by its holders."""
        if not self._silence.follows(kept):
            raise self._deleted(kept)
        self._silence.note(kept)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _stop(self) -> tuple[Hold | None, Value | None]:
        """Do nothing on our own any more; returns what may still be in the key of ours."""
        self._is_closed = True
        self._listener.stop()
        if self._task is not None and self._task is not asyncio.current_task(self._loop):
            self._task.cancel()
        hold, self._hold = self._hold, None
        taking, self._taking = self._taking, None
        return hold, taking

    async def _stopped(self) -> None:
        """Wait until the task has ended."""
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    def _end(self, error: Exception) -> None:
        if self._is_closed:
            return
        self._error = error
        hold, _ = self._stop()
        if hold is not None:
            hold.drop()
        if self._is_open:
            self._owner.on_end(error)

    # --- the connection ----------------------------------------------------------------------------------------------

    def _on_wire_lost(self) -> None:
        if self._hold is not None:
            self._hold.on_wire_lost()

    def _on_wire_restored(self) -> None:
        self._silence.restart()
        if self._hold is not None:
            self._hold.on_wire_restored()

    def _on_wire_refused(self, kind: str, subject: str) -> None:
        if subject == self._key.subject and kind == "subscription":
            self._logger.warning("no permission to subscribe to %s: a takeover takes longer", subject)
        elif subject in self._key.needs:
            self._end(ServerError(403, 0, f"no permission for {subject}, where cursors are kept"))
