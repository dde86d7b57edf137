"""Reads of stored messages by direct get, and from the stream's leader: pipelined, through one inbox.

Any replica of the stream may answer a direct get, and so may a mirror. `STREAM.MSG.GET` is answered by the leader only.
A mirror keeps its messages if its stream is made again or restored. So the messages of a mirror are not used.

Source: ADR-31, and nats-server's server/stream.go (getDirectRequest, getDirectMulti).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from eda.errors import Closed, ConfigError, EdaError, ServerError, Timeout
from eda.jetstream._direct_reads import DirectReads, PendingRead
from eda.jetstream.api import Api, stream_error
from eda.jetstream.stored_message import StoredMessage, decode_leader, message_of, n_left, up_to
from eda.server_codes import FORBIDDEN, MESSAGE_NOT_FOUND
from eda.transport._waits import Wait
from eda.transport.listener import ConnectionListener

__all__ = ["READ_TIMEOUT_S", "DirectGet", "Reading"]

READ_TIMEOUT_S = 10.0
# Without a message for this long, a request is sent again, because the replica that got it may be frozen. Each further
# attempt waits twice as long, because the server may be slow.
FIRST_ATTEMPT_S = 0.75
MAX_ATTEMPT_S = 5.0
FIRST_PAUSE_S = 0.02
MAX_PAUSE_S = 0.5
MAX_OF_MIRRORS = 4  # answers of mirrors in a row to a request of a batch
MAX_SUBJECTS = 1024  # of one read of last messages; nats-server's own limit


_encode = msgspec.json.Encoder().encode


class Reading(PendingRead):
    """One request that is under way. `DirectGet` begins it; `done` waits for it."""

    __slots__ = ("_take", "body", "end", "messages", "most", "n_body", "n_mirrors", "subject")

    def __init__(self, take: Callable[[Reading, bytes, bytes], None], subject: str, body: bytes, most: int) -> None:
        super().__init__()
        self._take = take
        self.subject: str = subject
        self.body: bytes = body
        self.n_body: int = len(body)
        self.most: int = most  # messages in the answer to a request of a batch; 0: not a batch
        self.messages: list[StoredMessage] = []
        self.end: bytes = b""  # the headers of the message that ends a batch
        self.n_mirrors: int = 0

    def send(self) -> None:
        """Write the request of an attempt, whose answers come under a number of their own."""
        self.messages = []
        self.end = b""
        self.write(self.subject, self.body)

    def take_message(self, headers: bytes, payload: bytes) -> None:
        """Take an answer."""
        self._take(self, headers, payload)


class DirectGet:
    """Reads the messages of one stream. `open` must be awaited first."""

    def __init__(self, api: Api, stream: str) -> None:
        self._api = api
        self._wire = wire = api.wire
        self._stream = stream
        self._direct = f"{api.prefix}.DIRECT.GET.{stream}"
        self._leader = f"{api.prefix}.STREAM.MSG.GET.{stream}"
        self._own = stream.encode()
        self._inbox = f"{wire.new_inbox()}."
        self._reads = DirectReads(self._inbox.encode(), self._direct.encode(), wire.out)
        self._timer: asyncio.TimerHandle | None = None  # for all reads that are waited for
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
            self._subscription = await self._wire.attach(f"{self._inbox}*", self._reads)
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
        reading = Reading(self._take, subject, _encode(query), most)
        self.begin(reading)
        return reading

    def begin(self, reading: PendingRead) -> None:
        """Begin a read, which writes its requests itself."""
        if self._is_closed:
            reading.finish(Closed("connection"))
        elif self._wire.is_up:
            self._send(reading)
        else:
            reading.finish(Timeout("a read", READ_TIMEOUT_S))  # `wait` sends it when the connection is back

    async def done(self, reading: Reading) -> list[StoredMessage]:
        """Wait for a read and return its messages; [] if there are none. Raises as `wait` does."""
        await self.wait(reading)
        return reading.messages

    async def wait(self, reading: PendingRead) -> None:
        """Wait until a read is over.

        It is sent again after a lost connection and while nobody responds. Raises ServerError (413: too many subjects;
        403: forbidden), Timeout after 10 s, Closed, ConfigError for a request over max_payload. If the caller is
        cancelled, the answer is ignored.
        """
        deadline = self._wire.loop.time() + READ_TIMEOUT_S
        pause_s, quiet_s = FIRST_PAUSE_S, FIRST_ATTEMPT_S
        try:
            while True:
                if not reading.is_over:
                    await self._attempt(reading, quiet_s, deadline)
                    quiet_s = min(quiet_s * 2, MAX_ATTEMPT_S)
                error = reading.error
                if error is None:
                    return
                if not error.retryable:
                    raise error
                while True:
                    if self._is_closed or self._wire.is_closed or self._wire.closing:
                        raise Closed("connection")
                    if self._wire.loop.time() + pause_s > deadline:
                        raise error
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, MAX_PAUSE_S)
                    if self._wire.is_up:
                        break
                self._send(reading)
        finally:
            self.forget(reading)

    async def wait_once(self, reading: PendingRead) -> None:
        """Wait until a read from a single server is over, or for as long as an attempt may take. Raises nothing.

        The server answers in order. So while answers to other reads come, it is only slow.
        """
        reading.counts_all = True
        try:
            if not reading.is_over:
                await self._attempt(reading, FIRST_ATTEMPT_S, self._wire.loop.time() + READ_TIMEOUT_S)
        finally:
            self.forget(reading)

    async def _attempt(self, reading: PendingRead, quiet_s: float, deadline: float) -> None:
        """Wait for the end of an attempt. It ends without an answer if no message comes for `quiet_s` seconds."""
        now = self._wire.loop.time()
        reading.quiet_s = quiet_s
        reading.deadline = deadline
        reading.n_seen = self._reads.n_answers if reading.counts_all else reading.n_answers
        reading.look_at = look_at = now + max(min(quiet_s, deadline - now), 0.01)
        timer = self._timer
        if timer is None or look_at < timer.when():
            self._look_at(look_at)
        waiter: Wait[None] = self._wire.waits.new()
        reading.waiter = waiter
        try:
            await waiter
        finally:
            reading.waiter = None

    def _look_at(self, time: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._wire.loop.call_at(time, self._look)

    def _look(self) -> None:
        """End the attempts for which no message has come for too long. One timer is cheaper than one for each read."""
        self._timer = None
        now = self._wire.loop.time() + 0.001  # a timer may fire a bit early
        next_look = float("inf")
        for reading in self._reads.under_way():
            if reading.waiter is None or reading.is_over:
                continue
            if reading.look_at <= now:
                n_answers = self._reads.n_answers if reading.counts_all else reading.n_answers
                if n_answers == reading.n_seen or now >= reading.deadline:
                    reading.finish(Timeout(f"a read of stream {self._stream}", READ_TIMEOUT_S))
                    continue
                reading.n_seen = n_answers  # the rest of a long answer is under way
                reading.look_at = now + reading.quiet_s
            next_look = min(next_look, reading.look_at)
        if next_look < float("inf"):
            self._look_at(next_look)

    def forget(self, reading: PendingRead) -> None:
        """Ignore the rest of the answer. Every reading that was begun must be passed to `done` or to this method."""
        self._reads.remove(reading)

    def _send(self, reading: PendingRead) -> None:
        """Send the requests of a new attempt."""
        self._reads.add(reading)
        if reading.n_body > self._wire.max_payload:
            limit = f"the server's max_payload of {self._wire.max_payload}"
            reading.finish(ConfigError(f"a read takes {reading.n_body} bytes, more than {limit}"))
        else:
            reading.send()

    # --- answers -----------------------------------------------------------------------------------------------------

    def _take(self, reading: Reading, headers: bytes, payload: bytes) -> None:
        try:
            if headers.startswith(b"NATS/1.0 "):
                self._take_status(reading, headers)
            elif headers:
                stream, message = message_of(headers, payload)
                if stream != self._own:
                    self._ask_again(reading)
                    return
                if len(reading.messages) >= (reading.most or 1):
                    raise ValueError(f"more than {reading.most or 1} messages")
                reading.messages.append(message)
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
        answer = decode_leader(payload)
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
            reading.messages.append(message.stored())
            reading.finish()

    # --- the connection ----------------------------------------------------------------------------------------------

    def _end_all(self, error: EdaError, subject: str | None = None) -> None:
        for reading in self._reads.under_way():
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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
