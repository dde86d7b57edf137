"""The rows of an outbox for one stream: published in order, chunk by chunk, and deleted when acknowledged.

While a chunk is published, the next one is sent, the rows of the one before are deleted, and later rows are read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from eda._event import Event
from eda.errors import Closed, ConfigError, EdaError, Timeout
from eda.jetstream.stream_info import StreamInfo
from eda.log import with_fields
from eda.projections.outbox_cursor import OutboxRow
from eda.projections.outbox_rows import Journal
from eda.projections.refused_rows import RefusedRows, is_of_stream, may_be_stored
from eda.projections.relay_chunk import RelayChunk
from eda.projections.relay_host import RelayHost
from eda.projections.relay_recovery import stored_ids
from eda.publishing.publisher import Publisher

__all__ = ["RelayStream"]

IDLE_S = 1.0  # after this time without rows, the journal is removed, so that the next relay has nothing to search
INFO_S = 0.5  # for this long, the last answer of the server about the stream is used
PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)  # after failures that may pass
UNDER_WAY = 2  # chunks. The first is being acknowledged while the second is sent
GRACE_S = 0.02  # for this long, chunks under way are not flushed if no rows wait
FLUSH_S = 0.1  # a chunk that is not acknowledged after this time is flushed
FULL = 4000  # rows that wait; they become one chunk
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
        self._logger = with_fields(host.services.logger, eda_outbox=host.table, eda_stream=stream)
        self._loop = asyncio.get_running_loop()
        self._journal = journal
        self._is_unsure = journal is not None  # rows may be stored in the stream although they are in the table
        self._waiting: list[OutboxRow] | None = None
        self._offered_at = 0.0
        self._n_bytes = 0  # of the rows that wait
        self._wake = asyncio.Event()
        self._is_ending = False
        self._publisher: Publisher | None = None
        self._under_way: deque[RelayChunk] = deque()
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
            await self._settle_all()
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
        # The next rows may be on their way from the database. A flush takes a round trip, during which nothing is sent.
        if not (self._under_way and await self._woken(GRACE_S)):
            await self._settle_all()
            if not await self._woken(IDLE_S):
                await self._deleted()
                await self._forget_journal()
        rows, self._waiting = self._waiting, None
        if rows is not None and self.was_full:
            self.was_full = False
            self._host.look.set()
        return rows

    async def _woken(self, most_s: float) -> bool:
        """Wait until rows are offered, or the relay ends. Return False if nothing has happened in this time."""
        self._wake.clear()
        if self._waiting is None and not self._is_ending:
            with suppress(TimeoutError):
                async with asyncio.timeout(most_s):
                    await self._wake.wait()
        return self._waiting is not None or self._is_ending

    # --- one chunk ---------------------------------------------------------------------------------------------------

    async def _publish(self, rows: list[OutboxRow]) -> None:
        """Begin to publish a chunk. Then wait until at most one is under way, so that the stream has always work."""
        is_sent = False
        try:
            is_sent = await self._send(rows)
        except EdaError as error:
            if error is self._fatal or (isinstance(error, Closed) and self._host.services.wire.is_closed):
                raise
            if error.retryable or isinstance(error, Closed | Timeout):
                self._pause(error, len(rows))
            else:
                await self._refuse([(row, error) for row in rows])
        finally:
            if not is_sent:
                self._give_back({row.serial for row in rows})
        while len(self._under_way) >= UNDER_WAY:
            await self._settle()

    def _give_back(self, serials: set[int]) -> None:
        """Let the relay read rows again, and those that wait after them."""
        if serials:
            self._info = None
            self.generation += 1
            serials.update(row.serial for row in self._waiting or ())
            self._waiting = None
            self._host.gave_back(serials)
        elif self.was_full:
            self._host.look.set()

    async def _send(self, rows: list[OutboxRow]) -> bool:
        """Send rows. Return False if they must be read again instead. Raises EdaError if nothing was sent."""
        publisher = await self._opened()
        info = await self._known()
        generation = self.generation
        if self._is_unsure or not self._is_noted(info) or any(chunk.held or chunk.failed for chunk in self._under_way):
            await self._settle_all()  # a row of the same key may still be refused
        if self._is_unsure:
            await self._search(await self._known())
            return False  # some of the rows may be deleted now
        await self._note(info)
        if self.generation != generation or any(chunk.failed for chunk in self._under_way):
            return False  # earlier rows must be read again
        chunk = RelayChunk(rows, Journal(self.stream, info.created.isoformat(), info.last_sequence))
        self._under_way.append(chunk)
        await chunk.send(publisher, self._host.counts, self._near_limits(rows, info))
        return True

    # --- outcomes ----------------------------------------------------------------------------------------------------

    async def _settle_all(self) -> None:
        while self._under_way:
            await self._settle()

    async def _settle(self) -> None:
        """Wait until the first chunk's outcomes are known. Begin to delete its rows that are acknowledged.

        All others can be read again.
        """
        chunk = self._under_way[0]
        await self._flushed(chunk)
        self._under_way.popleft()
        try:
            acknowledged = chunk.acknowledged
            if acknowledged:
                self._n_failures = 0
                self._host.counts.acknowledged += len(acknowledged)
                self.refused.accepted(acknowledged)
                await self._deleted()
                # Rows of an earlier chunk may have been stored before this one began.
                journal = None if self._is_unsure else chunk.journal
                self._deleting = asyncio.create_task(self._delete(acknowledged, journal))
            if chunk.failed:
                await self._sort_out(chunk.failed)
        finally:
            self._give_back(chunk.others)

    async def _flushed(self, chunk: RelayChunk) -> None:
        publisher = self._publisher
        assert publisher is not None
        if len(self._under_way) > 1:
            # What was sent after it makes the stream acknowledge it. A flush would wait for all of that as well.
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await chunk.settled()
        if chunk.is_settled and not chunk.failed and not chunk.is_cut:
            return
        try:
            await publisher.flush()
        except Exception as error:  # a hook of middleware
            self._logger.warning("outbox %s: flushing the publisher failed: %s", self._host.table, error)
        while chunk.pending and publisher.stats().pending:  # noqa: ASYNC110 - a hook's flush did not wait
            await asyncio.sleep(0.005)
        if chunk.pending:
            (before, *_) = chunk.pending
            message = OTHER_ID.format(table=self._host.table, before=before, after=chunk.ids.get(before))
            self._fatal = ConfigError(message, argument="middleware")
            raise self._fatal
        await Publisher.flush(publisher)  # without the hooks: the publisher takes events again

    def _on_ack(self, event_id: str, sequence: int) -> None:
        for chunk in self._under_way:
            if chunk.ended(event_id, None):
                break

    def _on_error(self, event: Event, error: Exception) -> None:
        for chunk in self._under_way:
            if chunk.ended(event.id, error):
                break

    # --- the stream --------------------------------------------------------------------------------------------------

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

    def _near_limits(self, rows: list[OutboxRow], info: StreamInfo) -> set[int]:
        """Return the serials of rows that the server may refuse although it takes others."""
        options = info.options
        if options.discard == "new" and (info.discard_new_per_subject or options.max_events or options.max_bytes):
            return {row.serial for row in rows}  # a full stream takes events again as soon as there is room
        most = min(info.max_event_bytes or 2**62, self._host.services.wire.max_payload) - NEAR_LIMIT
        were_refused = self.refused.serials
        return {row.serial for row in rows if len(row.envelope) > most or row.serial in were_refused}

    # --- what was not acknowledged -----------------------------------------------------------------------------------

    async def _sort_out(self, failed: list[tuple[OutboxRow, Exception]]) -> None:
        """Search the stream later for rows whose outcome is unknown, and refuse all others."""
        unknown = [(row, error) for row, error in failed if may_be_stored(error)]
        refused = [(row, error) for row, error in failed if not may_be_stored(error)]
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
        of_stream = [each for each in refused if is_of_stream(each[1])]
        if of_stream:  # no row can be published, so all wait, and keep their order
            self._paused_until = now + self.refused.add_stream(of_stream, now)
        if rest := [each for each in refused if not is_of_stream(each[1])]:
            self.refused.add(rest, now)

    def _pause(self, error: Exception, n_rows: int) -> None:
        now = self._loop.time()
        pause_s = PAUSES_S[min(self._n_failures, len(PAUSES_S) - 1)]
        self._n_failures += 1
        self._paused_until = now + pause_s
        if now - self._logged_at >= 60.0:
            self._logged_at = now
            level = self._host.services.wire.trouble_level
            self._logger.log(level, FAILED, self._host.table, self.stream, n_rows, error)

    # --- the journal -------------------------------------------------------------------------------------------------

    def _is_noted(self, info: StreamInfo) -> bool:
        """Return whether the journal names a sequence before all rows that are sent from now on."""
        journal = self._journal
        return (
            journal is not None
            and journal.created == info.created.isoformat()
            and journal.sequence <= info.last_sequence
        )

    async def _note(self, info: StreamInfo) -> None:
        """Make sure that the journal names a sequence before all rows that are sent from now on."""
        if not self._is_noted(info):
            await self._deleted()
            await self._write_journal(Journal(self.stream, info.created.isoformat(), info.last_sequence))

    async def _write_journal(self, journal: Journal) -> None:
        await self._host.rows.note(journal)
        self._journal = journal

    async def _forget_journal(self) -> None:
        """Remove the journal if no row can be on its way into the stream."""
        if self._journal is not None and not self._is_unsure:
            await self._host.rows.forget(self.stream)
            self._journal = None

    async def _delete(self, serials: list[int], journal: Journal | None) -> None:
        """Delete acknowledged rows. All earlier ones are deleted, so the journal moves to where this chunk began.

        The rows that are under way were sent later.
        """
        await self._host.rows.delete(serials, None if journal == self._journal else journal)
        self._journal = journal or self._journal
        self._host.taken.difference_update(serials)
        if self.was_full:
            self._host.look.set()

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
        self._logger.debug(SEARCHES, table, self.stream, after)
        n_found = 0
        async for ids in stored_ids(self._host.services.api, self.stream, after, allow_direct=info.allow_direct):
            n_found += await self._host.rows.delete_ids(ids)
        self._host.counts.found += n_found
        if n_found:
            self._logger.info(FOUND, table, self.stream, n_found)
        await self._write_journal(Journal(self.stream, info.created.isoformat(), info.last_sequence))
        self._is_unsure = False
