"""Which event a position is, and whether the stream still has it.

A server that lost its power comes back without what was not synced, and gives those sequences to other events. So a
sequence alone does not say which event it is; with the time at which the stream stored it, it does.
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
from eda.jetstream.streams import StreamInfo
from eda.server_codes import FORBIDDEN, MESSAGE_NOT_FOUND
from eda.times import rfc3339

__all__ = [
    "UNREAD_NS",
    "Position",
    "position_of",
    "sequence_at",
    "surviving_position",
    "warn_of_far_start",
]


UNREAD_NS = 1  # the time of a position before the stream's first event: whatever is stored came later


class Position(NamedTuple):
    """A position: its sequence, and when the stream stored that event, in nanoseconds since 1970; 0: not known."""

    seq: int
    stored_ns: int = 0


def warn_of_far_start(logger: logging.Logger, stream: str, name: str, start: int, last: int) -> None:
    """Say that a start lies beyond the stream's end, if it does: an event that is yet to come there may be far away."""
    if start > last + 1:
        logger.warning(
            "subscription %s of stream %s starts at %d, but the stream ends at %d: it gets nothing until the stream is "
            "there",
            name, stream, start, last,
        )  # fmt: skip


async def sequence_at(api: Api, stream: str, time_ns: int, info: StreamInfo) -> int:
    """Return the sequence of the first event stored at that time or later, the next one's where there is none.

    Found by halving, one request each: where events were deleted, nats-server 2.10 finds a wrong sequence by itself.
    Raises StreamNotFound, ServerError, Timeout, Closed.
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
    """The same, as the server finds it for a consumer that begins at that time."""
    name = f"eda-r-{next_nuid()}"
    settings = reader_settings(name) | {"deliver_policy": "by_start_time", "opt_start_time": rfc3339(time_ns)}
    settings |= labels("reader", client=api.client, what=f"a look for a time in stream {stream!r}")
    made = await api.create_consumer(stream, name, settings)
    await api.delete_consumer(stream, name)
    return int((made.get("delivered") or {}).get("stream_seq", 0)) + 1


async def position_of(api: Api, stream: str, seq: int) -> Position:
    """Return the position of the event with that sequence. Raises StreamNotFound, ServerError, Timeout, Closed."""
    return Position(seq, await _stored_at(api, stream, seq))


async def surviving_position(api: Api, stream: str, position: Position, info: StreamInfo) -> Position:
    """Return the position if the stream still has all that it had up to it, else the one before the first new event.

    The event itself may be gone (expired, deleted, purged): then the stream is whole as long as nothing up to there was
    stored later than it. Raises StreamNotFound, ServerError, Timeout, Closed.
    """
    if not position.seq:
        return position
    if not position.stored_ns:  # written before positions had times: only a stream that is too short shows anything
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
        # It is another event, which an earlier time was given to: the server's clock went back, and can't tell what
        # else is new.
        first = max(info.first_sequence, 1)
    return Position(first - 1, await _stored_at(api, stream, first - 1) or position.stored_ns)


async def _stored_at(api: Api, stream: str, seq: int) -> int:
    """Return when the event was stored, 0 where there is none, or we may not look."""
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
