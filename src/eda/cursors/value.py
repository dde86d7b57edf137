"""The value of a cursor as JSON: how it is written, and what is accepted of a value that others wrote.

Sources: docs/wire.md (the value), ADR-8 and ADR-43 (delete markers).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

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
    """

    v: Literal[1] = 1
    seq: _Sequence
    epoch: _Number
    holder: str
    tries: _Number
    filter: list[str]
    updated: Any = None  # when it was written, for people and `conn.subscriptions`; takeovers never depend on it
    created: str = ""
    start: _Sequence = 0
    time: _Nanoseconds = "0"

    @property
    def stored_ns(self) -> int:
        """Return when the stream stored event `seq`, in nanoseconds since 1970; 0: that is not known."""
        return int(self.time)


class _Received(CursorValue, frozen=True, kw_only=True):
    v: Literal[1]  # required here: a value without a version is not a cursor


class Snapshot(msgspec.Struct, frozen=True):
    """One reading of a cursor's entry.

    `revision` is 0 if the key was never written. `value` is None then, and also if the key was deleted. `text` is the
    value as it was read.
    """

    revision: int
    value: CursorValue | None
    text: bytes = b""


_decode = msgspec.json.Decoder(_Received).decode
encode_value: Callable[[CursorValue], bytes] = msgspec.json.Encoder().encode


def new_value(
    seq: int,
    epoch: int,
    holder: str,
    tries: int,
    filter: list[str],
    created: str,
    start: int = 0,
    stored_ns: int = 0,
) -> CursorValue:
    """Return a value whose `updated` is now. `stored_ns`: when the stream stored event `seq`; 0 if not known."""
    now = datetime.now(UTC)
    return CursorValue(
        seq=seq, epoch=epoch, holder=holder, tries=tries, filter=filter, updated=now, created=created, start=start,
        time=str(stored_ns),
    )  # fmt: skip


def successor(old: CursorValue, holder: str, filter: list[str]) -> CursorValue:
    """Return the value with which `holder` takes the cursor over at the old value's position."""
    tries = old.tries + bool(old.holder)
    return new_value(old.seq, old.epoch + 1, holder, tries, filter, old.created, old.start, old.stored_ns)


def template_of(value: CursorValue) -> bytes:
    """Return the value's JSON as a template for other positions: `template % (seq, stored_ns)`."""
    text = encode_value(msgspec.structs.replace(value, seq=0, time="0")).replace(b"%", b"%%")
    # Inside a string value the quotes are escaped, so the first match is the field itself.
    return text.replace(b'"seq":0', b'"seq":%d', 1).replace(b'"time":"0"', b'"time":"%d"', 1)


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
