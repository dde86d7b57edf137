"""eda.transport._frame.Parser: any stream, cut anywhere, gives the frames that a slow reader in plain Python gives."""

from __future__ import annotations

import itertools
import random
import re
import tracemalloc
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eda.transport._frame import Collector, FrameError, Parser

OURS = 2  # the subscription id of which we take the frames; all others go to the client underneath
READ_SIZE = 256 * 1024
MIN_READ = 32 * 1024
MAX_LINE = 2**20

Frame = tuple[bytes, bytes, bytes, bytes]
Other = tuple[bytes, bytes]


def message(
    sid: int,
    payload: bytes = b"",
    *,
    subject: bytes = b"s.t.a",
    reply: bytes = b"",
    blank: bytes = b" ",
    end: bytes = b"\r\n",
) -> bytes:
    tokens = [subject, b"%d" % sid, *([reply] if reply else []), b"%d" % len(payload)]
    return b"MSG " + blank.join(tokens) + end + payload + b"\r\n"


def message_with_headers(
    sid: int, headers: bytes, payload: bytes = b"", *, reply: bytes = b"", blank: bytes = b" ", end: bytes = b"\r\n"
) -> bytes:
    sizes = [b"%d" % len(headers), b"%d" % (len(headers) + len(payload))]
    tokens = [b"s.t.a", b"%d" % sid, *([reply] if reply else []), *sizes]
    return b"HMSG " + blank.join(tokens) + end + headers + payload + b"\r\n"


HEADERS = b"NATS/1.0\r\nNats-Msg-Id: i1\r\n\r\n"
PROTOCOL_TEXT = b"\r\nMSG s 2 5\r\nPING\r\n+OK\r\n-ERR 'x'\r\n"
STREAM = b"".join(
    [
        b'INFO {"server_id":"x","headers":true}\r\n',
        b"+OK\r\n",
        message(OURS, b"hello"),
        message(1, b"hello"),
        b"PING\r\n",
        message(OURS, b"hello", reply=b"$JS.ACK.s.c.1.2.3.4.5"),
        message(7, b"hello", reply=b"inbox.1"),
        message(OURS),
        message(0, reply=b"r"),
        b"PONG\r\n",
        message_with_headers(OURS, HEADERS, b"data"),
        message_with_headers(3, HEADERS, b"data"),
        message_with_headers(OURS, HEADERS, reply=b"r"),
        message_with_headers(3, b"NATS/1.0 404 No Messages\r\n\r\n", reply=b"r"),
        message(OURS, PROTOCOL_TEXT),
        message(9, PROTOCOL_TEXT),
        message_with_headers(OURS, HEADERS, PROTOCOL_TEXT, reply=b"r"),
        b"-ERR 'Unknown Protocol Operation'\r\n",
        message(OURS, b"\0\xff\n\r" * 20, blank=b" \t  "),
        message(4, b"x" * 120, reply=b"r", blank=b"\t"),
        message_with_headers(OURS, HEADERS, b"x", blank=b"  ", reply=b"r"),
        message(OURS, b"only LF", end=b"\n"),
        message(10**12, b"a sid far away"),
        b"PING\nPONG\n",
        message(OURS, b"the last"),
    ]
)


def slow_parse(stream: bytes, ours: tuple[int, ...] = (OURS,)) -> tuple[list[Frame], list[Other], bytes]:
    """Return our frames, everything else and the unfinished rest of a well-formed stream."""
    frames: list[Frame] = []
    others: list[Other] = []
    while b"\n" in stream:
        line, rest = stream.split(b"\n", 1)
        verb, _, tail = line.removesuffix(b"\r").partition(b" ")
        if verb in (b"MSG", b"HMSG"):
            tokens = tail.split()
            total = int(tokens[-1])
            if len(rest) < total + 2:
                break
            body, stream = rest[:total], rest[total + 2 :]
            n_headers = int(tokens[-2]) if verb == b"HMSG" else 0
            if int(tokens[1]) in ours:
                reply = tokens[2] if len(tokens) == (5 if verb == b"HMSG" else 4) else b""
                frames.append((tokens[0], reply, body[:n_headers], body[n_headers:]))
            else:
                others.append((b"MSG", line + b"\n" + body + b"\r\n"))
        else:
            stream = rest
            if verb != b"+OK":
                others.append((verb, tail))
    return frames, others, stream


class Reader:
    """A parser, its sink, and everything that came out of both."""

    def __init__(self) -> None:
        self.parser = Parser()
        self.sink = Collector()
        self.parser.register(OURS, self.sink)
        self.others: list[Other] = []

    def feed(self, *pieces: bytes) -> Reader:
        for piece in pieces:
            self.others += self.parser.feed(piece) or []
        return self

    @property
    def result(self) -> tuple[list[Frame], list[Other]]:
        return self.sink.frames, self.others


EXPECTED = slow_parse(STREAM)[:2]


# --- any cut ---------------------------------------------------------------------------------------------------------


def test_parser_when_fed_the_whole_stream_gives_all_in_order() -> None:
    assert Reader().feed(STREAM).result == EXPECTED
    assert slow_parse(STREAM)[2] == b""
    assert [len(part) for part in EXPECTED] == [11, 14]


def test_parser_when_cut_at_every_byte_gives_the_same() -> None:
    for cut in range(len(STREAM) + 1):
        assert Reader().feed(STREAM[:cut], STREAM[cut:]).result == EXPECTED


def test_parser_when_a_piece_ends_at_every_byte_has_given_all_that_is_complete() -> None:
    reader = Reader()
    for end in range(1, len(STREAM) + 1):
        reader.feed(STREAM[end - 1 : end])
        assert reader.result == slow_parse(STREAM[:end])[:2]


@pytest.mark.parametrize("seed", range(50))
def test_parser_when_fed_random_pieces_gives_the_same(seed: int) -> None:
    source = random.Random(seed)
    cuts = sorted(source.sample(range(len(STREAM)), source.randint(1, 60)))
    pieces = [STREAM[start:end] for start, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]
    assert Reader().feed(*pieces).result == EXPECTED


tokens = st.text("abc.$*>_é", min_size=1, max_size=12).map(str.encode)
blanks = st.text(" \t", min_size=1, max_size=3).map(str.encode)
payloads = st.binary(max_size=60) | st.sampled_from([b"", PROTOCOL_TEXT, b"\r\n", b"x" * 5000])
sids = st.sampled_from([0, 1, OURS, OURS, 3, 10**12])
ends = st.sampled_from([b"\r\n", b"\n"])
any_line = st.one_of(
    st.builds(message, sids, payloads, subject=tokens, reply=tokens | st.just(b""), blank=blanks, end=ends),
    st.builds(message_with_headers, sids, payloads, payloads, reply=tokens | st.just(b""), blank=blanks, end=ends),
    st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'x y'\r\n", b"INFO {}\r\n", b"PING\n"]),
)


@given(st.lists(any_line, max_size=12).map(b"".join), st.lists(st.integers(1, 400)), st.integers(0, 30))
@settings(deadline=None, max_examples=300)
def test_parser_when_given_any_stream_in_any_pieces_agrees_with_the_slow_one(
    stream: bytes, sizes: list[int], missing: int
) -> None:
    stream = stream[: max(len(stream) - missing, 0)]
    reader, pos = Reader(), 0
    for size in [*sizes, len(stream)]:
        reader.feed(stream[pos : pos + size])
        pos += size
    assert reader.result == slow_parse(stream)[:2]


def test_parser_when_a_tab_follows_the_verb_takes_it_for_a_blank() -> None:
    stream = message(OURS, b"x", reply=b"r") + message_with_headers(OURS, HEADERS) + b"INFO {}\r\n-ERR 'x'\r\n"
    tabbed = re.sub(rb"\b(H?MSG|INFO|ERR) ", rb"\1\t", stream)
    assert tabbed.count(b"\t") == 4
    assert Reader().feed(tabbed).result == Reader().feed(stream).result


# --- who gets what ---------------------------------------------------------------------------------------------------


def test_parser_when_several_sinks_are_registered_sends_each_its_own() -> None:
    parser, sinks = Parser(), {sid: Collector() for sid in (0, 5, 300)}
    for sid, sink in sinks.items():
        parser.register(sid, sink)
    others = parser.feed(b"".join(message(sid, b"%d" % sid) for sid in (0, 5, 300, 1, 301)))
    assert {sid: [frame[3] for frame in sink.frames] for sid, sink in sinks.items()} == {
        sid: [b"%d" % sid] for sid in sinks
    }
    assert others == [(b"MSG", message(1, b"1")), (b"MSG", message(301, b"301"))]


def test_parser_when_a_sink_is_taken_away_gives_its_frames_back() -> None:
    reader = Reader().feed(message(OURS, b"1"))
    reader.parser.register(OURS, None)
    reader.feed(message(OURS, b"2"))
    assert ([frame[3] for frame in reader.sink.frames], reader.others) == ([b"1"], [(b"MSG", message(OURS, b"2"))])


def test_parser_when_frames_go_to_sinks_counts_them() -> None:
    reader = Reader().feed(STREAM)
    assert reader.parser.n_frames == len(EXPECTED[0])


@pytest.mark.parametrize("piece", [b"", b"+OK\r\n", b"PIN", message(OURS, b"x")])
def test_parser_when_nothing_is_for_others_returns_none(piece: bytes) -> None:
    reader = Reader()
    assert reader.parser.feed(piece) is None


def test_register_when_the_id_is_negative_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        Parser().register(-1, Collector())


@pytest.mark.parametrize("sink", [object(), print, 5])
def test_register_when_given_no_sink_is_refused(sink: Any) -> None:
    with pytest.raises(TypeError):
        Parser().register(1, sink)


def test_reset_when_input_was_partial_forgets_it() -> None:
    for end in range(len(STREAM)):
        reader = Reader()
        reader.parser.feed(STREAM[:end])
        reader.parser.reset()
        reader.sink.frames.clear()
        assert reader.feed(STREAM).result == EXPECTED


def test_reset_when_the_peer_was_refused_begins_anew() -> None:
    reader = Reader()
    with pytest.raises(FrameError):
        reader.feed(b"NONSENSE\r\n")
    reader.parser.reset()
    assert reader.feed(STREAM).result == EXPECTED


# --- room and received -----------------------------------------------------------------------------------------------


def put(parser: Parser, data: bytes) -> Any:
    """Do what a transport does: fill the room, then tell how much."""
    room = parser.room()
    room[: len(data)] = data
    return parser.received(len(data))


def test_room_when_asked_is_writable_and_never_small() -> None:
    reader, source = Reader(), random.Random(1)
    stream = STREAM * 40 + message(OURS, bytes(700_000)) + STREAM * 40
    pos = 0
    while pos < len(stream):
        room = reader.parser.room()
        assert not room.readonly
        assert len(room) >= MIN_READ
        piece = stream[pos : pos + min(source.randint(1, 60_000), len(room))]
        pos += len(piece)
        reader.others += put(reader.parser, piece) or []
    assert reader.result == slow_parse(stream)[:2]


def test_room_when_asked_twice_is_the_same() -> None:
    parser = Parser()
    put(parser, b"PIN")
    first, second = parser.room(), parser.room()
    assert (first.obj is second.obj, len(first)) == (True, len(second))


def test_room_when_an_older_one_is_kept_stays_valid() -> None:
    parser = Parser()
    old = parser.room()
    parser.register(OURS, Collector())
    put(parser, message(OURS, bytes(600_000))[:200_000])
    put(parser, bytes(56_000))
    assert len(parser.room().obj) > READ_SIZE  # type: ignore[arg-type]
    old[:5] = b"xxxxx"
    assert put(parser, bytes(344_000 + 18)[: len(parser.room())]) is None


@pytest.mark.parametrize("n", [-1, -(2**62), READ_SIZE + 1, 2**62])
def test_received_when_the_count_does_not_fit_the_room_is_refused(n: int) -> None:
    parser = Parser()
    parser.room()
    with pytest.raises(ValueError, match="do not fit"):
        parser.received(n)
    assert put(parser, b"PING\r\n") == [(b"PING", b"")]


def test_received_when_nothing_came_returns_none() -> None:
    parser = Parser()
    assert put(parser, b"PIN") is None
    assert parser.received(0) is None
    assert put(parser, b"G\r\n") == [(b"PING", b"")]


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 32_768, 262_143, 262_144, 262_145, 1_000_000, 8 * 2**20])
@pytest.mark.parametrize("piece", [60_000, 65_536, 10**9])
def test_payload_when_it_spans_reads_comes_whole_and_memory_shrinks_back(size: int, piece: int) -> None:
    payload = random.Random(size).randbytes(size)
    stream = message(OURS, payload, reply=b"r") + message(1, payload) + b"PING\r\n"
    reader = Reader()
    largest = 0
    for pos in range(0, len(stream), piece):
        reader.feed(stream[pos : pos + piece])
        largest = max(largest, len(reader.parser.room().obj))  # type: ignore[arg-type]
    assert reader.sink.frames == [(b"s.t.a", b"r", b"", payload)]
    assert reader.others == [(b"MSG", message(1, payload)), (b"PING", b"")]
    assert largest <= max(4 * size, 2 * READ_SIZE)
    assert len(reader.parser.room().obj) == READ_SIZE  # type: ignore[arg-type]


def test_memory_when_a_length_is_announced_grows_only_with_what_arrives() -> None:
    parser = Parser()
    for _ in range(3):
        put(parser, b"MSG s 2 67108864\r\nabc"[:18])
        parser.reset()
    assert len(parser.room().obj) == READ_SIZE  # type: ignore[arg-type]


def test_line_when_it_never_ends_is_refused_within_bounded_memory() -> None:
    parser, piece = Parser(), b"INFO " + b"x" * 60_000
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match="protocol line of more than 1 MiB"):
            deque(map(parser.feed, itertools.repeat(piece, 1000)), maxlen=0)
        assert tracemalloc.get_traced_memory()[1] < 6 * MAX_LINE
    finally:
        tracemalloc.stop()


def test_line_when_info_is_long_is_taken() -> None:
    info = b'{"connect_urls":"' + b"x" * 900_000 + b'"}'
    assert Reader().feed(b"INFO " + info + b"\r\n").others == [(b"INFO", info)]
