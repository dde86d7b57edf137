"""A dead letter as it lies in its stream: reading it, and what storing and replaying must agree on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from eda.api import Api, translated
from eda.errors import ConfigError, ServerError
from eda.headers import read_headers
from eda.subjects import subject_of

__all__ = ["NO_MESSAGE", "Letter", "digest_of", "read_letter", "subject_or_none"]

MAX_LINE = 4096  # the server's default max_control_line
N_REPLY = 128  # more than a reply subject and the sizes take of it
MAX_HEADERS = 64 * 1024  # bytes of a letter's headers that are read; the headers we write take a few thousand
NO_MESSAGE = 10037  # server/errors.json of nats-server


@dataclass(frozen=True, slots=True)
class Letter:
    """A message in a stream."""

    sequence: int
    headers: dict[str, str]
    payload: bytes


async def read_letter(api: Api, stream: str, place: dict[str, Any]) -> Letter | None:
    """Return the message at a place; None where there is none. Raises StreamNotFound, ServerError, Timeout, Closed."""
    try:
        found = await api.message(stream, place)
    except ServerError as error:
        if error.err_code == NO_MESSAGE:
            return None
        raise translated(error, stream) from error
    return Letter(found.seq, read_headers(found.hdrs[:MAX_HEADERS]), found.data)


def digest_of(payload: bytes) -> str:
    """Return what tells a payload from any other: its SHA-256, in hexadecimal."""
    return hashlib.sha256(payload).hexdigest()


def subject_or_none(stream: str, event_type: str, aggregate: str) -> str | None:
    """Return the event's subject; None where it can't be one, above all because it is too long for a protocol line."""
    try:
        subject = subject_of(stream, event_type, aggregate)
    except ConfigError:
        return None
    return subject if len(subject.encode()) + N_REPLY <= MAX_LINE else None
