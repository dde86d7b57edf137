"""The pump of a publisher: joins its state machine, answers, clock and stream watch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from eda.errors import ConfigError, ServerError
from eda.jetstream.pack_mark import refusal_of_packs
from eda.jetstream.store_mark import refusal_of_publish
from eda.jetstream.stream_info import StreamInfo
from eda.log import with_fields
from eda.publishing._packing_core import PackingCore
from eda.publishing._publisher_core import PublisherCore
from eda.publishing._stream_sender import Destination
from eda.publishing.answer_checks import AnswerChecks
from eda.publishing.known_streams import PUBLISH_TIMEOUT_S
from eda.publishing.linger import Linger
from eda.publishing.publisher_options import PublisherOptions
from eda.publishing.pump_answers import PumpAnswers
from eda.publishing.pump_clock import PumpClock
from eda.publishing.pump_machine import PumpMachine, State
from eda.publishing.stream_looks import StreamLooks
from eda.publishing.stream_watch import CheckStream, StreamWatch
from eda.transport.wire import Wire

__all__ = ["OutcomeListener", "Pump"]

OTHER_WINDOW = "publisher to %s: the stream's duplicate window is %g s now; events fail after %g s"


class OutcomeListener(Protocol):
    """The object to which a pump reports the outcomes of events."""

    def on_acknowledged(self, event_id: str, sequence: int) -> None:
        """Handle an event that is stored."""

    def on_receipt(self, receipt: Any, sequence: int) -> None:
        """Handle a stored event whose sender waits for a receipt."""

    def on_failed(self, seq: int, error: Exception) -> None:
        """Handle a pending event that can't be published."""


class Pump:
    """Decides when the events of one publisher are written, and handles the server's answers.

    The pump is the host of the publisher's core. The methods that the core calls are attributes, bound to methods of
    the parts, so that a call has no extra step. The core calls `on_room()` when the window has room for waiting
    senders, and `on_flushed()` when the events before `flush_to` are settled.
    """

    def __init__(
        self,
        wire: Wire,
        logger: logging.Logger,
        stream: str,
        options: PublisherOptions,
        check_stream: CheckStream,
        looks: StreamLooks,
        outcomes: OutcomeListener,
        *,
        on_room: Callable[[], None],
        on_flushed: Callable[[], None],
    ) -> None:
        self._loop = wire.loop
        self._out = wire.out
        self._logger = with_fields(logger, eda_stream=stream)
        self._stream = stream
        self._options = options
        self._fail = outcomes.on_failed
        self._is_refused = False  # the stream takes no events of this publisher: it belongs to event stores now
        self._max_event_bytes: int | None = None  # the stream's limit, as last checked
        self._checks = checks = AnswerChecks(logger, stream)
        self._watch = StreamWatch(self, wire, logger, stream, check_stream, looks)
        self.machine: PumpMachine = PumpMachine(wire, logger, stream, options, checks, self._watch.check_again)
        machine = self.machine
        answers = PumpAnswers(machine, checks, logger, wire.loop, stream, options, self._fail)
        self.clock: PumpClock = PumpClock(machine, checks, logger, wire.loop, stream, options, self._fail)
        self._linger: Linger | None = None
        # Called by the core.
        self.on_room = on_room
        self.on_flushed = on_flushed
        self.on_acknowledged: Callable[[str, int], None] = outcomes.on_acknowledged
        self.on_receipt: Callable[[Any, int], None] = outcomes.on_receipt
        self.on_probed: Callable[[], None] = machine.probe_succeeded
        self.on_flow: Callable[[int], None] = machine.batch_goes_on
        self.on_window_answer: Callable[[int, int, bytes], None] = answers.on_window_answer
        self.on_batch_answer: Callable[[int, int, bytes], None] = answers.on_batch_answer
        self.on_pack_opened: Callable[[], None] = _no_linger
        self.on_pack_closed: Callable[[], None] = self.on_accepted_with_receipt

    def choose_timeout(self, info: StreamInfo) -> float:
        """Choose and return the seconds after which an event fails. Raises ConfigError if the option is too long."""
        longest, wanted_s = info.options.dedup_window_s / 2, self._options.timeout_s
        if wanted_s is not None and self._options.dedup and wanted_s > longest:
            raise ConfigError(
                f"timeout_s={wanted_s:g} must be at most {longest:g}: half of the duplicate window "
                f"({longest * 2:g} s) of stream {self._stream!r}, past which a late retry could be stored twice",
                argument="timeout_s",
            )
        self.clock.timeout_s = allowed_s = self._allowed_s(info)
        pack = self._options.pack
        if pack is not None and pack.linger_s > allowed_s / 2:
            raise ConfigError(
                f"linger_s={pack.linger_s:g} of the pack must be at most {allowed_s / 2:g}: half of the time-out of "
                f"events ({allowed_s:g} s), which counts from when a pack is opened",
                argument="pack",
            )
        self._max_event_bytes = info.max_event_bytes
        return allowed_s

    def _allowed_s(self, info: StreamInfo) -> float:
        wanted_s = self._options.timeout_s or PUBLISH_TIMEOUT_S
        return min(wanted_s, info.options.dedup_window_s / 2) if self._options.dedup else wanted_s

    def start(self, core: PublisherCore, *, can_fast: bool) -> None:
        """Begin to write the events that `core` accepts."""
        self._checks.domain = core.domain
        pack = self._options.pack
        if pack is not None:
            assert isinstance(core, PackingCore)
            self._linger = Linger(core, self._out, self._loop, pack.linger_s)
            self.on_pack_opened = self._linger.start
        self.machine.begin(core, can_fast=can_fast)
        self._watch.start()

    def close(self) -> None:
        """Stop writing, for good."""
        self.machine.close()
        self.clock.stop()
        if self._linger is not None:
            self._linger.stop()
        self._watch.stop()

    def fail_all(self, error: Exception) -> None:
        """Fail all pending events."""
        self.machine.core.close_pack(write=False)
        for seq in self.machine.core.window.pending():
            self._fail(seq, error)

    # --- called by the publisher -------------------------------------------------------------------------------------

    def on_accepted(self) -> None:
        """Start the clock if it has stopped, and let the machine write accepted events."""
        if self.clock.timer is None and self.machine.core.n_pending:
            self.clock.start()
        if self.machine.state is State.IDLE:
            self.machine.write_soon()

    def on_accepted_with_receipt(self) -> None:
        """Do what `on_accepted` does; end the open batch first, because the event needs a batch of its own.

        Called by the core, too: a pack was closed that can't be written without the pump.
        """
        self.on_accepted()
        self.machine.commit_before_receipt()

    # --- called by the watch -----------------------------------------------------------------------------------------

    def on_lost(self) -> None:
        """Stop writing until the connection is back and the stream was checked."""
        self.machine.go_down()

    def on_checked(self, destination: Destination, info: StreamInfo, can_fast: bool) -> None:
        """Continue with the stream's current settings."""
        machine, core = self.machine, self.machine.core
        refusal = self._refusal_by(info)
        is_other = self._is_refused or info.max_event_bytes != self._max_event_bytes
        self._is_refused, self._max_event_bytes = refusal is not None, info.max_event_bytes
        is_waiting = machine.state in (State.DOWN, State.PAUSING)
        if refusal is not None:
            self._fail_unwritten(refusal)  # those that were written have outcomes soon
            core.use_destination(destination)  # which refuses later events
            if is_waiting:
                self.on_gone(refusal)
            return
        if not is_waiting:
            if is_other:
                core.use_destination(destination)
            return
        machine.stream_checked_at = self._loop.time()
        allowed_s = self._allowed_s(info)
        if allowed_s != self.clock.timeout_s:
            self._logger.warning(OTHER_WINDOW, self._stream, info.options.dedup_window_s, allowed_s)
            self.clock.timeout_s = allowed_s
            core.set_give_up(allowed_s)
        self.clock.fail_overdue()
        self._checks.domain = destination.domain.decode()
        for seq, size in core.use_destination(destination):
            # The server would close the connection each time it read such an event.
            most = destination.max_payload
            what = "an event" if self._options.pack is None else "a pack"
            message = f"{what} of {size} bytes is over the max_payload of {most} that the server has now"
            self._fail(seq, ConfigError(message, argument="data"))
        machine.choose_mode(can_fast=can_fast)
        machine.leave(State.DOWN)

    def _fail_unwritten(self, error: Exception) -> None:
        """Fail the pending events that are not written, because the stream takes no more."""
        machine, core = self.machine, self.machine.core
        core.close_pack(write=False)
        for seq in core.unwritten():
            self._fail(seq, error)
        if machine.state is State.OPEN:
            core.start_writing()  # this passes over the failed events, so that a batch can be ended

    def on_looked(self, info: StreamInfo) -> None:
        """Check the stream again if this publisher may no longer publish to it, or may again, or only smaller packs."""
        is_refused = self._refusal_by(info) is not None
        is_other = self._options.pack is not None and info.max_event_bytes != self._max_event_bytes
        if is_refused is not self._is_refused or is_other:
            self._watch.check_again()

    def _refusal_by(self, info: StreamInfo) -> ConfigError | None:
        """Return why this publisher may not publish to the stream; None if it may."""
        if info.options.store:
            return refusal_of_publish(info.name)
        return None if self._options.pack is None else refusal_of_packs(info)

    def on_gone(self, error: Exception) -> None:
        """Fail all pending events. Later events are written, and each gets its own outcome."""
        self.fail_all(error)
        self.machine.start_over()  # answers to the failed events must no longer count
        self.machine.leave(State.DOWN)

    def on_forbidden(self, subject: str) -> None:
        """Fail the pending events that go to this subject."""
        machine, core = self.machine, self.machine.core
        forbidden = core.pending_to(subject.encode())
        for seq in forbidden:
            self._fail(seq, ServerError(403, 0, f"no permission to publish to {subject}"))
        if forbidden and not core.oldest_is_written:
            machine.start_over()
        elif forbidden and machine.state is State.OPEN and core.fast:
            machine.commit()  # the server has dropped these events, so it sees a gap in the batch and ends it


def _no_linger() -> None:
    """Do nothing: the publisher has no packs."""
