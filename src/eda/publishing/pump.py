"""What a publisher's events wait for: room, the clock, answers, another connection. `steps` has the states."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from eda.errors import ConfigError, ServerError, Timeout
from eda.jetstream.publish_answers import Refused
from eda.jetstream.streams import StreamInfo
from eda.publishing._publisher_core import PublisherCore
from eda.publishing._stream_sender import Destination
from eda.publishing.known_streams import PUBLISH_TIMEOUT_S
from eda.publishing.pump_machine import PAUSE_MAX_S, UNDER_WAY, Mode, Steps
from eda.publishing.stream_watch import Look, Renewal
from eda.transport.wire import Wire

__all__ = ["Mode", "Pump", "PumpOwner"]

MAX_OUTSTANDING = 8  # flow acknowledgements under way; more gains nothing
TICK_S = 0.005  # also how long the tail of a batch waits for another event before it is committed
TAIL_S = 0.05  # how long an event waits for the rest of a flow interval while others keep coming
OVERDUE_S = 0.5  # how long a sender that waits for room waits for an acknowledgement of the flow: then for the batch's
ENDING_S = 0.25  # how long a batch that the server has forgotten may owe its final acknowledgement


class PumpOwner(Protocol):
    """What a pump tells its publisher."""

    def on_room(self) -> None:
        """The window has room again."""

    def on_flushed(self) -> None:
        """What `flush_to` asked for is settled."""

    def on_acknowledged(self, event_id: str, sequence: int) -> None:
        """An event is stored."""

    def on_receipt(self, receipt: Any, sequence: int) -> None:
        """An event that wanted a receipt is stored."""

    def on_failed(self, seq: int, error: Exception) -> None:
        """A pending event can't be published."""


class Pump(Steps):
    """Has the events of one publisher written, and their answers understood."""

    def __init__(
        self,
        owner: PumpOwner,
        wire: Wire,
        logger: logging.Logger,
        stream: str,
        look: Look,
        *,
        mode: Mode,
        dedup: bool,
        ack_timeout_s: float,
    ) -> None:
        super().__init__(wire, logger, stream, mode=mode, dedup=dedup, ack_timeout_s=ack_timeout_s)
        self._owner = owner
        self._wanted_timeout_s: float | None = None
        self._timeout_s = PUBLISH_TIMEOUT_S
        self._timer: asyncio.TimerHandle | None = None
        self._n_seen = 0
        self._messages = 1  # events per flow acknowledgement, as the server last said
        self._renewal = Renewal(self, wire, logger, stream, look)
        self.on_room = owner.on_room
        self.on_flushed = owner.on_flushed
        self.on_acknowledged = owner.on_acknowledged
        self.on_receipt = owner.on_receipt

    def choose_timeout(self, wanted_s: float | None, info: StreamInfo) -> float:
        """Return the seconds after which an event fails: as wanted, as the stream allows. Raises ConfigError."""
        longest = info.options.dedup_window_s / 2
        if wanted_s is not None and self._dedup and wanted_s > longest:
            raise ConfigError(
                f"timeout_s={wanted_s:g} must be at most {longest:g}: half of the duplicate window "
                f"({longest * 2:g} s) of stream {self.stream!r}, past which a late retry could be stored twice",
                argument="timeout_s",
            )
        self._wanted_timeout_s = wanted_s
        self._timeout_s = self._allowed_s(info)
        return self._timeout_s

    def _allowed_s(self, info: StreamInfo) -> float:
        wanted_s = self._wanted_timeout_s or PUBLISH_TIMEOUT_S
        return min(wanted_s, info.options.dedup_window_s / 2) if self._dedup else wanted_s

    def start(self, core: PublisherCore, can_fast: bool) -> None:
        """Begin to write what `core` accepts."""
        self._core = core
        self._verdicts.domain = core.domain
        self._choose(can_fast)
        self.state = "idle"
        self._looked_at = self._loop.time()
        self._renewal.start()

    def close(self) -> None:
        """Write nothing more."""
        if self.state == "open" and self._core.fast and self._wire.is_up:
            self._core.commit_batch()
        self._closed = True
        for handle in (self._timer, self._pausing):
            if handle is not None:
                handle.cancel()
        self._renewal.stop()

    # --- what the publisher tells ------------------------------------------------------------------------------------

    def accepted(self) -> None:
        """See that what was accepted gets written, and timer_runs."""
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._on_time)
            self._core.timer_runs = True
        if self.state == "idle" and not self._pump_soon:
            # At the end of this turn it shows whether it is one event or many.
            self._pump_soon = True
            self._loop.call_soon(self._pump)

    def accepted_apart(self) -> None:
        """See that an event that wants a batch of its own gets it."""
        self.accepted()
        self._make_way()

    def _make_way(self) -> None:
        """Fast ingest: end the batch if what comes next wants one of its own."""
        if self.state == "open" and self._core.next_wants_receipt:
            self._commit()

    def full(self) -> None:
        """See that what was accepted gets acknowledged without more of it."""
        core = self._core
        if (
            core.n_in_batch - core.n_batch_answered < self._messages or core.needs_batch_end
        ):  # no flow acknowledgement makes room
            self.flush()

    def flush(self) -> None:
        """See that what was accepted gets acknowledged soon."""
        if self.state == "idle":
            self._pump()
        elif self.state == "open" and self._core.fast and self._core.n_waiting == 0:
            self._commit()

    def _look_again(self) -> None:
        self._renewal.look_again()

    def _back_off(self, refused: Refused) -> None:
        if self.state in UNDER_WAY:
            self._verdicts.why = refused.as_error(self.stream)
            self._again(self._pause_s)
            self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
            if refused.code == 503:
                self._renewal.look_again()

    # --- what the core tells -----------------------------------------------------------------------------------------

    def on_probed(self) -> None:
        """Window: the oldest event is acknowledged, the rest may follow."""
        if self.state == "probing":
            self._worked()
            self.state = "open"
            self._core.start_writing()

    def on_flow(self, n_messages: int) -> None:
        """Fast ingest: the batch goes on; the server acknowledges every `n_messages`."""
        core = self._core
        self._messages = max(1, n_messages)
        core.set_limit(self._messages * MAX_OUTSTANDING)
        if self.state == "starting":
            self.state = "open"
        if self.state == "open":
            core.start_writing()
            if core.next_wants_receipt:
                self._commit()
            elif core.flush_to:
                self.flush()
            elif core.room_wanted:
                self.full()

    def on_batch_answer(self, seq: int, status: int, payload: bytes) -> None:
        """Fast ingest: anything but a plain flow acknowledgement."""
        core = self._core
        answer = self._verdicts.decode(status, payload)
        if answer is None or answer.type or self.state not in UNDER_WAY:
            return  # gap and err are information only: the final acknowledgement says what was stored
        if answer.error is not None:
            self._batch_refused(seq, answer.error)
        elif not self._verdicts.is_of_domain(answer):
            return
        elif answer.stream != self.stream:
            self._logger.error("stream %r answers for stream %r", answer.stream, self.stream)
        elif answer.batch == self._batch and core.settle_batch_to(
            answer.count, -answer.seq if answer.duplicate else answer.seq
        ):
            if answer.count == core.n_in_batch:
                self._worked()
                self._next()
                self._pump()
            else:
                self._again(0)

    def _batch_refused(self, seq: int, refused: Refused) -> None:
        core = self._core
        if refused.bars_batches or (refused.bars_more_batches and self._wanted_mode != "fast"):
            self._choose(can_fast=False)
            self._again(0)
        elif refused.is_echo:
            if self.state == "open" and core.settles_at_end:
                self._commit()  # the batch may be over in another domain only
            elif self.state != "ending":
                self._await_end(ENDING_S)
            elif seq > core.n_in_batch:
                self._await_end(min(ENDING_S, self._ending_by - self._loop.time()))
        elif refused.is_transient:
            self._back_off(refused)
        elif seq == 1 and core.oldest_opened_batch:
            # The answer to the first event of a batch is that event's verdict.
            if self._refuse(core.oldest, refused):
                self._again(0)
        elif seq > core.n_in_batch:
            self._again(0)  # not even the commit was taken
        elif self.state == "open":
            self._commit()  # a later event was refused: the server ends the batch with the next one, or with this

    def on_window_answer(self, seq: int, status: int, payload: bytes) -> None:
        """Window: anything but a plain acknowledgement."""
        answer = self._verdicts.decode(status, payload)
        if answer is None or answer.type or not (answer.error or answer.seq):
            return  # an acknowledgement is not written like this
        refused = answer.error
        if refused is None:
            if not self._verdicts.is_of_domain(answer):
                return
            if answer.stream == self.stream:  # written in another way than servers do
                self._core.settle(seq, -answer.seq if answer.duplicate else answer.seq)
                return
            error = ServerError(500, 0, f"stream {answer.stream!r} owns the subject of {self.stream!r}")
            self._owner.on_failed(seq, error)
        elif not refused.is_transient:
            self._refuse(seq, refused)
        elif self.state == "open" or (self.state == "probing" and seq == self._core.oldest):
            self._back_off(refused)
        if self.state == "probing" and not self._core.oldest_is_written:
            self._again(0)

    def _refuse(self, seq: int, refused: Refused) -> bool:
        """Fail an event for good; False where it may be another domain that refuses, and time will tell."""
        if self._core.settles_at_end:
            self._verdicts.doubt(seq, refused)
            return False
        self._owner.on_failed(seq, refused.as_error(self.stream))
        return True

    def fail_all(self, error: Exception) -> None:
        """Fail everything that is pending."""
        for seq in self._core.window.pending():
            self._owner.on_failed(seq, error)

    # --- the clock ---------------------------------------------------------------------------------------------------

    def _on_time(self) -> None:
        core = self._core
        self._timer = self._loop.call_later(TICK_S, self._on_time)
        overdue = self._fail_overdue()
        refused = self._verdicts.refusals()
        for seq, error in refused:
            self._owner.on_failed(seq, error)
        if core.n_pending == 0:
            self._rest()
            return
        if (overdue or refused) and not core.oldest_is_written:
            self._again(0)  # all that was under way
        quiet = core.n_accepted == self._n_seen
        self._n_seen = core.n_accepted
        if self.state == "ending" and self._loop.time() > self._ending_by:
            self._logger.info("publisher to %s: a batch ended without a word", self.stream)
            self._again(0)
        elif self.state in UNDER_WAY and self.state != "ending" and core.oldest_waited_s() > self._ack_timeout_s:
            self._logger.info("publisher to %s: no acknowledgement in %g s", self.stream, self._ack_timeout_s)
            self._again(0)
        elif (quiet or core.settles_at_end) and core.oldest_waited_s() > self._patience_s(quiet):
            self.flush()
        elif quiet or core.oldest_waited_s() > TAIL_S:
            self.full()

    def _fail_overdue(self) -> bool:
        """Fail what is past its time; returns whether there was any."""
        overdue = self._core.window.overdue()
        for seq in overdue:
            late = Timeout("publish", self._timeout_s)
            late.__cause__ = self._verdicts.cause
            self._owner.on_failed(seq, late)
        return bool(overdue)

    def _patience_s(self, quiet: bool) -> float:
        """How long the oldest event waits before its batch is ended for it."""
        if self._core.settles_at_end:
            return TAIL_S if not quiet or self._core.room_wanted else -1.0
        return OVERDUE_S if self._core.room_wanted else -1.0

    def _rest(self) -> None:
        """Nothing is pending: leave no timer and no batch behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._core.timer_runs = False
        if self.state == "open" and self._core.fast:
            self._core.commit_batch()  # the server keeps an open batch for 10 s, and others get a smaller share
        if self.state in UNDER_WAY:
            self._next()

    # --- what the renewal tells --------------------------------------------------------------------------------------

    def on_lost(self) -> None:
        """Wait for the connection, and for a look at the stream."""
        if self._pausing is not None:
            self._pausing.cancel()
        self._next()
        self.state = "down"

    def on_found(self, destination: Destination, info: StreamInfo, can_fast: bool) -> None:
        """Go on with what the stream allows now."""
        if self.state not in ("down", "pausing"):
            return
        self._looked_at = self._loop.time()
        allowed_s = self._allowed_s(info)
        if allowed_s != self._timeout_s:
            text = "publisher to %s: the stream's duplicate window is %g s now: an event fails after %g s"
            self._logger.warning(text, self.stream, info.options.dedup_window_s, allowed_s)
            self._timeout_s = allowed_s
            self._core.set_give_up(allowed_s)
        self._fail_overdue()
        self._verdicts.domain = destination.domain.decode()
        for seq, size in self._core.use_destination(destination):
            # The server would close the connection, every time.
            most = destination.max_payload
            message = f"an event of {size} bytes is over the max_payload of {most} that the server has now"
            self._owner.on_failed(seq, ConfigError(message, argument="data"))
        self._choose(can_fast)
        self._leave("down")

    def on_gone(self, error: Exception) -> None:
        """Fail what is pending; what comes later finds out for itself."""
        self.fail_all(error)
        self._again(0)  # the answer to what was out says nothing any more
        self._leave("down")

    def on_forbidden(self, subject: str) -> None:
        """Fail what goes to this subject."""
        core = self._core
        forbidden = core.pending_to(subject.encode())
        for seq in forbidden:
            self._owner.on_failed(seq, ServerError(403, 0, f"no permission to publish to {subject}"))
        if forbidden and not core.oldest_is_written:
            self._again(0)
        elif forbidden and self.state == "open" and core.fast:
            self._commit()  # the server has not seen them: for it the batch has a gap
