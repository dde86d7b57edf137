"""The rows of an outbox for one stream: published in order, one chunk after the other, and deleted when acknowledged.

While a chunk is published, the rows of the chunk before it are deleted and the chunk after it is read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from eda._codec import decode_event
from eda._event import Event
from eda.errors import Closed, CodecError, ConfigError, EdaError, ServerError, StreamNotFound, Timeout
from eda.jetstream.stream_info import StreamInfo
from eda.projections.outbox_rows import Journal, OutboxRow
from eda.projections.refused_rows import RefusedRows
from eda.projections.relay_host import RelayHost
from eda.projections.relay_recovery import stored_ids
from eda.publishing.publisher import Publisher

__all__ = ["RelayStream"]

IDLE_S = 1.0  # after this time without rows, the journal is removed, so that the next relay has nothing to search
INFO_S = 0.5  # for this long, the last answer of the server about the stream is used
PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)  # after failures that may pass
FULL = 2000  # rows that wait; they become one chunk, and a chunk ends a fast batch
FULL_BYTES = 8 * 2**20
NEAR_LIMIT = 1024  # bytes: an event closer to the stream's limit may be refused

FAILED = "outbox %s: publishing to stream %s failed; %d rows wait, and are published later: %s"
SEARCHES = "outbox %s: searching stream %s after sequence %d for events that were sent already"
FOUND = "outbox %s: stream %s had stored %d rows already, which are deleted now"
LOST_TRACK = (
    "outbox %s: stream %s has removed messages after sequence %d, so rows that were sent before and are not found in "
    "it may be published twice"
)
OTHER_ID = (
    "middleware has changed the id of an event of outbox {table} from {before} to {after}: the relay finds events by "
    "their ids. It was published under the other id, and its row is still in the table"
)


class RelayStream:
    """Publishes the rows for one stream. `run` is its task; it ends after `end` was called.

    `journal` is what an earlier relay has stored: then the stream is searched for rows that it has sent. The
    `generation` grows when rows were not published in the order in which they were read: then later rows that were
    read already must be read again.
    """

    def __init__(self, host: RelayHost, stream: str, journal: Journal | None) -> None:
        self.stream = stream
        self.generation: int = 0
        self.was_full: bool = False  # the relay has not read rows of this stream, because there were enough
        self.refused: RefusedRows = RefusedRows(host.table, stream, host.services.logger)
        self._host = host
        self._logger = host.services.logger
        self._loop = asyncio.get_running_loop()
        self._journal = journal
        self._is_unsure = journal is not None  # rows may be stored in the stream although they are in the table
        self._waiting: list[OutboxRow] | None = None
        self._offered_at = 0.0
        self._n_bytes = 0  # of the rows that wait
        self._wake = asyncio.Event()
        self._is_ending = False
        self._publisher: Publisher | None = None
        self._pending: dict[str, OutboxRow] = {}
        self._acknowledged: list[int] = []
        self._failed: list[tuple[OutboxRow, Exception]] = []
        self._deleting: asyncio.Task[None] | None = None
        self._info: StreamInfo | None = None
        self._info_at = 0.0
        self._n_failures = 0
        self._paused_until = 0.0
        self._logged_at = float("-inf")
        self._fatal: ConfigError | None = None  # the error that ends the relay

    # --- what the relay asks and tells -------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Return whether no more rows can be offered now."""
        return self._waiting is not None and (len(self._waiting) >= FULL or self._n_bytes >= FULL_BYTES)

    @property
    def full_since(self) -> float:
        """Return since when it is full, by the loop's clock; infinity if it is not."""
        return self._offered_at if self.is_full else float("inf")

    def paused_s(self, now: float) -> float:
        """Return for how long no rows of this stream should be read; 0.0: they may be read."""
        return max(self._paused_until - now, 0.0)

    def offer(self, rows: list[OutboxRow]) -> None:
        """Take the next rows of this stream, in their order."""
        self._host.taken.update([row.serial for row in rows])
        self._n_bytes = sum([len(row.envelope) for row in rows]) + (self._n_bytes if self._waiting else 0)
        self._waiting = (self._waiting or []) + rows
        self._offered_at = self._loop.time()
        self._wake.set()

    def end(self) -> None:
        """Let `run` end after the chunk that is being published."""
        self._is_ending = True
        self._wake.set()

    async def run(self) -> None:
        """Publish what is offered until `end` is called."""
        try:
            while not self._is_ending:
                rows = await self._next()
                if rows is not None:
                    await self._publish(rows)
            await self._deleted()
            await self._forget_journal()
        finally:
            try:
                await self._deleted()
            finally:
                if self._publisher is not None:
                    await self._publisher.close()

    async def _next(self) -> list[OutboxRow] | None:
        """Return the next chunk, or None after a while without one."""
        self._wake.clear()
        if self._waiting is None and not self._is_ending:
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._wake.wait()
            except TimeoutError:
                await self._deleted()
                await self._forget_journal()
        rows, self._waiting = self._waiting, None
        if rows is not None and self.was_full:
            self.was_full = False
            self._host.look.set()
        return rows

    # --- one chunk ---------------------------------------------------------------------------------------------------

    async def _publish(self, rows: list[OutboxRow]) -> None:
        """Publish a chunk, and begin to delete the rows that are acknowledged. All others can be read again."""
        acknowledged: list[int] = []
        try:
            acknowledged = await self._send(rows)
        except EdaError as error:
            if error is self._fatal or (isinstance(error, Closed) and self._host.services.wire.is_closed):
                raise
            if error.retryable or isinstance(error, Closed | Timeout):
                self._pause(error, len(rows))
            else:
                await self._refuse([(row, error) for row in rows])
        finally:
            others = {row.serial for row in rows}.difference(acknowledged)
            if others:
                self._info = None
                self.generation += 1
                others.update(row.serial for row in self._waiting or ())
                self._waiting = None
            self._host.taken -= others
            if others or self.was_full:
                self._host.look.set()

    async def _send(self, rows: list[OutboxRow]) -> list[int]:
        """Publish rows; return the serials of those that are being deleted. Raises EdaError if nothing was sent."""
        publisher = await self._opened()
        info = await self._known()
        if self._is_unsure:
            await self._search(info)
            return []  # some of the rows may be deleted now
        await self._note(info)
        self._acknowledged, self._failed = [], []
        sent = await self._send_all(publisher, rows, self._near_limits(info))
        try:
            await publisher.flush()
        except Exception as error:  # a hook of middleware
            self._logger.warning("outbox %s: flushing the publisher failed: %s", self._host.table, error)
        while self._pending and publisher.stats().pending:  # noqa: ASYNC110 - a hook's flush did not wait
            await asyncio.sleep(0.005)
        if self._pending:
            (before, *_) = self._pending
            message = OTHER_ID.format(table=self._host.table, before=before, after=sent.get(before))
            self._fatal = ConfigError(message, argument="middleware")
            raise self._fatal
        acknowledged = self._acknowledged
        if acknowledged:
            self._n_failures = 0
            self._host.counts.acknowledged += len(acknowledged)
            self.refused.accepted(acknowledged)
            await self._deleted()
            journal = Journal(self.stream, info.created.isoformat(), info.last_sequence)
            self._deleting = asyncio.create_task(self._delete(acknowledged, journal))
        if self._failed:
            await self._sort_out(self._failed)
        return acknowledged

    async def _known(self) -> StreamInfo:
        """Return the stream as it is, or as it was a moment ago if everything has been acknowledged since then.

        An earlier last sequence only makes a search after a crash longer.
        """
        now = self._loop.time()
        if self._info is None or now - self._info_at > INFO_S or self._is_unsure:
            self._info = None
            self._info = await self._host.services.streams.info(self.stream)
            self._info_at = now
        return self._info

    async def _opened(self) -> Publisher:
        if self._publisher is None:
            publisher = self._host.new_publisher(self.stream, on_ack=self._on_ack, on_error=self._on_error)
            self._publisher = await publisher
        return self._publisher

    def _on_ack(self, event_id: str, sequence: int) -> None:
        row = self._pending.pop(event_id, None)
        if row is not None:
            self._acknowledged.append(row.serial)

    def _on_error(self, event: Event, error: Exception) -> None:
        row = self._pending.pop(event.id, None)
        if row is not None:
            self._failed.append((row, error))

    def _near_limits(self, info: StreamInfo) -> Callable[[OutboxRow], bool]:
        """Return a function that tells whether the server may refuse a row although it takes others."""
        if info.discard_new_per_subject:
            return lambda row: True
        most = min(info.max_event_bytes or 2**62, self._host.services.wire.max_payload) - NEAR_LIMIT
        was_refused = self.refused.was_refused
        return lambda row: len(row.envelope) > most or was_refused(row.serial)

    async def _send_all(
        self, publisher: Publisher, rows: list[OutboxRow], is_near_limit: Callable[[OutboxRow], bool]
    ) -> dict[str, str]:
        """Send rows in order. Rows after one that fails, or may be refused, are left out if they have its key.

        Return the ids under which they are published, by the ids of the rows.
        """
        held: set[str] = set()
        sending: list[OutboxRow] = []
        events: list[Event] = []
        for row in rows:
            if row.key and row.key in held:
                continue
            try:
                event = decode_event(row.envelope)
            except CodecError as error:
                self._failed.append((row, error))
                held.add(row.key)
                continue
            if is_near_limit(row):
                held.add(row.key)
            sending.append(row)
            events.append(event)
        ids: dict[str, str] = {}
        while sending:
            self._pending.update(zip([row.id for row in sending], sending, strict=True))
            n_before = publisher.stats().sent
            try:
                published = await publisher.send_many(events)
            except Closed:
                raise
            except Exception as error:  # the publisher refuses the event, or a hook of middleware does
                n_sent = publisher.stats().sent - n_before
                at = _index_in(error, n_sent)
                self._host.counts.sent += n_sent
                refused = sending[at]
                if n_sent <= at:
                    self._failed.append((refused, error))
                    del self._pending[refused.id]
                for row in sending[at + 1 :]:
                    del self._pending[row.id]
                held.add(refused.key)
                left = [at + 1 + n for n, row in enumerate(sending[at + 1 :]) if not row.key or row.key not in held]
                sending, events = [sending[index] for index in left], [events[index] for index in left]
            else:
                self._host.counts.sent += len(published)
                ids.update(zip([row.id for row in sending], published, strict=True))
                break
        return ids

    # --- what was not acknowledged -----------------------------------------------------------------------------------

    async def _sort_out(self, failed: list[tuple[OutboxRow, Exception]]) -> None:
        """Search the stream later for rows whose outcome is unknown, and refuse all others."""
        unknown = [(row, error) for row, error in failed if _may_be_stored(error)]
        refused = [(row, error) for row, error in failed if not _may_be_stored(error)]
        if unknown:
            self._is_unsure = True
            self._pause(unknown[0][1], len(unknown))
        if refused:
            await self._refuse(refused)

    async def _refuse(self, refused: list[tuple[OutboxRow, Exception]]) -> None:
        """Bury rows, or leave them in the table, where they block their keys until they are tried again."""
        self._host.counts.refused += len(refused)
        if self._host.buries:
            await self._host.rows.bury([(row.serial, f"{type(error).__name__}: {error}") for row, error in refused])
            self._host.counts.buried += len(refused)
            self.refused.log_buried(refused)
            return
        now = self._loop.time()
        of_stream = [each for each in refused if _is_of_stream(each[1])]
        if of_stream:  # no row can be published, so all wait, and keep their order
            self._paused_until = now + self.refused.add_stream(of_stream, now)
        if rest := [each for each in refused if not _is_of_stream(each[1])]:
            self.refused.add(rest, now)

    def _pause(self, error: Exception, n_rows: int) -> None:
        now = self._loop.time()
        pause_s = PAUSES_S[min(self._n_failures, len(PAUSES_S) - 1)]
        self._n_failures += 1
        self._paused_until = now + pause_s
        if now - self._logged_at >= 60.0:
            self._logged_at = now
            self._logger.warning(FAILED, self._host.table, self.stream, n_rows, error)

    # --- the journal -------------------------------------------------------------------------------------------------

    async def _note(self, info: StreamInfo) -> None:
        """Make sure that the journal names a sequence before all rows that are sent from now on."""
        created = info.created.isoformat()
        journal = self._journal
        if journal is None or journal.created != created or info.last_sequence < journal.sequence:
            await self._deleted()
            await self._write_journal(Journal(self.stream, created, info.last_sequence))

    async def _write_journal(self, journal: Journal) -> None:
        await self._host.rows.note(journal)
        self._journal = journal

    async def _forget_journal(self) -> None:
        """Remove the journal if no row can be on its way into the stream."""
        if self._journal is not None and not self._is_unsure:
            await self._host.rows.forget(self.stream)
            self._journal = None

    async def _delete(self, serials: list[int], journal: Journal) -> None:
        """Delete acknowledged rows. All earlier ones are deleted, so the journal moves to where this chunk began."""
        await self._host.rows.delete(serials, None if journal == self._journal else journal)
        self._journal = journal
        self._host.taken.difference_update(serials)

    async def _deleted(self) -> None:
        """Wait until the last chunk is deleted. Raises the driver's error."""
        deleting, self._deleting = self._deleting, None
        if deleting is not None:
            await deleting

    async def _search(self, info: StreamInfo) -> None:
        """Delete the rows that the stream has stored."""
        await self._deleted()
        journal = self._journal
        assert journal is not None
        table, after = self._host.table, journal.sequence
        if journal.created != info.created.isoformat() or info.last_sequence < after:
            after = 0  # the stream was made again or restored, so its sequences mean something else
        elif info.first_sequence > after + 1:
            self._logger.warning(LOST_TRACK, table, self.stream, after)
        self._logger.info(SEARCHES, table, self.stream, after)
        n_found = 0
        async for ids in stored_ids(self._host.services.api, self.stream, after, allow_direct=info.allow_direct):
            n_found += await self._host.rows.delete_ids(ids)
        self._host.counts.found += n_found
        if n_found:
            self._logger.info(FOUND, table, self.stream, n_found)
        await self._write_journal(Journal(self.stream, info.created.isoformat(), info.last_sequence))
        self._is_unsure = False


def _may_be_stored(error: Exception) -> bool:
    """Return whether an event that failed with this error may be stored all the same, or may be stored later."""
    if isinstance(error, ServerError):
        return error.retryable or error.may_be_stored
    return isinstance(error, Timeout | Closed)


def _is_of_stream(error: Exception) -> bool:
    """Return whether an error is about the stream and not about one event."""
    return isinstance(error, StreamNotFound) or (isinstance(error, ConfigError) and error.argument == "stream")


def _index_in(error: Exception, n_sent: int) -> int:
    """Return which event `send_many` has failed at. A hook may have failed after the event was sent."""
    for note in reversed(getattr(error, "__notes__", [])):
        if found := re.fullmatch(r"events\[(\d+)\]", note):
            return int(found[1])
    return n_sent
