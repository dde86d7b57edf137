"""The state machine of a publisher: when its accepted events are written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum

from eda._nuid import next_nuid
from eda.jetstream.publish_answers import Refused
from eda.log import with_fields
from eda.publishing._publisher_core import PublisherCore
from eda.publishing.answer_checks import AnswerChecks
from eda.publishing.publisher_options import PublisherOptions
from eda.transport.wire import Wire

__all__ = ["TRANSITIONS", "UNDER_WAY", "PumpMachine", "State"]

MESSAGES_PER_ACK = 500  # how many messages per acknowledgement a batch asks for; the server grants no more
ACKS_UNDER_WAY = 8  # fast mode: at most the messages of 8 acknowledgements are unanswered; more is not faster
PACKED_EVENTS_PER_ACK = 4096  # in packs: what waits for its acknowledgement then fits into a processor's cache
PACK_ACKS_UNDER_WAY = 16  # with packs: the events of so many acknowledgements are the whole window
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0
YOUNG_S = 0.25  # an event up to this age may be written again without a check of the stream's duplicate window
FRESH_S = 1.0  # a check of the stream's duplicate window counts for this long


class State(StrEnum):
    """A state of the machine; the docstring of `PumpMachine` explains each."""

    DOWN = "down"
    IDLE = "idle"
    STARTING = "starting"
    PROBING = "probing"
    OPEN = "open"
    ENDING = "ending"
    PAUSING = "pausing"


# From each state, the states that may follow. The docstring of PumpMachine and docs/design.md have the same table.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.DOWN: frozenset({State.IDLE}),
    State.IDLE: frozenset({State.STARTING, State.PROBING, State.OPEN, State.ENDING, State.DOWN}),
    State.STARTING: frozenset({State.OPEN, State.ENDING, State.IDLE, State.PAUSING, State.DOWN}),
    State.PROBING: frozenset({State.OPEN, State.IDLE, State.PAUSING, State.DOWN}),
    State.OPEN: frozenset({State.ENDING, State.IDLE, State.PAUSING, State.DOWN}),
    State.ENDING: frozenset({State.IDLE, State.PAUSING, State.DOWN}),
    State.PAUSING: frozenset({State.IDLE, State.DOWN}),
}

UNDER_WAY = frozenset({State.STARTING, State.PROBING, State.OPEN, State.ENDING})


class PumpMachine:
    """Writes the events of one publisher, as its state allows.

    - `down`: there is no connection, or the stream is being checked; events wait. Next: idle.
    - `idle`: nothing is under way. Next: starting, probing, open, ending, down.
    - `starting`: fast mode; the first event of a batch awaits its answer, later events wait. Next: open, ending, idle,
      pausing, down.
    - `probing`: window mode; after an interruption, the oldest event was written alone. Next: open, idle, pausing,
      down.
    - `open`: events are written as they are accepted. Next: ending, idle, pausing, down.
    - `ending`: fast mode; the batch has ended, and its final acknowledgement is awaited. Next: idle, pausing, down.
    - `pausing`: the server can't store events now; they are written again after a pause. Next: idle, down.

    An interruption is a time-out, a refusal that may pass, or a batch that ended early. After an interruption,
    `start_over` writes all unsettled events again. The oldest one is written alone (in fast mode, as a batch of its
    own), so that no later event can be stored before it. When the oldest event is stored, the others follow.
    """

    core: PublisherCore

    def __init__(
        self,
        wire: Wire,
        logger: logging.Logger,
        stream: str,
        options: PublisherOptions,
        checks: AnswerChecks,
        check_stream: Callable[[], None],
    ) -> None:
        self._wire = wire
        self._logger = with_fields(logger, eda_stream=stream)
        self._stream = stream
        self._options = options
        self._checks = checks
        self._check_stream = check_stream
        self._loop = wire.loop
        self.state: State = State.DOWN
        self.mode: str = ""  # "fast" or "window"; empty until the publisher is open
        self.batch: str = ""  # fast mode: the id of the current batch
        self.ending_by: float = 0.0  # in the state `ending`: when the final acknowledgement is overdue
        self.stream_checked_at: float = 0.0
        self._messages_per_ack = 1  # fast mode: the number that the server has granted last
        self._oldest_goes_alone = False  # after an interruption, until the oldest event is stored
        self._pause_s = PAUSE_FIRST_S
        self._pause: asyncio.TimerHandle | None = None
        self._writes_soon = False
        self._is_closed = False

    def begin(self, core: PublisherCore, *, can_fast: bool) -> None:
        """Begin to write the events that `core` accepts."""
        self.core = core
        self.choose_mode(can_fast=can_fast)
        self.stream_checked_at = self._loop.time()
        self._change(State.IDLE)

    def close(self) -> None:
        """Commit the open batch, if there is one, and stop writing for good."""
        if self.state is State.OPEN and self.core.fast and self._wire.is_up:
            self.core.commit_batch()
        self._is_closed = True
        self.cancel_pause()

    def _change(self, to: State) -> None:
        """Enter another state. A change that TRANSITIONS does not allow is logged as an error; tests then fail."""
        if to not in TRANSITIONS[self.state]:
            self._logger.error("publisher to %s: impossible change of state: %s to %s", self._stream, self.state, to)
        self.state = to

    def choose_mode(self, *, can_fast: bool) -> None:
        """Choose fast mode if it is possible and allowed, otherwise window mode.

        Called again after each reconnect, because the connection may have changed to another server.
        """
        is_fast = can_fast and self._options.mode != "window"
        self.mode = "fast" if is_fast else "window"
        if not is_fast:
            self.core.use_window_mode()

    # --- writing -----------------------------------------------------------------------------------------------------

    def write_soon(self) -> None:
        """In the state `idle`: write at the end of this turn of the loop, so that one batch takes all its events."""
        if not self._writes_soon:
            self._writes_soon = True
            self._loop.call_soon(self.write_waiting)

    def write_waiting(self) -> None:
        """In the state `idle`: write the waiting events, if there are any. In all other states, do nothing."""
        core = self.core
        self._writes_soon = False
        if self._is_closed or self.state is not State.IDLE or core.n_waiting == 0:
            return
        if not self._wire.is_up:
            self._change(State.DOWN)
        elif self._oldest_goes_alone and self._relies_on_duplicate_window():
            self._change(State.DOWN)
            self._check_stream()
        elif self.mode == "fast":
            self._start_batch()
        elif self._oldest_goes_alone:
            self._change(State.PROBING)
            core.write_oldest(False)
        else:
            self._change(State.OPEN)
            core.start_writing()

    def _start_batch(self) -> None:
        core = self.core
        self.batch = next_nuid()
        core.begin_batch(self.batch.encode(), self._messages_per_ack_to_ask())
        is_only_event = self._oldest_goes_alone or core.n_waiting == 1 or core.next_wants_receipt
        core.write_oldest(is_only_event)
        if is_only_event:
            self.await_end(self._options.ack_timeout_s)
        else:
            self._change(State.STARTING)

    def _relies_on_duplicate_window(self) -> bool:
        """Return whether the stream must be checked before the oldest event is written again.

        The event may be stored already, and the duplicate window may have been shortened since the last check.
        """
        is_fresh = self._loop.time() - self.stream_checked_at <= FRESH_S
        return self._options.dedup and self.core.oldest_written_age_s() > YOUNG_S and not is_fresh

    @property
    def _has_packs(self) -> bool:
        """Return whether a message has several events."""
        return self.core.max_messages < self.core.max_pending

    def _messages_per_ack_to_ask(self) -> int:
        """Return how many messages per acknowledgement to ask for: at most a quarter of the window."""
        core = self.core
        n = min(MESSAGES_PER_ACK, core.max_messages // 4)
        if self._has_packs:
            n = min(n, PACKED_EVENTS_PER_ACK * core.n_packs // max(core.n_accepted, 1))
        if core.n_pending:
            n = min(n, int(core.max_bytes / 4 / max(core.n_bytes / core.n_pending, 1)))
        return max(1, n)

    def batch_goes_on(self, messages_per_ack: int) -> None:
        """Fast mode: handle an acknowledgement within the batch; the server sends one per `messages_per_ack`."""
        core = self.core
        self._messages_per_ack = max(1, messages_per_ack)
        n_acks = PACK_ACKS_UNDER_WAY if self._has_packs else ACKS_UNDER_WAY
        core.set_limit(min(self._messages_per_ack * n_acks, MESSAGES_PER_ACK * ACKS_UNDER_WAY))
        if self.state is State.STARTING:
            self._change(State.OPEN)
        if self.state is State.OPEN:
            core.start_writing()
            if core.next_wants_receipt:
                self.commit()
            elif core.flush_to:
                self.flush()
            elif core.room_wanted:
                self.make_room()

    def probe_succeeded(self) -> None:
        """Window mode: handle the acknowledgement of the oldest event, and write the others."""
        if self.state is State.PROBING:
            self.progressed()
            self._change(State.OPEN)
            self.core.start_writing()

    # --- ending a batch ----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Make the server acknowledge all accepted events soon."""
        if self.state is State.IDLE:
            self.write_waiting()
        elif self.state is State.OPEN and self.core.fast and self.core.n_waiting == 0:
            self.commit()

    def make_room(self) -> None:
        """Flush, unless an acknowledgement within the batch is due, which will make room."""
        core = self.core
        if core.n_in_batch - core.n_batch_answered < self._messages_per_ack or core.needs_batch_end:
            self.flush()

    def commit_before_receipt(self) -> None:
        """Fast mode: commit the batch if the next event wants a receipt, because it needs a batch of its own."""
        if self.state is State.OPEN and self.core.next_wants_receipt:
            self.commit()

    def commit(self) -> None:
        """Fast mode: commit the batch, and await its final acknowledgement."""
        self.core.commit_batch()
        self.await_end(self._options.ack_timeout_s)

    def await_end(self, patience_s: float) -> None:
        """Fast mode: write nothing until the batch's final acknowledgement comes, for at most `patience_s`."""
        if self.state is not State.ENDING:
            self._change(State.ENDING)
        self.core.stop_writing()
        self.ending_by = self._loop.time() + patience_s

    def batch_succeeded(self) -> None:
        """Fast mode: handle the final acknowledgement of a batch that is stored whole, and write the waiting events."""
        self.progressed()
        self.become_idle()
        self.write_waiting()

    def progressed(self) -> None:
        """Note that the oldest event is stored, which ends an interruption."""
        self._oldest_goes_alone = False
        self._pause_s = PAUSE_FIRST_S
        self._checks.last_refusal = None

    # --- interruptions -----------------------------------------------------------------------------------------------

    def start_over(self, pause_s: float = 0.0) -> None:
        """Write all unsettled events again after a pause, the oldest one alone first."""
        if self.state not in UNDER_WAY or self._is_closed:
            return
        self._oldest_goes_alone = True
        if pause_s > 0:
            self._change(State.PAUSING)
            self.core.rewind()
            self._pause = self._loop.call_later(pause_s, self.leave, State.PAUSING)
        else:
            self.become_idle()
            self.write_waiting()

    def back_off(self, refused: Refused) -> None:
        """Start over after a pause that doubles each time, because the server can't store events now."""
        if self.state in UNDER_WAY:
            self._checks.last_refusal = refused.as_error(self._stream)
            self.start_over(self._pause_s)
            self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
            if refused.code == 503:
                self._check_stream()

    def become_idle(self) -> None:
        """Stop writing. Unsettled events count as not written."""
        self._change(State.IDLE)
        self.core.rewind()

    def go_down(self) -> None:
        """Stop writing until the stream was checked. Unsettled events count as not written."""
        self.cancel_pause()
        if self.state is not State.DOWN:
            self._change(State.DOWN)
        self.core.rewind()

    def leave(self, state: State) -> None:
        """If the machine is in this state, write all unsettled events again, the oldest one alone first."""
        if self.state is state:
            self._oldest_goes_alone = True
            self._change(State.IDLE)
            self.write_waiting()

    def cancel_pause(self) -> None:
        """Cancel the timer that ends a pause."""
        if self._pause is not None:
            self._pause.cancel()
