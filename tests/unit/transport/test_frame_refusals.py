"""eda.transport._frame.Parser: what is no NATS protocol is refused, wherever it is cut, and never crashes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eda.transport._frame import Collector, FrameError, Parser

OURS = 2
BEFORE = b"PING\r\nMSG s 2 3\r\nabc\r\nINFO {}\r\n"

MALFORMED_MESSAGES = {
    "no-tokens": b"MSG \r\n",
    "one-token": b"MSG s\r\n",
    "two-tokens": b"MSG s 2\r\n",
    "five-tokens": b"MSG s 2 r x 3\r\n",
    "seven-tokens": b"MSG s 2 r x y z 3\r\n",
    "headers-three-tokens": b"HMSG s 2 3\r\n",
    "headers-six-tokens": b"HMSG s 2 r x 12 15\r\n",
    "headers-many-tokens": b"HMSG s 2 r x y z 12 15\r\n",
    "sid-text": b"MSG s x 3\r\n",
    "sid-negative": b"MSG s -2 3\r\n",
    "sid-plus": b"MSG s +2 3\r\n",
    "sid-overflow": b"MSG s 9223372036854775808 3\r\n",
    "sid-long": b"MSG s 00000000000000000002 3\r\n",
    "size-text": b"MSG s 2 three\r\n",
    "size-negative": b"MSG s 2 -3\r\n",
    "size-negative-zero": b"MSG s 2 -0\r\n",
    "size-plus": b"MSG s 2 +3\r\n",
    "size-hex": b"MSG s 2 0x3\r\n",
    "size-float": b"MSG s 2 3.0\r\n",
    "size-underscore": b"MSG s 2 1_0\r\n",
    "size-arabic-digit": "MSG s 2 ٣\r\n".encode(),
    "size-overflow-63": b"MSG s 2 9223372036854775808\r\n",
    "size-overflow-64": b"MSG s 2 18446744073709551616\r\n",
    "size-overflow-wrapping": b"MSG s 2 18446744073709551619\r\n",
    "size-huge": b"MSG s 2 " + b"9" * 500 + b"\r\n",
    "headers-negative": b"HMSG s 2 -12 15\r\n",
    "headers-text": b"HMSG s 2 x 15\r\n",
    "headers-over-total": b"HMSG s 2 16 15\r\n",
    "headers-over-total-with-reply": b"HMSG s 2 r 16 15\r\n",
    "headers-overflow": b"HMSG s 2 18446744073709551616 15\r\n",
    "cr-inside": b"MSG s\r 2 x3\r\n",
    "nul-inside": b"MSG s 2 3\0\r\n",
}
TOO_LARGE = {
    "just-over": b"MSG s 2 67174401\r\n",
    "gigabytes": b"MSG s 2 10000000000\r\n",
    "largest-number": b"MSG s 2 9223372036854775807\r\n",
    "with-headers": b"HMSG s 2 12 9223372036854775807\r\n",
    "for-others": b"MSG s 5 9223372036854775807\r\n",
}
WRONG_ENDS = {
    "too-long": b"MSG s 2 3\r\nabcd\r\n",
    "too-short": b"MSG s 2 5\r\nabcd\r\n+OK\r\n",
    "no-end": b"MSG s 2 3\r\nabcPING\r\n",
    "only-lf": b"MSG s 2 3\r\nabc\n\n",
    "only-cr": b"MSG s 2 3\r\nabc\r\r",
    "swapped": b"MSG s 2 3\r\nabc\n\r",
    "headers": b"HMSG s 2 3 5\r\nabcdexx",
    "for-others": b"MSG s 5 3\r\nabcd\r\n",
    "empty": b"MSG s 2 0\r\nPING\r\n",
}
UNKNOWN_LINES = {
    "empty": b"\r\n",
    "only-lf": b"\n",
    "lower-case": b"msg s 2 0\r\n\r\n",
    "http": b"HTTP/1.1 400 Bad Request\r\n",
    "client-verb": b"PUB s 0\r\n",
    "verb-longer": b"PINGS\r\n",
    "verb-shorter": b"PIN\r\n",
    "ping-with-text": b"PING x\r\n",
    "ok-with-text": b"+OKAY\r\n",
    "message-without-blank": b"MSG\r\n",
    "headers-without-blank": b"HMSG\r\n",
    "info-without-text": b"INFO \r\n",
    "info-without-blank": b"INFO{}\r\n",
    "blank-before": b" PING\r\n",
    "binary": b"\x16\x03\x01\0\n",
}


def parse(*pieces: bytes) -> tuple[list[tuple[bytes, ...]], list[tuple[bytes, bytes]], str]:
    """Return frames, others and the refusal's text, which is empty where there is none."""
    parser, sink = Parser(), Collector()
    parser.register(OURS, sink)
    others: list[tuple[bytes, bytes]] = []
    for piece in pieces:
        try:
            others += parser.feed(piece) or []
        except FrameError as error:
            return sink.frames, others, str(error)
    return sink.frames, others, ""


def refusal_at_every_cut(fault: bytes) -> set[str]:
    """Return the refusals' texts; the frame before the fault comes through in every case."""
    stream = BEFORE + fault
    texts = set()
    for cut in range(len(BEFORE), len(stream)):
        frames, _, text = parse(stream[:cut], stream[cut:])
        assert frames == [(b"s", b"", b"", b"abc")]
        texts.add(text)
    texts.add(parse(*[stream[i : i + 1] for i in range(len(stream))])[2])
    return texts


@pytest.mark.parametrize("fault", MALFORMED_MESSAGES.values(), ids=MALFORMED_MESSAGES)
def test_message_when_its_line_is_malformed_is_refused_showing_it(fault: bytes) -> None:
    shown = fault.removesuffix(b"\r\n")[:80]
    assert refusal_at_every_cut(fault + b"abc\r\n" * 5) == {f"malformed message line {shown!r}"}


@pytest.mark.parametrize("fault", TOO_LARGE.values(), ids=TOO_LARGE)
def test_message_when_it_is_announced_too_large_is_refused_at_once(fault: bytes) -> None:
    (text,) = refusal_at_every_cut(fault)
    assert re.fullmatch(r"a message of \d+ bytes", text)


@pytest.mark.parametrize("fault", WRONG_ENDS.values(), ids=WRONG_ENDS)
def test_message_when_it_does_not_end_as_announced_is_refused(fault: bytes) -> None:
    assert refusal_at_every_cut(fault) == {"a message is longer or shorter than announced"}


@pytest.mark.parametrize("fault", UNKNOWN_LINES.values(), ids=UNKNOWN_LINES)
def test_line_when_it_is_unknown_is_refused_showing_it(fault: bytes) -> None:
    shown = fault.splitlines()[0][:40]
    assert refusal_at_every_cut(fault) == {f"unknown protocol line {shown!r}"}


def test_line_when_it_is_unknown_and_long_is_shown_in_part() -> None:
    assert len(parse(b"x" * 100_000 + b"\r\n")[2]) < 100
    assert len(parse(b"MSG " + b"x" * 100_000 + b"\r\n")[2]) < 150


def test_message_when_just_at_the_limit_is_waited_for() -> None:
    assert parse(b"MSG s 2 67174400\r\n") == ([], [], "")


@pytest.mark.parametrize("zeros", [0, 1, 16])
def test_message_when_numbers_have_leading_zeros_is_taken(zeros: int) -> None:
    number = b"0" * zeros
    assert parse(b"MSG s %s2 %s3\r\nabc\r\n" % (number, number))[0] == [(b"s", b"", b"", b"abc")]


protocol_parts = st.sampled_from(
    [b"MSG ", b"HMSG ", b"s ", b"2 ", b"3", b"12 ", b"-1", b"\r\n", b"\n", b"abc\r\n", b"PING", b"\xff"]
)


@given(st.lists(protocol_parts))
@settings(deadline=None, max_examples=300)
def test_parser_when_given_any_pieces_of_protocol_gives_the_same_however_cut(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    whole, single = parse(stream), parse(*[stream[i : i + 1] for i in range(len(stream))])
    assert (whole[0], whole[2]) == (single[0], single[2])
    # A refusal ends the connection: what the same read brought for others before it is not needed any more.
    assert whole[1] == (single[1] if not whole[2] else [])


@given(st.lists(st.binary(max_size=40)))
@settings(deadline=None, max_examples=300)
def test_parser_when_given_any_bytes_refuses_the_first_line_or_waits(pieces: list[bytes]) -> None:
    stream = b"Z" + b"".join(pieces)
    assert bool(parse(b"Z", *pieces)[2]) == bool(parse(stream)[2]) == (b"\n" in stream)
