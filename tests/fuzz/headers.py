"""Fuzz target: header blocks, and texts that go into headers."""

from __future__ import annotations

from urllib.parse import unquote

from eda._codec import encode_event
from eda._event import Event
from eda.headers import REPLAY_FOR, escape_text, read_headers, size_of_headers
from support.handling.dispatching import Rig, delivery

__all__ = ["check"]

PAYLOAD = encode_event(Event(type="t"))


def check(data: bytes) -> None:
    """The first byte says how much of a text fits; behind it is a block's rest, and the text."""
    most, rest = (data[0], data[1:]) if data else (0, b"")
    check_block(b"NATS/1.0" + rest)
    check_block(rest)
    check_text(rest.decode(errors="surrogateescape"), most)


def check_block(block: bytes) -> None:
    headers = read_headers(block)
    assert len(headers) <= block.count(b"\r\n")
    for name, value in headers.items():
        assert ":" not in name
        assert value == value.strip(" \t\r\n\v\f")
    check_dispatch(block, headers.get(REPLAY_FOR))


def is_regular(block: bytes) -> bool:
    """Whether the lines are as the protocol has them: ended by CRLF, nothing else that breaks a line or hides."""
    lines = block.split(b"\r\n")
    return lines[-2:] == [b"", b""] and all(line.isascii() and line.decode().isprintable() for line in lines)


def check_dispatch(block: bytes, wanted: str | None) -> None:
    """The compiled reader, which decides per event, reads a regular block as `read_headers` does."""
    rig = Rig(start=False, name="me")
    rig.feed(*delivery(1), PAYLOAD, block)
    assert rig.dispatcher.intake.n_received == 1
    assert rig.dispatcher.n_held + rig.dispatcher.intake.n_passed_over == 1
    if block.startswith(b"NATS/1.0\r\n") and is_regular(block):
        assert rig.dispatcher.intake.n_passed_over == (wanted is not None and wanted != "me")


def check_text(text: str, most: int) -> None:
    escaped = escape_text(text, most)
    assert len(escaped) <= most
    assert all(" " <= char <= "~" for char in escaped)
    plain = unquote(escaped, errors="strict")
    assert text.encode(errors="backslashreplace").decode().startswith(plain)
    block = f"NATS/1.0\r\nA: 1\r\n{REPLAY_FOR}: {escaped}\r\nB: 2\r\n\r\n".encode()
    expected = {"A": "1", REPLAY_FOR: escaped.strip(), "B": "2"}
    assert read_headers(block) == expected
    assert size_of_headers({"A": "1", REPLAY_FOR: escaped, "B": "2"}) == len(block)
