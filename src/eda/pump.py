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
alone, so that nothing overtakes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from eda._nuid import next_nuid
from eda._publish import Ingest
from eda._send import Target
from eda._wire import Wire
from eda.answers import Answer, Refused, decode_answer
from eda.errors import Closed, EdaError, ServerError, Timeout
from eda.streams import StreamInfo

__all__ = ["Look", "Mode", "Pump", "PumpOwner"]

Mode = Literal["auto", "window", "fast"]
# Where the stream's events go, the stream as it is, and whether it takes fast ingest from this publisher.
Look = Callable[[], Awaitable[tuple[Target, StreamInfo, bool]]]

FLOW = 500  # events per acknowledgement asked for: the server grants no more
MAX_OUTSTANDING = 8  # flow acknowledgements under way; more gains nothing
TICK_S = 0.005  # also how long the tail of a batch waits for another event before it is committed
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0
ENDING_S = 0.25  # how long a batch that the server has forgotten may owe its final acknowledgement

# server/errors.json of nats-server.
BATCH_DISABLED = 10205
BATCH_UNKNOWN = 10208
TOO_MANY_BATCHES = frozenset({10210, 10211})


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
        self._look = look
        self._wanted_mode = mode
        self._ack_timeout_s = ack_timeout_s
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._core: Ingest
        self.mode = ""
        self.state = "down"
        self._messages = 1  # events per flow acknowledgement, as the server last said
        self._probe = False
        self._pause_s = PAUSE_FIRST_S
        self._pausing: asyncio.TimerHandle | None = None
        self._ending_by = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._pump_soon = False
        self._n_seen = 0
        self._looking: asyncio.Task[None] | None = None
        self._closed = False
        self.on_room = owner.on_room
        self.on_flushed = owner.on_flushed
        self.on_acknowledged = owner.on_acknowledged

    def start(self, core: Ingest, can_fast: bool) -> None:
        """Begin to write what `core` accepts."""
        self._core = core
        self._choose(can_fast)
        self.state = "idle"
        self._wire.on_lost.append(self._on_lost)
        self._wire.on_restored.append(self._on_restored)
        self._wire.on_refused.append(self._on_refused)

    def close(self) -> None:
        """Write nothing more."""
        self._closed = True
        for handle in (self._timer, self._pausing):
            if handle is not None:
                handle.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if self._on_lost in self._wire.on_lost:
            self._wire.on_lost.remove(self._on_lost)
            self._wire.on_restored.remove(self._on_restored)
            self._wire.on_refused.remove(self._on_refused)
            self._core.stop()

    def _choose(self, can_fast: bool) -> None:
        """Choose the mode; renewed after every reconnect, since it may be another server."""
        fast = can_fast and self._wanted_mode != "window"
        self.mode = "fast" if fast else "window"
        if not fast:
            self._core.use_window()

    # --- what the publisher tells ------------------------------------------------------------------------------------

    @property
    def needs_telling(self) -> bool:
        """Whether `accepted` has to be called; while events flow they are written without it."""
        return self._timer is None or not self._core.writing

    def accepted(self) -> None:
        """See that what was accepted gets written, and watched."""
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._on_time)
        if self.state == "idle" and not self._pump_soon:
            # At the end of this turn it shows whether it is one event or many.
            self._pump_soon = True
            self._loop.call_soon(self._pump)

    def full(self) -> None:
        """See that a sender that waits for room will get it."""
        core = self._core
        if self.state == "idle":
            self._pump()
        elif self.state == "open" and core.fast and core.n_batch - core.n_settled < self._messages:
            self._commit()  # no flow acknowledgement is due for what the window holds

    def flush(self) -> None:
        """Fast ingest: have the events that no flow acknowledgement will come for acknowledged."""
        if self.state == "idle":
            self._pump()
        elif self.state == "open" and self._core.fast and self._core.n_pending:
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
            core.use_batch(next_nuid().encode(), self._flow())
            if core.n_waiting == 1:
                core.write(1, True, True)
                self._await_end(self._ack_timeout_s)
            else:
                core.write(1, True, False)
                self.state = "starting"
        elif self._probe:
            self.state = "probing"
            core.write(1, False, False)
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
        if self._core.n_waiting == 0:
            self._core.commit()
            self._await_end(self._ack_timeout_s)

    def _await_end(self, patience_s: float) -> None:
        self.state = "ending"
        self._core.stop()
        self._ending_by = self._loop.time() + patience_s

    def _again(self, pause_s: float) -> None:
        """Write everything that is not settled again, from the oldest event on, after a pause."""
        if self.state in ("pausing", "down") or self._closed:
            return
        self._core.restart()
        self._probe = True
        if pause_s <= 0:
            self.state = "idle"
            self._pump()
            return
        self.state = "pausing"
        self._pausing = self._loop.call_later(pause_s, self._paused)

    def _back_off(self) -> None:
        self._again(self._pause_s)
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)

    def _paused(self) -> None:
        if self.state == "pausing":
            self.state = "idle"
            self._pump()

    # --- what the core tells -----------------------------------------------------------------------------------------

    def on_probed(self) -> None:
        """Window: the oldest event is acknowledged, the rest may follow."""
        if self.state == "probing":
            self.state = "open"
            self._probe = False
            self._pause_s = PAUSE_FIRST_S
            self._core.resume()

    def on_flow(self, n_messages: int) -> None:
        """Fast ingest: the batch goes on; the server acknowledges every `n_messages`."""
        core = self._core
        self._messages = max(1, n_messages)
        core.set_limit(self._messages * MAX_OUTSTANDING)
        if self.state == "starting":
            self.state = "open"
            self._pause_s = PAUSE_FIRST_S
        if self.state == "open":
            core.resume()
            if core.flush_to:
                self._commit()

    def on_batch_answer(self, seq: int, status: int, payload: bytes) -> None:
        """Fast ingest: anything but a flow acknowledgement."""
        answer = self._decode(status, payload)
        if answer is None or answer.type in ("gap", "err"):
            return  # information only: the final acknowledgement says what was stored
        if answer.type == "ack":
            self._core.settle_first(answer.seq)
            self.on_flow(answer.msgs)
        elif answer.error is not None:
            self._batch_refused(seq, answer.error)
        elif answer.stream != self.stream:
            self._logger.error("stream %r answers for stream %r", answer.stream, self.stream)
        else:
            self._core.settle_first(answer.count)
            self._pause_s = PAUSE_FIRST_S
            self._again(0)

    def _batch_refused(self, seq: int, refused: Refused) -> None:
        core = self._core
        if refused.may_pass:
            self._back_off()
            if refused.code == 503:
                self._look_again()
        elif refused.err_code == BATCH_UNKNOWN:
            if self.state in ("open", "starting"):
                self._await_end(ENDING_S)
        elif refused.err_code == BATCH_DISABLED or (
            refused.err_code in TOO_MANY_BATCHES and self._wanted_mode != "fast"
        ):
            self._choose(can_fast=False)
            self._again(0)
        elif refused.err_code in TOO_MANY_BATCHES:
            self._back_off()
        elif core.n_settled == 0 and seq == 1:
            # The answer to the first event of a batch is that event's verdict.
            self._owner.on_failed(core.oldest, refused.as_error(self.stream))
            self._again(0)
        elif self.state == "open":
            # A later event was refused; the server ends the batch when it sees the next one, or this commit.
            core.commit()
            self._await_end(self._ack_timeout_s)

    def on_window_answer(self, seq: int, status: int, payload: bytes) -> None:
        """Window: anything but a plain acknowledgement."""
        answer = self._decode(status, payload)
        if answer is None:
            return
        refused = answer.error
        if refused is None:
            error = ServerError(500, 0, f"stream {answer.stream!r} owns the subject of {self.stream!r}")
            self._owner.on_failed(seq, error)
        elif refused.may_pass:
            if self.state == "open" or (self.state == "probing" and seq == self._core.oldest):
                self._back_off()
                if refused.code == 503:
                    self._look_again()
            return
        else:
            self._owner.on_failed(seq, refused.as_error(self.stream))
        if self.state == "probing":
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
        for seq in core.overdue():
            self._owner.on_failed(seq, Timeout("publish", self._timeout_s))
        if core.n_pending == 0:
            self._timer = None
            if self.state in ("open", "ending", "starting", "probing"):
                self.state = "idle"
                core.restart()
            return
        self._timer = self._loop.call_later(TICK_S, self._on_time)
        quiet = core.n_accepted == self._n_seen
        self._n_seen = core.n_accepted
        if self.state == "open" and core.fast and quiet:
            self._commit()
        elif self.state == "ending" and self._loop.time() > self._ending_by:
            self._logger.info("publisher to %s: a batch ended without a word", self.stream)
            self._again(0)
        elif self.state in ("open", "starting", "probing") and core.waited_s() > self._ack_timeout_s:
            self._logger.info("publisher to %s: no acknowledgement in %g s", self.stream, self._ack_timeout_s)
            self._again(0)

    # --- the connection and the stream -------------------------------------------------------------------------------

    def _on_lost(self) -> None:
        self.state = "down"
        self._core.restart()
        if self._pausing is not None:
            self._pausing.cancel()

    def _on_restored(self) -> None:
        self.state = "down"
        self._look_again()

    def _look_again(self) -> None:
        """Find out, once at a time, what the stream allows now, and go on."""
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._looked())

    async def _looked(self) -> None:
        pause_s = PAUSE_FIRST_S
        while not self._closed and self._wire.is_up:
            try:
                _, _, can_fast = await self._look()
            except EdaError as error:
                if not error.retryable and not isinstance(error, Closed):
                    self.fail_all(error)
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
                continue
            if self.state == "down":
                self._choose(can_fast)
                self._core.restart()
                self._probe = True
                self.state = "idle"
                self._pump()
            return

    def _on_refused(self, kind: str, subject: str) -> None:
        """The server forbids a subject: fail what goes there."""
        if kind != "publish" or subject.partition(".")[0] != self.stream:
            return
        for seq in self._core.window.pending():
            if self._core.subject_at(seq) == subject:
                self._owner.on_failed(seq, ServerError(403, 0, f"no permission to publish to {subject}"))
        if self.state in ("starting", "open", "ending", "probing"):
            self._again(0)
