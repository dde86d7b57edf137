"""The key in which a cursor is kept: how it is read, written, watched and deleted. `cursor` knows what for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout

from eda._clock import read_monotonic_ns
from eda.cursors.standby import Standby
from eda.cursors.value import Kept, Value, decode_value, encode_value, is_marker, may_be_free
from eda.errors import Closed, ConfigError, ServerError, Timeout
from eda.jetstream.api import REQUEST_TIMEOUT_S, Api
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM, Bucket
from eda.jetstream.bucket_requests import CONFLICTS, EXPECTED_REVISION, bucket_fault, create_bucket, key_subject
from eda.jetstream.publish_answers import Answer, Refused, decode_answer
from eda.server_codes import (
    MESSAGE_NOT_FOUND,
    MESSAGE_TOO_LARGE,
    ROLLUP_FORBIDDEN,
    STREAM_NOT_FOUND,
)
from eda.transport._callback_sink import CallbackSink
from eda.transport.wire import Wire

__all__ = [
    "ANSWER_S",
    "RETRY_S",
    "CursorKey",
    "Write",
    "is_stored",
    "settling",
]

_HEADERS = b"NATS/1.0\r\n" + EXPECTED_REVISION.encode() + b": %d\r\n\r\n"

ANSWER_S = 1.0  # an answer that takes longer is taken for lost
READ_TIMEOUT_S = 2.0
N_HEADERS = 128  # more bytes than the headers of a write have
RETRY_S = 0.25


class Write(msgspec.Struct, eq=False):
    """A write under way. `on_answer(write, answer)` is called at most once, at any time."""

    tail: bytes
    sent_ns: int
    on_answer: Callable[[Write, Answer], None]


class CursorKey:
    """One key of the bucket."""

    def __init__(self, wire: Wire, api: Api, stream: str, name: str) -> None:
        self._wire = wire
        self._api = api
        self.stream = stream
        self.name = name
        self.subject = key_subject(stream, name)  # as it is in the bucket
        self.target = api.kv_subject(self.subject)  # as it is published
        self.has_bucket = True  # as far as the last read tells
        self._inbox = wire.new_inbox()
        self._head = f"HPUB {self.target} {self._inbox}.".encode()
        self._n_writes = 0
        self._last: Write | None = None
        self._answers: NatsSubscription | None = None
        self._hints: NatsSubscription | None = None
        self._standby = Standby(wire, api.domain, stream, name)
        self._loop = asyncio.get_running_loop()

    @property
    def has_hints(self) -> bool:
        """Whether writes to the key can be heard: those in another domain can't."""
        return not self._api.is_foreign

    @property
    def needs(self) -> frozenset[str]:
        """The subjects without which it does not work."""
        verbs = (f"STREAM.MSG.GET.{BUCKET_STREAM}", f"STREAM.CREATE.{BUCKET_STREAM}")
        return frozenset({self.target, f"{self._inbox}.*", *(f"{self._api.prefix}.{verb}" for verb in verbs)})

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Subscribe to the answers. Raises Closed."""
        self._answers = await self._attach(f"{self._inbox}.*", CallbackSink(len(self._inbox) + 1, self._take_answer))

    async def close(self) -> None:
        """Hear nothing any more."""
        self._last = None
        await self.unwatch()
        answers, self._answers = self._answers, None
        await self._detach(answers)

    async def watch(self, on_hint: Callable[[bytes, bool], None]) -> None:
        """Stand by: call `on_hint(payload, may_be_free)` for what is published to the key, by whomever. Raises Closed.

        A hint proves nothing: it need not have been stored, and may come from anybody. None comes from another domain.
        """

        def take(tail: bytes, headers: bytes, payload: bytes) -> None:
            on_hint(payload, may_be_free(payload))

        # `$KV.>` crosses no leaf node. The subject as the domain maps it must not be subscribed to in its place: the
        # leaf node then finds nobody any more who answers the domain's API (seen with nats-server 2.15.1).
        if self._hints is None and self.has_hints:
            self._hints = await self._attach(self.subject, CallbackSink(0, take))
        await self._standby.begin()

    async def unwatch(self) -> None:
        """Stand by no more."""
        hints, self._hints = self._hints, None
        await self._detach(hints)
        await self._standby.end()

    async def _attach(self, subject: str, mailbox: CallbackSink) -> NatsSubscription:
        try:
            return await self._wire.attach(subject, mailbox)
        except NatsError as error:
            raise Closed("connection") from error

    async def _detach(self, subscription: NatsSubscription | None) -> None:
        if subscription is not None:
            with suppress(NatsError):  # closed meanwhile, and the subscription with it
                await self._wire.detach(subscription)
            self._wire.release(subscription)

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, value: bytes, revision: int, on_answer: Callable[[Write, Answer], None]) -> Write:
        """Replace that revision, at once; only while the connection is up. Earlier writes are not answered any more.

        A write that the end of a connection keeps from the server may be sent after the reconnect. It does no harm
        then: it still names the revision that it replaces, and while that is the last one nobody has come in between.
        """
        self._n_writes += 1
        headers = _HEADERS % revision
        sizes = (self._n_writes, len(headers), len(headers) + len(value))
        frame = b"%b%d %d %d\r\n%b%b\r\n" % (self._head, *sizes, headers, value)
        self._last = write = Write(b"%d" % self._n_writes, read_monotonic_ns(), on_answer)
        out = self._wire.out
        out.at_once = not out.size  # nobody to share the write with: save the turn of the loop
        out.command(frame)
        out.at_once = False
        return write

    def _take_answer(self, tail: bytes, headers: bytes, payload: bytes) -> None:
        write = self._last
        if write is None or tail != write.tail:
            return
        answer = decode_answer(503 if headers.startswith(b"NATS/1.0 503") else 0, payload)
        if answer is None or answer.type:
            return  # as if it were lost
        if answer.error is None and answer.domain != self._api.domain:
            return  # of another domain's bucket
        if answer.error is None and answer.stream != BUCKET_STREAM:
            answer = Answer(error=Refused(500, 0, f"stream {answer.stream!r} owns the subject {self.subject}"))
        self._last = None
        write.on_answer(write, answer)

    async def put(self, value: Value, revision: int) -> tuple[Answer, int]:
        """Write when the connection is up, and wait; returns the answer and when the write was sent.

        The answer is empty where none came. Raises ServerError for a refusal that is final, ConfigError for one because
        of the value's size, Closed.
        """
        while not self._wire.is_up:
            if self._wire.is_closed:
                raise Closed("connection")
            await asyncio.sleep(0.02)
        waiter: asyncio.Future[Answer] = self._loop.create_future()
        text = encode_value(value)
        if len(text) + N_HEADERS > self._wire.max_payload:  # the server would close the connection
            raise ConfigError(
                f"the cursor {self.stream}.{self.name} takes {len(text)} bytes, more than the server's max_payload of "
                f"{self._wire.max_payload}: its filter has {len(value.filter)} subjects",
                argument="types",
            )
        write = self.write(text, revision, settling(waiter))
        answer = await self.outcome(waiter)
        if answer.error is not None and answer.error.err_code not in CONFLICTS:
            if answer.error.err_code == MESSAGE_TOO_LARGE:
                raise ConfigError(
                    f"the cursor {self.stream}.{self.name} has {len(text)} bytes, and max_msg_size of the bucket "
                    f"{BUCKET} (stream {BUCKET_STREAM}) allows less: raise it, or take out the limit with -1",
                    argument="durable",
                )
            if not answer.error.is_transient:
                raise answer.error.as_error(BUCKET_STREAM)
            await asyncio.sleep(RETRY_S)
        return answer, write.sent_ns

    async def outcome(self, waiter: asyncio.Future[Answer]) -> Answer:
        """Wait for an answer as long as one may take; an empty one stands for one that is lost."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return await waiter
        except TimeoutError:
            return Answer()

    # --- reading -----------------------------------------------------------------------------------------------------

    async def read(self) -> Kept:
        """Ask the bucket's leader. ConfigError: there is no cursor in it. Also raises ServerError, Timeout, Closed."""
        try:
            message = await self._api.message(BUCKET_STREAM, {"last_by_subj": self.subject}, patience_s=READ_TIMEOUT_S)
        except ServerError as error:
            if error.err_code not in (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND):
                raise
            self.has_bucket = error.err_code == MESSAGE_NOT_FOUND
            return Kept(0, None)
        if is_marker(message.hdrs):
            return Kept(message.seq, None)
        try:
            return Kept(message.seq, decode_value(message.data), message.data)
        except ValueError as error:
            raise ConfigError(
                f"key {self.stream}.{self.name} of the bucket {BUCKET} holds no cursor that can be read ({error}): "
                "reset=True forgets it",
                argument="name",
            ) from error

    # --- making and deleting -----------------------------------------------------------------------------------------

    async def ensure_bucket(self, bucket: Bucket) -> None:
        """Create the bucket, or see whether the one that is there can keep a cursor. It is never changed.

        Raises ConfigError, which names the setting; ServerError, Timeout.
        """
        is_new = not self.has_bucket and await create_bucket(self._api, bucket)
        fault = "" if is_new else await bucket_fault(self._api, bucket)
        if fault:
            raise ConfigError(
                f"the cursor {self.stream}.{self.name} can't be kept in the bucket {BUCKET}: its stream "
                f"{BUCKET_STREAM} has {fault}. A shared subscription (without exclusive, serial and key) needs no "
                "cursor there.",
                argument="durable",
            )

    async def delete(self, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        """Put a delete marker in place of whatever is there. Raises ServerError, Timeout, Closed."""
        deadline = self._loop.time() + timeout_s
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
        while self._loop.time() < deadline:
            try:
                if (await self.read()).value is None:
                    return
            except ConfigError:
                pass  # there is something, if no cursor
            except Timeout:
                continue
            try:
                reply = await self._wire.request(self.target, b"", timeout=ANSWER_S, headers=headers)
            except (NatsTimeout, TimeoutError):
                continue  # lost on its way there or back: look
            except NatsError as error:
                if self._wire.is_closed:
                    raise Closed("connection") from error
                await asyncio.sleep(0.05)
                continue
            answer = decode_answer(0, reply.data)
            if answer is None or answer.error is None:
                continue
            if answer.error.err_code == ROLLUP_FORBIDDEN and "Nats-Rollup" in headers:
                headers = {"KV-Operation": "DEL"}  # what it replaces may stay, but is not the last any more
            elif not answer.error.is_transient:
                raise answer.error.as_error(BUCKET_STREAM)
        raise Timeout(f"forgetting the cursor {self.stream}.{self.name}", timeout_s)


def settling(waiter: asyncio.Future[Answer]) -> Callable[[Write, Answer], None]:
    """Return what gives a write's answer to somebody who waits."""

    def settle(write: Write, answer: Answer) -> None:
        if not waiter.done():
            waiter.set_result(answer)

    return settle


def is_stored(answer: Answer) -> bool:
    """Whether the write that was answered so is stored, at revision `answer.seq`."""
    return answer.error is None and answer.seq > 0
