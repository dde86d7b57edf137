"""The timer of a subscription: cancels overdue handlers, extends leases, and logs when there is no progress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Any

from eda._event import Event
from eda._pack import place_of
from eda.handling._dispatch import Dispatcher
from eda.handling.failure_log import FailureLog
from eda.log import with_fields
from eda.subscribing.source import Source
from eda.subscribing.spec import SubscriptionSpec

__all__ = ["Monitor"]

TICK_MAX_S = 1.0
TICK_MIN_S = 0.01
STALL_S = 10.0
NO_LEASE_S = 1e9


class Monitor:
    """The one timer of a subscription. `is_active()` returns whether this member gets events."""

    def __init__(
        self,
        logger: logging.Logger,
        spec: SubscriptionSpec,
        dispatcher: Dispatcher,
        source: Source,
        is_active: Callable[[], bool],
    ) -> None:
        options = spec.options
        self._logger = with_fields(logger, eda_stream=spec.stream, eda_subscription=spec.name)
        self._failures = FailureLog(logger, spec.stream, spec.name, None)
        self._stream = spec.stream
        self._name = spec.name
        self._timeout_s = options.timeout_s
        self._dispatcher = dispatcher
        self._source = source
        self._is_active = is_active
        self._loop = asyncio.get_running_loop()
        self._tick_max_s = min(TICK_MAX_S, options.timeout_s / 10)
        self._timer: asyncio.TimerHandle | None = None
        # By worker: the event (in batch, a tuple of events) that its handler has, since when, and when the handler was
        # cancelled (0: it was not).
        self._running: list[tuple[Any, float, float]] = [(None, 0.0, 0.0)] * options.concurrency
        self._n_skipped = 0
        self._progress: tuple[int, ...] = ()
        self._progress_at = self._loop.time()
        self._stalled = False
        self.stall: str | None = None  # why there is no progress, as it was logged; None: there is
        self._diagnosing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tick."""
        self._arm()

    def _arm(self) -> None:
        # The lease may have changed since the last tick. Leases are extended when a third of their time has passed, so
        # the time between two ticks must be much shorter than that.
        tick_s = max(TICK_MIN_S, min(self._tick_max_s, self._source.lease_s / 10))
        self._timer = self._loop.call_later(tick_s, self._tick)

    def stop(self) -> None:
        """Stop the timer, and log the failures that are not logged yet."""
        self._failures.flush()
        if self._timer is not None:
            self._timer.cancel()
        if self._diagnosing is not None:
            self._diagnosing.cancel()

    def _tick(self) -> None:
        self._arm()
        now = self._loop.time()
        lease_s = self._source.lease_s
        self._dispatcher.tick(lease_s / 3 if lease_s < inf else NO_LEASE_S)
        self._cancel_overdue_handlers(now)
        self._source.tick()
        self._log_skipped()
        self._check_progress(now)

    # --- time-outs ---------------------------------------------------------------------------------------------------

    def _cancel_overdue_handlers(self, now: float) -> None:
        for index, handled in enumerate(self._dispatcher.running_now()):
            known, since, cancelled = self._running[index]
            if handled is not known:
                self._running[index] = (handled, now, 0.0)
            elif handled is None:
                continue
            elif not cancelled and now - since >= self._timeout_s:
                self._running[index] = (handled, since, now)
                self._dispatcher.cancel_overdue(index)
            elif cancelled and now - cancelled >= max(self._timeout_s, 1.0):
                self._running[index] = (handled, since, float("inf"))  # log it only once
                self._failures.log_uncancelled(_first_of(handled), now - since)

    # --- warnings ----------------------------------------------------------------------------------------------------

    def _log_skipped(self) -> None:
        n = self._dispatcher.intake.n_skipped
        if n != self._n_skipped:
            self._logger.warning(
                "subscription %s to %s: %d events were not delivered: they were gone from the stream (expired, purged "
                "or deleted), or the server skipped them because somebody had changed the consumer's filter",
                self._name, self._stream, n - self._n_skipped,
            )  # fmt: skip
            self._n_skipped = n

    def _check_progress(self, now: float) -> None:
        dispatcher = self._dispatcher
        progress = (
            dispatcher.outcomes.n_handled,
            dispatcher.outcomes.n_dead,
            dispatcher.intake.n_passed_over,
            dispatcher.intake.n_undecodable,
        )
        has_no_work = dispatcher.n_held == 0 and dispatcher.intake.n_pending == 0
        if progress != self._progress or has_no_work or dispatcher.gate.is_paused or not self._is_active():
            self._progress = progress
            self._progress_at = now
            self._stalled, self.stall = False, None
        elif not self._stalled and now - self._progress_at >= STALL_S:
            why = self._why_stalled(now)
            if why is None:
                return
            self._stalled = True
            if why:
                self._log_stall(why)
            elif self._diagnosing is None or self._diagnosing.done():
                self._diagnosing = self._loop.create_task(self._diagnose())

    def _why_stalled(self, now: float) -> str | None:
        """Return why no event is handled. None: handlers are at work. Empty: only the server may know why."""
        dispatcher = self._dispatcher
        if not self._source.is_up:
            return "there is no connection"
        if dispatcher.gate.is_circuit_open:
            return "handlers have failed for many events in a row, and none has succeeded since"
        running = [(handled, since) for handled, since, _ in self._running if handled is not None]
        if running:
            if all(now - since < self._timeout_s for _, since in running):
                return None  # they are slow, but none of them has run into its time-out
            handled, since = min(running, key=lambda each: each[1])
            return f"a handler has had sequence {place_of(_first_of(handled))} for {now - since:.3g} s"
        oldest = dispatcher.ledger.running_since()
        if oldest is not None:
            return f"sequence {oldest[0]} fails again and again, and {dispatcher.n_held - 1} events wait behind it"
        if dispatcher.n_held:
            return f"{dispatcher.n_held} events wait, and no handler is free to start"
        return ""

    def _log_stall(self, why: str) -> None:
        self.stall = why
        level = logging.WARNING if self._source.is_up else logging.DEBUG  # the connection's log tells of its loss
        self._logger.log(
            level,
            "subscription %s to %s has made no progress for %g s: %s (%d events held, %d pending)",
            self._name, self._stream, STALL_S, why, self._dispatcher.n_held, self._dispatcher.intake.n_pending,
        )  # fmt: skip

    async def _diagnose(self) -> None:
        """Ask the server why the consumer delivers nothing, and log the answer."""
        why = await self._source.diagnose(STALL_S)
        if why is not None and self._dispatcher.n_held == 0:
            self._log_stall(why)


def _first_of(handled: Event | tuple[Event, ...]) -> Event:
    return handled[0] if isinstance(handled, tuple) else handled
