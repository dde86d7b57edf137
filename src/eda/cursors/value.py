"""What is written into the key of a cursor, and what is made of what others wrote there.

Sources: docs/wire.md (the value), ADR-8 and ADR-43 (delete markers).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

__all__ = [
    "Kept",
    "Value",
    "decode_value",
    "encode_value",
    "is_marker",
    "may_be_free",
    "new_value",
    "successor",
    "template_of",
]

_Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Nanoseconds = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,18}$|^[1-8][0-9]{18}$")]

# Deleted by a client, or by the server.
_MARKER = re.compile(rb"^(?:KV-Operation: *(?:DEL|PURGE) *|Nats-Marker-Reason:.*)\r?$", re.MULTILINE)
_RELEASED = re.compile(rb'"holder"\s*:\s*""')


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A kept cursor.

    `time`: when the stream stored event `seq`, in nanoseconds since 1970, 0 where that is not known; a text, since
    programs in some languages can't take a number of this size from JSON. `created`: when the event stream was made, to
    tell it from a later one of the same name. `start`: the sequence that the subscription was told to begin at: a
    position just before it may lie beyond the stream's end.
    """

    v: Literal[1] = 1
    seq: _Sequence
    epoch: _Number
    holder: str
    tries: _Number
    filter: list[str]
    updated: Any = None  # for people who look at it; never read
    created: str = ""
    start: _Sequence = 0
    time: _Nanoseconds = "0"

    @property
    def time_ns(self) -> int:
        """The time as a number."""
        return int(self.time)


class _Given(Value, frozen=True, kw_only=True):
    v: Literal[1]  # what says no version is none of ours


class Kept(msgspec.Struct, frozen=True):
    """What the key holds: `revision` 0 where it never was, `value` None there and where it was deleted."""

    revision: int
    value: Value | None
    text: bytes = b""


_decode = msgspec.json.Decoder(_Given).decode
encode_value = msgspec.json.Encoder().encode


def new_value(
    seq: int,
    epoch: int,
    holder: str,
    tries: int,
    filter: list[str],
    created: str,
    start: int = 0,
    time_ns: int = 0,
) -> Value:
    """Return a value that is updated now; `time_ns` is when event `seq` was stored, 0 where that is not known."""
    now = datetime.now(UTC)
    return Value(
        seq=seq, epoch=epoch, holder=holder, tries=tries, filter=filter, updated=now, created=created, start=start,
        time=str(time_ns),
    )  # fmt: skip


def successor(old: Value, holder: str, filter: list[str]) -> Value:
    """Return what takes the key over at the old value's position."""
    tries = old.tries + bool(old.holder)
    return new_value(old.seq, old.epoch + 1, holder, tries, filter, old.created, old.start, old.time_ns)


def template_of(value: Value) -> bytes:
    """Return how the value is written, with places for another sequence and its time: `template % (seq, time_ns)`."""
    text = encode_value(msgspec.structs.replace(value, seq=0, time="0")).replace(b"%", b"%%")
    # Within a string the quotes would be escaped.
    return text.replace(b'"seq":0', b'"seq":%d', 1).replace(b'"time":"0"', b'"time":"%d"', 1)


def decode_value(text: bytes) -> Value:
    """Read a key's value. ValueError says what is wrong with it."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def is_marker(headers: bytes) -> bool:
    """Whether a message with these headers says that the key was deleted."""
    return _MARKER.search(headers) is not None


def may_be_free(payload: bytes) -> bool:
    """Whether a message to the key looks as if nobody held it any more; quick, and no proof."""
    return not payload or _RELEASED.search(payload) is not None
