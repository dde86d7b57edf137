"""The clock of a publisher: fails overdue events, and ends batches that get no more events or answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from eda.errors import Timeout
from eda.log import with_fields
from eda.publishing.answer_checks import AnswerChecks
from eda.publishing.publisher_options import PublisherOptions
from eda.publishing.pump_machine import UNDER_WAY, PumpMachine, State

__all__ = ["PumpClock"]

TICK_S = 0.005  # a batch that got no event for one tick is committed
TAIL_S = 0.05  # while events keep coming: how long the oldest event may wait for an acknowledgement within the batch
NO_ROOM_S = 0.5  # while a sender waits for room: how long the oldest event may wait before the batch is ended


class PumpClock:
    """Ticks every 5 ms while events are pending. `fail(seq, error)` fails an event."""

    def __init__(
        self,
        machine: PumpMachine,
        checks: AnswerChecks,
        logger: logging.Logger,
        loop: asyncio.AbstractEventLoop,
        stream: str,
        options: PublisherOptions,
        fail: Callable[[int, Exception], None],
    ) -> None:
        self._machine = machine
        self._checks = checks
        self._logger = with_fields(logger, eda_stream=stream)
        self._loop = loop
        self._stream = stream
        self._ack_timeout_s = options.ack_timeout_s
        self._fails_all = options.stops_on_failure
        self._fail = fail
        self._n_accepted_before = 0  # as of the last tick
        self.timer: asyncio.TimerHandle | None = None  # None: the clock has stopped
        self.timeout_s: float = 0.0  # an event fails this long after it was accepted

    def start(self) -> None:
        """Start ticking."""
        self.timer = self._loop.call_later(TICK_S, self._on_tick)
        self._machine.core.timer_runs = True

    def stop(self) -> None:
        """Stop ticking."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
            self._machine.core.timer_runs = False

    def _on_tick(self) -> None:
        machine, core = self._machine, self._machine.core
        self.timer = self._loop.call_later(TICK_S, self._on_tick)
        any_failed = self.fail_overdue()
        for seq, error in self._checks.take_refusals():
            self._fail(seq, error)
            any_failed = True
        if core.n_pending == 0:
            self._rest()
            return
        if any_failed and not core.oldest_is_written:
            machine.start_over()  # all written events have failed, so no answer will come that lets later events go on
        is_quiet = core.n_accepted == self._n_accepted_before
        self._n_accepted_before = core.n_accepted
        waited_s = core.oldest_waited_s()
        if machine.state is State.ENDING and self._loop.time() > machine.ending_by:
            self._logger.debug("publisher to %s: no final acknowledgement of a batch; starting over", self._stream)
            machine.start_over()
        elif machine.state in UNDER_WAY and machine.state is not State.ENDING and waited_s > self._ack_timeout_s:
            self._logger.debug(
                "publisher to %s: no acknowledgement in %g s; starting over", self._stream, self._ack_timeout_s
            )
            machine.start_over()
        elif (is_quiet or core.settles_at_end) and waited_s > self._batch_patience_s(is_quiet):
            machine.flush()
        elif is_quiet or waited_s > TAIL_S:
            machine.make_room()

    def fail_overdue(self) -> bool:
        """Fail the events that are past their time-out; return whether there were any."""
        window = self._machine.core.window
        overdue = window.overdue()
        if overdue and self._fails_all:
            overdue = window.pending()
        for seq in overdue:
            late = Timeout("publish", self.timeout_s)
            late.__cause__ = self._checks.likely_cause
            self._fail(seq, late)
        return bool(overdue)

    def _batch_patience_s(self, is_quiet: bool) -> float:
        """Return how long the oldest event may wait before its batch is ended; -1: end the batch at once."""
        core = self._machine.core
        if core.settles_at_end:
            return TAIL_S if not is_quiet or core.room_wanted else -1.0
        return NO_ROOM_S if core.room_wanted else -1.0

    def _rest(self) -> None:
        """Stop the timer and end the open batch, because no event is pending."""
        machine = self._machine
        self.stop()
        if machine.state is State.OPEN and machine.core.fast:
            # The server would keep the open batch for 10 s, and grant all other batches less meanwhile.
            machine.core.commit_batch()
        if machine.state in UNDER_WAY:
            machine.become_idle()
