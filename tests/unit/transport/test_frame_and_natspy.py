"""Our parser beside nats-py's: where the two differ, and that they do so as tests/fuzz/transport/natspy.py says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.errors import ProtocolError

from eda.transport._frame import FrameError
from fuzz.seeds import LINES
from fuzz.transport import natspy

Message = tuple[int, bytes, bytes, bytes, bytes]


def read_by_us(stream: bytes) -> tuple[list[Message], list[natspy.Control]] | None:
    """Return messages and everything else; None where the stream was refused."""
    try:
        messages, controls = natspy.ours([stream])
    except FrameError:
        return None
    return [each for per_sid in messages for each in per_sid], controls


def read_by_them(stream: bytes) -> tuple[list[Message], list[natspy.Control]] | None:
    reader = natspy.Theirs()
    try:
        reader.feed(stream)
    except ProtocolError:
        return None
    return reader.messages, reader.controls


X = (1, b"s", b"", b"", b"x")
ODD = {
    "lf": (b"MSG s 1 1\nx\r\n", ([X], []), None),
    "lf-ping": (b"PING\n", ([], [("PING", None)]), ([], [])),
    "line-end-for-a-blank": (b"MSG\r\ns 1 1\r\nx\r\n", None, ([X], [])),
    "blank-at-the-end": (b"MSG s 1 1 \r\nx\r\n", ([X], []), None),
    "blank-behind-ping": (b"PING \r\n", None, ([], [("PING", None)])),
    "form-feed": (b"MSG s\f1 1\r\nx\r\n", None, ([X], [])),
    "sid-with-sign": (b"MSG s +1 1\r\nx\r\n", None, ([X], [])),
    "sid-with-underscore": (b"MSG s 0_1 1\r\nx\r\n", None, ([X], [])),
    "longer-than-announced": (b"MSG s 1 1\r\nxyz", None, ([X], [])),
    "headers-longer-than-all": (b"HMSG s 1 9 1\r\nx\r\n", None, ([(1, b"s", b"", b"x\r\n", b"")], [])),
    "absurd-length": (b"MSG s 1 99999999999999999999\r\n", None, ([], [])),
    "no-length": (b"MSG s 1\r\n", None, None),
    "error-without-quotes": (b"-ERR x\r\n", ([], [("-ERR", "x")]), None),
    "unknown": (b"NONSENSE\r\n", None, None),
    "unknown-and-long": (b"NONSENSE" * 600 + b"\r\n", None, ([], [])),
}


@pytest.mark.parametrize(("stream", "ours", "theirs"), ODD.values(), ids=ODD)
def test_parsers_when_a_line_is_odd_differ_as_described(stream: bytes, ours: object, theirs: object) -> None:
    assert (read_by_us(stream), read_by_them(stream)) == (ours, theirs)


lines = st.sampled_from(LINES[:11])


@given(st.lists(lines, max_size=8).map(b"".join), st.binary(max_size=8), st.integers(0, 400), st.integers(0, 255))
@settings(deadline=None, max_examples=300)
def test_parsers_when_a_stream_is_changed_anywhere_agree_up_to_there(
    stream: bytes, change: bytes, at: int, seed: int
) -> None:
    natspy.check(bytes([seed]) + stream[:at] + change + stream[at + len(change) :])


def test_parsers_when_given_what_a_server_writes_compare_all_of_it() -> None:
    stream = b"".join(LINES[:11])
    assert natspy.plain_part(stream) == stream
    for at in range(len(stream)):
        part = natspy.plain_part(stream[:at])
        assert stream.startswith(part)
        natspy.check(b"\7" + stream[:at])
    assert natspy.plain_part(stream + b"PING \r\n") == stream


@pytest.mark.parametrize("seed", range(20))
def test_parsers_when_a_long_stream_is_cut_at_random_agree(seed: int) -> None:
    source = random.Random(seed)
    natspy.check(bytes([seed]) + b"".join(source.choice(LINES[:11]) for _ in range(300)))
