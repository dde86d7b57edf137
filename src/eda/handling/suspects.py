"""Which event killed the process: a shared subscription's record of the suspects that a handler has begun.

A shared consumer counts deliveries, and those that no handler began count as well: what waited behind the event that
killed the process has as many as that. So a suspect is put on record before it is begun, beside the cursors of ordered
subscriptions, and taken off when it has ended. Who finds one on record from an earlier delivery knows that it did not.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from eda._event import Event
from eda._nuid import next_nuid
from eda.errors import Closed, EdaError, ServerError
from eda.jetstream.api import Api
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM, Bucket
from eda.jetstream.bucket_requests import CONFLICTS, EXPECTED_REVISION, bucket_fault, create_bucket, key_subject
from eda.jetstream.store_message import store_message
from eda.jetstream.streams import stream_created
from eda.server_codes import MESSAGE_NOT_FOUND, STREAM_NOT_FOUND
from eda.times import NS
from eda.transport.wire import Wire

__all__ = ["BEGUN_BEFORE", "Suspects"]

BEGUN_BEFORE = -1  # in place of a pause
PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 30.0
TIMEOUT_S = 2.0
MAX_CONFLICTS = 3  # writes of others between our read and our write, before an event waits
MAX_VOIDS = 20
VOID_PAUSE_S = 0.25


class _Record(msgspec.Struct):
    """`delivery`: the number of the delivery with which the event was begun, 0: with none; `nonce`: who wrote it.

    `created`: when the stream was made, in the server's words: an event of another one has another life.
    """

    v: int = 1
    delivery: int = 0
    created: str = ""
    nonce: str = ""


class _Found(msgspec.Struct):
    """What is on record: `revision` 0 where nothing ever was."""

    record: _Record
    revision: int


_decode = msgspec.json.Decoder(_Record).decode


class Suspects:
    """The record of one subscription `name` to `stream`; `bucket`: what is wanted of the one it is kept in."""

    def __init__(self, wire: Wire, api: Api, logger: logging.Logger, stream: str, name: str, bucket: Bucket) -> None:
        self._wire = wire
        self._api = api
        self._logger = logger
        self._stream = stream
        self._name = name
        self._bucket = bucket
        self._created = ""  # the stream, in the server's words; asked for once: with another one the consumer is gone
        self._is_unable = False  # told already
        self._recorded: dict[int, int] = {}  # the revision of the record by sequence, as far as we know
        self._voiding: dict[int, asyncio.Task[None]] = {}  # by sequence: records of ours that nobody must find
        self._pause_s = 0.0
        self._not_before = 0.0

    def _subject(self, sequence: int) -> str:
        return f"{key_subject(self._stream, self._name)}.{sequence}"

    async def begin(self, event: Event) -> int:
        """Put an event on record: 0; negative: it is there from an earlier delivery, positive: nanoseconds to wait.

        Where the server forbids the record, the event is handled without: nothing is lost but the end of its attempts.
        While it does not answer, all suspects wait, ever longer up to 30 s, and other events are handled meanwhile.
        """
        left_s = self._not_before - time.monotonic()
        if left_s > 0:
            return int(left_s * NS) + 1
        if event.sequence in self._voiding:
            return int(PAUSE_FIRST_S * NS)
        try:
            if not self._created:
                self._created = await stream_created(self._api, self._stream)
                await self._look_at_bucket()
            for _ in range(MAX_CONFLICTS):
                found = await self._read(event.sequence)
                if 0 < found.record.delivery < event.attempt:
                    self._recorded[event.sequence] = found.revision
                    return BEGUN_BEFORE
                if await self._store(event, found.revision):
                    break
            else:
                return int(PAUSE_FIRST_S * NS)  # others have the event as well, and write
        except EdaError as error:
            if error.retryable or not isinstance(error, ServerError):
                log = self._logger.info if self._pause_s else self._logger.warning
                log("subscription %s of %s: keeping record of a suspect failed: %s", self._name, self._stream, error)
                self._pause_s = min(self._pause_s * 2 or PAUSE_FIRST_S, PAUSE_MAX_S)
                self._not_before = time.monotonic() + self._pause_s
                return int(self._pause_s * NS)
            self._tell_once(error)
        self._pause_s = 0.0
        return 0

    async def _look_at_bucket(self) -> None:
        """Say it where records vanish or can't be written."""
        fault = await bucket_fault(self._api, self._bucket)
        if fault:
            self._tell_once(f"the bucket {BUCKET} (stream {BUCKET_STREAM}) has {fault}")

    def _tell_once(self, why: object) -> None:
        if not self._is_unable:
            self._is_unable = True
            self._logger.error(
                "subscription %s of %s can't keep record of what it handles for the last time: an event that "
                "kills whoever handles it comes again without end: %s",
                self._name, self._stream, why,
            )  # fmt: skip

    async def end(self, event: Event) -> None:
        """Take an event off the record, if it is there, within 2 s or not at all."""
        revision = self._recorded.pop(event.sequence, 0)
        if not revision:
            return
        try:
            await self._remove(event.sequence, revision)
        except EdaError as error:
            self._logger.warning(
                "subscription %s of %s: sequence %d stays on record as begun: %s",
                self._name, self._stream, event.sequence, error,
            )  # fmt: skip

    async def _remove(self, sequence: int, revision: int) -> None:
        """Remove the record of that revision; a later one, which is another member's, stays."""
        body = {"filter": self._subject(sequence), "seq": revision + 1}
        try:
            await self._api.request(f"STREAM.PURGE.{BUCKET_STREAM}", body, timeout_s=TIMEOUT_S)
        except ServerError as error:
            if error.retryable:
                raise
            # The bucket forbids it (`deny_purge`): a record of no delivery says as much.
            await self._publish(sequence, _Record(created=self._created), revision)

    async def _read(self, sequence: int) -> _Found:
        """Return what is on record of an event of this stream: delivery 0 for nothing."""
        query = {"last_by_subj": self._subject(sequence)}
        try:
            message = await self._api.message(BUCKET_STREAM, query, patience_s=TIMEOUT_S)
        except ServerError as error:
            if error.err_code not in (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND):
                raise
            return _Found(_Record(), 0)
        try:
            record = _decode(message.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            record = _Record()  # nothing that we wrote
        if record.created and record.created != self._created:
            record = _Record()  # of a stream that is gone
        return _Found(record, message.seq)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def _store(self, event: Event, revision: int) -> bool:
        """Write the record in place of that revision; False: it was not the last. Raises EdaError."""
        record = _Record(delivery=event.attempt, created=self._created, nonce=next_nuid())
        try:
            try:
                stored = await self._publish(event.sequence, record, revision)
            except ServerError as error:
                if error.err_code in CONFLICTS:
                    return False
                if error.code != 503:
                    raise
                await create_bucket(self._api, self._bucket)
                stored = await self._publish(event.sequence, record, revision)
        except BaseException as error:
            # Unless it was refused, it may be stored or not, or be stored later, and nobody begins it now. Not waited
            # for: this may be the end of everything.
            if not isinstance(error, ServerError) or error.retryable:
                self._void(event.sequence, record, revision)
            raise
        self._recorded[event.sequence] = stored
        return True

    async def _publish(self, sequence: int, record: _Record, revision: int) -> int:
        """Write the record in place of that revision; returns its own. Raises EdaError."""
        subject = self._api.kv_subject(self._subject(sequence))
        headers = {EXPECTED_REVISION: str(revision)}
        text = msgspec.json.encode(record)
        answer = await store_message(self._wire, BUCKET_STREAM, subject, text, headers, domain=self._api.domain)
        return answer.seq

    def _void(self, sequence: int, record: _Record, revision: int) -> None:
        """See in the background that a record of ours is not found, whether it is stored, or will be, or not."""
        if sequence in self._voiding or self._wire.is_closed:
            return
        task = asyncio.get_running_loop().create_task(self._until_void(sequence, record, revision))
        self._voiding[sequence] = task
        task.add_done_callback(lambda _: self._voiding.pop(sequence, None))

    async def _until_void(self, sequence: int, record: _Record, revision: int) -> None:
        """Put a record of no delivery in its place.

        It replaces the same revision, so it proves which of the two came first: where it is stored, the other one can't
        be any more, as long as it stays; where it is refused, the other one, or a later one, is there to be read.
        """
        empty = msgspec.structs.replace(record, delivery=0)
        for _ in range(MAX_VOIDS):
            try:
                self._recorded[sequence] = await self._publish(sequence, empty, revision)
                return
            except ServerError as error:
                if error.err_code not in CONFLICTS and not error.retryable:
                    return  # it is forbidden, and so is the record
                if error.err_code in CONFLICTS and await self._is_gone(sequence, record.nonce):
                    return
            except Closed:
                return
            except EdaError as error:
                self._logger.debug("subscription %s of %s: a record: %s", self._name, self._stream, error)
            await asyncio.sleep(VOID_PAUSE_S)

    async def _is_gone(self, sequence: int, nonce: str) -> bool:
        """Remove what is on record if it has this nonce; returns whether it is gone. Raises Closed."""
        try:
            found = await self._read(sequence)
            if found.record.nonce == nonce:
                await self._remove(sequence, found.revision)
        except Closed:
            raise
        except EdaError:
            return False  # tried again
        return True
