"""Where a position is moved to: a sequence, a place in a pack, a time, or an end of the stream."""

from __future__ import annotations

import re
from datetime import datetime

from eda._pack import count_in_pack, is_pack_payload
from eda.cursors.position import BEFORE_FIRST_NS, FIRST, Position, position_of, sequence_at
from eda.errors import CodecError, ConfigError, ServerError
from eda.jetstream.api import Api, stream_error
from eda.jetstream.schemas import nanoseconds
from eda.jetstream.stream_info import StreamInfo
from eda.server_codes import MESSAGE_NOT_FOUND
from eda.times import since_epoch_ns

__all__ = ["Target", "position_before", "target_of"]

Target = int | str | datetime
"""The next event that a subscription gets. A text is "first", "end", a sequence, or a place in a pack such as "7.3"."""

MAX_SEQUENCE = 2**63 - 1
_PLACE = re.compile(r"(\d{1,19})(?:\.(\d{1,5}))?", re.ASCII)


def target_of(to: object) -> tuple[int, int] | str | datetime:
    """Return the target: sequence and index, "first", "end", or an aware time. Raises ConfigError."""
    if isinstance(to, datetime):
        if to.utcoffset() is None:
            raise ConfigError(f"to must be an aware datetime, {to!r} has no time zone", argument="to")
        return to
    if to in ("first", "end"):
        return str(to)
    place = _PLACE.fullmatch(str(to)) if isinstance(to, int | str) and not isinstance(to, bool) else None
    if place is None or not 1 <= int(place[1]) <= MAX_SEQUENCE:
        raise ConfigError(
            "to must be a stream sequence from 1, the place of an event in a pack such as '7.3', 'first', 'end' or an "
            f"aware datetime, not {to!r}",
            argument="to",
        )
    return int(place[1]), int(place[2] or 0)


async def position_before(api: Api, info: StreamInfo, to: tuple[int, int] | str | datetime) -> Position:
    """Return the position after which the target is the next event.

    An event that is gone stands for the first one after it. Raises ConfigError for an event that does not exist yet,
    and for an index in a message that has no such event; StreamNotFound, ServerError, Timeout, Closed.
    """
    index = 0
    if to == "first":
        seq = max(info.first_sequence, 1)
    elif to == "end":
        seq = info.last_sequence + 1
    elif isinstance(to, datetime):
        seq = await sequence_at(api, info.name, since_epoch_ns(to), info)
    else:
        assert isinstance(to, tuple)
        seq, index = to
    if seq > info.last_sequence + 1:
        raise ConfigError(
            f"to={shown(to)}: stream {info.name!r} ends at {info.last_sequence}. 'end' waits for the next event",
            argument="to",
        )
    before = await _position_of(api, info, seq - 1)
    if not index:
        return before
    part_ns = await _check_index(api, info, seq, index)
    return Position(before.seq, before.stored_ns, index, seq, part_ns)


async def _position_of(api: Api, info: StreamInfo, seq: int) -> Position:
    """Return the position at which all events up to this sequence are done."""
    if seq == info.last_sequence:
        return Position(seq, info.last_time_ns)
    if seq < info.first_sequence:
        return Position(info.first_sequence - 1, BEFORE_FIRST_NS) if info.first_sequence > 1 else FIRST
    return await position_of(api, info.name, seq)


async def _check_index(api: Api, info: StreamInfo, seq: int, index: int) -> int:
    """Check that a message is a pack with an event at this index, and return when it was stored. Raises ConfigError."""
    what = f"to={seq}.{index}: message {seq} of stream {info.name!r}"
    try:
        message = await api.message(info.name, {"seq": seq})
    except ServerError as error:
        if error.err_code != MESSAGE_NOT_FOUND:
            raise stream_error(error, info.name) from error
        raise ConfigError(f"{what} is not there", argument="to") from error
    if not is_pack_payload(message.data):
        raise ConfigError(f"{what} is no pack: give the sequence alone", argument="to")
    try:
        n_events = count_in_pack(message.data)
    except (CodecError, ConfigError) as error:
        raise ConfigError(f"{what} is a pack that can't be read: {error}", argument="to") from error
    if index >= n_events:
        raise ConfigError(f"{what} is a pack of {n_events} events, from {seq}.0 to {seq}.{n_events - 1}", argument="to")
    return nanoseconds(message.time)


def shown(to: tuple[int, int] | str | datetime) -> str:
    """Return a target as text."""
    if isinstance(to, tuple):
        return f"{to[0]}.{to[1]}" if to[1] else str(to[0])
    return to.isoformat() if isinstance(to, datetime) else repr(to)
