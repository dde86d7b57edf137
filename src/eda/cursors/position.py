"""Positions in a stream: which event a position means, and whether the stream still has this event.

After a power failure a server lacks the events that it had not yet written to disk, and gives their sequences to other
events. So a sequence alone does not identify a message, but the sequence and the time at which it was stored do.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from eda._nuid import next_nuid
from eda.errors import ServerError
from eda.jetstream.api import Api, stream_error
from eda.jetstream.consumer_settings import reader_settings
from eda.jetstream.labels import labels
from eda.jetstream.schemas import nanoseconds
from eda.jetstream.stream_info import StreamInfo
from eda.server_codes import FORBIDDEN, MESSAGE_NOT_FOUND
from eda.times import rfc3339

__all__ = [
    "BEFORE_FIRST_NS",
    "FIRST",
    "Position",
    "position_of",
    "sequence_at",
    "surviving_position",
    "warn_of_far_start",
]

BEFORE_FIRST_NS = 1  # the time of a position before the stream's first event: every event was stored later


class Position(NamedTuple):
    """The last message that is wholly done, and how many events of the next message are done, if that is a pack.

    `stored_ns`: when the stream stored message `seq`, in nanoseconds since 1970; 0: not known. `idx`: how many events
    of the pack `part` are done. This pack was stored at `part_ns`. All three are 0 if no pack is partly done. The
    next message need not have the next sequence, and the stream may lose it, so its sequence and its time name it.
    """

    seq: int
    stored_ns: int = 0
    idx: int = 0
    part: int = 0
    part_ns: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """Return what grows with each event that is done: `seq` and `idx`. Places are compared, positions are not."""
        return self.seq, self.idx

    @property
    def text(self) -> str:
        """Return the last event that is done, for log lines: "7", or "9.2" if a pack is partly done."""
        return f"{self.part}.{self.idx - 1}" if self.idx else str(self.seq)


FIRST = Position(0)  # nothing is done


def warn_of_far_start(logger: logging.Logger, stream: str, name: str, start: int, last: int) -> None:
    """Log a warning if a subscription starts beyond the next event of the stream, because it may wait for long."""
    if start > last + 1:
        logger.warning(
            "subscription %s of stream %s starts at %d, but the stream ends at %d: it gets nothing until the stream "
            "reaches its start",
            name, stream, start, last,
        )  # fmt: skip


async def sequence_at(api: Api, stream: str, time_ns: int, info: StreamInfo) -> int:
    """Return the sequence of the first event stored at this time or later, or the next sequence if there is none.

    This is a binary search with one request for each step. nats-server 2.10 can search by itself, but finds a wrong
    sequence if events were deleted. Raises StreamNotFound, ServerError, Timeout, Closed.
    """
    low, high, found = max(info.first_sequence, 1), info.last_sequence + 1, info.last_sequence + 1
    try:
        while low < high:
            middle = (low + high) // 2
            seq, stored_ns = await _message(api, stream, {"seq": middle, "next_by_subj": ">"})
            if not seq or stored_ns >= time_ns:
                high, found = middle, seq or found
            else:
                low = seq + 1
    except ServerError as error:
        if error.code != FORBIDDEN:
            raise
        return await _sequence_by_server(api, stream, time_ns)
    return found


async def _sequence_by_server(api: Api, stream: str, time_ns: int) -> int:
    """Return the same as `sequence_at`, but let the server search: it starts a new consumer at this time."""
    name = f"eda-r-{next_nuid()}"
    settings = reader_settings(name) | {"deliver_policy": "by_start_time", "opt_start_time": rfc3339(time_ns)}
    settings |= labels("reader", client=api.client, what=f"a look for a time in stream {stream!r}")
    made = await api.create_consumer(stream, name, settings)
    await api.delete_consumer(stream, name)
    return int((made.get("delivered") or {}).get("stream_seq", 0)) + 1


async def position_of(api: Api, stream: str, seq: int) -> Position:
    """Return the position of the event with this sequence. Raises StreamNotFound, ServerError, Timeout, Closed."""
    return Position(seq, await _stored_at(api, stream, seq))


async def surviving_position(api: Api, stream: str, position: Position, info: StreamInfo) -> Position:
    """Return the position if the stream still has all events up to it, else the position before the first new event.

    The position's own event may be missing because it expired, was deleted or was purged. Then nothing is lost, unless
    the stream has an event that was stored after the position's time under the same or an earlier sequence.

    A pack that is partly done may be lost although the messages before it are not. The position that is returned still
    names this pack then. Whoever reads on compares each message with the name, and passes over no event of another one.

    Raises StreamNotFound, ServerError, Timeout, Closed.
    """
    if not position.seq:
        return position
    if position.idx and await _stored_at(api, stream, position.part) == position.part_ns:
        return position
    if not position.stored_ns:  # the time is not known: a loss shows only if the stream ends earlier
        end = info.last_sequence
        return position if end >= position.seq else await position_of(api, stream, end)
    stored_ns = await _stored_at(api, stream, position.seq)
    if stored_ns == position.stored_ns:
        return position
    if not stored_ns and position.seq < info.first_sequence and position.seq <= info.last_sequence:
        return position
    first = await sequence_at(api, stream, position.stored_ns + 1, info)
    if first > position.seq:
        if not stored_ns:
            return position
        # The stream has another event with this sequence and an earlier time: the server's clock was set back. So the
        # times of the events before it don't tell which of them are new.
        first = max(info.first_sequence, 1)
    return Position(first - 1, await _stored_at(api, stream, first - 1) or position.stored_ns)


async def _stored_at(api: Api, stream: str, seq: int) -> int:
    """Return when the event was stored; 0 if there is no such event, or if the server forbids to read it."""
    if not seq:
        return 0
    try:
        return (await _message(api, stream, {"seq": seq}))[1]
    except ServerError as error:
        if error.code == FORBIDDEN:
            return 0
        raise


async def _message(api: Api, stream: str, query: dict[str, Any]) -> tuple[int, int]:
    """Return sequence and time of the message that is asked for, zeros if there is none. Raises ServerError (403 …)."""
    subject = f"{api.prefix}.STREAM.MSG.GET.{stream}"
    api.wire.may_be_forbidden.add(subject)
    try:
        message = await api.message(stream, query)
        return message.seq, nanoseconds(message.time)
    except ServerError as error:
        if error.err_code == MESSAGE_NOT_FOUND:
            return 0, 0
        raise stream_error(error, stream) from error
    finally:
        api.wire.may_be_forbidden.discard(subject)
