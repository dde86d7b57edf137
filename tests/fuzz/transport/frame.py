"""Fuzz target: the frame parser. The first byte says where the stream behind it is cut."""

from __future__ import annotations

from eda.transport._frame import Collector, FrameError, Parser
from fuzz.cuts import pieces

__all__ = ["check"]

OURS = (1, 2)
READ_SIZE = 256 * 1024
PROBE = b"HMSG s.t.a 1 r 12 15\r\nNATS/1.0\r\n\r\nabc\r\n"

Frame = tuple[bytes, bytes, bytes, bytes]
_parsers = [Parser() for _ in range(3)]  # a new one each time would be a new buffer of 256 KiB


class Result:
    """What a parser made of the pieces: frames by subscription id, the rest for others, the error it ended with."""

    def __init__(self, parser: Parser, stream: list[bytes]) -> None:
        parser.reset()
        sinks = [Collector() for _ in OURS]
        for sid, sink in zip(OURS, sinks, strict=True):
            parser.register(sid, sink)
        self.others: list[tuple[bytes, bytes]] = []
        self.error = ""
        try:
            for piece in stream:
                self.others += parser.feed(piece) or []
        except FrameError as error:
            self.error = str(error) or "no text"
        self.frames = [sink.frames for sink in sinks]


def check(data: bytes) -> None:
    """However the stream is cut, the result is the same; what came out gives the same when it is written again."""
    seed, stream = (data[0], data[1:]) if data else (0, b"")
    whole = Result(_parsers[0], [stream])
    cut = Result(_parsers[1], pieces(stream, seed))
    assert (cut.frames, cut.error) == (whole.frames, whole.error)
    if whole.error:
        # What was read before an error, in the same piece, goes with the connection.
        assert cut.others[: len(whole.others)] == whole.others
    else:
        assert cut.others == whole.others
    for parser in _parsers[:2]:
        assert len(parser.room().obj) <= max(READ_SIZE, 4 * len(stream))  # type: ignore[arg-type]
    check_written_again(whole.frames)
    check_others(cut.others)
    parser = _parsers[0]
    parser.reset()
    parser.register(1, sink := Collector())
    assert parser.feed(PROBE) is None
    assert sink.frames == [(b"s.t.a", b"r", b"NATS/1.0\r\n\r\n", b"abc")]


def check_written_again(frames: list[list[Frame]]) -> None:
    again = b"".join(written(sid, *frame) for sid, each in zip(OURS, frames, strict=True) for frame in each)
    result = Result(_parsers[2], [again])
    assert (result.frames, result.others, result.error) == (frames, [], "")


def written(sid: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    tokens = [b"HMSG" if headers else b"MSG", subject, b"%d" % sid]
    tokens += [reply] if reply else []
    tokens += [b"%d" % len(headers)] if headers else []
    return b" ".join([*tokens, b"%d" % (len(headers) + len(payload))]) + b"\r\n" + headers + payload + b"\r\n"


def check_others(others: list[tuple[bytes, bytes]]) -> None:
    """What is for others is whole: read again it is the same."""
    for verb, text in others:
        assert verb in (b"MSG", b"PING", b"PONG", b"INFO", b"-ERR")
        line = text if verb == b"MSG" else verb + b" " * bool(text) + text + b"\r\n"
        if verb in (b"INFO", b"-ERR"):
            assert b"\n" not in text
        result = Result(_parsers[2], [line])
        assert (result.others, result.error) == ([(verb, text)], "")
