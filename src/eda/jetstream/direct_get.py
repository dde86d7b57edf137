"""Reads of stored messages by direct get, and from the stream's leader: pipelined, through one inbox.

Any replica of the stream may answer a direct get, and so may a mirror. `STREAM.MSG.GET` is answered by the leader only.
A mirror keeps its messages if its stream is made again or restored. So the messages of a mirror are not used.

Source: ADR-31, and nats-server's server/stream.go (getDirectRequest, getDirectMulti).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Any

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from eda.errors import Closed, ConfigError, EdaError, ServerError, Timeout
from eda.jetstream.api import Api, stream_error
from eda.jetstream.publish_answers import Refused
from eda.jetstream.schemas import Message, nanoseconds
from eda.server_codes import FORBIDDEN, MESSAGE_NOT_FOUND
from eda.transport._callback_sink import CallbackSink
from eda.transport.listener import ConnectionListener

__all__ = ["READ_TIMEOUT_S", "DirectGet", "Reading", "StoredMessage", "n_left", "up_to"]

READ_TIMEOUT_S = 10.0
# Without a message for this long, a request is sent again, because the replica that got it may be frozen. Each further
# attempt waits twice as long, because the server may be slow.
FIRST_ATTEMPT_S = 0.75
MAX_ATTEMPT_S = 5.0
FIRST_PAUSE_S = 0.02
MAX_PAUSE_S = 0.5
MAX_OF_MIRRORS = 4  # answers of mirrors in a row to a request of a batch
MAX_SUBJECTS = 1024  # of one read of last messages; nats-server's own limit


class StoredMessage:
    """A message as a stream has stored it. `time_ns`: when, in nanoseconds since 1970."""

    __slots__ = ("headers", "payload", "sequence", "subject", "time")

    def __init__(self, subject: str, sequence: int, time: str, headers: bytes, payload: bytes) -> None:
        self.subject: str = subject
        self.sequence: int = sequence
        self.time: str = time
        self.headers: bytes = headers
        self.payload: bytes = payload

    @property
    def time_ns(self) -> int:
        """Return when the stream stored the message, in nanoseconds since 1970."""
        return nanoseconds(self.time)


class _LeaderMessage(Message):
    subject: str = ""


class _LeaderAnswer(msgspec.Struct):
    message: _LeaderMessage | None = None
    error: Refused | None = None


_decode_leader = msgspec.json.Decoder(_LeaderAnswer).decode
_encode = msgspec.json.Encoder().encode


class Reading:
    """One read that is under way. `DirectGet` begins it; `done` waits for it."""

    __slots__ = ("body", "end", "error", "is_over", "messages", "most", "n_mirrors", "number", "subject", "waiter")

    def __init__(self, subject: str, body: bytes, most: int) -> None:
        self.subject: str = subject
        self.body: bytes = body
        self.most: int = most  # messages in the answer to a request of a batch; 0: not a batch
        self.messages: list[StoredMessage] = []
        self.end: bytes = b""  # the headers of the message that ends a batch
        self.error: EdaError | None = None
        self.is_over: bool = False
        self.n_mirrors: int = 0
        self.number: bytes = b""  # the end of the inbox to which the answers of this attempt come
        self.waiter: asyncio.Future[None] | None = None

    def finish(self, error: EdaError | None = None) -> None:
        """End the attempt. With an error, it is over without an answer."""
        self.is_over = True
        self.error = error
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class DirectGet:
    """Reads the messages of one stream. `open` must be awaited first."""

    def __init__(self, api: Api, stream: str) -> None:
        self._api = api
        self._wire = wire = api.wire
        self._stream = stream
        self._direct = f"{api.prefix}.DIRECT.GET.{stream}"
        self._leader = f"{api.prefix}.STREAM.MSG.GET.{stream}"
        self._own = b"\r\nNats-Stream: %b\r\n" % stream.encode()  # in the headers of each message of the stream itself
        self._inbox = f"{wire.new_inbox()}."
        self._n_inbox = len(self._inbox)
        self._last_number = 0
        self._readings: dict[bytes, Reading] = {}
        self._subscription: NatsSubscription | None = None
        self._opening: asyncio.Task[None] | None = None
        self._is_closed = False
        self._listener = ConnectionListener(
            wire,
            on_lost=self._on_lost,
            on_restored=lambda: None,
            on_refused=self._on_refused,
            on_closed=self._on_closed,
        )

    async def open(self) -> None:
        """Subscribe to the answers, once. Raises Closed."""
        if self._subscription is not None:
            return
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open())
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        try:
            self._subscription = await self._wire.attach(f"{self._inbox}*", CallbackSink(self._n_inbox, self._take))
        except NatsError as error:
            raise Closed("connection") from error
        self._listener.start()

    async def close(self) -> None:
        """End all reads with Closed, and unsubscribe. A connection that is closed does the same."""
        self._on_closed()
        self._listener.stop()
        if self._subscription is not None:
            self._wire.release(self._subscription)
            with suppress(NatsError):  # the connection was closed meanwhile
                await self._wire.detach(self._subscription)

    # --- reads -------------------------------------------------------------------------------------------------------

    def begin_last_of_each(self, filter: str, *, from_sequence: int = 0, up_to_sequence: int = 0) -> Reading:
        """Begin to read the last message of each subject that the filter matches, stored at `from_sequence` or later.

        With `up_to_sequence`, the last messages up to there. The server refuses more than 1,024 subjects (code 413). It
        limits the bytes of an answer: then `n_left` says that there are more.
        """
        query: dict[str, Any] = {"multi_last": [filter]}
        if from_sequence:
            query["seq"] = from_sequence
        if up_to_sequence:
            query["up_to_seq"] = up_to_sequence
        return self._begin(self._direct, query, MAX_SUBJECTS)

    def begin_next_of(self, subject: str, *, from_sequence: int, n: int) -> Reading:
        """Begin to read up to `n` messages of a subject, from `from_sequence` onwards. Literal subjects are fast.

        The server may return fewer, because it limits the bytes of an answer.
        """
        query = {"next_by_subj": subject, "seq": max(from_sequence, 1), "batch": n}
        return self._begin(self._direct, query, n)

    def begin_at(self, sequence: int) -> Reading:
        """Begin to read the message with this sequence."""
        return self._begin(self._direct, {"seq": sequence})

    def begin_last(self, subject: str) -> Reading:
        """Begin to read the last message of a subject."""
        return self._begin(self._direct, {"last_by_subj": subject})

    def begin_leader_last(self, filter: str) -> Reading:
        """Begin to read the last message that the filter matches, from the stream's leader."""
        return self._begin(self._leader, {"last_by_subj": filter})

    def begin_leader_at(self, sequence: int) -> Reading:
        """Begin to read the message with this sequence, from the stream's leader."""
        return self._begin(self._leader, {"seq": sequence})

    def begin_leader_next(self, filter: str, *, from_sequence: int) -> Reading:
        """Begin to read the first message that the filter matches from `from_sequence` onwards, from the leader."""
        query = {"next_by_subj": filter, "seq": max(from_sequence, 1)}
        return self._begin(self._leader, query)

    def _begin(self, subject: str, query: dict[str, Any], most: int = 0) -> Reading:
        """Begin a read of a single message, or with `most` of a batch of at most so many."""
        reading = Reading(subject, _encode(query), most)
        if self._is_closed:
            reading.finish(Closed("connection"))
        elif self._wire.is_up:
            self._send(reading)
        else:
            reading.finish(Timeout("a read", READ_TIMEOUT_S))  # `done` sends it when the connection is back
        return reading

    async def done(self, reading: Reading) -> list[StoredMessage]:
        """Wait for a read and return its messages; [] if there are none.

        It is sent again after a lost connection and while nobody responds. Raises ServerError (413: too many subjects;
        403: forbidden), Timeout after 10 s, Closed, ConfigError for a request over max_payload. If the caller is
        cancelled, the answer is ignored.
        """
        deadline = monotonic() + READ_TIMEOUT_S
        pause_s, attempt_s = FIRST_PAUSE_S, FIRST_ATTEMPT_S
        try:
            while True:
                if not reading.is_over:
                    await self._attempt(reading, attempt_s, deadline)
                    attempt_s = min(attempt_s * 2, MAX_ATTEMPT_S)
                error = reading.error
                if error is None:
                    return reading.messages
                if not error.retryable:
                    raise error
                while True:
                    if self._is_closed or self._wire.is_closed or self._wire.closing:
                        raise Closed("connection")
                    if monotonic() + pause_s > deadline:
                        raise error
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, MAX_PAUSE_S)
                    if self._wire.is_up:
                        break
                self._send(reading)
        finally:
            self.forget(reading)

    async def _attempt(self, reading: Reading, quiet_s: float, deadline: float) -> None:
        """Wait for the end of an attempt. It ends without an answer if no message comes for `quiet_s` seconds."""
        loop = asyncio.get_running_loop()
        reading.waiter = loop.create_future()
        timer: asyncio.TimerHandle

        def look(n_before: int) -> None:
            nonlocal timer
            n_messages = len(reading.messages)
            if n_messages > n_before and monotonic() < deadline:
                timer = loop.call_later(quiet_s, look, n_messages)  # the rest of a long answer is under way
            elif not reading.is_over:
                reading.finish(Timeout(f"a read of stream {self._stream}", READ_TIMEOUT_S))

        timer = loop.call_later(max(min(quiet_s, deadline - monotonic()), 0.01), look, len(reading.messages))
        try:
            await reading.waiter
        finally:
            timer.cancel()
            reading.waiter = None

    def forget(self, reading: Reading) -> None:
        """Ignore the rest of the answer. Every reading that was begun must be passed to `done` or to this method."""
        self._readings.pop(reading.number, None)

    def _send(self, reading: Reading) -> None:
        """Send the request of a new attempt, whose answers have a number of their own."""
        self.forget(reading)
        self._last_number += 1
        reading.number = b"%d" % self._last_number
        reading.messages = []
        reading.end = b""
        reading.error = None
        reading.is_over = False
        n_body = len(reading.body)
        if n_body > self._wire.max_payload:
            message = f"a read takes {n_body} bytes, more than the server's max_payload of {self._wire.max_payload}"
            reading.finish(ConfigError(message))
            return
        self._readings[reading.number] = reading
        self._wire.out.request(
            b"PUB %b %b%b %d\r\n%b\r\n"
            % (reading.subject.encode(), self._inbox.encode(), reading.number, n_body, reading.body)
        )

    # --- answers -----------------------------------------------------------------------------------------------------

    def _take(self, tail: bytes, headers: bytes, payload: bytes) -> None:
        reading = self._readings.get(tail)
        if reading is None or reading.is_over:
            return
        try:
            if headers.startswith(b"NATS/1.0 "):
                self._take_status(reading, headers)
            elif headers and self._own not in headers and b"\r\nNats-Stream: " in headers:
                self._ask_again(reading)
            elif headers:
                if len(reading.messages) >= (reading.most or 1):
                    raise ValueError(f"more than {reading.most or 1} messages")
                reading.messages.append(_message_of(headers, payload))
                if not reading.most:
                    reading.finish()
            else:
                self._take_leader(reading, payload)
        except (ValueError, RecursionError) as error:  # also msgspec's errors, and those of UTF-8
            reading.finish(ServerError(500, 0, f"an answer that makes no sense: {error}", operation=reading.subject))

    def _ask_again(self, reading: Reading) -> None:
        """Ask the leader, because a mirror has answered. A leader has no batches, so these are asked for as before."""
        reading.n_mirrors += 1
        if not reading.most:
            reading.subject = self._leader
            self._send(reading)
        elif reading.n_mirrors < MAX_OF_MIRRORS:
            self._send(reading)
        else:
            reading.messages = []
            reading.finish()

    def _take_status(self, reading: Reading, headers: bytes) -> None:
        code = headers[9:12]
        if code == b"204":
            n_left(headers)  # raises if the header is missing, as the next line does
            if reading.body.startswith(b'{"multi_last"'):
                up_to(headers)
            reading.end = headers
            reading.finish()
        elif code == b"404":
            reading.finish()
        else:
            line = headers[9:].partition(b"\r\n")[0].decode(errors="replace")
            number = int(code) if code.isdigit() else 500
            # 408: the server found the request bad, so it is of no use to send it again
            error = ServerError(number, 0, line, operation=reading.subject)
            error.retryable = number == 503
            reading.finish(error)

    def _take_leader(self, reading: Reading, payload: bytes) -> None:
        answer = _decode_leader(payload)
        refused, message = answer.error, answer.message
        if refused is not None:
            if refused.err_code == MESSAGE_NOT_FOUND:
                reading.finish()
            else:
                error = ServerError(refused.code, refused.err_code, refused.description, operation=reading.subject)
                reading.finish(stream_error(error, self._stream))
        elif message is None:
            raise ValueError("no message")
        else:
            stored = StoredMessage(message.subject, message.seq, message.time, message.hdrs, message.data)
            reading.messages.append(stored)
            reading.finish()

    # --- the connection ----------------------------------------------------------------------------------------------

    def _end_all(self, error: EdaError, subject: str | None = None) -> None:
        for reading in list(self._readings.values()):
            if not reading.is_over and subject in (None, reading.subject):
                reading.finish(error)

    def _on_lost(self) -> None:
        self._end_all(Timeout(f"a read of stream {self._stream}, whose connection was lost,", READ_TIMEOUT_S))

    def _on_refused(self, kind: str, subject: str) -> None:
        if kind == "publish" and subject in (self._direct, self._leader):
            self._end_all(ServerError(FORBIDDEN, 0, f"no permission to publish to {subject}"), subject)
        elif kind == "subscription" and subject == f"{self._inbox}*":
            self._end_all(ServerError(FORBIDDEN, 0, f"no permission to subscribe to {subject}"))

    def _on_closed(self) -> None:
        self._is_closed = True
        self._end_all(Closed("connection"))


def _message_of(headers: bytes, payload: bytes) -> StoredMessage:
    """Return the message of a direct get. Raises ValueError if the server's headers are missing."""
    return StoredMessage(
        _value(headers, b"\r\nNats-Subject: ").decode(),
        int(_value(headers, b"\r\nNats-Sequence: ")),
        _value(headers, b"\r\nNats-Time-Stamp: ").decode(),
        headers,
        payload,
    )


def _value(headers: bytes, name: bytes) -> bytes:
    """Return the last value of a header: the server appends its own after those of the message."""
    at = headers.rindex(name) + len(name)
    return headers[at : headers.index(b"\r\n", at)]


def n_left(end: bytes) -> int:
    """Return how many further messages there are for a batch that has ended, by its last headers."""
    return int(_value(end, b"\r\nNats-Num-Pending: ")) if end else 0


def up_to(end: bytes) -> int:
    """Return the last sequence that a read of `last_of_each` has covered, by its last headers; 0 without messages."""
    return int(_value(end, b"\r\nNats-UpTo-Sequence: ")) if end else 0
