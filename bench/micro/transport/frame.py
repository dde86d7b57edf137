"""Taking inbound bytes apart, in reads of several sizes, beside nats-py's parser."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nats.protocol.parser import Parser as NatsParser

from eda._nuid import next_nuid
from eda.transport._frame import Collector, Parser
from micro import Maker, Round
from micro.codec import ENVELOPE

__all__ = ["CONTENDERS", "N_FRAMES", "READ_SIZES"]

N_FRAMES = 200
# One frame in several reads, some in one, and as much as a transport reads at once.
READ_SIZES = (256, 4096, 65_536)

Frames = list[tuple[bytes, bytes, bytes, bytes]]


def delivery(n: int) -> bytes:
    """Return a consumer's delivery as the server writes it."""
    headers = b"NATS/1.0\r\nNats-Msg-Id: %s\r\n\r\n" % next_nuid().encode()
    reply = b"$JS.ACK.readings.billing.1.%d.%d.1790000000123456789.%d" % (n, n, N_FRAMES - n)
    sizes = b"%d %d" % (len(headers), len(headers) + len(ENVELOPE))
    return b"HMSG readings.reading-recorded.sensor-17 1 %s %s\r\n%s%s\r\n" % (reply, sizes, headers, ENVELOPE)


DATA = b"".join(delivery(n) for n in range(1, N_FRAMES + 1))


def reads(size: int) -> list[bytes]:
    return [DATA[at : at + size] for at in range(0, len(DATA), size)]


def eda_parse(size: int) -> Round:
    """Subject, reply subject, headers and payload of each frame as bytes objects, as nats-py has them."""
    parser = Parser()

    def run(chunks: list[bytes] = reads(size)) -> Frames:  # noqa: B008
        sink = Collector()
        parser.register(1, sink)
        for chunk in chunks:
            # As a transport does it, but that the system writes into the room.
            parser.room()[: len(chunk)] = chunk
            parser.received(len(chunk))
        return sink.frames

    return Round(run, N_FRAMES)


class _Client:
    """The client of nats-py's parser: keeps what it is given."""

    def __init__(self) -> None:
        self.frames: Frames = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self.frames.append((subject, reply, headers, payload))


def nats_parse(size: int) -> Round:
    """Its coroutine never suspends here, so it is run without a loop, which costs it least."""
    client = _Client()
    parser = NatsParser(client)  # type: ignore[no-untyped-call]

    def run(chunks: list[bytes] = reads(size)) -> Frames:  # noqa: B008
        client.frames = []
        for chunk in chunks:
            try:
                parser.parse(chunk).send(None)  # type: ignore[no-untyped-call]
            except StopIteration:
                continue
            raise AssertionError("nats-py's parser waits for something")
        return client.frames

    return Round(run, N_FRAMES)


def _named() -> dict[str, Maker]:
    contenders: tuple[Callable[[int], Any], ...] = (eda_parse, nats_parse)
    return {f"{maker.__name__}_{size}": partial(maker, size) for size in READ_SIZES for maker in contenders}


CONTENDERS = _named()
