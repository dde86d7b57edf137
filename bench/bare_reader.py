"""The limit of consuming: a bare socket that pulls and acknowledges, and decodes nothing."""

from __future__ import annotations

import json
import statistics
import time

import bare
import eda

__all__ = ["delivery_latency_us", "read_s"]

PREFETCH = 4096
PULL = PREFETCH // 4
INBOX = b"_INBOX.reader000000000000000000."


class _Reader:
    """A consumer's deliveries on one socket, with credit kept ahead of them as our subscriptions do."""

    def __init__(self, server: eda.EmbeddedServer, stream: str, consumer: str) -> None:
        self.link = bare.connect(server)
        self.pull_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}".encode()
        self.n = 0
        self.rest = b""
        self.last = b""
        self.link.sendall(b"SUB %s* 1\r\n" % INBOX)

    def pull(self, n: int) -> bytes:
        body = json.dumps({"batch": n, "expires": 30_000_000_000}).encode()
        return b"PUB %s %s1 %d\r\n%s\r\n" % (self.pull_subject, INBOX, len(body), body)

    def take(self) -> list[bytes]:
        """Receive once; returns the acknowledgement subjects of the messages that came."""
        data = self.rest + self.link.recv(262_144)
        replies = []
        at = 0
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            line = data[at:end].split(b" ")
            after = end + 2
            if line[0] in (b"HMSG", b"MSG"):
                after += int(line[-1]) + 2
                if after > len(data):
                    break
                if line[3].startswith(b"$JS.ACK."):
                    replies.append(line[3])
            at = after
        self.rest = data[at:]
        return replies


def read_s(server: eda.EmbeddedServer, stream: str, consumer: str, n_events: int) -> float:
    """Pull and acknowledge all events; returns the seconds until the last acknowledgement is confirmed."""
    reader = _Reader(server, stream, consumer)
    with reader.link as link:
        started = time.perf_counter()
        link.sendall(reader.pull(PREFETCH))
        n = asked = 0
        while n < n_events:
            replies = reader.take()
            n += len(replies)
            asked += len(replies)
            answer = b"".join([b"PUB %s 0\r\n\r\n" % reply for reply in replies])
            while asked >= PULL:
                answer += reader.pull(PULL)
                asked -= PULL
            link.sendall(answer)
        # For an event that is acknowledged already this does nothing but answer.
        link.sendall(b"PUB %s %sdone 4\r\n+WPI\r\n" % (replies[-1], INBOX))
        answer = b""
        while b"done" not in answer:
            answer += link.recv(65_536)
        return time.perf_counter() - started


def delivery_latency_us(server: eda.EmbeddedServer, stream: str, consumer: str, frames: list[bytes]) -> float:
    """Publish each frame on one socket, wait for it on another; returns the median microseconds."""
    reader = _Reader(server, stream, consumer)
    took = []
    with reader.link as link, bare.connect(server) as out:
        link.sendall(reader.pull(PREFETCH))
        out.sendall(b"SUB _INBOX.nobody.* 1\r\n")
        time.sleep(0.05)
        for frame in frames:
            started = time.perf_counter_ns()
            out.sendall(frame)
            while not (replies := reader.take()):
                pass
            took.append(time.perf_counter_ns() - started)
            link.sendall(b"".join([b"PUB %s 0\r\n\r\n" % reply for reply in replies]))
            out.recv(65_536)
            time.sleep(0.0002)  # an idle system: everybody sleeps before the next one
    return statistics.median(took) / 1000
