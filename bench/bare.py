"""A bare socket: what the server allows a client that does nothing but send and receive bytes."""

from __future__ import annotations

import socket
import statistics
import time

import eda
from eda._event import Event
from eda.publishing._stream_sender import Destination, frame_of

__all__ = ["connect", "publish_latency_us", "publish_times_ns"]


def connect(server: eda.EmbeddedServer) -> socket.socket:
    """Connect and log in."""
    link = socket.create_connection(("127.0.0.1", server.port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.recv(65536)
    link.sendall(
        b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"auth_token":"%s"}\r\nPING\r\n'
        % server.token.encode()
    )
    answer = b""
    while b"PONG\r\n" not in answer:
        answer += link.recv(65536)
    return link


def publish_latency_us(server: eda.EmbeddedServer, stream: str, events: list[Event]) -> float:
    """Send each event's frame, wait for its acknowledgement; returns the median microseconds."""
    return statistics.median(publish_times_ns(server, stream, events)) / 1000


def publish_times_ns(server: eda.EmbeddedServer, stream: str, events: list[Event]) -> list[int]:
    """The same; returns the nanoseconds of each."""
    target = Destination(stream, 1 << 20)
    inbox = b"_INBOX.bare0000000000000000000."
    frames = [frame_of(target, event, inbox, seq) for seq, event in enumerate(events, 1)]
    took = []
    with connect(server) as link:
        link.sendall(b"SUB %s* 1\r\nPING\r\n" % inbox)
        link.recv(65536)
        for frame in frames:
            started = time.perf_counter_ns()
            link.sendall(frame)
            answer = link.recv(65536)
            while not answer.endswith(b"}\r\n"):
                answer += link.recv(65536)
            took.append(time.perf_counter_ns() - started)
    return took
