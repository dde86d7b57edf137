"""The rows that are published together, and what has become of them."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

from eda._codec import decode_event
from eda._event import Event
from eda.errors import Closed, CodecError
from eda.projections.outbox_cursor import OutboxRow
from eda.projections.outbox_rows import Journal
from eda.projections.relay_host import RelayCounts
from eda.publishing.outcomes import Stopped
from eda.publishing.publisher import Publisher

__all__ = ["RelayChunk"]


class RelayChunk:
    """Rows of one stream. `journal`: where the stream was before the first of them was sent.

    `held`: the keys of rows that failed or may be refused; rows that follow with the same key must wait. `ids`: the
    ids under which rows were published, by the ids of the rows.
    """

    def __init__(self, rows: list[OutboxRow], journal: Journal) -> None:
        self.rows: list[OutboxRow] = rows
        self.journal: Journal = journal
        self.held: set[str] = set()
        self.ids: dict[str, str] = {}
        self.pending: dict[str, OutboxRow] = {}
        self.acknowledged: list[int] = []
        self.failed: list[tuple[OutboxRow, Exception]] = []
        self.is_cut: bool = False  # the publisher has stopped before all rows were sent
        self._is_sent = False
        self._settled: asyncio.Future[None] | None = None

    # --- sending -----------------------------------------------------------------------------------------------------

    async def send(self, publisher: Publisher, counts: RelayCounts, near_limits: set[int]) -> None:
        """Send the rows in order. Rows after one that fails, or may be refused, are left out if they have its key.

        If an event fails meanwhile, the other rows are not sent. `near_limits`: the serials of rows that may be
        refused. Raises Closed.
        """
        sending, events = self._decoded(near_limits)
        while sending:
            self.pending.update(zip([row.id for row in sending], sending, strict=True))
            n_before = publisher.stats().sent
            try:
                published = await publisher.send_many(events)
            except Closed:
                raise
            except Stopped:  # an event that was sent before has failed, so these must wait
                n_sent = publisher.stats().sent - n_before
                counts.sent += n_sent
                for row in sending[n_sent:]:
                    del self.pending[row.id]
                self.is_cut = True
                break
            except Exception as error:  # the publisher refuses the event, or a hook of middleware does
                n_sent = publisher.stats().sent - n_before
                counts.sent += n_sent
                left = self._left_after(sending, error, n_sent)
                sending, events = [sending[index] for index in left], [events[index] for index in left]
            else:
                counts.sent += len(published)
                self.ids.update(zip([row.id for row in sending], published, strict=True))
                break
        self._is_sent = True

    def _decoded(self, near_limits: set[int]) -> tuple[list[OutboxRow], list[Event]]:
        """Return the rows to send, and their events."""
        if not near_limits:
            with suppress(CodecError):
                return self.rows, [decode_event(row.envelope) for row in self.rows]
        held = self.held
        sending: list[OutboxRow] = []
        events: list[Event] = []
        for row in self.rows:
            if row.key and row.key in held:
                continue
            try:
                event = decode_event(row.envelope)
            except CodecError as error:
                self.failed.append((row, error))
                held.add(row.key)
                continue
            if row.serial in near_limits:
                held.add(row.key)
            sending.append(row)
            events.append(event)
        return sending, events

    def _left_after(self, sending: list[OutboxRow], error: Exception, n_sent: int) -> list[int]:
        """Note that sending has failed at a row. Return which rows can still be sent."""
        at = _index_in(error, n_sent)
        refused = sending[at]
        if n_sent <= at:
            self.failed.append((refused, error))
            del self.pending[refused.id]
        for row in sending[at + 1 :]:
            del self.pending[row.id]
        self.held.add(refused.key)
        return [at + 1 + n for n, row in enumerate(sending[at + 1 :]) if not row.key or row.key not in self.held]

    # --- outcomes ----------------------------------------------------------------------------------------------------

    def ended(self, event_id: str, error: Exception | None) -> bool:
        """Note what has become of an event. Return whether it belongs to this chunk."""
        row = self.pending.pop(event_id, None)
        if row is None:
            return False
        if error is None:
            self.acknowledged.append(row.serial)
        else:
            self.failed.append((row, error))
        if not self.pending and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)
        return True

    @property
    def is_settled(self) -> bool:
        """Return whether the outcomes of all rows that were sent are known."""
        return self._is_sent and not self.pending

    async def settled(self) -> None:
        """Wait until the outcomes of all rows that were sent are known."""
        if not self.is_settled:
            self._settled = asyncio.get_running_loop().create_future()
            await self._settled

    @property
    def others(self) -> set[int]:
        """Return the serials of the rows that the stream has not acknowledged."""
        return {row.serial for row in self.rows}.difference(self.acknowledged)


def _index_in(error: Exception, n_sent: int) -> int:
    """Return which event `send_many` has failed at. A hook may have failed after the event was sent."""
    for note in reversed(getattr(error, "__notes__", [])):
        if found := re.fullmatch(r"events\[(\d+)\]", note):
            return int(found[1])
    return n_sent
