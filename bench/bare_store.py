"""Bare sockets beside the event store: direct gets, and appends under expectations, with frames made beforehand."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Sequence

import bare
import eda

__all__ = [
    "Acks",
    "append_s",
    "append_times_ns",
    "direct_get_times_ns",
    "expecting_frame",
    "load_times_ns",
    "make_stream",
]

INBOX = b"_INBOX.bare0000000000000000000"


def make_stream(link: socket.socket, stream: str) -> None:
    """Make a stream that is marked as one of an event store. Raises AssertionError when the server refuses."""
    config = {
        "name": stream, "subjects": [stream, f"{stream}.>"], "storage": "file", "allow_direct": True,
        "allow_atomic": True, "metadata": {"eda-store": "1"},
    }  # fmt: skip
    body = json.dumps(config).encode()
    link.sendall(
        b"SUB %b.api api\r\nUNSUB api 1\r\nPUB $JS.API.STREAM.CREATE.%b %b.api %d\r\n%b\r\n"
        % (INBOX, stream.encode(), INBOX, len(body), body)
    )
    answer = b""
    while not answer.endswith(b"}\r\n"):
        answer += link.recv(65_536)
    assert b'"error"' not in answer, answer


class Acks:
    """The acknowledgements that a socket receives. `n`: how many."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.n = 0
        self._rest = b""

    def read(self) -> int:
        """Receive once, and return how many acknowledgements that completed."""
        whole, end, self._rest = (self._rest + self.link.recv(262_144)).rpartition(b"}\r\n")
        assert b'"error"' not in whole, whole
        n = whole.count(b'"seq":') if end else 0
        self.n += n
        return n

    def read_until(self, n: int) -> None:
        """Receive until there are `n`."""
        while self.n < n:
            self.read()


def direct_get_times_ns(server: eda.EmbeddedServer, stream: str, subjects: Iterable[str]) -> list[int]:
    """Ask for the last message of each subject, one after the other; return the nanoseconds of each."""
    took = []
    with bare.connect(server) as link:
        link.sendall(b"SUB %b 1\r\nPING\r\n" % INBOX)
        link.recv(65_536)
        for subject in subjects:
            frame = b"PUB $JS.API.DIRECT.GET.%b.%b %b 0\r\n\r\n" % (stream.encode(), subject.encode(), INBOX)
            started = time.perf_counter_ns()
            link.sendall(frame)
            answer = link.recv(65_536).removeprefix(b"PING\r\n")
            while b"\r\n" not in answer:
                answer += link.recv(65_536)
            line, _, after = answer.partition(b"\r\n")
            size = int(line.rpartition(b" ")[2]) + 2
            while len(after) < size:
                after += link.recv(65_536)
            took.append(time.perf_counter_ns() - started)
            assert b"Nats-Sequence" in after, answer
    return took


def load_times_ns(
    server: eda.EmbeddedServer, stream: str, aggregates: Iterable[tuple[str, Sequence[int]]]
) -> list[int]:
    """Ask for the last message of each aggregate, then for all others by their sequences, as a load does.

    The sequences are given. Return the nanoseconds of each aggregate.
    """
    took = []
    prefix = stream.encode()
    with bare.connect(server) as link:
        link.sendall(b"SUB %b 1\r\nPING\r\n" % INBOX)
        link.recv(65_536)
        for aggregate, sequences in aggregates:
            query = b'{"last_by_subj":"%b.*.%b"}' % (prefix, aggregate.encode())
            first = b"PUB $JS.API.DIRECT.GET.%b %b %d\r\n%b\r\n" % (prefix, INBOX, len(query), query)
            queries = [b'{"seq":%d}' % sequence for sequence in sequences]
            rest = b"".join(
                [b"PUB $JS.API.DIRECT.GET.%b %b %d\r\n%b\r\n" % (prefix, INBOX, len(each), each) for each in queries]
            )
            started = time.perf_counter_ns()
            link.sendall(first)
            answer = b""
            while b"\r\nNats-Sequence: " not in answer or not answer.endswith(b"\r\n"):
                answer += link.recv(65_536)
            link.sendall(rest)
            answer = b""
            while answer.count(b"\r\nNats-Sequence: ") < len(sequences):
                answer += link.recv(65_536)
            took.append(time.perf_counter_ns() - started)
    return took


def expecting_frame(
    number: int, subject: str, filter: str, id: str, earlier: Sequence[int], envelope: bytes, inbox: bytes = INBOX
) -> bytes:
    """Return the frame that an event store sends: the aggregate's last events are at the sequences `earlier`.

    Each frame has a reply subject of its own, `<inbox>.<number>`, as the store's frames have.
    """
    sequence = earlier[0] if earlier else 0
    named = " ".join(map(str, (0, *earlier)))
    headers = (
        f"NATS/1.0\r\nNats-Msg-Id: {id}\r\nNats-Expected-Last-Subject-Sequence: {sequence}\r\n"
        f"Nats-Expected-Last-Subject-Sequence-Subject: {filter}\r\nEda-Earlier: {named}\r\n\r\n"
    ).encode()
    sizes = b"%d %d" % (len(headers), len(headers) + len(envelope))
    return b"HPUB %b %b.%d %b\r\n%b%b\r\n" % (subject.encode(), inbox, number, sizes, headers, envelope)


def append_times_ns(server: eda.EmbeddedServer, frames: Iterable[bytes]) -> list[int]:
    """Send each frame and wait for its acknowledgement; return the nanoseconds of each."""
    took = []
    with bare.connect(server) as link:
        link.sendall(b"SUB %b.* 1\r\nPING\r\n" % INBOX)
        link.recv(65_536)
        acks = Acks(link)
        for frame in frames:
            started = time.perf_counter_ns()
            link.sendall(frame)
            acks.read_until(acks.n + 1)
            took.append(time.perf_counter_ns() - started)
    return took


def append_s(server: eda.EmbeddedServer, frames: Sequence[bytes], n_under_way: int) -> float:
    """Send the frames, always `n_under_way` ahead of the acknowledgements; return the seconds until the last one."""
    with bare.connect(server) as link:
        link.sendall(b"SUB %b.* 1\r\nPING\r\n" % INBOX)
        link.recv(65_536)
        acks = Acks(link)
        started = time.perf_counter()
        n_sent = 0
        while acks.n < len(frames):
            end = min(len(frames), acks.n + n_under_way)
            if n_sent < end:
                link.sendall(b"".join(frames[n_sent:end]))
                n_sent = end
            acks.read()
        return time.perf_counter() - started
