"""Publishing packs without a server: events into packs and the buffer, beside Event() and encoding alone."""

from __future__ import annotations

from typing import Any

from eda._codec import encode_event
from eda._data import Bytes
from eda._event import Event
from eda._nuid import next_nuid
from eda.publishing._packing_core import PackingCore
from eda.publishing._publisher_core import PublisherCore
from eda.publishing._stream_sender import Destination
from eda.transport._frame import Parser
from eda.transport._outbound import Outbound
from micro import Maker, Round
from micro.codec import DATA
from micro.publishing.window import INBOX, N_EVENTS, STREAM, message

__all__ = ["CONTENDERS", "N_PACKED"]

N_PACKED = 1024  # events: eight packs
READY = [
    Event(type="reading-recorded", aggregate=f"sensor-{n}", data=Bytes(DATA), id=next_nuid(), client="bench", time=1)
    for n in range(N_PACKED)
]


class _Nobody:
    """The host of a core whose server is made up."""

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


def core_of(*, packed: bool) -> tuple[PublisherCore, Outbound]:
    out = Outbound(lambda: None)
    out.set_write(lambda _: None)
    options: dict[str, Any] = {"dedup": True, "wants_acks": False, "max_bytes": 1 << 30, "give_up_s": 30.0}
    target = Destination(STREAM, 1 << 20)
    if packed:
        return PackingCore(
            _Nobody(),
            out,
            target,
            INBOX,
            "bench",
            max_events=128,
            max_pack_bytes=1 << 16,
            max_pending=65_536,
            **options,
        ), out
    return PublisherCore(_Nobody(), out, target, INBOX, "bench", max_pending=4096, **options), out


def acknowledged(core: PublisherCore, out: Outbound, parser: Parser) -> int:
    """Acknowledge all that was written, and return what is still pending."""
    out.flush()
    n = core.n_in_batch
    reply = INBOX + b"batch.500.fail.%d.1.$FI" % n
    parser.feed(message(reply, b'{"type":"ack","seq":%d,"msgs":500}' % n))
    return core.n_accepted - core.n_acknowledged


def send_many(*, packed: bool) -> Round:
    """Ready-made events, fast ingest: what `send_many` does."""
    core, out = core_of(packed=packed)
    parser = Parser()
    parser.register(1, core)

    def run() -> int:
        core.begin_batch(b"batch", 500)
        core.start_writing()
        core.accept_many(READY, 0, [])
        core.close_pack()
        return acknowledged(core, out, parser)

    return Round(run, N_PACKED)


def packed_one_by_one() -> Round:
    """Each event is built, and accepted as `send` does it when the host has nothing to do."""
    core, out = core_of(packed=True)
    parser = Parser()
    parser.register(1, core)
    core.timer_runs = True

    def run() -> int:
        core.begin_batch(b"batch", 500)
        core.start_writing()
        for _ in range(N_PACKED):
            core.accept_if_flowing(Event(type="reading-recorded", data=Bytes(DATA)))
        core.close_pack()
        return acknowledged(core, out, parser)

    return Round(run, N_PACKED)


def event_and_encoding() -> Round:
    def run() -> int:
        for _ in range(N_EVENTS):
            encode_event(Event(type="reading-recorded", data=Bytes(DATA)))
        return 0

    return Round(run, N_EVENTS)


CONTENDERS: dict[str, Maker] = {
    "packed_send_many": lambda: send_many(packed=True),
    "unpacked_send_many": lambda: send_many(packed=False),
    "packed_one_by_one": packed_one_by_one,
    "event_and_encoding": event_and_encoding,
}
