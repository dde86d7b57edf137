"""What tests of dead letters share: a connection's DeadLetters, and what is in their stream."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import eda
from eda._codec import encode_event
from eda.dead_letters.store import DeadLetters
from eda.headers import read_headers
from helpers import Admin

__all__ = ["Stored", "bury", "died", "letters_of", "stored"]


class Stored(NamedTuple):
    """A message in a stream."""

    sequence: int
    subject: str
    headers: dict[str, str]
    n_header_lines: int
    payload: bytes

    @classmethod
    def of(cls, message: dict[str, Any]) -> Stored:
        block = base64.b64decode(message.get("hdrs", ""))
        payload = base64.b64decode(message.get("data", ""))
        n_lines = max(block.count(b"\r\n") - 2, 0)
        return cls(message["seq"], message["subject"], read_headers(block), n_lines, payload)


def letters_of(conn: eda.Conn) -> DeadLetters:
    """Return what stores an open connection's dead letters."""
    assert conn._lifetime._services is not None
    return conn._lifetime._services.dead_letters


async def stored(admin: Admin, stream: str) -> list[Stored]:
    """Return all messages in a stream, in order."""
    state = (await admin.api(f"STREAM.INFO.{stream}"))["state"]
    found: list[Stored] = []
    seq = state["first_seq"]
    while len(found) < state["messages"]:
        answer = await admin.api(f"STREAM.MSG.GET.{stream}", {"seq": seq, "next_by_subj": ">"})
        found.append(Stored.of(answer["message"]))
        seq = found[-1].sequence + 1
    return found


def died(number: int, **fields: Any) -> eda.Event:
    """An event that died."""
    return eda.Event(id=f"e{number}", type=f"type-{number}", time=number + 1, **fields)


async def bury(conn: eda.Conn, stream: str, number: int, /, *, name: str = "billing", **fields: Any) -> None:
    """Store the dead letter of an event that had the sequence `number`."""
    event = died(number)
    letter: dict[str, Any] = {
        "event_type": event.type,
        "aggregate": event.aggregate,
        "payload": encode_event(event),
        "reason": "attempts",
        "error": "no",
        "stream": stream,
        "sequence": number,
        "subscription": name,
        "attempts": 3,
    }
    await letters_of(conn).store(f"{stream}-dead", **letter | fields)
