"""The value of a cursor as JSON: how it is written, and what is accepted of a value that others wrote.

Sources: docs/wire.md (the value), ADR-8 and ADR-43 (delete markers).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from eda.cursors.position import Position

__all__ = [
    "CursorValue",
    "Snapshot",
    "decode_value",
    "encode_value",
    "is_delete_marker",
    "may_be_free",
    "new_value",
    "successor",
    "template_of",
]

_Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Index = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]  # a pack has at most 65,536 events
_Nanoseconds = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,18}$|^[1-8][0-9]{18}$")]

# The headers of a delete marker: the first kind is written by clients, the second by the server.
_MARKER = re.compile(rb"^(?:KV-Operation: *(?:DEL|PURGE) *|Nats-Marker-Reason:.*)\r?$", re.MULTILINE)
_RELEASED = re.compile(rb'"holder"\s*:\s*""')


class CursorValue(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a cursor.

    `seq`: all events up to this sequence are done. `epoch`: grows by one with each takeover. `holder`: the member that
    holds the cursor, empty if it gave the cursor up. `tries`: how many holders vanished at this position. `filter`: the
    subjects that the subscription asks for. `created`: when the stream was created, as the server writes it; a
    stream that was deleted and made again has a later time. `start`: the sequence at which the options told the
    subscription to start, else 0; the stream may not have reached this sequence yet. `time`: when the stream stored
    event `seq`, in nanoseconds since 1970, or "0" if that is not known; it is a string, because programs in some
    languages can't read a number of this size from JSON.

    Version 2 is for streams with packs. Older code refuses it, because it can't read packs. `idx`: how many events of
    the pack at the sequence `part` are done. `part_time`: when the stream stored this pack. Version 1 has none of
    these three.

    A value of epoch 0 is the moved position of a shared subscription. `consumer`: when the consumer was created whose
    position it replaces, as the server writes it.
    """

    v: Literal[1, 2] = 1
    seq: _Sequence
    epoch: _Number
    holder: str
    tries: _Number
    filter: list[str]
    updated: Any = None  # when it was written, for people and `conn.subscriptions`; takeovers never depend on it
    created: str = ""
    start: _Sequence = 0
    time: _Nanoseconds = "0"
    idx: _Index | msgspec.UnsetType = msgspec.UNSET
    part: _Sequence | msgspec.UnsetType = msgspec.UNSET
    part_time: _Nanoseconds | msgspec.UnsetType = msgspec.UNSET
    consumer: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_of_shared(self) -> bool:
        """Return whether it is no cursor, but the moved position of a shared subscription.

        The next member of the subscription starts its consumer there. A cursor has had at least one holder.
        """
        return self.epoch == 0

    @property
    def has_packs(self) -> bool:
        """Return whether the value can tell that a pack is partly done, so that older code must refuse it."""
        return self.v > 1

    @property
    def position(self) -> Position:
        """Return the position that the value keeps."""
        seq, stored_ns = self.seq, int(self.time)
        if self.v == 1 or not (self.idx and self.part and self.part_time) or self.part <= seq:
            return Position(seq, stored_ns)
        return Position(seq, stored_ns, self.idx, self.part, int(self.part_time))


class _Received(CursorValue, frozen=True, kw_only=True):
    v: Literal[1, 2]  # required here: a value without a version is not a cursor


class Snapshot(msgspec.Struct, frozen=True):
    """One reading of a cursor's entry.

    `revision` is 0 if the key was never written. `value` is None then, and also if the key was deleted. `text` is the
    value as it was read. `stored`: when the server stored it; None: not known.
    """

    revision: int
    value: CursorValue | None
    text: bytes = b""
    stored: datetime | None = None


_decode = msgspec.json.Decoder(_Received).decode
encode_value: Callable[[CursorValue], bytes] = msgspec.json.Encoder().encode


def new_value(
    position: Position,
    epoch: int,
    holder: str,
    tries: int,
    filter: list[str],
    created: str,
    start: int = 0,
    *,
    has_packs: bool = False,
) -> CursorValue:
    """Return a value whose `updated` is now. `has_packs`: the stream has packs, so the value is of version 2.

    The value of a position in the middle of a pack is always of version 2.
    """
    value = CursorValue(
        seq=position.seq, epoch=epoch, holder=holder, tries=tries, filter=filter, updated=datetime.now(UTC),
        created=created, start=start, time=str(position.stored_ns),
    )  # fmt: skip
    if not has_packs and not position.idx:
        return value
    part_time = str(position.part_ns)
    return msgspec.structs.replace(value, v=2, idx=position.idx, part=position.part, part_time=part_time)


def successor(old: CursorValue, holder: str, filter: list[str], *, has_packs: bool = False) -> CursorValue:
    """Return the value with which `holder` takes the cursor over at the old value's position.

    A value of version 2 is never followed by one of version 1.
    """
    tries = old.tries + bool(old.holder)
    return new_value(
        old.position, old.epoch + 1, holder, tries, filter, old.created, old.start,
        has_packs=has_packs or old.has_packs,
    )  # fmt: skip


def template_of(value: CursorValue) -> Callable[[Position], bytes]:
    """Return what makes the JSON of this value with another position. In version 1, no pack may be partly done there.

    The filter may be long, so it is not encoded for each write.
    """
    zero = msgspec.structs.replace(value, seq=0, time="0")
    if not value.has_packs:
        text = _with_places(encode_value(zero), b'"seq":0', b'"time":"0"')
        return lambda position: text % position[:2]
    zero = msgspec.structs.replace(zero, idx=0, part=0, part_time="0")
    text = _with_places(encode_value(zero), b'"seq":0', b'"time":"0"', b'"idx":0', b'"part":0', b'"part_time":"0"')
    return lambda position: text % position


def _with_places(text: bytes, *fields: bytes) -> bytes:
    """Return the JSON with a place for a number in each field, instead of its zero."""
    text = text.replace(b"%", b"%%")
    for field in fields:
        # Inside a string value the quotes are escaped, so the first match is the field itself.
        text = text.replace(field, field.replace(b"0", b"%d"), 1)
    return text


def decode_value(text: bytes) -> CursorValue:
    """Return the value that the JSON holds. Raises ValueError, which says what is wrong with it."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def is_delete_marker(headers: bytes) -> bool:
    """Return whether a message with these headers marks its key as deleted."""
    return _MARKER.search(headers) is not None


def may_be_free(payload: bytes) -> bool:
    """Return whether a message to the key looks as if no member holds the cursor: a quick check that proves nothing."""
    return not payload or _RELEASED.search(payload) is not None
