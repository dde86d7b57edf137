"""`conn.publish` for one stream: sends each event, and sends it again until its outcome is known."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from nats.errors import Error as NatsError

from eda._event import Event
from eda.deadline import Deadline
from eda.errors import Closed, ConfigError, ServerError, Timeout
from eda.jetstream.answer_inbox import REFUSAL_WAIT_S
from eda.jetstream.publish_answers import decode_answer
from eda.jetstream.store_mark import refusal_of_publish
from eda.publishing._message_sender import LastSender, MessageSender
from eda.publishing._stream_sender import Destination
from eda.publishing._window import PublishWindow
from eda.publishing.batch_counts import BatchCounts
from eda.publishing.single_stats import stats_of_sender
from eda.server_codes import CONFLICTS, DUPLICATE_UNDER_WAY
from eda.stats import PublisherStats
from eda.transport._waits import Wait
from eda.transport.wire import Wire

__all__ = ["StreamPublisher", "StreamPublishers"]

MAX_PENDING = 1 << 20
MAX_BATCHES = 50  # the server's limit for atomic batches under way, for each stream
RESEND_S = 5.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0
FRESH_S = 0.2  # an event is sent again only if its stream was checked at most this long ago


class StreamPublishers:
    """The publishers of a connection, one for each stream, so that a stream that does not answer delays no others.

    `recover(stream)` is called if nobody answers for a stream, and before an event is sent again. It checks the stream,
    and creates it if that is allowed. If it raises an error that is not retryable, the stream's pending publishes fail
    with this error. `longest_s(stream, since)` returns the longest time-out that the stream's duplicate window allows;
    None if the stream was not checked since then (a time of the monotonic clock). `is_marked(stream)` says whether the
    stream belonged to event stores when it was last checked.
    """

    def __init__(
        self,
        wire: Wire,
        client: str,
        logger: logging.Logger,
        recover: Callable[[str], Coroutine[Any, Any, None]],
        longest_s: Callable[[str, float], float | None],
        is_marked: Callable[[str], bool],
    ) -> None:
        self.wire = wire
        self.client = client
        self.logger = logger
        self.recover = recover
        self.longest_s = longest_s
        self.is_marked = is_marked
        self.last: LastSender = LastSender()
        self._of_stream: dict[str, StreamPublisher] = {}
        self._batches: dict[str, BatchCounts] = {}

    async def open(self, stream: str) -> StreamPublisher:
        """Return the publisher of a stream; make and open it first if it is new. Raises Closed."""
        publisher = self._of_stream.get(stream)
        if publisher is None:
            publisher = StreamPublisher(self)
            try:
                await publisher.open()
            except NatsError as error:
                raise Closed("connection") from error
            self._of_stream[stream] = publisher
        return publisher

    def batches(self, stream: str) -> BatchCounts:
        """Return the counts of the atomic batches into a stream."""
        return self._batches.setdefault(stream, BatchCounts())

    def stats(self) -> list[tuple[str, PublisherStats]]:
        """Return (stream, counts) of single publishes and of atomic batches. Any thread may call it."""
        singles = [(stream, each.stats()) for stream, each in list(self._of_stream.items())]
        return singles + [(stream, each.stats()) for stream, each in list(self._batches.items())]

    async def drain(self, deadline: Deadline, *, keeps_s: float) -> int:
        """Wait until all is settled, at most until `keeps_s` before the deadline. Return how many publishes are not."""
        stream_publishers = list(self._of_stream.values())
        return sum(await asyncio.gather(*(each.drain(deadline, keeps_s=keeps_s) for each in stream_publishers)))

    def close(self) -> None:
        """Fail the pending publishes."""
        for publisher in self._of_stream.values():
            publisher.close()


class StreamPublisher:
    """Publishes events into one stream, each with an acknowledgement of its own."""

    def __init__(self, stream_publishers: StreamPublishers) -> None:
        self._stream_publishers = stream_publishers
        self._wire = wire = stream_publishers.wire
        self._logger = stream_publishers.logger
        self._recover = stream_publishers.recover
        self._longest_s = stream_publishers.longest_s
        self._is_marked = stream_publishers.is_marked
        self._loop = asyncio.get_running_loop()
        self._out = wire.out
        inbox = wire.new_inbox()
        self._inbox = f"{inbox}.*"
        window = PublishWindow(MAX_PENDING)
        self.sender: MessageSender = MessageSender(
            window,
            wire.out,
            f"{inbox}.".encode(),
            stream_publishers.client,
            self._on_answer,
            wire.waits,
            self._arm,
            RESEND_S,
            stream_publishers.last,
        )
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._recovering: dict[str, asyncio.Task[None]] = {}
        self._last_errors: dict[int, ServerError] = {}  # sequence > why its last try was not stored
        self._all_refused: set[int] = set()  # sequences whose tries were all refused, so none is stored
        self._may_be_stored: set[int] = set()  # sequences with an unanswered try, which may be stored
        self._n_finding_out = 0
        self.batch_room: asyncio.Semaphore = asyncio.Semaphore(MAX_BATCHES)  # for atomic batches of an event store
        self._resend_when_checked: dict[str, list[int]] = {}  # stream > sequences to send again once it is checked
        wire.on_restored.append(self._on_restored)
        wire.on_refused.append(self._on_refused)
        wire.on_closed.append(self._on_closed)

    async def open(self) -> None:
        """Subscribe to the acknowledgements."""
        await self._wire.attach(self._inbox, self.sender)

    @property
    def is_ready(self) -> bool:
        """Return whether `send` may be called now; if not, await `ready`."""
        return self.sender.is_ready

    async def ready(self, timeout_s: float, event_id: str) -> float:
        """Wait until the connection and the window have room for an event, and return the rest of `timeout_s`.

        This is the back-pressure. Raises Closed, Timeout.
        """
        deadline = self._loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                while not self.is_ready:
                    if self._wire.is_closed or self._wire.closing:
                        raise Closed("connection")
                    await (self._wire.wait_writable() if self._out.paused else asyncio.sleep(0.01))
        except TimeoutError as error:
            raise Timeout("publish", timeout_s, event_id=event_id) from error
        return max(deadline - self._loop.time(), 0.001)

    def send(self, destination: Destination, event: Event, timeout_s: float) -> tuple[str, Wait[int]]:
        """Send an event; return its id, and a wait for the sequence at which the stream has stored it.

        The wait fails with Timeout, ServerError, Closed, or an error of `recover`. If the wait is cancelled, the event
        may be stored or not, and is not sent again.
        """
        return self.sender.send(destination, event, timeout_s)

    def send_message(
        self, destination: Destination, subject: bytes, headers: bytes, envelope: bytes, timeout_s: float
    ) -> Wait[int]:
        """Send a ready message; return a wait for the sequence at which the stream has stored it, as `send` does.

        `headers` is the whole header block, with a `Nats-Msg-Id`. The destination's check is not called. If the headers
        state an expectation that does not hold, the wait fails with ServerError. The error's `may_be_stored` says
        whether an earlier try may have stored the message.
        """
        return self.sender.send_message(destination, subject, headers, envelope, timeout_s)

    def stats(self) -> PublisherStats:
        """Return the counts as of now. Any thread may call it."""
        return stats_of_sender(self.sender)

    @contextmanager
    def finding_out(self) -> Iterator[None]:
        """Have `drain` wait while the caller finds out whether an event is stored."""
        self._n_finding_out += 1
        try:
            yield
        finally:
            self._n_finding_out -= 1

    async def drain(self, deadline: Deadline, *, keeps_s: float) -> int:
        """Wait until all is settled, at most until `keeps_s` before the deadline. Return how many publishes are not."""
        for seq in self.sender.due()[1]:
            self.sender.fail(seq, Timeout("publish", 0.0))  # the caller was cancelled and waits no more
        while (n_unsettled := self.sender.n_pending + self._n_finding_out) and not self._wire.is_closed:
            if deadline.left_s <= keeps_s:
                return n_unsettled
            await asyncio.sleep(0.005)
        return 0

    def close(self) -> None:
        """Fail the pending publishes."""
        self.sender.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.sender.timer_runs = False
        for task in self._recovering.values():
            task.cancel()
        for seq in self.sender.window.pending():
            self.sender.fail(seq, Closed("connection"))

    # --- the clock ---------------------------------------------------------------------------------------------------

    def _arm(self, delay_s: float) -> None:
        """Check the window after `delay_s`, unless an earlier check is due."""
        at = self._loop.time() + delay_s
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(delay_s, self._on_timer)
        self.sender.timer_runs = True

    def _on_timer(self) -> None:
        self._timer = None
        self.sender.timer_runs = False
        resend, give_up, next_s = self.sender.due()
        for seq in give_up:
            late = Timeout("publish", 0.0)
            late.__cause__ = self._last_errors.get(seq)
            self.sender.fail(seq, late)
        if self._out.paused:
            for seq in resend:
                self.sender.defer(seq, RESEND_S)  # the server does not read now, so writing more is useless
        else:
            self._send_again(resend, monotonic() - FRESH_S)
        if self._last_errors or self._may_be_stored or self._all_refused:
            pending = set(self.sender.window.pending())
            self._last_errors = {seq: why for seq, why in self._last_errors.items() if seq in pending}
            self._may_be_stored &= pending
            self._all_refused &= pending
        if self.sender.n_pending:
            self._arm(min(next_s or RESEND_S, RESEND_S))

    def _send_again(self, seqs: Iterable[int], since: float) -> None:
        """Send events again if that can't store them twice. Check a stream first if it was not checked after `since`.

        A try without an answer may be stored. The stream keeps the event's id for its duplicate window, which may have
        been shortened, so the stream is checked first. If all tries of an event were refused, the event is not stored,
        and the check is not needed.
        """
        for seq in seqs:
            sender = self.sender
            stream = sender.subject_of(seq).partition(".")[0]
            if not stream:
                continue  # settled, or not written yet
            if self._is_marked(stream) and not sender.is_of_store(seq):
                refusal = refusal_of_publish(stream)
                if seq not in self._all_refused:
                    refusal.add_note("An earlier try got no answer, so the event may be stored.")
                sender.fail(seq, refusal)
                continue
            if seq in self._all_refused:
                self._all_refused.discard(seq)
                sender.resend(seq, RESEND_S)
                continue
            self._may_be_stored.add(seq)
            longest_s = self._longest_s(stream, since)
            if longest_s is None:
                sender.defer(seq, RESEND_S)
                self._resend_when_checked.setdefault(stream, []).append(seq)
                self._check_stream(stream)
            elif sender.age_s(seq) <= longest_s:
                sender.resend(seq, RESEND_S)
            else:
                age_s = sender.age_s(seq)
                late = Timeout("publish", round(age_s, 3))
                window = f"the duplicate window of stream {stream!r} is {longest_s * 2:g} s now"
                late.add_note(f"It is not sent again: {window}, so a late copy could be stored a second time.")
                late.__cause__ = self._last_errors.get(seq)
                sender.fail(seq, late)

    # --- answers -----------------------------------------------------------------------------------------------------

    def _on_answer(self, seq: int, status: int, payload: bytes) -> None:
        stream = self.sender.subject_of(seq).partition(".")[0]
        if status == 503:
            self._try_later(seq, ServerError(503, 0, "no responders", operation=f"publish to {stream}"))
            self._check_stream(stream)
            return
        domain = self.sender.domain.decode()
        answer = decode_answer(status, payload)
        if answer is None:
            self._logger.warning(
                "stream %s: a message that is not an acknowledgement is ignored", stream, extra={"eda_stream": stream}
            )
        elif answer.error is None and answer.domain != domain:
            text = f"stream {answer.stream!r} of domain {answer.domain!r} has answered, domain {domain!r} has not"
            self._last_errors[seq] = ServerError(503, 0, text, operation=f"publish to {stream}")
        elif answer.error is None and answer.stream == stream:
            if answer.seq:  # an acknowledgement in a form that today's servers do not use
                self.sender.acknowledge(seq, -answer.seq if answer.duplicate else answer.seq)
        elif answer.error is None:
            owner = ServerError(500, 0, f"stream {answer.stream!r} owns the subject of stream {stream!r}")
            self._refuse(seq, owner)
        elif answer.error.is_transient:
            self._try_later(seq, answer.error.as_error(stream))
        elif domain and answer.error.err_code not in CONFLICTS:  # the event store looks into the stream by itself
            # A refusal names no domain. If it is from another domain, the right stream's acknowledgement follows.
            self._loop.call_later(REFUSAL_WAIT_S, self._refuse, seq, answer.error.as_error(stream))
        else:
            self._refuse(seq, answer.error.as_error(stream))

    def _refuse(self, seq: int, error: ServerError) -> None:
        """Fail an event that the server has refused permanently."""
        if seq in self._may_be_stored:
            error.may_be_stored = True
        self.sender.fail(seq, error)

    def _try_later(self, seq: int, why: ServerError) -> None:
        """Send an event again after a pause that doubles with each try, up to 2 s."""
        self._last_errors[seq] = why
        if seq not in self._may_be_stored and why.err_code != DUPLICATE_UNDER_WAY:
            self._all_refused.add(seq)
        n_tries = self.sender.defer(seq, BACKOFF_FIRST_S)
        pause_s = min(BACKOFF_FIRST_S * 2.0 ** min(max(n_tries - 1, 0), 10), BACKOFF_MAX_S)
        self.sender.defer(seq, pause_s)
        self._arm(pause_s)

    def _check_stream(self, stream: str) -> None:
        """Check a stream in the background, unless a check is under way."""
        if stream and stream not in self._recovering:
            task = self._loop.create_task(self._recover(stream))
            self._recovering[stream] = task
            task.add_done_callback(lambda done: self._on_stream_checked(stream, done))

    def _on_stream_checked(self, stream: str, task: asyncio.Task[None]) -> None:
        self._recovering.pop(stream, None)
        waiting = self._resend_when_checked.pop(stream, [])
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._send_again(waiting, 0.0)
            return
        if getattr(error, "retryable", False):
            # The check failed, so nothing is known about the stream. The publishes go on until they time out.
            for seq in waiting:
                self.sender.defer(seq, BACKOFF_MAX_S)
            self._arm(BACKOFF_MAX_S)
            return
        for seq in self.sender.window.pending():
            if self.sender.subject_of(seq).partition(".")[0] == stream:
                self.sender.fail(seq, error)

    # --- the connection ----------------------------------------------------------------------------------------------

    def _on_restored(self) -> None:
        again = []
        for seq in self.sender.window.pending():
            size, most = self.sender.size_of(seq), self._wire.max_payload
            if size > most:  # the server would close the connection each time it read such an event
                message = f"an event of {size} bytes is over the max_payload of {most} that the server has now"
                self.sender.fail(seq, ConfigError(message, argument="data"))
            else:
                again.append(seq)
        self._send_again(again, monotonic() - FRESH_S)

    def _on_refused(self, kind: str, subject: str) -> None:
        if kind != "publish":
            return
        for seq in self.sender.window.pending():
            if self.sender.subject_of(seq) == subject:
                self._refuse(seq, ServerError(403, 0, f"no permission to publish to {subject}"))

    def _on_closed(self) -> None:
        self.close()
