"""Publisher: events at volume, in order, each with a known outcome. What happens per batch, per trouble, per timer.

A publisher is in one of these states:

down      no connection, or the stream is being looked at; accepted events wait
idle      nothing is under way
starting  fast ingest: the first event of a batch is out, the rest waits for its answer
probing   window: after a trouble, the oldest unsettled event is out alone
open      events are written as they are accepted
ending    fast ingest: the batch was committed, or has ended early; its final acknowledgement is awaited
pausing   the server can't now; everything unsettled is written again after a pause
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription

from eda._event import Event
from eda._nuid import next_nuid
from eda._publish import Ingest
from eda._send import Target
from eda._wire import Wire
from eda.errors import Closed, ConfigError, EdaError, NotSupported, PublishFailed, ServerError, Timeout
from eda.streams import StreamInfo

__all__ = ["Mode", "Publisher", "PublisherStats", "check_publisher_options"]

Mode = Literal["auto", "window", "fast"]

MAX_KEPT_FAILURES = 10_000
FLOW = 500  # events per acknowledgement asked for: the server grants no more
MAX_OUTSTANDING = 8  # flow acknowledgements under way; more gains nothing
TICK_S = 0.005  # also how long the tail of a batch waits for another event before it is committed
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0
ENDING_S = 0.25  # how long a batch that the server has forgotten may owe its final acknowledgement
SEND_MANY = 512  # events taken from an iterable at a time

# server/errors.json of nats-server: busy, electing, queue full, store failed; may be over soon.
RETRY_CODES = frozenset({408, 429, 503})
RETRY_ERR_CODES = frozenset({10008, 10077, 10167})
BATCH_DISABLED = 10205
BATCH_UNKNOWN = 10208
TOO_MANY_BATCHES = frozenset({10210, 10211})


class _Refused(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    """Any answer of the server: an acknowledgement, a flow message, a refusal."""

    type: str = ""
    error: _Refused | None = None
    stream: str = ""
    seq: int = 0
    count: int = 0
    msgs: int = 0


_decode_answer = msgspec.json.Decoder(_Answer).decode


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


class Publisher:
    """Publishes events at volume; made by `Conn.publisher`, used as an async context manager.

    Events are stored in the order of `send`, also across time-outs, reconnects and leader changes; only an event that
    the server refuses while later ones are under way can be overtaken by them.
    """

    def __init__(
        self,
        wire: Wire,
        logger: logging.Logger,
        client: str,
        stream: str,
        look: Callable[[], Awaitable[tuple[Target, StreamInfo, bool]]],
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
        self._ack_timeout_s = ack_timeout_s
        self._timeout_s = timeout_s
        self._on_ack = on_ack
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._core: Ingest | None = None
        self._subscription: NatsSubscription | None = None
        self._mode = ""
        self._state = "down"
        self._flow = 1
        self._messages = 1  # events per flow acknowledgement, as the server last said
        self._probe = False
        self._pause_s = PAUSE_FIRST_S
        self._pausing: asyncio.TimerHandle | None = None
        self._ending_by = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._pump_soon = False
        self._n_seen = 0
        self._senders: deque[asyncio.Future[None]] = deque()
        self._flushers: list[tuple[int, asyncio.Future[None]]] = []
        self._failures: list[tuple[Event, BaseException]] = []
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Publisher to {self.stream!r}, {self._mode or 'not opened'}, {self._state}>"

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
        if self._core is not None or self._closed:
            raise Closed("publisher (it can be opened once)")
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
        self._core = Ingest(
            self,
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
        self._subscription = await self._wire.attach(f"{inbox}.>", self._core)
        self._choose(can_fast)
        self._wire.on_lost.append(self._on_lost)
        self._wire.on_restored.append(self._on_restored)
        self._wire.on_refused.append(self._on_refused)
        self._wire.on_closed.append(self._on_wire_closed)
        self._state = "idle"
        return self

    async def close(self) -> None:
        """Close without waiting for what is pending (`flush` does that): such events fail with Closed."""
        if self._closed:
            return
        self._closed = True
        for handle in (self._timer, self._pausing):
            if handle is not None:
                handle.cancel()
        if self._looking is not None:
            self._looking.cancel()
        for calls, call in (
            (self._wire.on_lost, self._on_lost),
            (self._wire.on_restored, self._on_restored),
            (self._wire.on_closed, self._on_wire_closed),
        ):
            if call in calls:
                calls.remove(call)
        if self._on_refused in self._wire.on_refused:
            self._wire.on_refused.remove(self._on_refused)
        if self._core is not None:
            self._core.stop()
            for seq in self._core.window.pending():
                self._fail(seq, Closed("publisher"))
        if self._subscription is not None:
            await self._wire.detach(self._subscription)
            self._wire.release(self._subscription)
        self._wake_all()
        self._on_closed(self)

    def _choose(self, can_fast: bool) -> None:
        """Choose the mode; renewed after every reconnect, since it may be another server."""
        assert self._core is not None
        fast = can_fast and self._wanted_mode != "window"
        self._mode = "fast" if fast else "window"
        if not fast:
            self._core.use_window()

    # --- sending -----------------------------------------------------------------------------------------------------

    async def send(self, event: Event) -> str:
        """Take an event into the window and return the id it goes under.

        Waits only while the window is full, or the connection can't take more: that is the back-pressure. Raises
        ConfigError or EncodeError for an event that can't be sent, Closed; PublishFailed when more than 10,000 failures
        were kept since the last `flush`. Cancelled while it waits, nothing of the event was taken.
        """
        core = self._core
        if core is None or core.is_full or self._senders or self._out.paused or self._closed or self._failures:
            core = await self._room()
        if type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        event_id = core.accept(event)
        if self._timer is None or not core.writing:
            self._accepted()
        return event_id

    async def send_many(self, events: Iterable[Event] | AsyncIterable[Event]) -> list[str]:
        """Send all events, in order, and return their ids; like `send`, waits while the window is full.

        Takes any iterable, async ones too. Raises what `send` does: then all events before the culprit were taken, and
        none after. Cancelled, those taken so far are sent.
        """
        ids: list[str] = []
        if isinstance(events, list):
            await self._send_list(events, ids)
        elif isinstance(events, AsyncIterable):
            async for event in events:
                ids.append(await self.send(event))
        else:
            part: list[Event] = []
            for event in events:
                part.append(event)
                if len(part) == SEND_MANY:
                    await self._send_list(part, ids)
                    part = []
            await self._send_list(part, ids)
        return ids

    async def _send_list(self, events: list[Event], ids: list[str]) -> None:
        at = 0
        while at < len(events):
            core = await self._room()
            try:
                at = core.accept_many(events, at, ids)
            finally:
                self._accepted()

    async def _room(self) -> Ingest:
        """Wait until the next event may be taken. Raises Closed, PublishFailed."""
        while True:
            core = self._core
            if core is None or self._closed or self._wire.is_closed:
                raise Closed("publisher" if core is not None else "publisher (enter it with async with first)")
            if len(self._failures) > MAX_KEPT_FAILURES:
                failures, self._failures = self._failures, []
                raise PublishFailed(failures)
            if self._out.paused:
                await self._wire.writable()
            elif core.is_full:
                await self._wait_for_room(core)
            else:
                return core

    async def _wait_for_room(self, core: Ingest) -> None:
        sender: asyncio.Future[None] = self._loop.create_future()
        self._senders.append(sender)
        core.room_wanted = True
        if self._state == "idle":
            self._pump()
        elif self._state == "open" and core.fast and core.n_batch - core.n_settled < self._messages:
            self._commit()  # no flow acknowledgement is due for what the window holds
        try:
            await sender
        finally:
            if sender in self._senders:
                self._senders.remove(sender)

    def _accepted(self) -> None:
        """See that what was accepted gets written, and watched."""
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._on_time)
        if self._state == "idle" and not self._pump_soon:
            # At the end of this turn it shows whether it is one event or many.
            self._pump_soon = True
            self._loop.call_soon(self._pump)

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
            self._settle_tail()
            try:
                await flusher
            finally:
                self._flushers = [each for each in self._flushers if each[1] is not flusher]
                core.flush_to = min((each for each, _ in self._flushers), default=0)
        if self._failures:
            failures, self._failures = self._failures, []
            raise PublishFailed(failures)

    def stats(self) -> PublisherStats:
        """Return the counts as of now."""
        core = self._core
        if core is None:
            return PublisherStats(0, 0, 0, 0, 0, 0, self._mode)
        return PublisherStats(
            sent=core.n_accepted,
            acknowledged=core.n_acknowledged,
            resent=core.n_resent,
            failed=core.n_failed,
            pending=core.n_pending,
            pending_bytes=core.n_bytes,
            mode=self._mode,
        )

    # --- states ------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Write what waits, as the state allows."""
        core = self._core
        self._pump_soon = False
        if core is None or self._closed or self._state != "idle" or core.n_waiting == 0:
            return
        if not self._wire.is_up:
            self._state = "down"
        elif self._mode == "fast":
            self._flow = max(1, min(FLOW, self._max_pending // 4, self._flow_by_bytes(core)))
            core.use_batch(next_nuid().encode(), self._flow)
            if core.n_waiting == 1:
                core.write(1, True, True)
                self._await_end(self._ack_timeout_s)
            else:
                core.write(1, True, False)
                self._state = "starting"
        elif self._probe:
            self._state = "probing"
            core.write(1, False, False)
        else:
            self._state = "open"
            core.resume()

    def _flow_by_bytes(self, core: Ingest) -> int:
        """A quarter of the window in events, where its bytes are what fills it."""
        if core.n_pending == 0:
            return FLOW
        return int(self._max_bytes / 4 / max(core.n_bytes / core.n_pending, 1))

    def _settle_tail(self) -> None:
        """Fast ingest: have the events that no flow acknowledgement will come for acknowledged."""
        core = self._core
        assert core is not None
        if self._state == "idle":
            self._pump()
        elif self._state == "open" and core.fast and core.n_pending:
            self._commit()

    def _commit(self) -> None:
        assert self._core is not None
        if self._core.n_waiting == 0:
            self._core.commit()
            self._await_end(self._ack_timeout_s)

    def _await_end(self, patience_s: float) -> None:
        assert self._core is not None
        self._state = "ending"
        self._core.stop()
        self._ending_by = self._loop.time() + patience_s

    def _again(self, pause_s: float) -> None:
        """Write everything that is not settled again, from the oldest event on, after a pause."""
        core = self._core
        if core is None or self._state in ("pausing", "down") or self._closed:
            return
        core.restart()
        self._probe = True
        if pause_s <= 0:
            self._state = "idle"
            self._pump()
            return
        self._state = "pausing"
        self._pausing = self._loop.call_later(pause_s, self._paused)

    def _back_off(self) -> None:
        pause_s = self._pause_s
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
        self._again(pause_s)

    def _paused(self) -> None:
        self._pausing = None
        if self._state == "pausing":
            self._state = "idle"
            self._pump()

    # --- what the core tells -----------------------------------------------------------------------------------------

    def on_room(self) -> None:
        """Wake those who wait for room."""
        while self._senders:
            sender = self._senders.popleft()
            if not sender.done():
                sender.set_result(None)

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
        except Exception:
            self._logger.exception("on_ack(%r, %d) failed", event_id, sequence)

    def on_probed(self) -> None:
        """Window: the oldest event is acknowledged, the rest may follow."""
        if self._state == "probing" and self._core is not None:
            self._state = "open"
            self._probe = False
            self._pause_s = PAUSE_FIRST_S
            self._core.resume()

    def on_flow(self, n_messages: int) -> None:
        """Fast ingest: the batch goes on; the server acknowledges every `n_messages`."""
        core = self._core
        assert core is not None
        self._messages = max(1, n_messages)
        core.set_limit(self._messages * MAX_OUTSTANDING)
        if self._state == "starting":
            self._state = "open"
            self._pause_s = PAUSE_FIRST_S
        if self._state == "open":
            core.resume()
            if self._flushers:
                self._commit()

    def on_batch_answer(self, seq: int, status: int, payload: bytes) -> None:
        """Fast ingest: anything but a flow acknowledgement."""
        core = self._core
        assert core is not None
        answer = self._decode(status, payload)
        if answer is None or answer.type in ("gap", "err"):
            return  # information only: the final acknowledgement says what was stored
        if answer.type == "ack":
            core.settle_first(answer.seq)
            self.on_flow(answer.msgs)
        elif answer.error is not None:
            self._batch_refused(seq, answer.error)
        elif answer.stream != self.stream:
            self._logger.error("stream %r answers for stream %r", answer.stream, self.stream)
        else:
            core.settle_first(answer.count)
            self._pause_s = PAUSE_FIRST_S
            self._state = "ending"
            self._again(0)

    def _batch_refused(self, seq: int, refused: _Refused) -> None:
        core = self._core
        assert core is not None
        if refused.code in RETRY_CODES or refused.err_code in RETRY_ERR_CODES:
            self._back_off()
            if refused.code == 503:
                self._look_again()
        elif refused.err_code == BATCH_UNKNOWN:
            if self._state in ("open", "starting"):
                self._await_end(ENDING_S)
        elif refused.err_code == BATCH_DISABLED or (
            refused.err_code in TOO_MANY_BATCHES and self._wanted_mode != "fast"
        ):
            self._choose(can_fast=False)
            self._again(0)
        elif refused.err_code in TOO_MANY_BATCHES:
            self._back_off()
        elif core.n_settled == 0 and seq == 1:
            # The answer to the first event of a batch is that event's verdict.
            self._fail(core.oldest, self._refusal(refused))
            self._again(0)
        elif self._state == "open":
            # A later event was refused; the server ends the batch when it sees the next one, or this commit.
            core.commit()
            self._await_end(self._ack_timeout_s)

    def on_window_answer(self, seq: int, status: int, payload: bytes) -> None:
        """Window: anything but a plain acknowledgement."""
        answer = self._decode(status, payload)
        if answer is None:
            return
        refused = answer.error
        if refused is None:
            self._fail(seq, ServerError(500, 0, f"stream {answer.stream!r} owns the subject of {self.stream!r}"))
        elif refused.code in RETRY_CODES or refused.err_code in RETRY_ERR_CODES:
            core = self._core
            if self._state == "open" or (core is not None and self._state == "probing" and seq == core.oldest):
                self._back_off()
                if refused.code == 503:
                    self._look_again()
            return
        else:
            self._fail(seq, self._refusal(refused))
        if self._state == "probing":
            self._again(0)

    def _decode(self, status: int, payload: bytes) -> _Answer | None:
        if status == 503:
            return _Answer(error=_Refused(503, 0, "no responders"))
        try:
            return _decode_answer(payload)
        except msgspec.DecodeError:
            self._logger.warning("stream %s: an acknowledgement that is none is ignored", self.stream)
            return None

    def _refusal(self, refused: _Refused) -> ServerError:
        return ServerError(refused.code, refused.err_code, refused.description, operation=f"publish to {self.stream}")

    def _fail(self, seq: int, error: Exception) -> None:
        """Settle an event with an error, and tell of it."""
        assert self._core is not None
        failed = self._core.fail(seq)
        if failed is None:
            return
        event, event_id = failed
        if isinstance(error, Timeout):
            error.event_id = event_id
        self._failures.append((event, error))
        if self._on_error is not None:
            try:
                self._on_error(event, error)
            except Exception:
                self._logger.exception("on_error failed for event %s", event_id)

    def _fail_all(self, error: Exception) -> None:
        assert self._core is not None
        for seq in self._core.window.pending():
            self._fail(seq, error)

    # --- the clock ---------------------------------------------------------------------------------------------------

    def _on_time(self) -> None:
        core = self._core
        assert core is not None
        for seq in core.overdue():
            self._fail(seq, Timeout("publish", self._timeout_s))
        if core.n_pending == 0:
            self._timer = None
            if self._state in ("open", "ending", "starting", "probing"):
                self._state = "idle"
                core.restart()
            return
        self._timer = self._loop.call_later(TICK_S, self._on_time)
        quiet = core.n_accepted == self._n_seen
        self._n_seen = core.n_accepted
        if self._state == "open" and core.fast and quiet and core.n_waiting == 0:
            self._commit()
        elif self._state == "ending" and self._loop.time() > self._ending_by:
            self._logger.info("publisher to %s: a batch ended without a word", self.stream)
            self._again(0)
        elif self._state in ("open", "starting", "probing") and core.waited_s() > self._ack_timeout_s:
            self._logger.info("publisher to %s: no acknowledgement in %g s", self.stream, self._ack_timeout_s)
            self._again(0)

    # --- the connection and the stream -------------------------------------------------------------------------------

    def _on_lost(self) -> None:
        if self._core is not None:
            self._state = "down"
            self._core.restart()
            if self._pausing is not None:
                self._pausing.cancel()

    def _on_restored(self) -> None:
        self._state = "down"
        self._look_again()

    def _look_again(self) -> None:
        """Find out, once at a time, what the stream allows now, and go on."""
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._looked())

    async def _looked(self) -> None:
        pause_s = PAUSE_FIRST_S
        while not self._closed and self._wire.is_up:
            try:
                _, _, can_fast = await self._look()
            except EdaError as error:
                if not error.retryable and not isinstance(error, Closed):
                    self._fail_all(error)
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
                continue
            if self._state == "down":
                assert self._core is not None
                self._choose(can_fast)
                self._core.restart()
                self._probe = True
                self._state = "idle"
                self._pump()
            return

    def _on_refused(self, kind: str, subject: str) -> None:
        if kind != "publish" or self._core is None or subject.partition(".")[0] != self.stream:
            return
        for seq in self._core.window.pending():
            if self._core.subject_at(seq) == subject:
                self._fail(seq, ServerError(403, 0, f"no permission to publish to {subject}"))
        if self._state in ("starting", "open", "ending", "probing"):
            self._again(0)

    def _on_wire_closed(self) -> None:
        if self._core is not None and not self._closed:
            self._fail_all(Closed("connection"))
        self._wake_all()

    def _wake_all(self) -> None:
        self.on_room()
        for _, flusher in self._flushers:
            if not flusher.done():
                flusher.set_result(None)
