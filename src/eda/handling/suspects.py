"""Which event killed the process: a shared subscription keeps a record of suspects while they are handled.

The server counts the deliveries of an event, even if no handler has begun it. So an event that only waited while
another event killed the process has as many deliveries as that event. An event with too many deliveries is a suspect:
it is put on record before it is handled, in the bucket of the cursors, and taken off when its handler has ended. If a
member finds an event on record from an earlier delivery, a process has died while it handled that event.

The server counts the deliveries of a pack, and not of its events. So each event of a pack that was delivered more than
once is a suspect, and its record counts how often the event was begun. An event that fails is handled again by the same
member. These attempts are put on record as well, so that the member that gets the pack next continues to count.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from eda._event import Event
from eda._nuid import next_nuid
from eda._pack import place_of
from eda.errors import Closed, EdaError, ServerError
from eda.handling.verdicts import Suspect
from eda.jetstream.api import Api
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM, Bucket
from eda.jetstream.bucket_requests import EXPECTED_REVISION, bucket_fault, create_bucket, key_subject
from eda.jetstream.store_message import store_message
from eda.jetstream.streams import stream_created
from eda.log import with_fields
from eda.server_codes import CONFLICTS, MESSAGE_NOT_FOUND, STREAM_NOT_FOUND
from eda.times import NS
from eda.transport.wire import Wire

__all__ = ["BEGUN_BEFORE", "Suspects"]

BEGUN_BEFORE = -1  # instead of a pause
PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 30.0
TIMEOUT_S = 2.0
MAX_CONFLICTS = 3  # how many times others may write between our read and our write, before the event waits
MAX_VOIDS = 20
VOID_PAUSE_S = 0.25


class _Record(msgspec.Struct):
    """The record of one event. `delivery` is the number of the delivery that was begun; 0: the event is not on record.

    `begun` is how often an event of a pack was begun, in this delivery and earlier ones; 0 for any other event.
    `created` is the time at which the stream was created, as the server writes it. It shows whether the record belongs
    to a deleted stream of the same name. `nonce` identifies the write.
    """

    v: int = 1
    delivery: int = 0
    begun: int = 0
    created: str = ""
    nonce: str = ""


class _Found(msgspec.Struct):
    """A record as it was read. If there is no record, `revision` is 0."""

    record: _Record
    revision: int


_decode = msgspec.json.Decoder(_Record).decode


class Suspects:
    """The record of suspects of subscription `name` to `stream`.

    `bucket` says which settings its bucket needs. An event of a pack is given up when it was begun `max_attempts` times
    in earlier deliveries, as far as that is on record; 0: it is never given up.
    """

    def __init__(
        self,
        wire: Wire,
        api: Api,
        logger: logging.Logger,
        stream: str,
        name: str,
        bucket: Bucket,
        max_attempts: int = 0,
    ) -> None:
        self._wire = wire
        self._api = api
        self._logger = with_fields(logger, eda_stream=stream, eda_subscription=name)
        self._stream = stream
        self._name = name
        self._bucket = bucket
        self._max_attempts = max_attempts
        # When the stream was created, as the server writes it. The server is asked only once: if the stream is
        # deleted, its consumer is gone as well, and the subscription ends.
        self._created = ""
        self._is_fault_logged = False
        self._recorded: dict[str, int] = {}  # by place: the latest revision of the event's record that we know
        self._voiding: dict[str, asyncio.Task[None]] = {}  # by place: the tasks of `_void`
        self._removing: set[asyncio.Task[None]] = set()  # the tasks of `_remove_all`
        self._pause_s = 0.0
        self._not_before = 0.0

    def _subject(self, place: str) -> str:
        return f"{key_subject(self._stream, self._name)}.{place}"

    async def begin(self, event: Event, suspect: Suspect) -> int:
        """Put an event on record, before its handler is called. Return 0 when that is done.

        Return BEGUN_BEFORE if the event is on record from an earlier delivery: it must not be handled again. An event
        of a pack may be handled again until it was begun `max_attempts` times; `suspect.n_begun` is set to how often it
        was begun before. Return a number of nanoseconds if the event has to wait.

        If the server forbids the record, this returns 0 as well. Then an event that kills the process is delivered
        again without end. While the server does not answer, every suspect has to wait. The wait grows up to 30 s, and
        other events are handled meanwhile.
        """
        left_s = self._not_before - time.monotonic()
        if left_s > 0:
            return int(left_s * NS) + 1
        place = place_of(event)
        if place in self._voiding:
            return int(PAUSE_FIRST_S * NS)
        try:
            if not self._created:
                self._created = await stream_created(self._api, self._stream)
                await self._check_bucket()
            for _ in range(MAX_CONFLICTS):
                found = await self._read(place)
                if 0 < found.record.delivery < suspect.delivery:
                    suspect.n_begun = max(suspect.n_begun, found.record.begun)
                    if "." not in place or 0 < self._max_attempts <= suspect.n_begun:
                        self._recorded[place] = found.revision
                        return BEGUN_BEFORE
                begun = max(event.attempt, suspect.n_begun + 1) if "." in place else 0
                if await self._store(place, suspect.delivery, begun, found):
                    break
            else:
                return int(PAUSE_FIRST_S * NS)  # other members have the event as well, and write its record
        except EdaError as error:
            if error.retryable or not isinstance(error, ServerError):
                level = logging.DEBUG if self._pause_s else self._wire.trouble_level
                self._pause_s = min(self._pause_s * 2 or PAUSE_FIRST_S, PAUSE_MAX_S)
                self._logger.log(
                    level,
                    "subscription %s to %s: putting a suspect on record failed, trying again in %g s: %s",
                    self._name, self._stream, self._pause_s, error,
                )  # fmt: skip
                self._not_before = time.monotonic() + self._pause_s
                return int(self._pause_s * NS)
            self._log_fault(error)
        self._pause_s = 0.0
        return 0

    async def _check_bucket(self) -> None:
        """Log a fault of the bucket's settings: they let records vanish, or prevent writes."""
        fault = await bucket_fault(self._api, self._bucket)
        if fault:
            self._log_fault(f"the bucket {BUCKET} (stream {BUCKET_STREAM}) has {fault}")

    def _log_fault(self, why: object) -> None:
        """Log once that records can't be kept."""
        if not self._is_fault_logged:
            self._is_fault_logged = True
            self._logger.error(
                "subscription %s to %s can't put suspects on record, so an event that kills the process is delivered "
                "again without end: %s",
                self._name, self._stream, why,
            )  # fmt: skip

    async def end(self, event: Event, suspect: Suspect, *, is_begun: bool = True) -> None:
        """Take an event off the record. If that fails within 2 s, a warning is logged and the event stays on record.

        If `is_begun` is False, the event was not begun after all. Then an event of a pack stays on record, if it was
        begun before.
        """
        place = place_of(event)
        revision = self._recorded.pop(place, 0)
        if not revision:
            return
        n_before = max(event.attempt - 1, suspect.n_begun) if "." in place and not is_begun else 0
        try:
            if n_before:
                record = _Record(delivery=suspect.delivery, begun=n_before, created=self._created, nonce=next_nuid())
                self._recorded[place] = await self._publish(place, record, revision)
            else:
                await self._remove(place, revision)
        except EdaError as error:
            self._log_not_removed(place, error)

    def end_pack(self, sequence: int, *, is_acknowledged: bool = True) -> None:
        """Take all events of a pack off the record, in the background, because the pack is acknowledged.

        Events that have failed, or were given up, are on record until then: if this process died, the pack would be
        delivered again with all its events. If the pack is given back instead, they stay on record. Then only this
        object forgets them, after the caller had time to call `end` for an event that is done.
        """
        if not is_acknowledged:
            asyncio.get_running_loop().call_soon(self._forget_pack, sequence)
            return
        left = self._forget_pack(sequence)
        if left and not self._wire.is_closed:
            task = asyncio.get_running_loop().create_task(self._remove_all(left))
            self._removing.add(task)
            task.add_done_callback(self._removing.discard)

    def _forget_pack(self, sequence: int) -> dict[str, int]:
        """Forget the records of a pack's events. Return the revisions by place."""
        prefix = f"{sequence}."
        return {place: self._recorded.pop(place) for place in list(self._recorded) if place.startswith(prefix)}

    async def settle(self, timeout_s: float) -> None:
        """Wait until the records of acknowledged packs are removed, for at most `timeout_s`."""
        if self._removing:
            await asyncio.wait(self._removing, timeout=timeout_s)

    async def _remove_all(self, revisions: dict[str, int]) -> None:
        for place, revision in revisions.items():
            try:
                await self._remove(place, revision)
            except EdaError as error:
                self._log_not_removed(place, error)

    def _log_not_removed(self, place: str, error: EdaError) -> None:
        self._logger.warning(
            "subscription %s to %s: taking event %s off the record of suspects failed: %s",
            self._name, self._stream, place, error,
        )  # fmt: skip

    async def _remove(self, place: str, revision: int) -> None:
        """Remove the record, unless it is later than `revision`: then another member has written it."""
        body = {"filter": self._subject(place), "seq": revision + 1}
        try:
            await self._api.request(f"STREAM.PURGE.{BUCKET_STREAM}", body, timeout_s=TIMEOUT_S)
        except ServerError as error:
            if error.retryable:
                raise
            # The bucket forbids removal (`deny_purge`). A record of delivery 0 also means: not on record.
            await self._publish(place, _Record(created=self._created), revision)

    async def _read(self, place: str) -> _Found:
        """Return the record of an event. Its delivery is 0 if the event is not on record."""
        query = {"last_by_subj": self._subject(place)}
        try:
            message = await self._api.message(BUCKET_STREAM, query, patience_s=TIMEOUT_S)
        except ServerError as error:
            if error.err_code not in (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND):
                raise
            return _Found(_Record(), 0)
        try:
            record = _decode(message.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            record = _Record()  # it was not written by eda
        if record.created and record.created != self._created:
            record = _Record()  # it belongs to a deleted stream of the same name
        return _Found(record, message.seq)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def _store(self, place: str, delivery: int, begun: int, found: _Found) -> bool:
        """Write the record in place of `found`. Return False if there is a later one already. Raises EdaError."""
        record = _Record(delivery=delivery, begun=begun, created=self._created, nonce=next_nuid())
        try:
            try:
                stored = await self._publish(place, record, found.revision)
            except ServerError as error:
                if error.code != 503:
                    raise
                await create_bucket(self._api, self._bucket)
                stored = await self._publish(place, record, found.revision)
        except BaseException as error:
            # The later one may be ours: if the connection was lost, the server may have stored what it did not answer.
            if isinstance(error, ServerError) and error.err_code in CONFLICTS:
                return False
            # Unless the server has refused the record, the server may have stored it, or may store it later. But the
            # handler does not begin with the event now, so nobody must find the record. A background task sees to
            # that, because the caller may be cancelled.
            if not isinstance(error, ServerError) or error.retryable:
                self._void(place, record, found)
            raise
        self._recorded[place] = stored
        return True

    async def _publish(self, place: str, record: _Record, revision: int) -> int:
        """Write the record in place of `revision`. Return the new revision. Raises EdaError."""
        subject = self._api.kv_subject(self._subject(place))
        headers = {EXPECTED_REVISION: str(revision)}
        text = msgspec.json.encode(record)
        answer = await store_message(self._wire, BUCKET_STREAM, subject, text, headers, domain=self._api.domain)
        return answer.seq

    def _void(self, place: str, record: _Record, found: _Found) -> None:
        """Make sure, in the background, that nobody finds a record that we may have written in place of `found`.

        If the record that was found says how often an event of a pack was begun, it is written again.
        """
        if place in self._voiding or self._wire.is_closed:
            return
        has_count = record.begun > 0 and 0 < found.record.delivery <= record.delivery
        delivery, begun = (found.record.delivery, found.record.begun) if has_count else (0, 0)
        before = _Record(delivery=delivery, begun=begun, created=self._created, nonce=next_nuid())
        task = asyncio.get_running_loop().create_task(self._until_void(place, record, before, found.revision))
        self._voiding[place] = task
        task.add_done_callback(lambda _: self._voiding.pop(place, None))

    async def _until_void(self, place: str, record: _Record, before: _Record, revision: int) -> None:
        """Write the record `before` in place of the same revision, until nobody can find the given record.

        `before` has the delivery 0 if nothing was on record. The server stores only one of the two. If it stores
        `before`, it will never store the given record. If it refuses `before`, then the given record or a later one is
        stored, and can be read.
        """
        for _ in range(MAX_VOIDS):
            try:
                self._recorded[place] = await self._publish(place, before, revision)
                return
            except ServerError as error:
                if error.err_code not in CONFLICTS and not error.retryable:
                    return  # the server forbids `before`, so it has refused the given record as well
                if error.err_code in CONFLICTS and await self._is_gone(place, record.nonce, before):
                    return
            except Closed:
                return
            except EdaError as error:
                self._logger.debug("subscription %s to %s: voiding failed: %s", self._name, self._stream, error)
            await asyncio.sleep(VOID_PAUSE_S)

    async def _is_gone(self, place: str, nonce: str, before: _Record) -> bool:
        """If the event's record has this nonce, remove it, or write `before` in its place if that counts anything.

        Return False if that failed. Raises Closed.
        """
        try:
            found = await self._read(place)
            if found.record.nonce == nonce:
                if before.delivery:
                    self._recorded[place] = await self._publish(place, before, found.revision)
                else:
                    await self._remove(place, found.revision)
        except Closed:
            raise
        except EdaError:
            return False
        return True
