"""Publisher: events at volume, in order, each with a known outcome. When they are written is the pump's affair."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Self

from nats.aio.subscription import Subscription as NatsSubscription

from eda._event import Event
from eda._publish import Ingest
from eda._send import Target
from eda._wire import Wire
from eda.errors import Closed, CodecError, ConfigError, NotSupported, PublishFailed, Timeout
from eda.pump import Mode, Pump
from eda.streams import StreamInfo

__all__ = ["Mode", "Publisher", "PublisherStats", "check_publisher_options"]

# Where the stream's events go, the stream as it is, and whether it takes fast ingest from this publisher.
Look = Callable[[], Awaitable[tuple[Target, StreamInfo, bool]]]

MAX_KEPT_FAILURES = 10_000
SEND_MANY = 512  # events taken from an iterable at a time


def check_publisher_options(
    mode: object,
    max_pending: object,
    max_pending_bytes: object,
    ack_timeout_s: object,
    timeout_s: object,
    on_ack: object,
    on_error: object,
) -> None:
    """Raise ConfigError naming the option that can't be right."""
    if mode not in ("auto", "window", "fast"):
        raise ConfigError(f"mode must be 'auto', 'window' or 'fast', not {mode!r}", argument="mode")
    for name, number, most in (("max_pending", max_pending, 65_536), ("max_pending_bytes", max_pending_bytes, 2**40)):
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
            raise ConfigError(f"{name} must be an int from 1 to {most}, not {number!r}", argument=name)
    for name, seconds in (("ack_timeout_s", ack_timeout_s), ("timeout_s", timeout_s)):
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0.001 <= seconds <= 86_400:
            raise ConfigError(f"{name} must be from 0.001 to 86400 seconds, not {seconds!r}", argument=name)
    for name, call in (("on_ack", on_ack), ("on_error", on_error)):
        if call is not None and not callable(call):
            raise ConfigError(f"{name} must be callable or None, not {call!r}", argument=name)


@dataclass(frozen=True)
class PublisherStats:
    """What became of a publisher's events. `sent` = `acknowledged` + `failed` + `pending`, always."""

    sent: int
    acknowledged: int
    resent: int
    failed: int
    pending: int
    pending_bytes: int
    mode: str


class _Turn:
    """A sender's place in the queue for room: events are taken in the order in which `send` was called."""

    def __init__(self) -> None:
        self.woken: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)


class Publisher:
    """Publishes events at volume; made by `Conn.publisher`, used as an async context manager.

    Events are stored in the order of `send`, also across time-outs, reconnects and leader changes; only an event that
    the server refuses while later ones are under way can be overtaken by them. One that was sent again, because its
    first answer was lost, and is refused then, may be stored all the same.
    """

    def __init__(
        self,
        wire: Wire,
        logger: logging.Logger,
        client: str,
        stream: str,
        look: Look,
        on_closed: Callable[[Publisher], None],
        *,
        mode: Mode,
        dedup: bool,
        max_pending: int,
        max_pending_bytes: int,
        ack_timeout_s: float,
        timeout_s: float,
        on_ack: Callable[[str, int], object] | None,
        on_error: Callable[[Event, Exception], object] | None,
    ) -> None:
        self.stream = stream
        self._wire = wire
        self._out = wire.out
        self._logger = logger
        self._client = client
        self._look = look
        self._on_closed = on_closed
        self._wanted_mode = mode
        self._dedup = dedup
        self._max_pending = max_pending
        self._max_bytes = max_pending_bytes
        self._timeout_s = timeout_s
        self._on_ack = on_ack
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._core: Ingest | None = None
        self._pump = Pump(self, wire, logger, stream, look, mode=mode, ack_timeout_s=ack_timeout_s, timeout_s=timeout_s)
        self._subscription: NatsSubscription | None = None
        self._senders: deque[_Turn] = deque()
        self._flushers: list[tuple[int, asyncio.Future[None]]] = []
        self._failures: list[tuple[Event, BaseException]] = []
        self._overflows = False  # more failures are kept than should be
        self._opening: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Publisher to {self.stream!r}, {self._pump.mode or 'not opened'}, {self._pump.state}>"

    # --- opening and closing -----------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        try:
            await self.flush()
        except PublishFailed as error:
            if exc_type is None:
                raise
            self._logger.error("leaving a publisher to %s: %s", self.stream, error)
        finally:
            await self.close()

    async def _open(self) -> Self:
        if self._closed:
            raise Closed("publisher")
        if self._opening is None:
            self._opening = self._loop.create_task(self._begin())
        try:
            await self._opening
        except BaseException:
            await self.close()
            raise
        return self

    async def _begin(self) -> None:
        target, info, can_fast = await self._look()
        longest = info.options.dedup_window_s / 2
        if self._dedup and self._timeout_s > longest:
            raise ConfigError(
                f"timeout_s={self._timeout_s:g} must be at most {longest:g}: half of the duplicate window "
                f"({longest * 2:g} s) of stream {self.stream!r}, past which a late retry could be stored twice",
                argument="timeout_s",
            )
        if self._wanted_mode == "fast" and not can_fast:
            raise NotSupported(
                f"fast ingest into stream {self.stream!r}",
                needs="nats-server 2.14, a stream with fast_ingest and max_pending of 4 or more",
                server=f"nats-server {self._wire.server_version}",
            )
        inbox = self._wire.new_inbox()
        core = Ingest(
            self._pump,
            self._out,
            target,
            f"{inbox}.".encode(),
            self._client,
            dedup=self._dedup,
            tell=self._on_ack is not None,
            max_pending=self._max_pending,
            max_bytes=self._max_bytes,
            give_up_s=self._timeout_s,
        )
        self._subscription = await self._wire.attach(f"{inbox}.>", core)
        self._wire.on_closed.append(self._on_wire_closed)
        self._pump.start(core, can_fast)
        self._core = core

    async def close(self) -> None:
        """Close without waiting for what is pending (`flush` does that): such events fail with Closed."""
        if self._closed:
            return
        self._closed = True
        self._pump.close()
        if self._on_wire_closed in self._wire.on_closed:
            self._wire.on_closed.remove(self._on_wire_closed)
        if self._core is not None:
            self._pump.fail_all(Closed("publisher"))
        self._wake_all()
        try:
            if self._subscription is not None:
                await self._wire.detach(self._subscription)
                self._wire.release(self._subscription)
        finally:
            self._on_closed(self)

    # --- sending -----------------------------------------------------------------------------------------------------

    async def send(self, event: Event) -> str:
        """Take an event into the window and return the id it goes under.

        Waits only while the window is full, or the connection can't take more: that is the back-pressure. Raises
        ConfigError or EncodeError for an event that can't be sent, Closed; PublishFailed when more than 10,000 failures
        were kept since the last `flush`. Cancelled while it waits, nothing of the event was taken.
        """
        core = self._core
        if core is None or self._senders or self._closed or self._overflows:
            core = await self._room()
        elif (event_id := core.accept_flowing(event)) is not None:
            return event_id
        elif core.is_full or self._out.paused:
            core = await self._room()
        if type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        event_id = core.accept(event)
        self._pump.accepted()
        return event_id

    async def send_many(self, events: Iterable[Event] | AsyncIterable[Event]) -> list[str]:
        """Send all events, in order, and return their ids; like `send`, waits while the window is full.

        Takes any iterable, async ones too. Raises what `send` and the iterable do: then all events before the culprit
        were taken, and none after. Cancelled, those taken so far are sent.
        """
        ids: list[str] = []
        if type(events) is list:
            await self._send_list(events, ids)
        elif isinstance(events, AsyncIterable):
            async for event in events:
                await self._send_list([event], ids)
        else:
            part: list[Event] = []
            try:
                for event in events:
                    part.append(event)
                    if len(part) == SEND_MANY:
                        whole, part = part, []
                        await self._send_list(whole, ids)
            finally:  # also what came before the iterable failed
                await self._send_list(part, ids)
        return ids

    async def _send_list(self, events: list[Event], ids: list[str]) -> None:
        at = 0
        while at < len(events):
            core = await self._room()
            try:
                at = core.accept_many(events, at, ids)
            except CodecError as error:
                error.add_note(f"events[{len(ids)}]")
                raise
            finally:
                self._pump.accepted()

    async def _room(self) -> Ingest:
        """Wait until the next event may be taken, which the caller then does at once. Raises Closed, PublishFailed."""
        turn = _Turn()
        self._senders.append(turn)
        try:
            while True:
                core = self._core
                if core is None or self._closed or self._wire.is_closed:
                    raise Closed("publisher (enter it with async with first)" if not self._closed else "publisher")
                if self._overflows:
                    raise self._all_failures()
                if self._senders[0] is turn:
                    if self._out.paused:
                        await self._wire.writable()
                        continue
                    if not core.is_full:
                        return core
                    core.room_wanted = True
                    self._pump.full()
                turn.woken = self._loop.create_future()
                await turn.woken
        finally:
            self._senders.remove(turn)
            if self._senders:
                self._senders[0].wake()

    def _all_failures(self) -> PublishFailed:
        failures, self._failures = self._failures, []
        self._overflows = False
        return PublishFailed(failures)

    async def flush(self) -> None:
        """Wait until everything sent so far is settled: at most the publish timeout.

        Raises PublishFailed with all failures since the last flush.
        """
        core = self._core
        if core is None:
            return
        to = core.newest
        if core.oldest < to and not self._closed:
            flusher: asyncio.Future[None] = self._loop.create_future()
            self._flushers.append((to, flusher))
            core.flush_to = min(each for each, _ in self._flushers)
            self._pump.flush()
            try:
                await flusher
            finally:
                self._flushers = [each for each in self._flushers if each[1] is not flusher]
                core.flush_to = min((each for each, _ in self._flushers), default=0)
        if self._failures:
            raise self._all_failures()

    def stats(self) -> PublisherStats:
        """Return the counts as of now."""
        core = self._core
        if core is None:
            return PublisherStats(0, 0, 0, 0, 0, 0, self._pump.mode)
        return PublisherStats(
            sent=core.n_accepted,
            acknowledged=core.n_acknowledged,
            resent=core.n_resent,
            failed=core.n_failed,
            pending=core.n_pending,
            pending_bytes=core.n_bytes,
            mode=self._pump.mode,
        )

    # --- what the pump tells ------------------------------------------------------------------------------------------

    def on_room(self) -> None:
        """Wake those who wait for room."""
        for turn in self._senders:
            turn.wake()

    def on_flushed(self) -> None:
        """Wake the flushes that are complete."""
        core = self._core
        assert core is not None
        for to, flusher in self._flushers:
            if core.oldest >= to and not flusher.done():
                flusher.set_result(None)
        core.flush_to = min((to for to, flusher in self._flushers if not flusher.done()), default=0)

    def on_acknowledged(self, event_id: str, sequence: int) -> None:
        """Tell the user of an acknowledgement."""
        try:
            assert self._on_ack is not None
            self._on_ack(event_id, sequence)
        except (Exception, asyncio.CancelledError):
            self._logger.exception("on_ack(%r, %d) failed", event_id, sequence)

    def on_failed(self, seq: int, error: Exception) -> None:
        """Settle an event with an error, and tell of it."""
        assert self._core is not None
        failed = self._core.fail(seq)
        if failed is None:
            return
        event, event_id = failed
        if isinstance(error, Timeout):
            error.event_id = event_id
        self._failures.append((event, error))
        self._overflows = len(self._failures) > MAX_KEPT_FAILURES
        if self._on_error is not None:
            try:
                self._on_error(event, error)
            except (Exception, asyncio.CancelledError):
                self._logger.exception("on_error failed for event %s", event_id)

    def _on_wire_closed(self) -> None:
        if self._core is not None and not self._closed:
            self._pump.fail_all(Closed("connection"))
        self._wake_all()

    def _wake_all(self) -> None:
        self.on_room()
        for _, flusher in self._flushers:
            if not flusher.done():
                flusher.set_result(None)
