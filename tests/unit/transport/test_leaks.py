"""Parser, sinks and outbound give back what they took: 100,000 times through each path, errors included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eda.errors import EdaError
from eda.transport._callback_sink import CallbackSink
from eda.transport._frame import Collector, FrameError, Parser, escape_token, parse_delivery
from eda.transport._outbound import Outbound
from leaks import MAX_BLOCKS, MAX_RSS, growth, resident

N = 100_000

MESSAGE = b"HMSG s.t.a 1 r 12 15\r\nNATS/1.0\r\n\r\nabc\r\n"


def refused(function: Callable[..., Any], *arguments: Any) -> None:
    try:
        function(*arguments)
    except (EdaError, FrameError, TypeError, AttributeError, ValueError):
        return
    raise AssertionError("it was not refused")


def outbound_round() -> None:
    written: list[bytes] = []
    out = Outbound(lambda: None)
    out.set_write(written.append)
    out.command(b"PING\r\n")
    out.flush()
    out.command(b"left unwritten")


def parser_round(*pieces: bytes, sink: bool = True) -> None:
    parser = small_parser()
    if sink:
        parser.register(1, Collector())
    for piece in pieces:
        parser.feed(piece)
    parser.reset()


def mailbox_round() -> None:
    parser = small_parser()
    parser.register(1, CallbackSink(2, lambda tail, headers, payload: None))
    parser.feed(MESSAGE)
    parser.register(1, None)


_parser: list[Parser] = []


def small_parser() -> Parser:
    # A new one for each round would be a new buffer of 256 KiB each.
    if not _parser:
        _parser.append(Parser())
    _parser[0].reset()
    _parser[0].register(1, None)
    return _parser[0]


PATHS: dict[str, Callable[[], Any]] = {
    "parser-to-sink": lambda: parser_round(MESSAGE * 2),
    "parser-to-others": lambda: parser_round(MESSAGE, b"PING\r\nINFO {}\r\n-ERR 'x'\r\n+OK\r\n", sink=False),
    "parser-partial": lambda: parser_round(MESSAGE[:20], MESSAGE[20:], MESSAGE[:-1]),
    "parser-refused": lambda: refused(parser_round, MESSAGE, b"HMSG s 1 r 15 3\r\n"),
    "parser-refused-line": lambda: refused(parser_round, MESSAGE, b"NONSENSE\r\n"),
    "parser-refused-end": lambda: refused(parser_round, b"MSG s 1 1\r\nabc"),
    "parser-room": lambda: (small_parser().room(), refused(small_parser().received, -1)),
    "mailbox": mailbox_round,
    "mailbox-refused": lambda: refused(CallbackSink, -1, print),
    "outbound": outbound_round,
    "outbound-unused": lambda: Outbound(print),
    "outbound-refused": lambda: refused(Outbound(print).command, None),
    "escape": lambda: escape_token("a.b é" * 20),
    "escape-refused": lambda: refused(escape_token, "a.b\ud800"),
    "delivery": lambda: parse_delivery(b"$JS.ACK.stream.consumer.1.2000.3000.1700000000000000000.4000"),
    "delivery-refused": lambda: parse_delivery(b"$JS.ACK.stream.consumer.1.2.3.4"),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_memory_when_a_transport_path_is_taken_100000_times_does_not_grow(path: Callable[[], Any]) -> None:
    blocks, tracked, size = growth(path, N, shared=(MESSAGE, FrameError))
    assert blocks < MAX_BLOCKS
    assert tracked < MAX_BLOCKS
    assert size < MAX_RSS


def test_memory_when_a_sink_collects_frames_is_given_back_with_it() -> None:
    def path() -> None:
        sink = Collector()
        parser = small_parser()
        parser.register(1, sink)
        parser.feed(MESSAGE * 100)
        assert len(sink.frames) == 100
        parser.register(1, None)

    assert growth(path, 1_000)[0] < MAX_BLOCKS


def test_memory_when_parsers_come_and_go_does_not_grow() -> None:
    def path() -> None:
        parser = Parser()
        parser.register(1, Collector())
        parser.feed(MESSAGE)
        parser.feed(b"MSG s 2 600000\r\n" + bytes(300_000))

    for _ in range(20):
        path()
    blocks, _, size = growth(path, 0)
    assert (blocks < MAX_BLOCKS, size < MAX_RSS) == (True, True)


def test_memory_when_large_outbounds_come_and_go_does_not_grow() -> None:
    def path() -> None:
        out = Outbound(lambda: None)
        out.command(bytes(300_000))

    before = resident()
    for _ in range(2_000):
        path()
    assert resident() - before < MAX_RSS
