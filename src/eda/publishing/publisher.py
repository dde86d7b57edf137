"""`Publisher`: publishes many events in order, and reports the outcome of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Callable, Generator, Iterable, Sized
from typing import Any, Self

from nats.aio.subscription import Subscription as NatsSubscription

from eda._event import Event
from eda.errors import Closed, CodecError, ConfigError, NotSupported, PublishFailed
from eda.jetstream.pack_mark import check_packed
from eda.jetstream.store_mark import check_unmarked
from eda.log import with_fields
from eda.publishing._pending import OTHER_LOOP
from eda.publishing._publisher_core import PublisherCore
from eda.publishing._sending import with_own_send
from eda.publishing.column_sender import ColumnSender
from eda.publishing.cores import new_core
from eda.publishing.lifecycle import Lifecycle
from eda.publishing.outcomes import Outcomes
from eda.publishing.publisher_options import PublisherOptions
from eda.publishing.publisher_stats import stats_of
from eda.publishing.pump import Pump
from eda.publishing.stream_looks import StreamLooks
from eda.publishing.stream_watch import CheckStream
from eda.publishing.waiters import FlushWaiters, SenderQueue
from eda.receipt import Receipt
from eda.stats import PublisherStats
from eda.transport.wire import Wire

__all__ = ["Publisher"]

SEND_MANY = 512  # how many events `send_many` takes from an iterable at a time
FLUSH_ON_ERROR_S = 5.0  # time-out of the flush if an exception leaves the block


@with_own_send
class Publisher(ColumnSender):
    """Publishes events at volume; made by `Conn.publisher`, used as an async context manager.

    Events are stored in the order of `send`, also across time-outs, reconnects and leader changes. If the server
    refuses an event while later events are under way, the later events are still stored. With packs, the events of one
    message have the same outcome. If an event was written twice because the first answer was lost, and the server
    refuses the second copy, the event may be stored all the same.

    At its end, the context flushes and then closes the publisher. If the block was cancelled, or its time-out is over,
    the context does not flush: pending events fail with Closed. After any other exception, the flush takes at most 5 s.
    """

    def __init__(
        self,
        wire: Wire,
        logger: logging.Logger,
        client: str,
        stream: str,
        options: PublisherOptions,
        check_stream: CheckStream,
        looks: StreamLooks,
        *,
        on_opening: Callable[[Any], None],
        on_closed: Callable[[Any], None],
    ) -> None:
        self.stream = stream
        self._wire = wire
        self._out = wire.out
        self._loop = wire.loop
        self._logger = with_fields(logger, eda_stream=stream)
        self._client = client
        self._options = options
        self._check_stream = check_stream
        self._on_opening = on_opening
        self._on_closed = on_closed
        self._core = None  # not opened yet
        self._queue = SenderQueue()
        self._senders = self._queue.queue
        self._flushes = FlushWaiters()
        self._outcomes = Outcomes(logger, options)
        self._pump = Pump(
            wire,
            logger,
            stream,
            options,
            check_stream,
            looks,
            self._outcomes,
            on_room=self._wake_senders,
            on_flushed=self._end_flushes,
        )
        self._subscription: NatsSubscription | None = None
        self._lifecycle = Lifecycle("publisher", self._loop, open=self._begin, stop=self._stop, clean_up=self._clean_up)

    def __repr__(self) -> str:
        machine = self._pump.machine
        return f"<Publisher to {self.stream!r}, {machine.mode or 'not opened'}, {machine.state}>"

    # --- opening and closing -----------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, _: object = None
    ) -> None:
        try:
            if error is None:
                await self.flush()
            elif not _ends_now(error):
                async with asyncio.timeout(FLUSH_ON_ERROR_S):
                    await self.flush()
        except (PublishFailed, TimeoutError) as failed:
            if error is None:
                raise
            if isinstance(failed, PublishFailed):
                self._logger.error("publisher to %s: the flush after an exception failed: %s", self.stream, failed)
        finally:
            await self.close()

    async def _open(self) -> Self:
        self._check_loop()
        if self._closed:
            raise Closed("publisher")
        if not self._lifecycle.has_begun:
            self._on_opening(self)
        await self._lifecycle.open()
        return self

    async def _begin(self) -> None:
        destination, info, can_fast = await self._check_stream(True)
        check_unmarked(info)
        options = self._options
        if options.pack is not None:
            check_packed(info)
        give_up_s = self._pump.choose_timeout(info)
        if options.mode == "fast" and not can_fast:
            raise NotSupported(
                f"fast ingest into stream {self.stream!r}",
                needs="nats-server 2.14, a stream with fast_ingest and max_pending of 4 or more",
                server=f"nats-server {self._wire.server_version}",
            )
        inbox = self._wire.new_inbox()
        of_core: dict[str, Any] = {"wants_acks": self._outcomes.wants_acks, "give_up_s": give_up_s}
        core = new_core(self._pump, self._wire, destination, inbox, self._client, options, **of_core)
        self._subscription = await self._wire.attach(f"{inbox}.>", core)
        if self._closed:  # in Python 3.11, wait_for in nats-py's requests may swallow the cancellation by `close`
            raise Closed("publisher")
        self._wire.on_closed.append(self._on_wire_closed)
        self._outcomes.core = core
        self._pump.start(core, can_fast=can_fast)
        self._core = core

    async def close(self) -> None:
        """Close without waiting for pending events, which fail with Closed; `flush` waits for them.

        If the caller is cancelled, closing goes on. Raises ConfigError in another event loop or thread.
        """
        self._check_loop()
        await self._lifecycle.close()

    def _stop(self) -> None:
        """Fail the pending events, and wake all waiting senders and flushes."""
        self._closed = True
        n_pending = self.stats().pending
        self._pump.close()
        if self._on_wire_closed in self._wire.on_closed:
            self._wire.on_closed.remove(self._on_wire_closed)
        if n_pending:
            self._logger.warning("publisher to %s: closed with %d events pending, which fail", self.stream, n_pending)
            self._pump.fail_all(Closed("publisher"))
        self._wake_all()

    async def _clean_up(self) -> None:
        try:
            if self._subscription is not None:
                await self._wire.detach(self._subscription)
        finally:
            if self._subscription is not None:
                self._wire.release(self._subscription)
            self._on_closed(self)

    def _on_wire_closed(self) -> None:
        if self._core is not None and not self._closed:
            self._pump.fail_all(Closed("connection"))
        self._wake_all()

    def _check_loop(self) -> None:
        if asyncio._get_running_loop() is not self._loop:
            raise ConfigError(OTHER_LOOP, argument="loop")

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _send_slowly(self, event: Event) -> str:
        """Send an event for which the publisher has something to do."""
        core = self._core
        if core is None or self._must_queue(core) or core.needs_turn:
            core = await self._room()
        if type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        event_id = core.accept(event)
        self._pump.on_accepted()
        return event_id

    def _must_queue(self, core: PublisherCore) -> bool:
        """Return whether a sender has to wait, or gets an error."""
        return bool(self._senders) or self._closed or core.is_overfull or core.is_full or self._out.paused

    async def send_and_wait(self, event: Event) -> Receipt:
        """Send an event in order with the others, wait until it is stored, and return its receipt.

        In fast mode the event gets a batch of its own, because only then does the server's answer tell its sequence.
        So each such event takes a round trip, one after the other. For many events at a time, `Conn.publish` is faster.
        With packs, the events of concurrent callers share packs; each of these packs has a batch of its own.

        Raises what `send` raises, and the error with which the event failed: ServerError, Timeout, Closed. This failure
        is reported to `on_error` too, but not by `flush`. If the caller is cancelled while it waits for room,
        the event is not published. If it is cancelled later, the event is published all the same.
        """
        core = self._core
        if core is None or self._must_queue(core):
            core = await self._room()
        if type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        stored: asyncio.Future[int] = self._loop.create_future()
        seq, index, event_id = core.accept_with_receipt(event, stored)
        self._pump.on_accepted_with_receipt()
        try:
            sequence = await stored
        except asyncio.CancelledError:
            if stored.done() and not stored.cancelled() and (error := stored.exception()) is not None:
                # The event failed just before the cancellation arrived, so the caller does not see the error.
                self._outcomes.keep(seq, event if event.id else event.replace(id=event_id), error)
            raise
        finally:
            core.drop_receipt(seq, index)
        return Receipt(event_id, self.stream, abs(sequence), index, sequence < 0)

    async def send_many(self, events: Iterable[Event] | AsyncIterable[Event]) -> list[str]:
        """Send all events in order, and return their ids. Waits for room as `send` does.

        Takes any iterable, also an asynchronous one. Raises what `send` raises for an event, and what the iterable
        raises. In both cases the events before the error were accepted, and no later ones. If the caller is cancelled,
        the events accepted so far are published.
        """
        ids: list[str] = []
        if type(events) is list:
            await self._send_list(events, ids)
        elif isinstance(events, AsyncIterable):
            async for event in events:
                await self._send_list([event], ids)
        elif not isinstance(events, Iterable):
            raise ConfigError(f"events must be an iterable of Event, not {type(events).__name__}", argument="events")
        else:
            part: list[Event] = []
            try:
                for event in events:
                    part.append(event)
                    if len(part) == SEND_MANY:
                        whole, part = part, []
                        await self._send_list(whole, ids)
            finally:  # if the iterable raises, the events before the error are still sent
                await self._send_list(part, ids)
        return ids

    async def _send_list(self, events: list[Event], ids: list[str]) -> None:
        try:
            await self._send_rows(events, lambda core, at: core.accept_many(events, at, ids))
        except CodecError as error:
            error.add_note(f"events[{len(ids)}]")
            raise

    async def _send_rows(self, rows: Sized, accept: Callable[[PublisherCore, int], int]) -> None:
        at = 0
        while at < len(rows):
            core = await self._room()
            try:
                at = accept(core, at)
            finally:
                self._pump.on_accepted()
            if at < len(rows) and not core.is_full:
                await asyncio.sleep(0)  # with packs: the window is large, and the loop has other work, too

    async def _room(self) -> PublisherCore:
        """Wait until there is room for an event, which the caller must accept at once. Raises Closed, PublishFailed."""
        self._check_loop()
        queue = self._queue
        sender = queue.join()
        try:
            while True:
                core = self._core
                if core is None or self._closed or self._wire.is_closed:
                    raise Closed("publisher (enter it with async with first)" if not self._closed else "publisher")
                if core.is_overfull:
                    raise self._outcomes.refusal()
                if queue.is_first(sender):
                    if self._out.paused:
                        await self._wire.wait_writable()
                        continue
                    if core.needs_turn:
                        await asyncio.sleep(0)
                        core.note_turn()
                        continue
                    if not core.is_full:
                        return core
                    core.room_wanted = True
                    core.close_pack()
                    self._pump.machine.make_room()
                sender.woken = self._loop.create_future()
                await sender.woken
        finally:
            first = queue.leave(sender)
            if first is not None and not first.is_awake:
                self._wake_senders()

    async def flush(self) -> None:
        """Wait until all events sent so far are settled, which takes at most the publisher's `timeout_s`.

        Raises PublishFailed with the errors of these events, except those that an earlier call of `flush` or `send` has
        raised. Callers that wait at the same time all get the errors. A call that is cancelled raises no error, so the
        next call raises it. If the publisher has `on_error`, this method never raises PublishFailed. Raises ConfigError
        in another event loop or thread.
        """
        core = self._core
        if core is None:
            return
        self._check_loop()
        core.close_pack()
        to = core.next_seq
        failures = self._outcomes.failures
        listener = failures.listen(to)
        try:
            if core.oldest < to and not self._closed:
                flushed: asyncio.Future[None] = self._loop.create_future()
                self._flushes.add(to, flushed)
                core.flush_to = core.flush_to or to
                self._pump.machine.flush()
                await flushed
            error = failures.tell(listener)
        finally:
            failures.leave(listener)
            self._outcomes.update_overfull()
        if error is not None:
            raise error

    def stats(self) -> PublisherStats:
        """Return the current counts."""
        return stats_of(self._core, self._pump.machine.mode, self._outcomes)

    # --- waking ------------------------------------------------------------------------------------------------------

    def _wake_senders(self) -> None:
        """Wake as many waiting senders as there is room for."""
        assert self._core is not None
        self._queue.wake(self._core.room)

    def _end_flushes(self) -> None:
        """End the flushes whose events are settled."""
        assert self._core is not None
        self._core.flush_to = self._flushes.settled_to(self._core.oldest)

    def _wake_all(self) -> None:
        self._queue.wake_all()
        self._flushes.end_all()


def _ends_now(error: BaseException) -> bool:
    """Return whether the context must not wait: this error shows that its block was cancelled or timed out."""
    task = asyncio.current_task()
    return (
        not isinstance(error, Exception)
        or (isinstance(error, TimeoutError) and isinstance(error.__cause__, asyncio.CancelledError))
        or (task is not None and task.cancelling() > 0)
    )
