"""When a publisher's events are written: batches, probes, pauses and what the server answers.

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
from typing import Literal, Protocol

from eda._nuid import next_nuid
from eda._publish import Ingest
from eda._send import Target
from eda._wire import Wire
from eda.answers import Answer, Refused, decode_answer
from eda.errors import ConfigError, ServerError, Timeout
from eda.renewal import Look, Renewal

__all__ = ["Mode", "Pump", "PumpOwner"]

Mode = Literal["auto", "window", "fast"]

FLOW = 500  # events per acknowledgement asked for: the server grants no more
MAX_OUTSTANDING = 8  # flow acknowledgements under way; more gains nothing
TICK_S = 0.005  # also how long the tail of a batch waits for another event before it is committed
TAIL_S = 0.05  # how long an event waits for the rest of a flow interval while others keep coming
OVERDUE_S = 0.5  # how long a sender that waits for room waits for an acknowledgement of the flow: then for the batch's
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0
ENDING_S = 0.25  # how long a batch that the server has forgotten may owe its final acknowledgement

UNDER_WAY = frozenset({"starting", "probing", "open", "ending"})


class PumpOwner(Protocol):
    """What a pump tells its publisher."""

    def on_room(self) -> None:
        """The window has room again."""

    def on_flushed(self) -> None:
        """What `flush_to` asked for is settled."""

    def on_acknowledged(self, event_id: str, sequence: int) -> None:
        """An event is stored."""

    def on_failed(self, seq: int, error: Exception) -> None:
        """A pending event can't be published."""


class Pump:
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
        ack_timeout_s: float,
        timeout_s: float,
    ) -> None:
        self._owner = owner
        self._wire = wire
        self._logger = logger
        self.stream = stream
        self._wanted_mode = mode
        self._ack_timeout_s = ack_timeout_s
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._core: Ingest
        self.mode = ""
        self.state = "down"
        self._batch = ""
        self._messages = 1  # events per flow acknowledgement, as the server last said
        self._probe = False
        self._pause_s = PAUSE_FIRST_S
        self._why: ServerError | None = None  # the server could not take the oldest event when last asked
        self._pausing: asyncio.TimerHandle | None = None
        self._ending_by = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._pump_soon = False
        self._n_seen = 0
        self._renewal = Renewal(self, wire, logger, stream, look)
        self._closed = False
        self.on_room = owner.on_room
        self.on_flushed = owner.on_flushed
        self.on_acknowledged = owner.on_acknowledged

    def start(self, core: Ingest, can_fast: bool) -> None:
        """Begin to write what `core` accepts."""
        self._core = core
        self._choose(can_fast)
        self.state = "idle"
        self._renewal.start()

    def close(self) -> None:
        """Write nothing more."""
        if self.state == "open" and self._core.fast and self._wire.is_up:
            self._core.commit()
        self._closed = True
        for handle in (self._timer, self._pausing):
            if handle is not None:
                handle.cancel()
        self._renewal.stop()

    def _choose(self, can_fast: bool) -> None:
        """Choose the mode; renewed after every reconnect, since it may be another server."""
        fast = can_fast and self._wanted_mode != "window"
        self.mode = "fast" if fast else "window"
        if not fast:
            self._core.use_window()

    # --- what the publisher tells ------------------------------------------------------------------------------------

    def accepted(self) -> None:
        """See that what was accepted gets written, and watched."""
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._on_time)
            self._core.watched = True
        if self.state == "idle" and not self._pump_soon:
            # At the end of this turn it shows whether it is one event or many.
            self._pump_soon = True
            self._loop.call_soon(self._pump)

    def full(self) -> None:
        """See that what was accepted gets acknowledged without more of it."""
        core = self._core
        if core.n_batch - core.n_settled < self._messages:  # no flow acknowledgement is due
            self.flush()

    def flush(self) -> None:
        """See that what was accepted gets acknowledged soon."""
        if self.state == "idle":
            self._pump()
        elif self.state == "open" and self._core.fast and self._core.n_waiting == 0:
            self._commit()

    # --- writing -----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Write what waits, as the state allows."""
        core = self._core
        self._pump_soon = False
        if self._closed or self.state != "idle" or core.n_waiting == 0:
            return
        if not self._wire.is_up:
            self.state = "down"
        elif self.mode == "fast":
            self._batch = next_nuid()
            core.use_batch(self._batch.encode(), self._flow())
            alone = self._probe or core.n_waiting == 1
            core.write_first(alone)
            if alone:
                self._await_end(self._ack_timeout_s)
            else:
                self.state = "starting"
        elif self._probe:
            self.state = "probing"
            core.write_first(False)
        else:
            self.state = "open"
            core.resume()

    def _flow(self) -> int:
        """The events per acknowledgement to ask for: a quarter of the window, by count and by bytes."""
        core = self._core
        flow = min(FLOW, core.max_pending // 4)
        if core.n_pending:
            flow = min(flow, int(core.max_bytes / 4 / max(core.n_bytes / core.n_pending, 1)))
        return max(1, flow)

    def _commit(self) -> None:
        self._core.commit()
        self._await_end(self._ack_timeout_s)

    def _await_end(self, patience_s: float) -> None:
        self.state = "ending"
        self._core.stop()
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
        self._core.restart()

    def _back_off(self, refused: Refused) -> None:
        if self.state in UNDER_WAY:
            self._why = refused.as_error(self.stream)
            self._again(self._pause_s)
            self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
            if refused.code == 503:
                self._renewal.look_again()

    def _leave(self, state: str) -> None:
        if self.state == state:
            self._probe = True
            self.state = "idle"
            self._pump()

    def _worked(self) -> None:
        """The oldest event is stored: the trouble is over."""
        self._probe = False
        self._pause_s = PAUSE_FIRST_S
        self._why = None

    # --- what the core tells -----------------------------------------------------------------------------------------

    def on_probed(self) -> None:
        """Window: the oldest event is acknowledged, the rest may follow."""
        if self.state == "probing":
            self._worked()
            self.state = "open"
            self._core.resume()

    def on_flow(self, n_messages: int) -> None:
        """Fast ingest: the batch goes on; the server acknowledges every `n_messages`."""
        core = self._core
        self._messages = max(1, n_messages)
        core.set_limit(self._messages * MAX_OUTSTANDING)
        if self.state == "starting":
            self.state = "open"
        if self.state == "open":
            core.resume()
            if core.flush_to:
                self.flush()
            elif core.room_wanted:
                self.full()

    def on_batch_answer(self, seq: int, status: int, payload: bytes) -> None:
        """Fast ingest: anything but a plain flow acknowledgement."""
        core = self._core
        answer = self._decode(status, payload)
        if answer is None or answer.type or self.state not in UNDER_WAY:
            return  # gap and err are information only: the final acknowledgement says what was stored
        if answer.error is not None:
            self._batch_refused(seq, answer.error)
        elif answer.stream != self.stream:
            self._logger.error("stream %r answers for stream %r", answer.stream, self.stream)
        elif answer.batch == self._batch and core.settle_first(answer.count):
            if answer.count == core.n_batch:
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
            if self.state != "ending":
                self._await_end(ENDING_S)
            elif seq > core.n_batch:
                self._await_end(min(ENDING_S, self._ending_by - self._loop.time()))
        elif refused.may_pass:
            self._back_off(refused)
        elif seq == 1 and core.awaits_verdict:
            # The answer to the first event of a batch is that event's verdict.
            self._owner.on_failed(core.oldest, refused.as_error(self.stream))
            self._again(0)
        elif seq > core.n_batch:
            self._again(0)  # not even the commit was taken
        elif self.state == "open":
            self._commit()  # a later event was refused: the server ends the batch with the next one, or with this

    def on_window_answer(self, seq: int, status: int, payload: bytes) -> None:
        """Window: anything but a plain acknowledgement."""
        answer = self._decode(status, payload)
        if answer is None or answer.type or not (answer.error or (answer.seq and answer.stream != self.stream)):
            return  # an acknowledgement is not written like this
        refused = answer.error
        if refused is None:
            error = ServerError(500, 0, f"stream {answer.stream!r} owns the subject of {self.stream!r}")
            self._owner.on_failed(seq, error)
        elif not refused.may_pass:
            self._owner.on_failed(seq, refused.as_error(self.stream))
        elif self.state == "open" or (self.state == "probing" and seq == self._core.oldest):
            self._back_off(refused)
        if self.state == "probing" and not self._core.is_out:
            self._again(0)

    def _decode(self, status: int, payload: bytes) -> Answer | None:
        answer = decode_answer(status, payload)
        if answer is None:
            self._logger.warning("stream %s: an acknowledgement that is none is ignored", self.stream)
        return answer

    def fail_all(self, error: Exception) -> None:
        """Fail everything that is pending."""
        for seq in self._core.window.pending():
            self._owner.on_failed(seq, error)

    # --- the clock ---------------------------------------------------------------------------------------------------

    def _on_time(self) -> None:
        core = self._core
        self._timer = self._loop.call_later(TICK_S, self._on_time)
        overdue = core.overdue()
        for seq in overdue:
            late = Timeout("publish", self._timeout_s)
            late.__cause__ = self._why
            self._owner.on_failed(seq, late)
        if core.n_pending == 0:
            self._rest()
            return
        if overdue and not core.is_out:
            self._again(0)  # all that was under way
        quiet = core.n_accepted == self._n_seen
        self._n_seen = core.n_accepted
        if self.state == "ending" and self._loop.time() > self._ending_by:
            self._logger.info("publisher to %s: a batch ended without a word", self.stream)
            self._again(0)
        elif self.state in UNDER_WAY and self.state != "ending" and core.waited_s() > self._ack_timeout_s:
            self._logger.info("publisher to %s: no acknowledgement in %g s", self.stream, self._ack_timeout_s)
            self._again(0)
        elif quiet and (not core.room_wanted or core.waited_s() > OVERDUE_S):
            self.flush()
        elif quiet or core.waited_s() > TAIL_S:
            self.full()

    def _rest(self) -> None:
        """Nothing is pending: leave no timer and no batch behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._core.watched = False
        if self.state == "open" and self._core.fast:
            self._core.commit()  # the server keeps an open batch for 10 s, and others get a smaller share
        if self.state in UNDER_WAY:
            self._next()

    # --- what the renewal tells --------------------------------------------------------------------------------------

    def on_lost(self) -> None:
        """Wait for the connection, and for a look at the stream."""
        if self._pausing is not None:
            self._pausing.cancel()
        self._next()
        self.state = "down"

    def on_found(self, target: Target, can_fast: bool) -> None:
        """Go on with what the stream allows now."""
        if self.state not in ("down", "pausing"):
            return
        for seq, size in self._core.use_target(target):
            # The server would close the connection, every time.
            most = target.max_payload
            message = f"an event of {size} bytes is over the max_payload of {most} that the server has now"
            self._owner.on_failed(seq, ConfigError(message, argument="data"))
        self._choose(can_fast)
        self._leave("down")

    def on_gone(self, error: Exception) -> None:
        """Fail what is pending; what comes later finds out for itself."""
        self.fail_all(error)
        self._leave("down")

    def on_forbidden(self, subject: str) -> None:
        """Fail what goes to this subject."""
        core = self._core
        forbidden = core.pending_to(subject.encode())
        for seq in forbidden:
            self._owner.on_failed(seq, ServerError(403, 0, f"no permission to publish to {subject}"))
        if forbidden and not core.is_out:
            self._again(0)
        elif forbidden and self.state == "open" and core.fast:
            self._commit()  # the server has not seen them: for it the batch has a gap
