"""The clock of a subscription: time-outs, leases, and what the log is told when nothing moves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Any

from eda._event import Event
from eda.handling._dispatch import Dispatcher
from eda.handling.failure_log import FailureLog
from eda.options import SubscriptionOptions
from eda.subscribing.source import Pulls

__all__ = ["Watch"]

TICK_MAX_S = 1.0
TICK_MIN_S = 0.01
STALL_S = 10.0
NO_LEASE_S = 1e9


class Watch:
    """One timer for all that a subscription has to notice by the clock."""

    def __init__(
        self,
        logger: logging.Logger,
        stream: str,
        name: str,
        options: SubscriptionOptions,
        dispatcher: Dispatcher,
        source: Pulls,
        is_active: Callable[[], bool],
    ) -> None:
        self._logger = logger
        self._failures = FailureLog(logger, stream, name, None)
        self._fields = {"eda_stream": stream, "eda_subscription": name}
        self._stream = stream
        self._name = name
        self._timeout_s = options.timeout_s
        self._dispatcher = dispatcher
        self._source = source
        self._is_active = is_active
        self._loop = asyncio.get_running_loop()
        self._tick_max_s = min(TICK_MAX_S, options.timeout_s / 10)
        self._timer: asyncio.TimerHandle | None = None
        # By worker: what it runs, since when, and when it was cancelled (0: not).
        self._running: list[tuple[Any, float, float]] = [(None, 0.0, 0.0)] * options.concurrency
        self._n_skipped = 0
        self._progress: tuple[int, ...] = ()
        self._progress_at = self._loop.time()
        self._stalled = False
        self._asking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tick."""
        self._arm()

    def _arm(self) -> None:
        # The lease may have changed. Leases are extended at a third of it, so a tick must be well below that.
        tick_s = max(TICK_MIN_S, min(self._tick_max_s, self._source.lease_s / 10))
        self._timer = self._loop.call_later(tick_s, self._tick)

    def stop(self) -> None:
        """Tick no more."""
        self._failures.flush()
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def _tick(self) -> None:
        self._arm()
        now = self._loop.time()
        lease_s = self._source.lease_s
        self._dispatcher.tick(lease_s / 3 if lease_s < inf else NO_LEASE_S)
        self._look_at_handlers(now)
        self._source.tick()
        self._look_for_skipped()
        self._look_for_progress(now)

    # --- time-outs ---------------------------------------------------------------------------------------------------

    def _look_at_handlers(self, now: float) -> None:
        for index, what in enumerate(self._dispatcher.running_now()):
            known, since, cancelled = self._running[index]
            if what is not known:
                self._running[index] = (what, now, 0.0)
            elif what is None:
                continue
            elif not cancelled and now - since >= self._timeout_s:
                self._running[index] = (what, since, now)
                self._dispatcher.cancel_overdue(index)
            elif cancelled and now - cancelled >= max(self._timeout_s, 1.0):
                self._running[index] = (what, since, float("inf"))
                self._failures.tell_uncancelled(_first_of(what), now - since)

    # --- what is gone, what does not move ----------------------------------------------------------------------------

    def _look_for_skipped(self) -> None:
        n = self._dispatcher.n_skipped
        if n != self._n_skipped:
            self._logger.warning(
                "subscription %s to %s: %d events were gone from the stream (expired, purged or deleted) before they "
                "were delivered, or the server passed over them because somebody had changed the consumer's filter",
                self._name, self._stream, n - self._n_skipped, extra=self._fields,
            )  # fmt: skip
            self._n_skipped = n

    def _look_for_progress(self, now: float) -> None:
        dispatcher = self._dispatcher
        progress = (dispatcher.n_handled, dispatcher.n_dead, dispatcher.n_passed_over, dispatcher.n_undecodable)
        is_idle = dispatcher.n_held == 0 and dispatcher.n_pending == 0
        if progress != self._progress or is_idle or dispatcher.is_paused or not self._is_active():
            self._progress = progress
            self._progress_at = now
            self._stalled = False
        elif not self._stalled and now - self._progress_at >= STALL_S:
            why = self._why_not(now)
            if why is None:
                return
            self._stalled = True
            if why:
                self._tell(why)
            elif self._asking is None or self._asking.done():
                self._asking = self._loop.create_task(self._ask())

    def _why_not(self, now: float) -> str | None:
        """Return why nothing is handled; None: something is, empty: the server has to be asked."""
        dispatcher = self._dispatcher
        if not self._source.is_up:
            return "there is no connection"
        if dispatcher.is_circuit_open:
            return "handlers have failed for many events in a row, and none has succeeded since"
        running = [(what, since) for what, since, _ in self._running if what is not None]
        if running:
            if all(now - since < self._timeout_s for _, since in running):
                return None  # slow, but within their time
            what, since = min(running, key=lambda each: each[1])
            return f"a handler has had sequence {_first_of(what).sequence} for {now - since:.3g} s"
        oldest = dispatcher.ledger.running_since()
        if oldest is not None:
            return f"sequence {oldest[0]} fails again and again, and {dispatcher.n_held - 1} events wait behind it"
        if dispatcher.n_held:
            return f"{dispatcher.n_held} events wait, and no handler is free to start"
        return ""

    def _tell(self, why: str) -> None:
        self._logger.warning(
            "subscription %s to %s has made no progress for %g s: %s (%d events held, %d pending)",
            self._name, self._stream, STALL_S, why, self._dispatcher.n_held, self._dispatcher.n_pending,
            extra=self._fields,
        )  # fmt: skip

    async def _ask(self) -> None:
        """See what the server says of a consumer that delivers nothing."""
        why = await self._source.diagnose(STALL_S)
        if why is not None and self._dispatcher.n_held == 0:
            self._tell(why)


def _first_of(what: Event | tuple[Event, ...]) -> Event:
    return what[0] if isinstance(what, tuple) else what
