"""A dead letter in its stream: how it is read, and the headers and subjects that storing and replaying share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from eda.errors import ConfigError, ServerError
from eda.headers import DEAD_INDEX, DEAD_SEQUENCE, DEAD_SUBJECT, MAX_TEXT, foreign_headers, read_headers
from eda.jetstream.api import Api, stream_error
from eda.jetstream.subjects import fits_protocol_line, is_covered, subject_of
from eda.server_codes import MESSAGE_NOT_FOUND

__all__ = [
    "Letter",
    "NewDeadLetter",
    "digest_of",
    "kept_headers",
    "own_headers",
    "own_subject",
    "read_letter",
    "subject_or_none",
]

MAX_HEADERS = 64 * 1024  # how many bytes of a letter's headers are read; the headers we write take a few thousand
MAX_KEPT = 4096  # a letter keeps at most this many bytes of a foreign message's headers

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9!#$&'*+.^_`|~-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SUBJECT = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(\.[^\s.*>\x00-\x1f\x7f]+)*")


@dataclass(frozen=True, slots=True)
class Letter:
    """A stored message: a dead letter, or the message that became one."""

    sequence: int
    headers: dict[str, str]
    payload: bytes
    block: bytes = b""  # the headers as they are stored
    stored: str = ""  # when it was stored, as the server writes it

    @property
    def origin(self) -> tuple[int, int | None] | None:
        """Where a dead letter's event was: the sequence of its message, and its index there if it was in a pack.

        None: the headers do not say it.
        """
        sequence = _number(self.headers.get(DEAD_SEQUENCE, ""))
        index = _number(self.headers.get(DEAD_INDEX, "0"))
        if not sequence or index is None:
            return None
        return sequence, index if DEAD_INDEX in self.headers else None


@dataclass(frozen=True, slots=True)
class NewDeadLetter:
    """A dead letter that is about to be stored."""

    into: str
    """the dead-letter stream"""
    stream: str
    """the stream of the event"""
    sequence: int
    """the sequence of the event's message in its stream"""
    index: int | None
    """the place of the event in its pack; None if it was in no pack"""
    subscription: str
    """the name of the subscription, "private" if it has none; of a projection, its name and version"""
    reason: str
    """why the event is given up: "attempts", "rejected" or "undecodable\""""
    error: str
    """the text of the error"""
    attempts: int
    """how often the event was tried"""
    payload: bytes
    """the envelope of the event, or the whole message if it is no event"""


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


async def read_letter(api: Api, stream: str, query: dict[str, Any]) -> Letter | None:
    """Return the message that the query of `Api.message` finds, or None.

    Raises StreamNotFound, ServerError, Timeout, Closed.
    """
    try:
        found = await api.message(stream, query)
    except ServerError as error:
        if error.err_code == MESSAGE_NOT_FOUND:
            return None
        raise stream_error(error, stream) from error
    block = found.hdrs[:MAX_HEADERS]
    return Letter(found.seq, read_headers(block), found.data, block, found.time)


def digest_of(payload: bytes) -> str:
    """Return the SHA-256 of a payload, in hexadecimal."""
    return hashlib.sha256(payload).hexdigest()


def subject_or_none(stream: str, event_type: str, aggregate: str) -> str | None:
    """Return the event's subject, or None if it is not valid or too long for a protocol line."""
    try:
        subject = subject_of(stream, event_type, aggregate)
    except ConfigError:
        return None
    return subject if fits_protocol_line(subject) else None


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a foreign message that a letter keeps: the first ones, up to 4 KiB together.

    A character that a header's name or value must not contain is replaced by `%XX` for each byte of its UTF-8.
    """
    kept: dict[str, str] = {}
    n_left = MAX_KEPT
    for name, text in headers.items():
        name, text = _NOT_IN_NAMES.sub(_escaped, name), _CONTROL.sub(_escaped, text)
        n_left -= len(name) + len(text.encode()) + 4
        if n_left < 0:
            break
        if name:
            kept[name] = text
    return kept


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode(errors="replace"))


def own_headers(letter: Letter) -> dict[str, str]:
    """Return the headers that the message had before it became a dead letter."""
    return kept_headers(foreign_headers(letter.block))


def own_subject(letter: Letter, subjects: Collection[str]) -> str | None:
    """Return the subject that the message had before. None: it is unknown, or `subjects` do not include it."""
    escaped = letter.headers.get(DEAD_SUBJECT, "")
    subject = unquote(escaped)
    if len(escaped) > MAX_TEXT - 3 or not _SUBJECT.fullmatch(subject) or not is_covered(subject, subjects):
        return None
    return subject
