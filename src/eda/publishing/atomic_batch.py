"""Atomic batches: all messages of a batch are stored, or none. For `conn.publish_batch` and the event store.

If a try gets no answer, the batch may be stored or not. If it is stored, the server refuses the next try, because the
ids are duplicates. Then this module reads the stream, to see whether a try of this batch has stored the ids, or an
earlier publish.

Source: ADR-50, and nats-server's server/stream.go (processJetStreamAtomicBatchMsg).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from eda._codec import encode_event
from eda._event import Event
from eda._nuid import next_nuid
from eda.errors import Closed, CodecError, ConfigError, EdaError, NotSupported, ServerError, Timeout
from eda.headers import EXPECTED_FILTER, EXPECTED_SEQUENCE, MSG_ID, NO_HEADERS
from eda.jetstream.answer_inbox import AnswerInbox
from eda.jetstream.api import Api
from eda.jetstream.publish_answers import Answer, Refused
from eda.jetstream.schemas import Stream
from eda.jetstream.store_mark import check_unmarked
from eda.jetstream.stream_info import StreamInfo, check_takes_events, check_takes_subject
from eda.jetstream.subjects import fits_protocol_line, subject_of
from eda.log import with_fields
from eda.publishing._stream_sender import check_event_id
from eda.publishing.expectations import Expectation, holds
from eda.publishing.lost_batch import find_batch, has_all_since
from eda.receipt import Receipt
from eda.server_codes import (
    ATOMIC_BATCH_DISABLED,
    ATOMIC_BATCH_HEADER_UNSUPPORTED,
    ATOMIC_BATCH_INCOMPLETE,
    CONFLICTS,
    LAST_SEQUENCE_CONFLICT,
    MESSAGE_TOO_LARGE,
    STREAM_NOT_FOUND,
)
from eda.times import NS
from eda.transport.wire import Wire

__all__ = ["MAX_EVENTS", "AtomicBatch", "BatchMessage", "encode_batch"]

MAX_EVENTS = 1000  # the server's default limit
N_BATCH_ID = 22
TIMEOUT_S = 30.0
ACK_TIMEOUT_S = 5.0
PAUSE_S = 0.1
WRITE_SIZE = 256 * 1024


class BatchMessage(NamedTuple):
    """A message of a batch."""

    subject: str
    envelope: bytes
    id: str
    headers: Mapping[str, str] = NO_HEADERS


def encode_batch(stream: str, events: Iterable[Event], client: str) -> list[BatchMessage]:
    """Return the messages of these events. `client` is for events that name none. Raises ConfigError, EncodeError."""
    if not isinstance(events, Iterable):
        raise ConfigError(f"events must be an iterable of eda.Event, not {events!r}", argument="events")
    now_ns = time.time_ns()
    messages: list[BatchMessage] = []
    index_of: dict[str, int] = {}
    for index, event in enumerate(events):
        where = f"events[{index}]"
        if index == MAX_EVENTS:
            raise ConfigError(f"a batch has at most {MAX_EVENTS} events", argument="events")
        if type(event) is not Event:
            raise ConfigError(f"{where} must be an eda.Event, not {type(event).__name__}", argument="events")
        event_id = event.id or next_nuid()
        if index_of.setdefault(event_id, index) != index:
            raise ConfigError(f"{where} has the id of events[{index_of[event_id]}]: {event_id}", argument="events")
        try:
            check_event_id(event_id)
            subject = subject_of(stream, event.type, event.aggregate)
            messages.append(BatchMessage(subject, encode_event(event, event_id, client, now_ns), event_id))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}", argument="events") from error
        except CodecError as error:
            error.event_id = event.id
            error.add_note(where)
            raise
    return messages


class AtomicBatch:
    """One batch: its frames, and the tries to publish it until the outcome is known.

    `recover(stream)` is called if nobody answers for the stream. It creates the stream if that is allowed, and
    otherwise raises StreamNotFound. `max_message()` returns the stream's limit for the bytes of a message; 0 if there
    is none. `operation` names the batch in errors and in the log.
    """

    def __init__(
        self,
        wire: Wire,
        api: Api,
        logger: logging.Logger,
        stream: str,
        messages: list[BatchMessage],
        recover: Callable[[str], Coroutine[Any, Any, None]],
        *,
        max_message: Callable[[], int] = lambda: 0,
        expectation: Expectation | None = None,
        operation: str = "publish_batch",
    ) -> None:
        self._wire = wire
        self._api = api
        self._logger = with_fields(logger, eda_stream=stream)
        self._stream = stream
        self._recover = recover
        self._messages = messages
        self._max_message = max_message
        self._expectation = expectation
        self._operation = operation
        self._batches: list[str] = []  # the ids of all tries
        self._may_be_stored = False  # a try got no answer, so the batch may be stored
        self._last_error: EdaError | None = None  # of the last try that got an answer
        # Done as soon as the current try can't succeed any more: the connection is lost (the result is None), or the
        # server has forbidden a subject (the result is the refusal).
        self._try_ended: asyncio.Future[Answer | None]

    def check_taken_by(self, info: StreamInfo) -> None:
        """Raise ConfigError unless the stream takes all events of the batch."""
        check_unmarked(info)
        self._max_message = lambda: info.max_event_bytes or 0
        if not check_takes_events(info):
            for message in self._messages:
                check_takes_subject(info, message.subject)

    def check_sizes(self) -> None:
        """Raise ConfigError, which names the event, unless server and stream take messages of these sizes."""
        for index in range(len(self._messages)):
            wrong = self._why_too_large(index)
            if wrong:
                raise ConfigError(f"events[{index}]: {wrong}", argument="events")

    async def publish(self, *, last_seq: int, created: datetime, longest_s: float) -> list[Receipt]:
        """Send the batch and return its receipts once all of it is stored. Takes and raises what `store` does."""
        first = await self.store(last_seq=last_seq, created=created, longest_s=longest_s)
        return [Receipt(each.id, self._stream, first + at, 0, False) for at, each in enumerate(self._messages)]

    async def store(self, *, last_seq: int, created: datetime | None, longest_s: float) -> int:
        """Send the batch, and return the sequence of its first event once all of it is stored; 0 for no events.

        `last_seq` is a sequence before the batch: the stream's last one, or that of the expectation. `created` is when
        the stream was created; None if that does not matter, because there is an expectation. A try may be repeated for
        `longest_s`: half of the stream's duplicate window.

        Raises ConfigError before anything is sent; ServerError, StreamNotFound or NotSupported if nothing is stored;
        Timeout if the outcome is unknown; Closed. If the caller is cancelled, the batch may be stored or not.
        """
        self.check_sizes()
        if not self._messages:
            return 0
        self._from_seq = last_seq + 1
        self._created = created
        self._try_ended = asyncio.get_running_loop().create_future()
        self._began = asyncio.get_running_loop().time()
        self._timeout_s = timeout_s = min(TIMEOUT_S, longest_s)
        wire = self._wire
        wire.on_lost.append(self._on_lost)
        wire.on_closed.append(self._on_lost)
        wire.on_refused.append(self._on_refused)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await self._send_until_stored()
        except TimeoutError:
            if not limit.expired():
                raise
            if self._last_error is not None and not self._may_be_stored:
                raise self._last_error from None
            raise Timeout(self._operation, round(timeout_s, 3)) from self._last_error
        finally:
            wire.on_lost.remove(self._on_lost)
            wire.on_closed.remove(self._on_lost)
            wire.on_refused.remove(self._on_refused)

    # --- building ----------------------------------------------------------------------------------------------------

    def _why_too_large(self, index: int) -> str:
        """Return why an event is too large for server or stream; an empty string if it is small enough."""
        subject, envelope, *_ = self._messages[index]
        if not fits_protocol_line(subject):
            return "type and aggregate make a subject too long for the server's protocol line"
        n_total = len(self._header(index, "x" * N_BATCH_ID)) + len(envelope)
        if n_total > self._wire.max_payload:
            return f"{n_total} bytes are over the server's max_payload of {self._wire.max_payload}"
        most = self._max_message()
        if most and n_total > most:
            return f"{n_total} bytes are over the stream's max_msg_size of {most}"
        return ""

    def _headers(self, index: int, batch: str) -> dict[str, str]:
        headers = {
            MSG_ID: self._messages[index].id,
            "Nats-Batch-Id": batch,
            "Nats-Batch-Sequence": str(index + 1),
            **self._messages[index].headers,
        }
        if index == len(self._messages) - 1:
            headers["Nats-Batch-Commit"] = "1"
        if index == 0 and self._expectation is not None:
            headers[EXPECTED_SEQUENCE] = str(self._expectation.sequence)
            headers[EXPECTED_FILTER] = self._expectation.filter
        return headers

    def _header(self, index: int, batch: str) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._headers(index, batch).items())
        return f"NATS/1.0\r\n{lines}\r\n".encode()

    def _parts(self, batch: str) -> Iterator[bytes]:
        """Yield the frames of all events except the last, joined to pieces of at least 256 KiB each."""
        part = bytearray()
        for index, (subject, envelope, *_) in enumerate(self._messages[:-1]):
            header = self._header(index, batch)
            n_header, n_total = len(header), len(header) + len(envelope)
            part += b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), n_header, n_total, header, envelope)
            if len(part) >= WRITE_SIZE:
                yield bytes(part)
                part.clear()
        if part:
            yield bytes(part)

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _send_until_stored(self) -> int:
        """Try until the batch is stored, and return its first sequence. Raises the error if it can't be stored."""
        while True:
            if self._wire.is_closed or self._wire.closing:
                raise Closed("connection")
            answer = None
            if self._wire.is_up and (not self._may_be_stored or await self._can_send_again()):
                answer = await self._try()
            if answer is not None:
                refused = answer.error
                if refused is None:
                    return answer.seq - len(self._messages) + 1  # `seq` is the sequence of the batch's last event
                self._last_error = self._error_of(refused)
                if not (refused.is_transient or refused.err_code == ATOMIC_BATCH_INCOMPLETE):
                    if not (self._may_be_stored or self._is_conflict_in_a_domain()):
                        raise self._last_error
                    first = await self._find_stored_try()
                    if first:
                        return first
                elif refused.code == 503 or refused.err_code == ATOMIC_BATCH_INCOMPLETE:  # or an event is too large
                    await self._check_stream()
            await asyncio.sleep(PAUSE_S)

    async def _can_send_again(self) -> bool:
        """Return whether the batch can be sent again and not be stored twice; False if the check of the stream fails.

        Raises Timeout if the stream's duplicate window has become too short for another try.
        """
        try:
            info = await self._api.request(f"STREAM.INFO.{self._stream}", schema=Stream)
        except (ServerError, Timeout) as error:
            self._note("checking the stream failed", error)
            # If the stream is gone, the batch can't be stored twice. The next try gets "no responders".
            return isinstance(error, ServerError) and error.err_code == STREAM_NOT_FOUND
        longest_s = info["config"].get("duplicate_window", 0) / NS / 2
        age_s = asyncio.get_running_loop().time() - self._began
        if age_s <= longest_s:
            return True
        late = Timeout(self._operation, round(age_s, 3))
        late.add_note(f"It is not sent again: the stream's duplicate window is {longest_s * 2:g} s now.")
        raise late from self._last_error

    def _error_of(self, refused: Refused) -> EdaError:
        if refused.err_code == ATOMIC_BATCH_DISABLED:
            return NotSupported(f"an atomic batch into stream {self._stream!r}", needs="a stream with atomic on")
        if refused.err_code == ATOMIC_BATCH_HEADER_UNSUPPORTED:  # 2.12.0 does not support message ids in a batch
            server = f"nats-server {self._wire.server_version}"
            return NotSupported("an atomic batch of events with ids", needs="nats-server 2.12.1", server=server)
        return refused.as_error(self._stream)

    async def _try(self) -> Answer | None:
        """Send the batch once, and return the answer; None if the outcome is unknown."""
        if self._batches:  # since the last try, the server's limits may have changed
            for index in range(len(self._messages)):
                wrong = self._why_too_large(index)
                if wrong:
                    return Answer(error=Refused(400, MESSAGE_TOO_LARGE, f"events[{index}]: {wrong}"))
        self._try_ended = asyncio.get_running_loop().create_future()
        batch = next_nuid()
        self._batches.append(batch)
        for part in self._parts(batch):
            await self._wire.wait_writable()
            if self._try_ended.done():
                return self._try_ended.result()
            if not self._wire.is_up:
                return None
            self._wire.out.request(part)
            self._wire.out.flush()
        subject, envelope, *_ = self._messages[-1]
        headers = self._headers(len(self._messages) - 1, batch)
        may_have_been_stored = self._may_be_stored
        async with AnswerInbox(self._wire, self._stream, self._api.domain) as replies:
            if self._try_ended.done():
                return self._try_ended.result()
            self._may_be_stored = True
            # nats-py writes this frame, after the bytes that were just flushed.
            await self._wire.publish(subject, envelope, reply=replies.inbox, headers=headers)
            either: set[asyncio.Future[Any]] = {replies.answer, self._try_ended}
            await asyncio.wait(either, timeout=ACK_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            answer = replies.answer.result() if replies.answer.done() else None
            if self._try_ended.done() and (answer is None or answer.error is not None):
                # If a subject is forbidden, the answer reports only a gap in the batch. `_on_refused` knows the reason.
                answer = self._try_ended.result() or answer
            elif answer is None:
                self._logger.debug("%s to %s: no answer in %g s", self._operation, self._stream, ACK_TIMEOUT_S)
        if answer is not None:
            self._may_be_stored = may_have_been_stored
        return answer

    def _on_lost(self) -> None:
        if not self._try_ended.done():
            self._try_ended.set_result(None)

    def _on_refused(self, kind: str, subject: str) -> None:
        if kind == "publish" and not self._try_ended.done() and any(subject == each.subject for each in self._messages):
            self._try_ended.set_result(Answer(error=Refused(403, 0, f"no permission to publish to {subject}")))

    # --- a try without an answer -------------------------------------------------------------------------------------

    async def _check_stream(self) -> None:
        """Check or create the stream: nobody answers for it, or its limits may have changed. Raises StreamNotFound."""
        try:
            await self._recover(self._stream)
        except (ServerError, Timeout) as error:
            self._note("could not check the stream", error)

    async def _find_stored_try(self) -> int:
        """Return the sequence at which an earlier try is stored; 0 if that can't be found out now.

        Called when a try was refused after another try got no answer. Raises the refusal if no try is stored; Timeout
        if the stream has removed events, so that nobody can find out.
        """
        assert self._last_error is not None
        expectation = self._expectation
        searched = [each.subject for each in self._messages] if expectation is None else [expectation.filter]
        has_all = True
        try:
            may_be_of_another = self._is_conflict_in_a_domain()
            if expectation is not None and may_be_of_another and await holds(self._api, self._stream, expectation):
                self._may_be_stored = True  # another domain's stream has refused the batch; the right one may take it
                return 0
            # Look for the batch before counting, so that events that are removed meanwhile show as missing.
            found = await find_batch(self._api, self._stream, searched, self._batches, self._from_seq)
            if found:
                return found
            if expectation is None:
                info = await self._api.request(f"STREAM.INFO.{self._stream}", schema=Stream)
                created = datetime.fromisoformat(info["created"])
                if created != self._created:
                    self._created, self._from_seq = created, 1  # the stream was made again: search all of it
                    return 0
                has_all = await has_all_since(self._api, self._stream, info["state"], self._from_seq)
        except (ServerError, Timeout) as error:
            self._note("could not find the batch", error)
            return 0
        if expectation is not None and self._may_be_stored and self._last_code == LAST_SEQUENCE_CONFLICT:
            return 0  # the write that is under way may be the earlier try
        if has_all:  # under an expectation, messages are removed only with the whole aggregate
            raise self._last_error
        late = Timeout(self._operation, round(self._timeout_s, 3))
        late.add_note("The stream has removed events since, so nobody can tell whether it had stored the batch.")
        raise late from self._last_error

    @property
    def _last_code(self) -> int:
        return self._last_error.err_code if isinstance(self._last_error, ServerError) else 0

    def _is_conflict_in_a_domain(self) -> bool:
        """Return whether the last try was refused because of its expectation, perhaps by a stream of another domain."""
        return bool(self._api.domain) and self._last_code in CONFLICTS

    def _note(self, what: str, error: Exception) -> None:
        self._logger.debug("%s to %s: %s; trying again: %s", self._operation, self._stream, what, error)
