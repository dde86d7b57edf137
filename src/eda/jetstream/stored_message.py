"""A message as a stream has stored it, read from the answers of direct gets and of the stream's leader."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from eda.jetstream._direct_reads import answer_headers
from eda.jetstream.publish_answers import Refused
from eda.jetstream.schemas import Message, nanoseconds

__all__ = ["LeaderAnswer", "StoredMessage", "decode_leader", "message_of", "n_left", "up_to"]


class StoredMessage:
    """A message as a stream has stored it. `time_ns`: when, in nanoseconds since 1970."""

    __slots__ = ("headers", "payload", "sequence", "subject", "time_ns")

    def __init__(self, subject: str, sequence: int, time_ns: int, headers: bytes, payload: bytes) -> None:
        self.subject: str = subject
        self.sequence: int = sequence
        self.time_ns: int = time_ns
        self.headers: bytes = headers
        self.payload: bytes = payload


class _LeaderMessage(Message):
    subject: str = ""

    def stored(self) -> StoredMessage:
        return StoredMessage(self.subject, self.seq, nanoseconds(self.time), self.hdrs, self.data)


class LeaderAnswer(msgspec.Struct):
    """The leader's answer: a message, or why there is none."""

    message: _LeaderMessage | None = None
    error: Refused | None = None


decode_leader: Callable[[bytes], LeaderAnswer] = msgspec.json.Decoder(LeaderAnswer).decode


def message_of(headers: bytes, payload: bytes) -> tuple[bytes, StoredMessage]:
    """Return the message of a direct get, and the name of the stream that has answered, which may be a mirror.

    Raises ValueError if the server's headers are missing or malformed.
    """
    found = answer_headers(headers)
    if found is None:
        raise ValueError("not the headers of a stored message")
    stream, subject, sequence, time_ns = found
    return stream, StoredMessage(subject.decode(), sequence, time_ns, headers, payload)


def _value(headers: bytes, name: bytes) -> bytes:
    """Return the last value of a header: the server appends its own after those of the message."""
    at = headers.rindex(name) + len(name)
    return headers[at : headers.index(b"\r\n", at)]


def n_left(end: bytes) -> int:
    """Return how many further messages there are for a batch that has ended, by its last headers."""
    return int(_value(end, b"\r\nNats-Num-Pending: ")) if end else 0


def up_to(end: bytes) -> int:
    """Return the last sequence that a read of `last_of_each` has covered, by its last headers; 0 without messages."""
    return int(_value(end, b"\r\nNats-UpTo-Sequence: ")) if end else 0
