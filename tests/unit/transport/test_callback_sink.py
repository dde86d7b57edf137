"""eda.transport._callback_sink: a Python function is called with each message."""

from __future__ import annotations

import pytest

from eda.transport._callback_sink import CallbackSink
from eda.transport._frame import Parser

MESSAGES = b"MSG inbox.12 1 3\r\nabc\r\nHMSG inbox.x.y 1 r 12 14\r\nNATS/1.0\r\n\r\nde\r\nMSG inb 1 0\r\n\r\n"


@pytest.mark.parametrize("split", range(len(MESSAGES)))
def test_callback_sink_when_messages_come_in_any_pieces_gives_tail_headers_and_payload(split: int) -> None:
    got: list[tuple[bytes, bytes, bytes]] = []
    parser = Parser()
    parser.register(1, CallbackSink(len("inbox."), lambda *message: got.append(message)))
    parser.feed(MESSAGES[:split])
    parser.feed(MESSAGES[split:])
    assert got == [(b"12", b"", b"abc"), (b"x.y", b"NATS/1.0\r\n\r\n", b"de"), (b"", b"", b"")]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_callback_sink_when_its_callback_fails_goes_on_with_the_next_message() -> None:
    calls: list[bytes] = []

    def fail(tail: bytes, headers: bytes, payload: bytes) -> None:
        calls.append(tail)
        raise RuntimeError("no")

    parser = Parser()
    parser.register(1, CallbackSink(6, fail))
    assert parser.feed(MESSAGES) is None
    assert calls == [b"12", b"x.y", b""]


def test_callback_sink_when_made_with_a_negative_prefix_refuses() -> None:
    with pytest.raises(ValueError, match="-1"):
        CallbackSink(-1, print)
