"""`DeadLetter`: a dead letter as users see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import unquote

from eda._codec import stored_event
from eda._event import Event
from eda._pack import MAX_EVENTS_OF_PACK, count_in_pack, is_pack_payload, with_index
from eda.dead_letters.letter import Letter
from eda.errors import DecodeError
from eda.headers import (
    DEAD_ATTEMPTS,
    DEAD_ERROR,
    DEAD_INDEX,
    DEAD_OMITTED,
    DEAD_REASON,
    DEAD_STREAM,
    DEAD_SUBJECT,
    DEAD_SUBSCRIPTION,
    DEAD_TIME,
    foreign_headers,
    id_in_headers,
)
from eda.jetstream.schemas import nanoseconds
from eda.times import from_ns

__all__ = ["DeadLetter", "dead_letter_of", "is_letter"]


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter: an event that a subscription gave up, and why. `conn.dead_letters` returns them.

    With `others=True` it also returns messages that are not dead letters: `is_letter` is False.
    """

    sequence: int
    """its sequence in the dead-letter stream"""
    dead_letter: str
    """the stream that has the letter"""
    subscription: str
    """the subscription that gave the event up"""
    stream: str
    """the stream that the event came from"""
    event_sequence: int
    """the sequence of the event's message in `stream`; 0: the letter does not say it"""
    event_index: int | None
    """the event's index in its pack; None: it was not in a pack, or the whole pack could not be read"""
    reason: str
    """"rejected", "attempts" (all attempts are used up), or "undecodable" (the message is not an event, or its payload
    can't be decoded)"""
    error: str
    """the text of the last error; it may be shortened"""
    attempts: int
    """after how many attempts the event was given up; 0: the letter does not say it"""
    time: datetime | None
    """when it was given up; None: the letter does not say it"""
    event: Event | None
    """the event; None: `no_event` says why"""
    no_event: str = ""
    """why there is no event: the message is not an event, or its payload was too large and is gone"""
    event_id: str = ""
    """the event's id; for a message that is not an event, the id of the message; "": it has none"""
    payload: bytes = field(default=b"", repr=False)
    """the message as it was stored: an envelope, a pack, or foreign bytes. For an event of a pack: only its envelope"""
    omitted_bytes: int = 0
    """more than 0: the payload has so many bytes and was too large for the letter. `payload` is then that of the
    message in `stream`, if it is still there"""
    subject: str = ""
    """the subject that the message had, if it was another than that of its type and aggregate"""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    """the headers that another program gave the message"""

    @property
    def is_letter(self) -> bool:
        """Whether it is a dead letter. False: another program has stored this message in the dead-letter stream."""
        return bool(self.reason and self.subscription)

    @property
    def place(self) -> str:
        """Where the event was in its stream: "7", or "7.3" for index 3 of a pack; "" if the letter does not say it."""
        if not self.event_sequence:
            return ""
        return f"{self.event_sequence}" if self.event_index is None else f"{self.event_sequence}.{self.event_index}"


def is_letter(letter: Letter) -> bool:
    """Return whether a message in a dead-letter stream is a dead letter: another program may have stored others."""
    return DEAD_REASON in letter.headers and DEAD_SUBSCRIPTION in letter.headers


def dead_letter_of(letter: Letter, dead: str, payload: bytes | None, why_gone: str = "") -> DeadLetter:
    """Return the dead letter in a message of the stream `dead`. `payload` None: it is gone, and `why_gone` says why."""
    headers = letter.headers
    stream = unquote(headers.get(DEAD_STREAM, ""))
    sequence, index = letter.origin or (0, None)
    event, no_event = None, why_gone
    if payload is not None:
        event, no_event = _event_in(payload, stream, sequence, is_alone=DEAD_INDEX in headers)
        if event is not None and index is not None and index < MAX_EVENTS_OF_PACK:
            event = with_index(event, index)
    died_ns = nanoseconds(headers.get(DEAD_TIME, "")) or nanoseconds(letter.stored)
    event_id = event.id if event is not None and event.id else id_in_headers(letter.block)
    return DeadLetter(
        sequence=letter.sequence,
        dead_letter=dead,
        subscription=unquote(headers.get(DEAD_SUBSCRIPTION, "")),
        stream=stream,
        event_sequence=sequence,
        event_index=index,
        reason=unquote(headers.get(DEAD_REASON, "")),
        error=unquote(headers.get(DEAD_ERROR, "")),
        attempts=_number(headers.get(DEAD_ATTEMPTS, "")),
        time=from_ns(died_ns) if died_ns > 0 else None,
        event=event,
        no_event=no_event,
        event_id="" if event_id.startswith("dead:") else event_id,
        payload=payload or b"",
        omitted_bytes=_number(headers.get(DEAD_OMITTED, "")),
        subject=unquote(headers.get(DEAD_SUBJECT, "")),
        headers=dict(foreign_headers(letter.block)),
    )


def _event_in(payload: bytes, stream: str, sequence: int, *, is_alone: bool) -> tuple[Event | None, str]:
    """Return the event in a payload; or None, and why there is none."""
    try:
        if not is_alone and is_pack_payload(payload):
            n_events = count_in_pack(payload)
            return None, f"it is a pack of {n_events} events, which the subscription could not read"
        return stored_event(payload, stream, sequence, 0), ""
    except DecodeError as error:
        return None, f"it is not an event: {error}"


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
