"""Fuzz target: the answers to the direct gets of a load.

A message is `<rest of the subject>\\0<headers><payload>`. The aggregate is `a`, of stream `s`.
"""

from __future__ import annotations

import re
from contextlib import suppress

from eda.errors import DecodeError, UnknownEncoding
from eda.jetstream._direct_reads import DirectReads, answer_headers
from eda.jetstream.schemas import nanoseconds
from eda.store._earlier import earlier_in
from eda.store._tail_reading import TailReading
from eda.transport._frame import Parser
from fuzz.cuts import messages

__all__ = ["check"]

SUBJECT = re.compile(rb"[^ \t\r\n]+")
SEQUENCE = re.compile(rb"[0-9]{1,19}")
TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)
EARLIER = re.compile(rb"\r\nEda-Earlier: ([0-9]{1,4})((?: [1-9][0-9]{0,17}){0,15})\r\n")
BASELINES = [(0, 0), (1, 10), (2, 20), (5, 50)]

_parser = Parser()


def check(data: bytes) -> None:
    """The server's headers are read as slow code reads them. A complete read has nothing but the aggregate's events."""
    seed, rest = (data[0], data[1:]) if data else (0, b"")
    for _, headers, _ in messages(rest):
        check_headers(headers)
        check_list(headers)
    check_read(rest, *BASELINES[seed % 4])


def last(headers: bytes, name: bytes) -> bytes | None:
    """The last value of a header."""
    lines = [line for line in headers[10:-4].split(b"\r\n") if line.startswith(name)]
    return lines[-1].removeprefix(name) if lines else None


def check_headers(headers: bytes) -> None:
    found = answer_headers(headers)
    is_block = len(headers) >= 14 and headers.startswith(b"NATS/1.0\r\n") and headers.endswith(b"\r\n\r\n")
    names = (b"Nats-Stream: ", b"Nats-Subject: ", b"Nats-Sequence: ", b"Nats-Time-Stamp: ")
    stream, subject, sequence, time = (last(headers, name) for name in names) if is_block else (None,) * 4
    if found is not None:
        assert sequence is not None
        assert time is not None
        assert found[:3] == (stream, subject, int(sequence))
        assert 0 < found[2] < 2**63
        assert TIME.fullmatch(time)
        assert found[3] == nanoseconds(time.decode()) or time[5:10] > b"02-28"  # such a day may not exist
    elif None not in (stream, subject) and sequence and SEQUENCE.fullmatch(sequence) and 0 < int(sequence) < 2**63:
        assert time is None or not TIME.fullmatch(time) or nanoseconds(time.decode()) <= 0 or time > b"2262"


def check_list(headers: bytes) -> None:
    found = earlier_in(headers, 1000)
    assert all(0 < each < 1000 for each in found)
    listed = EARLIER.search(headers)
    if listed is not None and headers.count(b"Eda-Earlier") == 1:
        n_before, others = int(listed[1]), [int(each) for each in listed[2].split()]
        assert found == [*range(999, 999 - min(n_before, 15), -1), *(each for each in others if each < 1000)]


class Out:
    """What the connection's outgoing bytes are to reads."""

    at_once = False

    def __init__(self) -> None:
        self.n_requests = 0

    def request(self, frames: bytes) -> None:
        self.n_requests += frames.count(b"PUB $JS.API.DIRECT.GET.s i.1-")


def check_read(data: bytes, version: int, sequence: int) -> None:
    out = Out()
    reads = DirectReads(b"i.", b"$JS.API.DIRECT.GET.s", out)
    reading = TailReading("s", "a", b"a", version, sequence, version > 0)
    reads.add(reading)
    reading.send()
    _parser.reset()
    _parser.register(1, reads)
    for tail, headers, payload in messages(data):
        if SUBJECT.fullmatch(tail):
            sizes = b"%d %d" % (len(headers), len(headers) + len(payload)) if headers else b"%d" % len(payload)
            kind = b"HMSG" if headers else b"MSG"
            assert _parser.feed(b"%b i.%b 1 %b\r\n%b%b\r\n" % (kind, tail, sizes, headers, payload)) is None
    assert out.n_requests <= 122
    assert all(each[1] > 0 for each in reading.missing())
    if not reading.is_complete:
        return
    assert reading.is_over
    assert reading.newest is not None
    events = reading.events()
    assert [event.version for event in events] == list(range(version + 1, version + 1 + len(events)))
    sequences = [event.sequence for event in events]
    assert sorted(set(sequences)) == sequences
    for event in (*events, reading.base or reading.newest):
        assert (event.aggregate, event.stream, event.subject.rpartition(".")[2]) == ("a", "s", "a")
        with suppress(DecodeError, UnknownEncoding):
            repr(event.data.decode())
