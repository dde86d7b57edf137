"""What is written into the key of a cursor, and what is made of what others wrote there.

Sources: docs/wire.md (the value), ADR-8 and ADR-43 (delete markers).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

__all__ = ["Kept", "Value", "decode_value", "encode_value", "is_marker", "may_be_free", "new_value", "template_of"]

_Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]

# Deleted by a client, or by the server.
_MARKER = re.compile(rb"^(?:KV-Operation: *(?:DEL|PURGE) *|Nats-Marker-Reason:.*)\r?$", re.MULTILINE)
_RELEASED = re.compile(rb'"holder"\s*:\s*""')


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A kept cursor.

    `created`: when the event stream was made, to tell it from a later one of the same name. `start`: the sequence that
    the subscription was told to begin at: a position just before it may lie beyond the stream's end.
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


class _Given(Value, frozen=True, kw_only=True):
    v: Literal[1]  # what says no version is none of ours


class Kept(msgspec.Struct, frozen=True):
    """What the key holds: `revision` 0 where it never was, `value` None there and where it was deleted."""

    revision: int
    value: Value | None
    text: bytes = b""


_decode = msgspec.json.Decoder(_Given).decode
encode_value = msgspec.json.Encoder().encode


def new_value(seq: int, epoch: int, holder: str, tries: int, filter: list[str], created: str, start: int = 0) -> Value:
    """Return a value with the time of now."""
    now = datetime.now(UTC)
    return Value(
        seq=seq, epoch=epoch, holder=holder, tries=tries, filter=filter, updated=now, created=created, start=start
    )


def template_of(value: Value) -> bytes:
    """Return how the value is written, with a place for another sequence: `template % seq`."""
    text = encode_value(msgspec.structs.replace(value, seq=0)).replace(b"%", b"%%")
    return text.replace(b'"seq":0', b'"seq":%d', 1)  # within a string the quotes would be escaped


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
