"""Fuzz target: our parser beside nats-py's, on the same bytes cut at the same places.

They have to agree on what a server writes (`PLAIN`), as far as the input is that; from the first byte on that is not,
they may differ. `tests/unit/transport/test_frame_and_natspy.py` shows how:

* a line end: nats-py wants CRLF; we take LF alone, too;
* blanks: nats-py lets a control line's begin go over line ends, and takes form feeds and vertical tabs for blanks; we
  know space and tab. We take blanks at the end of a message line, nats-py at the end of PING, PONG and +OK;
* numbers: nats-py takes whatever `int()` takes for a subscription id; we take decimal digits, below 2**63;
* sizes: nats-py does not notice a payload that is longer or shorter than announced, nor headers longer than the
  message, and waits for any announced length; we end the connection;
* -ERR: nats-py wants its text in quotes and puts it into lower case; we hand it on as it is;
* INFO: nats-py decodes its JSON while it parses; we hand it on;
* unknown lines: nats-py refuses them unless 4,096 bytes are waiting, in which case it waits for ever; we always refuse.
"""

from __future__ import annotations

import json
import re
from typing import Any

from nats.protocol.parser import Parser as NatsParser

from eda.transport._frame import Collector, Parser
from fuzz.cuts import pieces

__all__ = ["Theirs", "check", "ours", "plain_part"]

N_SIDS = 10
PLAIN = re.compile(
    rb"""
      (?P<plain>\+OK|PING|PONG)\r\n
    | -ERR[ ](?P<error>'[ -~]+')\r\n
    | INFO[ ](?P<info>\{[ -~]*\})\r\n
    | (?P<headers>H)?MSG[ \t]+[!-~\x80-\xff]+[ \t]+[0-9][ \t]+(?:[!-~\x80-\xff]+[ \t]+)?
      (?(headers)(?P<n_headers>[1-9][0-9]{0,5})[ \t]+)(?P<n>0|[1-9][0-9]{0,5})\r\n
    """,
    re.VERBOSE,
)

Message = tuple[int, bytes, bytes, bytes, bytes]
Control = tuple[str, Any]


def plain_part(stream: bytes) -> bytes:
    """Return the begin of the stream up to the first thing that a server does not write so."""
    at = 0
    while True:
        line = PLAIN.match(stream, at)
        if line is None:
            return stream[:at]
        end = line.end()
        if line["info"] is not None and not is_info(line["info"]):
            return stream[:at]
        if line["headers"] and stream[end:].lstrip()[:1].isdigit():
            return stream[:at]  # which nats-py's expression takes for the size, over the end of the line
        if line["n"] is not None:
            if int(line["n_headers"] or 0) > int(line["n"]):
                return stream[:at]
            end += int(line["n"])
            if stream[end : end + 2] != b"\r\n":
                # Not all there, which any cut may do; or another length.
                return stream if end >= len(stream) else stream[:at]
            end += 2
        at = end


def is_info(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


class Theirs:
    """nats-py's parser, and the client that it tells."""

    def __init__(self) -> None:
        self.parser = NatsParser(self)
        self.messages: list[Message] = []
        self.controls: list[Control] = []

    def feed(self, piece: bytes) -> None:
        # It awaits nothing that waits, so no loop is needed.
        try:
            self.parser.parse(piece).send(None)
        except StopIteration:
            return
        raise AssertionError("nats-py's parser waits for something")

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        self.messages.append((sid, subject, reply, headers or b"", payload))

    async def _process_err(self, text: str) -> None:
        self.controls.append(("-ERR", text))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.controls.append(("INFO", info))

    async def _process_ping(self) -> None:
        self.controls.append(("PING", None))

    async def _process_pong(self) -> None:
        self.controls.append(("PONG", None))


_parser = Parser()


def ours(stream: list[bytes]) -> tuple[list[list[Message]], list[Control]]:
    """Return what our parser makes of the pieces: messages by subscription id, everything else in order."""
    _parser.reset()
    sinks = [Collector() for _ in range(N_SIDS)]
    for sid, sink in enumerate(sinks):
        _parser.register(sid, sink)
    others = [other for piece in stream for other in _parser.feed(piece) or []]
    messages = [[(sid, *frame) for frame in sink.frames] for sid, sink in enumerate(sinks)]
    return messages, [control(verb, text) for verb, text in others]


def control(verb: bytes, text: bytes) -> Control:
    if verb == b"INFO":
        return "INFO", json.loads(text)
    return verb.decode(), text.decode().lower() if verb == b"-ERR" else None


def check(data: bytes) -> None:
    """Both make the same of what a server writes, whatever the cuts: the first byte says where."""
    seed, stream = (data[0], plain_part(data[1:])) if data else (0, b"")
    cut = pieces(stream, seed)
    theirs = Theirs()
    for piece in cut:
        theirs.feed(piece)
    messages, controls = ours(cut)
    assert messages == [[each for each in theirs.messages if each[0] == sid] for sid in range(N_SIDS)]
    # Compared as text, since NaN is not equal to itself.
    assert repr(controls) == repr(theirs.controls)
