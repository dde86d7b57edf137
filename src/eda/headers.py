"""The headers of NATS messages: the names that eda writes, and the reading of a header block.

A text from outside may be written into a header only after `escape_text`: a line break in it would begin another
header.

Source: ADR-4 for the block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import unquote

__all__ = [
    "DEAD_ATTEMPTS",
    "DEAD_DIGEST",
    "DEAD_ERROR",
    "DEAD_ID",
    "DEAD_INDEX",
    "DEAD_OMITTED",
    "DEAD_REASON",
    "DEAD_SEQUENCE",
    "DEAD_STREAM",
    "DEAD_SUBJECT",
    "DEAD_SUBSCRIPTION",
    "DEAD_TIME",
    "EXPECTED_FILTER",
    "EXPECTED_SEQUENCE",
    "MAX_TEXT",
    "MSG_ID",
    "NO_HEADERS",
    "PACK",
    "REPLAY_FOR",
    "TTL",
    "escape_text",
    "foreign_headers",
    "id_in_headers",
    "read_headers",
    "size_of_headers",
]

MSG_ID = "Nats-Msg-Id"
EXPECTED_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_FILTER = "Nats-Expected-Last-Subject-Sequence-Subject"
TTL = "Nats-TTL"
PACK = "Eda-Pack"  # how many events are in the message
DEAD_REASON = "Eda-Dead-Reason"
DEAD_ERROR = "Eda-Dead-Error"
DEAD_STREAM = "Eda-Dead-Stream"
DEAD_SEQUENCE = "Eda-Dead-Sequence"
DEAD_INDEX = "Eda-Dead-Index"
DEAD_SUBSCRIPTION = "Eda-Dead-Subscription"
DEAD_ATTEMPTS = "Eda-Dead-Attempts"
DEAD_TIME = "Eda-Dead-Time"
DEAD_SUBJECT = "Eda-Dead-Subject"
DEAD_ID = "Eda-Dead-Id"
DEAD_OMITTED = "Eda-Dead-Omitted"
DEAD_DIGEST = "Eda-Dead-Digest"
REPLAY_FOR = "Eda-Replay-For"
PACK = "Eda-Pack"

MAX_TEXT = 1024  # bytes of an escaped text

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_FIRST_LINE = b"NATS/1.0"
_ID = re.compile(r"[!-~]{1,128}")
_NOT_FOREIGN = ("Nats-", "Eda-")  # headers that servers and clients act upon, and headers that eda writes


def escape_text(text: str, max_bytes: int = MAX_TEXT) -> str:
    """Return the text as the value of a header: printable ASCII, with `%` and all other bytes of its UTF-8 as `%XX`.

    The text is cut before the first character that would make it longer than `max_bytes`. A lone surrogate becomes the
    text of its escape sequence.
    """
    escaped: list[str] = []
    n_bytes = 0
    for char in text[:max_bytes]:
        piece = char
        if not " " <= char <= "~" or char == "%":
            piece = "".join(f"%{byte:02X}" for byte in char.encode(errors="backslashreplace"))
        n_bytes += len(piece)
        if n_bytes > max_bytes:
            break
        escaped.append(piece)
    return "".join(escaped)


def size_of_headers(headers: dict[str, str]) -> int:
    """Return the size in bytes of the header block with these headers."""
    return len(_FIRST_LINE) + 4 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def read_headers(block: bytes) -> dict[str, str]:
    """Return the headers in a block. The first of a repeated name counts; lines that are not headers are skipped."""
    headers: dict[str, str] = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(name.decode(errors="replace"), value.strip().decode(errors="replace"))
    return headers


def foreign_headers(block: bytes) -> Mapping[str, str]:
    """Return the headers that belong neither to NATS nor to eda, read-only. They may be published again unchanged."""
    headers = read_headers(block)
    return MappingProxyType({name: text for name, text in headers.items() if not name.startswith(_NOT_FOREIGN)})


def id_in_headers(block: bytes) -> str:
    """Return the message id in a block; "" if there is none, or if it is not valid as an event's id.

    For a dead letter, it is the id of the original message.
    """
    headers = read_headers(block)
    message_id = unquote(headers.get(DEAD_ID, "")) or headers.get(MSG_ID, "")
    return message_id if _ID.fullmatch(message_id) else ""
