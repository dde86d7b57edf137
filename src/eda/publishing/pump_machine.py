"""The states of a publisher's pump, and the steps between them: when events are written.

A pump is in one of these states:

down      no connection, or the stream is being looked at; accepted events wait
idle      nothing is under way
starting  fast ingest: the first event of a batch is out, the rest waits for its answer
probing   window: after a trouble, the oldest unsettled event is out alone
open      events are written as they are accepted
ending    fast ingest: the batch was committed, or has ended early; its final acknowledgement is awaited
pausing   the server can't now; everything unsettled is written again after a pause

Every trouble ends the same way, in `_again`: what is not settled is written again from the oldest event on, which goes
alone (fast ingest: as a batch of its own), so that nothing overtakes it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from eda._nuid import next_nuid
from eda.publishing._publisher_core import PublisherCore
from eda.publishing.answer_checks import Verdicts
from eda.transport.wire import Wire

__all__ = ["PAUSE_MAX_S", "UNDER_WAY", "Mode", "Steps"]

Mode = Literal["auto", "window", "fast"]

FLOW = 500  # events per acknowledgement asked for: the server grants no more
PAUSE_FIRST_S = 0.05
YOUNG_S = 0.25  # an event of this age may be written again whatever the stream's duplicate window is
FRESH_S = 1.0  # how long it is believed that the window is as it was
PAUSE_MAX_S = 2.0

UNDER_WAY = frozenset({"starting", "probing", "open", "ending"})


class Steps:
    """Writes a publisher's events, state by state. What leads to a step is the pump's affair."""

    def __init__(
        self, wire: Wire, logger: logging.Logger, stream: str, *, mode: Mode, dedup: bool, ack_timeout_s: float
    ) -> None:
        self._wire = wire
        self._logger = logger
        self.stream = stream
        self._wanted_mode = mode
        self._dedup = dedup
        self._ack_timeout_s = ack_timeout_s
        self._loop = wire.loop
        self._core: PublisherCore
        self._verdicts = Verdicts(logger, stream)
        self.mode = ""
        self.state = "down"
        self._batch = ""
        self._probe = False
        self._pause_s = PAUSE_FIRST_S
        self._pausing: asyncio.TimerHandle | None = None
        self._ending_by = 0.0
        self._looked_at = 0.0  # at the stream, for its duplicate window
        self._pump_soon = False
        self._closed = False

    def _choose(self, can_fast: bool) -> None:
        """Choose the mode; renewed after every reconnect, since it may be another server."""
        fast = can_fast and self._wanted_mode != "window"
        self.mode = "fast" if fast else "window"
        if not fast:
            self._core.use_window_mode()

    def _pump(self) -> None:
        """Write what waits, as the state allows."""
        core = self._core
        self._pump_soon = False
        if self._closed or self.state != "idle" or core.n_waiting == 0:
            return
        if not self._wire.is_up:
            self.state = "down"
        elif self._probe and self._relies_on_window():
            self.state = "down"
            self._look_again()
        elif self.mode == "fast":
            self._batch = next_nuid()
            core.begin_batch(self._batch.encode(), self._flow())
            alone = self._probe or core.n_waiting == 1 or core.next_wants_receipt
            core.write_oldest(alone)
            if alone:
                self._await_end(self._ack_timeout_s)
            else:
                self.state = "starting"
        elif self._probe:
            self.state = "probing"
            core.write_oldest(False)
        else:
            self.state = "open"
            core.start_writing()

    def _relies_on_window(self) -> bool:
        """Whether what comes next may be stored already, so long ago that the stream's duplicate window must be known.

        It may have been shortened since the stream was looked at.
        """
        now = self._loop.time()
        return self._dedup and self._core.oldest_written_age_s() > YOUNG_S and now - self._looked_at > FRESH_S

    def _look_again(self) -> None:
        """See to a look at the stream, which leads on from the state `down`."""
        raise NotImplementedError

    def _flow(self) -> int:
        """The events per acknowledgement to ask for: a quarter of the window, by count and by bytes."""
        core = self._core
        flow = min(FLOW, core.max_pending // 4)
        if core.n_pending:
            flow = min(flow, int(core.max_bytes / 4 / max(core.n_bytes / core.n_pending, 1)))
        return max(1, flow)

    def _commit(self) -> None:
        self._core.commit_batch()
        self._await_end(self._ack_timeout_s)

    def _await_end(self, patience_s: float) -> None:
        self.state = "ending"
        self._core.stop_writing()
        self._ending_by = self._loop.time() + patience_s

    def _again(self, pause_s: float) -> None:
        """Write everything that is not settled again, from the oldest event on, which goes alone, after a pause."""
        if self.state in UNDER_WAY and not self._closed:
            self._probe = True
            self._next()
            if pause_s > 0:
                self.state = "pausing"
                self._pausing = self._loop.call_later(pause_s, self._leave, "pausing")
            else:
                self._pump()

    def _next(self) -> None:
        """Leave what is under way: what is not settled waits to be written."""
        self.state = "idle"
        self._core.rewind()

    def _leave(self, state: str) -> None:
        if self.state == state:
            self._probe = True
            self.state = "idle"
            self._pump()

    def _worked(self) -> None:
        """The oldest event is stored: the trouble is over."""
        self._probe = False
        self._pause_s = PAUSE_FIRST_S
        self._verdicts.why = None
