"""Whether a projection may go on with its stream: the stream is the one that it has applied, and has lost no events.

A stream may be deleted and made again, restored from an older backup, or lose its end when its server loses power. Then
its sequences belong to other events than those that were applied. And events that were removed before the projection
has read them are missing in its tables. eda can't repair this, so the projection ends with PositionInvalid.

Events that are removed after they were applied change nothing: the stream's `max_age` discards them, somebody deletes
one, or an event store forgets their aggregate. When an event store forgets an aggregate, its events may also be removed
before they were applied. Its tombstone, which comes later, tells the projection to remove the aggregate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from eda.cursors.position import Position, position_of, sequence_at
from eda.errors import ServerError
from eda.jetstream.api import Api, stream_error
from eda.jetstream.schemas import Stream
from eda.jetstream.stream_info import StreamInfo, info_of
from eda.jetstream.subjects import escape_token
from eda.names import FORGOTTEN
from eda.projection_errors import PositionInvalid
from eda.projections.sink import PositionRow, UpTo
from eda.server_codes import FORBIDDEN, MESSAGE_NOT_FOUND
from eda.times import NS

__all__ = ["StreamCheck", "StreamNow", "stream_now"]

# Clocks of servers may differ by less than this. After an election, an event may have an earlier time than the one
# before it.
SKEW_NS = 10 * NS


@dataclass(frozen=True, slots=True)
class StreamNow:
    """A stream as its leader described it. `created`: when it was created, as the server's unchanged text."""

    info: StreamInfo
    created: str
    leader: str
    """the server that leads the stream; "" if the server belongs to no cluster"""
    n_deleted: int
    """how many events were removed from between others"""


async def stream_now(api: Api, stream: str) -> StreamNow:
    """Ask the stream's leader for the stream. Raises StreamNotFound, ServerError, Timeout, Closed."""
    try:
        answer = await api.request(f"STREAM.INFO.{stream}", schema=Stream)
    except ServerError as error:
        raise stream_error(error, stream) from error
    cluster = answer.get("cluster") or {}
    leader = cluster.get("leader", "") if cluster.get("name") else ""
    return StreamNow(info_of(answer), answer["created"], leader, answer["state"].get("num_deleted", 0))


class StreamCheck:
    """Checks the positions of one projection in one stream."""

    def __init__(self, api: Api, stream: str, name: str, version: int) -> None:
        self._api = api
        self._stream = stream
        self._name = name
        self._version = version

    async def check(self, rows: Iterable[PositionRow], *, read_to: int = 0) -> StreamNow:
        """Return the stream as it is now, if the projection may go on after these rows.

        `read_to`: up to which sequence this process has received the stream already, because events that were received
        can be removed from the stream. Rows that applied nothing yet are only checked for their stream.

        Raises PositionInvalid, StreamNotFound, ServerError, Timeout, Closed.
        """
        now = await stream_now(self._api, self._stream)
        rows = list(rows)
        for row in rows:
            if row.created != now.created:
                raise self._invalid(
                    "the stream was deleted, and made again or restored: it was created "
                    f"{_shown(row.created)} when it was read first, and {_shown(now.created)} now. So its events may "
                    "be others than those that were applied"
                )
        positions = {row.up_to for row in rows if row.sequence}
        if positions:
            highest = max(each.sequence for each in positions)
            if highest > now.info.last_sequence:
                now = await self._again(highest, now)
            await asyncio.gather(*(self._check_event(each, now.info, read_to) for each in positions))
            await self._check_nothing_is_missing(max(min(each.whole for each in positions), read_to), now.info)
        return now

    async def _again(self, sequence: int, before: StreamNow) -> StreamNow:
        """Ask again for a stream that ends before a position.

        Another leader, which was just deposed, may have answered. It does not know the last events.
        """
        now = before
        for _ in range(3 if before.leader else 0):
            await asyncio.sleep(0.5)
            now = await stream_now(self._api, self._stream)
            if now.info.last_sequence >= sequence:
                return now
        raise self._invalid(
            f"the stream ends at {now.info.last_sequence}, but events up to {sequence} were applied. It was restored "
            "from an older backup, or its server has lost the last events"
        )

    async def _check_event(self, up_to: UpTo, info: StreamInfo, read_to: int) -> None:
        """Check that the event at the position is the one that was applied, if the stream still has it."""
        position = Position(up_to.sequence, up_to.stored_ns)
        if not position.stored_ns:
            return  # the time is not known
        found = await position_of(self._api, self._stream, position.seq)
        if found.stored_ns == position.stored_ns:
            return
        if found.stored_ns:
            what = (
                f"event {position.seq} was stored {_at(found.stored_ns)}, but the event with this sequence that was "
                f"applied was stored {_at(position.stored_ns)}"
            )
        elif position.seq < info.first_sequence:
            return  # it was removed together with all events before it
        else:
            later = await sequence_at(self._api, self._stream, position.stored_ns + SKEW_NS, info)
            if later > position.seq:
                await self._check_part(up_to, info, read_to)
                return
            what = (
                f"event {position.seq} was applied and is gone now, and event {later} was stored after it. So the "
                "sequences were given a second time"
            )
        raise self._invalid(
            f"{what}. The stream was restored from an older backup, or its server has lost the last events, and other "
            "events have their sequences now"
        )

    async def _check_part(self, up_to: UpTo, info: StreamInfo, read_to: int) -> None:
        """Check that the stream still has a pack of which a part is applied; the server did not return the pack.

        The server may also forbid to read it. Then the times of the other messages tell.
        """
        if not up_to.is_part or read_to >= up_to.sequence:
            return
        if await sequence_at(self._api, self._stream, up_to.stored_ns, info) > up_to.sequence:
            raise self._invalid(
                f"the pack {up_to.sequence} is gone, and only its events up to index {up_to.index} are applied. So the "
                "rows lack what its other events have changed"
            )

    async def _check_nothing_is_missing(self, read_to: int, info: StreamInfo) -> None:
        first = info.first_sequence
        if first <= read_to + 1:
            return
        if info.options.store and await self._has_tombstone_after(read_to):
            return  # the aggregates to which the missing events belonged are forgotten
        limits = [
            text
            for text, is_set in (
                ("max_age", info.options.max_age_s),
                ("max_bytes", info.options.max_bytes),
                ("max_msgs", info.options.max_events),
                ("max_msgs_per_subject", info.max_events_per_subject),
            )
            if is_set
        ]
        cause = "the stream was purged, or they were deleted"
        if limits:
            cause = f"the stream discards old events ({', '.join(limits)}), or it was purged"
        lost = f"events {read_to + 1} to {first - 1} are" if first - 1 > read_to + 1 else f"event {first - 1} is"
        raise self._invalid(
            f"{lost} gone and not applied: {cause}. So the rows lack what these events have changed",
            f"builds new rows from event {first}, the first one that is left",
        )

    async def _has_tombstone_after(self, sequence: int) -> bool:
        """Return whether the event store has forgotten an aggregate after this sequence."""
        query = {"seq": sequence + 1, "next_by_subj": f"{self._stream}.{escape_token(FORGOTTEN)}.*"}
        try:
            await self._api.message(self._stream, query)
        except ServerError as error:
            if error.err_code == MESSAGE_NOT_FOUND:
                return False
            if error.code == FORBIDDEN:
                return True  # not known, so the projection goes on
            raise stream_error(error, self._stream) from error
        return True

    def _invalid(self, reason: str, builds: str = "builds new rows from the stream's first event") -> PositionInvalid:
        advice = f"Open the projection with version={self._version + 1}, which {builds}, and promote it"
        return PositionInvalid(self._name, self._version, self._stream, f"{reason}. {advice}")


def _at(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"at {datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def _shown(created: str) -> str:
    return f"at {created}" if created else "at an unknown time"
