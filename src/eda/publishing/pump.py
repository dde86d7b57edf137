"""The pump of a publisher: the parts that have its events written, and what they are told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from eda.errors import ConfigError, ServerError
from eda.jetstream.streams import StreamInfo
from eda.publishing._publisher_core import PublisherCore
from eda.publishing._stream_sender import Destination
from eda.publishing.answer_checks import AnswerChecks
from eda.publishing.known_streams import PUBLISH_TIMEOUT_S
from eda.publishing.publisher_options import PublisherOptions
from eda.publishing.pump_answers import PumpAnswers
from eda.publishing.pump_clock import PumpClock
from eda.publishing.pump_machine import PumpMachine, State
from eda.publishing.stream_watch import CheckStream, StreamWatch
from eda.transport.wire import Wire

__all__ = ["OutcomeListener", "Pump"]


class OutcomeListener(Protocol):
    """The object that a pump tells what became of events."""

    def on_acknowledged(self, event_id: str, sequence: int) -> None:
        """Learn that an event is stored."""

    def on_receipt(self, receipt: Any, sequence: int) -> None:
        """Learn that an event whose sender waits for a receipt is stored."""

    def on_failed(self, seq: int, error: Exception) -> None:
        """Learn that a pending event can't be published."""


class Pump:
    """Has the events of one publisher written, and their answers understood.

    It is the host of the publisher's core: the methods that the core calls are attributes that lead straight to the
    parts, so that a call costs no detour. `on_room()` is called when the window has room for waiting senders,
    `on_flushed()` when the events are settled that a flush waits for.
    """

    def __init__(
        self,
        wire: Wire,
        logger: logging.Logger,
        stream: str,
        options: PublisherOptions,
        check_stream: CheckStream,
        outcomes: OutcomeListener,
        *,
        on_room: Callable[[], None],
        on_flushed: Callable[[], None],
    ) -> None:
        self._loop = wire.loop
        self._logger = logger
        self._stream = stream
        self._options = options
        self._fail = outcomes.on_failed
        self._checks = checks = AnswerChecks(logger, stream)
        self._watch = StreamWatch(self, wire, logger, stream, check_stream)
        self.machine = machine = PumpMachine(wire, logger, stream, options, checks, self._watch.check_again)
        answers = PumpAnswers(machine, checks, logger, wire.loop, stream, options, self._fail)
        self.clock = PumpClock(machine, checks, logger, wire.loop, stream, options.ack_timeout_s, self._fail)
        # What the core calls.
        self.on_room = on_room
        self.on_flushed = on_flushed
        self.on_acknowledged = outcomes.on_acknowledged
        self.on_receipt = outcomes.on_receipt
        self.on_probed = machine.probe_succeeded
        self.on_flow = machine.batch_goes_on
        self.on_window_answer = answers.on_window_answer
        self.on_batch_answer = answers.on_batch_answer

    def choose_timeout(self, info: StreamInfo) -> float:
        """Return the seconds after which an event fails: as wanted, as the stream allows. Raises ConfigError."""
        longest, wanted_s = info.options.dedup_window_s / 2, self._options.timeout_s
        if wanted_s is not None and self._options.dedup and wanted_s > longest:
            raise ConfigError(
                f"timeout_s={wanted_s:g} must be at most {longest:g}: half of the duplicate window "
                f"({longest * 2:g} s) of stream {self._stream!r}, past which a late retry could be stored twice",
                argument="timeout_s",
            )
        self.clock.timeout_s = self._allowed_s(info)
        return self.clock.timeout_s

    def _allowed_s(self, info: StreamInfo) -> float:
        wanted_s = self._options.timeout_s or PUBLISH_TIMEOUT_S
        return min(wanted_s, info.options.dedup_window_s / 2) if self._options.dedup else wanted_s

    def start(self, core: PublisherCore, *, can_fast: bool) -> None:
        """Begin to write the events that `core` accepts."""
        self._checks.domain = core.domain
        self.machine.begin(core, can_fast=can_fast)
        self._watch.start()

    def close(self) -> None:
        """Write nothing any more."""
        self.machine.close()
        self.clock.stop()
        self._watch.stop()

    def fail_all(self, error: Exception) -> None:
        """Fail all pending events."""
        for seq in self.machine.core.window.pending():
            self._fail(seq, error)

    # --- told by the publisher ---------------------------------------------------------------------------------------

    def on_accepted(self) -> None:
        """See that accepted events are written, and that their time-outs are watched."""
        if self.clock.timer is None:
            self.clock.start()
        if self.machine.state is State.IDLE:
            self.machine.write_soon()

    def on_accepted_with_receipt(self) -> None:
        """Do what `on_accepted` does, and see that the event gets a batch of its own."""
        self.on_accepted()
        self.machine.commit_before_receipt()

    # --- told by the watch -------------------------------------------------------------------------------------------

    def on_lost(self) -> None:
        """Wait for the connection, and for a check of the stream."""
        self.machine.go_down()

    def on_checked(self, destination: Destination, info: StreamInfo, can_fast: bool) -> None:
        """Go on as the stream allows now."""
        machine, core = self.machine, self.machine.core
        if machine.state not in (State.DOWN, State.PAUSING):
            return
        machine.stream_checked_at = self._loop.time()
        allowed_s = self._allowed_s(info)
        if allowed_s != self.clock.timeout_s:
            text = "publisher to %s: the stream's duplicate window is %g s now: an event fails after %g s"
            self._logger.warning(text, self._stream, info.options.dedup_window_s, allowed_s)
            self.clock.timeout_s = allowed_s
            core.set_give_up(allowed_s)
        self.clock.fail_overdue()
        self._checks.domain = destination.domain.decode()
        for seq, size in core.use_destination(destination):
            # The server would close the connection each time it read such an event.
            most = destination.max_payload
            message = f"an event of {size} bytes is over the max_payload of {most} that the server has now"
            self._fail(seq, ConfigError(message, argument="data"))
        machine.choose_mode(can_fast=can_fast)
        machine.leave(State.DOWN)

    def on_gone(self, error: Exception) -> None:
        """Fail all pending events. Events that are accepted later find out for themselves."""
        self.fail_all(error)
        self.machine.start_over()  # answers to the events that were written say nothing any more
        self.machine.leave(State.DOWN)

    def on_forbidden(self, subject: str) -> None:
        """Fail the events that go to this subject."""
        machine, core = self.machine, self.machine.core
        forbidden = core.pending_to(subject.encode())
        for seq in forbidden:
            self._fail(seq, ServerError(403, 0, f"no permission to publish to {subject}"))
        if forbidden and not core.oldest_is_written:
            machine.start_over()
        elif forbidden and machine.state is State.OPEN and core.fast:
            machine.commit()  # the server has not seen these events, so for the server the batch has a gap
