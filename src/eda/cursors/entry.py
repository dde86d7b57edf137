"""The entry of a cursor in the bucket: how it is read, written and deleted. `Cursor` decides when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout

from eda._clock import read_monotonic_ns
from eda.cursors.value import CursorValue, Snapshot, decode_value, encode_value, is_delete_marker
from eda.errors import Closed, ConfigError, ServerError, Timeout
from eda.jetstream.api import REQUEST_TIMEOUT_S, Api
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM, Bucket
from eda.jetstream.bucket_requests import EXPECTED_REVISION, bucket_fault, create_bucket, key_subject
from eda.jetstream.grace_period import GracePeriod
from eda.jetstream.publish_answers import Answer, Refused, decode_answer
from eda.jetstream.store_message import store_message
from eda.server_codes import CONFLICTS, MESSAGE_NOT_FOUND, MESSAGE_TOO_LARGE, ROLLUP_FORBIDDEN, STREAM_NOT_FOUND
from eda.times import time_of
from eda.transport._callback_sink import CallbackSink
from eda.transport.wire import Wire

__all__ = ["ANSWER_S", "RETRY_S", "CursorEntry", "Write", "is_stored", "passing_to"]

_HEADERS = b"NATS/1.0\r\n" + EXPECTED_REVISION.encode() + b": %d\r\n\r\n"

ANSWER_S = 1.0  # an answer that takes longer counts as lost
READ_TIMEOUT_S = 2.0
MAX_HEADERS = 128  # bytes; the headers of a write take fewer
RETRY_S = 0.25


class Write(msgspec.Struct, eq=False):
    """A write that was sent. `on_answer(write, answer)` is called at most once, at any time later."""

    tail: bytes
    sent_ns: int
    on_answer: Callable[[Write, Answer], None]


class CursorEntry:
    """The entry of subscription `name` to `stream`: one key of the bucket and its value."""

    def __init__(self, wire: Wire, api: Api, stream: str, name: str) -> None:
        self._wire = wire
        self._api = api
        self.stream = stream
        self.name = name
        self.subject: str = key_subject(stream, name)  # in the bucket's stream
        self.publish_subject: str = api.kv_subject(self.subject)
        self._has_bucket = True  # whether the last read found the bucket
        self._inbox = wire.new_inbox()
        self._head = f"HPUB {self.publish_subject} {self._inbox}.".encode()
        self._n_writes = 0
        self._last_write: Write | None = None
        self._answers: NatsSubscription | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def required_subjects(self) -> frozenset[str]:
        """Return the subjects that the server must allow."""
        verbs = (f"STREAM.MSG.GET.{BUCKET_STREAM}", f"STREAM.CREATE.{BUCKET_STREAM}")
        return frozenset({self.publish_subject, f"{self._inbox}.*", *(f"{self._api.prefix}.{verb}" for verb in verbs)})

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Subscribe to the answers to writes. Raises Closed."""
        sink = CallbackSink(len(self._inbox) + 1, self._take_answer)
        try:
            self._answers = await self._wire.attach(f"{self._inbox}.*", sink)
        except NatsError as error:
            raise Closed("connection") from error

    async def close(self) -> None:
        """End the subscription to the answers."""
        self._last_write = None
        answers, self._answers = self._answers, None
        if answers is not None:
            with suppress(NatsError):  # the connection was closed meanwhile, and the subscription with it
                await self._wire.detach(answers)
            self._wire.release(answers)

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, value: bytes, revision: int, on_answer: Callable[[Write, Answer], None]) -> Write:
        """Send a write that replaces this revision. Call it only while the connection is up.

        Answers to earlier writes are ignored from now on. If the connection breaks, the write may reach the server
        after the reconnect. It does no harm then, because it is stored only if the revision that it replaces is still
        the last one.
        """
        self._n_writes += 1
        headers = _HEADERS % revision
        sizes = (self._n_writes, len(headers), len(headers) + len(value))
        frame = b"%b%d %d %d\r\n%b%b\r\n" % (self._head, *sizes, headers, value)
        self._last_write = write = Write(b"%d" % self._n_writes, read_monotonic_ns(), on_answer)
        out = self._wire.out
        out.at_once = not out.size  # no other command waits: write now, not at the end of this turn of the loop
        out.command(frame)
        out.at_once = False
        return write

    def _take_answer(self, tail: bytes, headers: bytes, payload: bytes) -> None:
        write = self._last_write
        if write is None or tail != write.tail:
            return
        answer = decode_answer(503 if headers.startswith(b"NATS/1.0 503") else 0, payload)
        if answer is None or answer.type:
            return  # neither an acknowledgement nor a refusal: wait as if no answer had come
        if answer.error is None and answer.domain != self._api.domain:
            return  # the bucket of another domain has answered
        if answer.error is None and answer.stream != BUCKET_STREAM:
            answer = Answer(error=Refused(500, 0, f"stream {answer.stream!r} owns the subject {self.subject}"))
        self._last_write = None
        write.on_answer(write, answer)

    async def put(self, value: CursorValue, revision: int) -> tuple[Answer, int]:
        """Write as soon as the connection is up; return the server's answer and when the write was sent.

        The answer is empty if none arrived in time. Raises ServerError if the server refuses the write permanently,
        ConfigError if the value is too large, Closed.
        """
        while not self._wire.is_up:
            if self._wire.is_closed:
                raise Closed("connection")
            await asyncio.sleep(0.02)
        waiter: asyncio.Future[Answer] = self._loop.create_future()
        text = encode_value(value)
        if len(text) + MAX_HEADERS > self._wire.max_payload:  # the server would close the connection
            raise ConfigError(
                f"the cursor {self.stream}.{self.name} takes {len(text)} bytes, more than the server's max_payload of "
                f"{self._wire.max_payload}: its filter has {len(value.filter)} subjects",
                argument="types",
            )
        write = self.write(text, revision, passing_to(waiter))
        answer = await self.answer_to(waiter)
        if answer.error is not None and answer.error.err_code not in CONFLICTS:
            if answer.error.err_code == MESSAGE_TOO_LARGE:
                raise ConfigError(
                    f"the cursor {self.stream}.{self.name} has {len(text)} bytes, more than max_msg_size of the bucket "
                    f"{BUCKET} (stream {BUCKET_STREAM}) allows: raise max_msg_size, or remove the limit with -1",
                    argument="durable",
                )
            if not answer.error.is_transient:
                raise answer.error.as_error(BUCKET_STREAM)
            await asyncio.sleep(RETRY_S)
        return answer, write.sent_ns

    async def answer_to(self, waiter: asyncio.Future[Answer]) -> Answer:
        """Return the answer that the waiter gets within ANSWER_S, or else an empty answer."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return await waiter
        except TimeoutError:
            return Answer()

    # --- reading -----------------------------------------------------------------------------------------------------

    async def read(self) -> Snapshot:
        """Return the entry as the bucket's leader has it.

        Raises ConfigError if the entry holds no cursor; ServerError, Timeout, Closed.
        """
        try:
            message = await self._api.message(BUCKET_STREAM, {"last_by_subj": self.subject}, patience_s=READ_TIMEOUT_S)
        except ServerError as error:
            if error.err_code not in (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND):
                raise
            self._has_bucket = error.err_code == MESSAGE_NOT_FOUND
            return Snapshot(0, None)
        if is_delete_marker(message.hdrs):
            return Snapshot(message.seq, None)
        try:
            return Snapshot(message.seq, decode_value(message.data), message.data, time_of(message.time))
        except ValueError as error:
            raise ConfigError(
                f"key {self.stream}.{self.name} of the bucket {BUCKET} holds no cursor that can be read ({error}): "
                "reset=True forgets it",
                argument="name",
            ) from error

    async def first_read(self) -> Snapshot:
        """Read the entry, and try again after errors that may pass. Raises what `read` raises, and Closed."""
        while True:
            try:
                return await self.read()
            except (ServerError, Timeout) as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(RETRY_S)

    async def read_patiently(self, logger: logging.Logger) -> Snapshot:
        """Read the entry, and try again while errors may pass.

        Raises ConfigError if the entry holds no cursor; Closed; ServerError if the server refuses permanently.
        """
        patience = GracePeriod()
        while True:
            try:
                return await self.read()
            except (ServerError, Timeout) as error:
                if not patience.allows(error):
                    raise
                logger.debug(
                    "subscription %s to %s: reading its cursor failed and is tried again: %s",
                    self.name, self.stream, error,
                )  # fmt: skip
            await asyncio.sleep(RETRY_S)

    # --- making and deleting -----------------------------------------------------------------------------------------

    async def ensure_bucket(self, bucket: Bucket) -> None:
        """Create the bucket, or check that the existing bucket can keep a cursor. An existing bucket is never changed.

        Raises ConfigError, which names the wrong setting; ServerError, Timeout, Closed.
        """
        is_new = not self._has_bucket and await create_bucket(self._api, bucket)
        fault = "" if is_new else await bucket_fault(self._api, bucket)
        if fault:
            raise ConfigError(
                f"the cursor {self.stream}.{self.name} can't be kept in the bucket {BUCKET}: its stream "
                f"{BUCKET_STREAM} has {fault}. A shared subscription (without exclusive, serial and key) needs no "
                "cursor.",
                argument="durable",
            )

    async def delete(self, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        """Replace the entry by a delete marker, whatever it holds. Raises ServerError, Timeout, Closed."""
        deadline = self._loop.time() + timeout_s
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
        while self._loop.time() < deadline:
            try:
                if (await self.read()).value is None:
                    return
            except ConfigError:
                pass  # the entry holds something, though not a cursor
            except Timeout:
                continue
            try:
                reply = await self._wire.request(self.publish_subject, b"", timeout=ANSWER_S, headers=headers)
            except (NatsTimeout, TimeoutError):
                continue  # request or answer was lost: read again
            except NatsError as error:
                if self._wire.is_closed:
                    raise Closed("connection") from error
                await asyncio.sleep(0.05)
                continue
            answer = decode_answer(0, reply.data)
            if answer is None or answer.error is None:
                continue
            if answer.error.err_code == ROLLUP_FORBIDDEN and "Nats-Rollup" in headers:
                headers = {"KV-Operation": "DEL"}  # earlier revisions stay stored, but readers see only this
            elif not answer.error.is_transient:
                raise answer.error.as_error(BUCKET_STREAM)
        raise Timeout(f"forgetting the cursor {self.stream}.{self.name}", timeout_s)

    async def remove(self, revision: int) -> bool:
        """Replace this revision by a delete marker. Return False if the entry has changed since.

        Raises ServerError, Timeout, Closed.
        """
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub", EXPECTED_REVISION: str(revision)}
        while True:
            try:
                await store_message(
                    self._wire, BUCKET_STREAM, self.publish_subject, b"", headers, domain=self._api.domain
                )
                return True
            except ServerError as error:
                if error.err_code in CONFLICTS:
                    return False
                if error.err_code != ROLLUP_FORBIDDEN or "Nats-Rollup" not in headers:
                    raise
                headers = {"KV-Operation": "DEL", EXPECTED_REVISION: str(revision)}


def passing_to(waiter: asyncio.Future[Answer]) -> Callable[[Write, Answer], None]:
    """Return an `on_answer` that passes the answer to a waiter."""

    def on_answer(write: Write, answer: Answer) -> None:
        if not waiter.done():
            waiter.set_result(answer)

    return on_answer


def is_stored(answer: Answer) -> bool:
    """Return whether this answer says that the write is stored, as revision `answer.seq`."""
    return answer.error is None and answer.seq > 0
