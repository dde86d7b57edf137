"""The life of a publisher: opening, closing, and what its pump tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import Any, Self

from nats.aio.subscription import Subscription as NatsSubscription

from eda._event import Event
from eda.callbacks import Callback
from eda.errors import Closed, ConfigError, NotSupported, Timeout
from eda.publishing._publisher_core import OTHER_LOOP, PublisherCore
from eda.publishing.failures import Failures
from eda.publishing.pump import Pump
from eda.publishing.pump_machine import Mode
from eda.publishing.stream_watch import Look
from eda.publishing.waiters import Marks, Turns
from eda.stats import PublisherStats
from eda.transport.wire import Wire

__all__ = ["Mode", "PublisherLife"]


class PublisherLife:
    """Opens and closes a publisher, and keeps what its senders and flushes wait for."""

    def __init__(
        self,
        wire: Wire,
        logger: logging.Logger,
        client: str,
        stream: str,
        look: Look,
        admit: Callable[[Any], None],
        on_closed: Callable[[Any], None],
        *,
        mode: Mode,
        dedup: bool,
        max_pending: int,
        max_pending_bytes: int,
        ack_timeout_s: float,
        timeout_s: float | None,
        on_ack: Callable[[str, int], object] | None,
        on_error: Callable[[Event, Exception], object] | None,
    ) -> None:
        self.stream = stream
        self._wire = wire
        self._out = wire.out
        self._logger = logger
        self._client = client
        self._look = look
        self._admit = admit
        self._on_closed = on_closed
        self._wanted_mode = mode
        self._dedup = dedup
        self._max_pending = max_pending
        self._max_bytes = max_pending_bytes
        self._timeout_s = timeout_s
        self._on_ack = None if on_ack is None else Callback("on_ack", on_ack, logger)
        self._on_error = None if on_error is None else Callback("on_error", on_error, logger)
        self._loop = wire.loop
        self._core: PublisherCore | None = None
        self._pump = Pump(self, wire, logger, stream, look, mode=mode, dedup=dedup, ack_timeout_s=ack_timeout_s)
        self._subscription: NatsSubscription | None = None
        self._turns = Turns()
        self._senders = self._turns.queue
        self._marks = Marks()
        self._failures = Failures()
        self._overflows = False  # more failures are kept than should be
        self._opening: asyncio.Task[None] | None = None
        self._n_opening = 0  # those who wait for it to open
        self._closing: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Publisher to {self.stream!r}, {self._pump.mode or 'not opened'}, {self._pump.state}>"

    # --- opening and closing -----------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()

    async def _open(self) -> Self:
        """Open once, however many wait for it. When the last of them is cancelled, nothing of it is left."""
        self._check_loop()
        if self._closed:
            raise Closed("publisher")
        if self._opening is None:
            self._admit(self)
            self._opening = self._loop.create_task(self._begin())
        opening = self._opening
        self._n_opening += 1
        try:
            # Not awaited itself: that would cancel it for all.
            await asyncio.wait({opening})
        except BaseException:
            if self._n_opening == 1:
                await self.close()
            raise
        finally:
            self._n_opening -= 1
        if self._closed or opening.cancelled():
            raise Closed("publisher")
        if (error := opening.exception()) is not None:
            await self.close()
            raise error
        return self

    async def _begin(self) -> None:
        destination, info, can_fast = await self._look(True)
        give_up_s = self._pump.choose_timeout(self._timeout_s, info)
        if self._wanted_mode == "fast" and not can_fast:
            raise NotSupported(
                f"fast ingest into stream {self.stream!r}",
                needs="nats-server 2.14, a stream with fast_ingest and max_pending of 4 or more",
                server=f"nats-server {self._wire.server_version}",
            )
        inbox = self._wire.new_inbox()
        core = PublisherCore(
            self._pump,
            self._out,
            destination,
            f"{inbox}.".encode(),
            self._client,
            dedup=self._dedup,
            wants_acks=self._on_ack is not None,
            max_pending=self._max_pending,
            max_bytes=self._max_bytes,
            give_up_s=give_up_s,
            loop=self._loop,
            running_loop=asyncio._get_running_loop,
        )
        self._subscription = await self._wire.attach(f"{inbox}.>", core)
        self._wire.on_closed.append(self._on_wire_closed)
        self._pump.start(core, can_fast)
        self._core = core

    async def close(self) -> None:
        """Close without waiting for what is pending (`flush` does that): such events fail with Closed.

        Cancelled, it goes on without its caller. From another event loop or thread it raises ConfigError.
        """
        self._check_loop()
        await asyncio.shield(self._begin_close())

    def _begin_close(self) -> asyncio.Task[None]:
        """Fail what is pending, and see that nothing is left; returns what is done then."""
        if self._closing is None:
            self._closed = True
            if self._opening is not None:
                self._opening.cancel()
            core = self._core
            n_pending = 0 if core is None else core.n_pending
            self._pump.close()
            if self._on_wire_closed in self._wire.on_closed:
                self._wire.on_closed.remove(self._on_wire_closed)
            if n_pending:
                self._logger.warning("publisher to %s: closed with %d events unsettled", self.stream, n_pending)
                self._pump.fail_all(Closed("publisher"))
            self._wake_all()
            self._closing = self._loop.create_task(self._close())
        return self._closing

    async def _close(self) -> None:
        try:
            if self._opening is not None:
                await asyncio.wait({self._opening})
                if not self._opening.cancelled():
                    self._opening.exception()  # those who waited for it may have given up
            if self._subscription is not None:
                await self._wire.detach(self._subscription)
        finally:
            if self._subscription is not None:
                self._wire.release(self._subscription)
            self._on_closed(self)

    def _check_loop(self) -> None:
        if asyncio._get_running_loop() is not self._loop:
            raise ConfigError(OTHER_LOOP, argument="loop")

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
        """Wake those who wait for room, as many as there is room for."""
        assert self._core is not None
        self._turns.wake(self._core.room)

    def on_flushed(self) -> None:
        """Wake the flushes that are complete."""
        core = self._core
        assert core is not None
        core.flush_to = self._marks.reached(core.oldest)

    def on_acknowledged(self, event_id: str, sequence: int) -> None:
        """Tell the user of an acknowledgement."""
        on_ack = self._on_ack
        assert on_ack is not None
        try:
            result = on_ack.call(event_id, sequence)
        except BaseException as error:
            on_ack.failed(error, event_id, sequence)
        else:
            if result is not None:
                on_ack.returned(result)

    def on_receipt(self, receipt: asyncio.Future[int], sequence: int) -> None:
        """Tell a sender that waits for it where its event is stored."""
        if not receipt.done():
            receipt.set_result(sequence)

    def on_failed(self, seq: int, error: Exception) -> None:
        """Settle an event with an error, and tell of it."""
        core = self._core
        assert core is not None
        stored = core.receipts.pop(seq, None)
        failed = core.fail(seq)
        if failed is None:
            return
        event, event_id = failed
        if isinstance(error, Timeout):
            error.event_id = event_id
        if stored is not None and not stored.done():
            stored.set_exception(error)
        else:
            self._keep(seq, event, error)
        if self._on_error is not None:
            self._on_error(event, error)

    def _keep(self, seq: int, event: Event, error: BaseException) -> None:
        """Keep a failure until somebody is told, unless `on_error` is."""
        if self._on_error is None:
            self._failures.add(seq, event, error)
            self._overflows = self._failures.overflow

    def _on_wire_closed(self) -> None:
        if self._core is not None and not self._closed:
            self._pump.fail_all(Closed("connection"))
        self._wake_all()

    def _wake_all(self) -> None:
        self._turns.wake_all()
        self._marks.end_all()
