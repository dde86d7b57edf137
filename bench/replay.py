"""The limit: a bare socket that sends the very bytes our publisher sends, under the same flow control."""

from __future__ import annotations

import select
import time

import bare
import eda
from eda._event import Event
from eda.publishing._packing_core import PackingCore
from eda.publishing._publisher_core import PublisherCore
from eda.publishing._stream_sender import Destination
from eda.transport._outbound import Outbound

__all__ = ["FLOW", "IN_FLIGHT", "Recording", "record", "record_packs", "replay_s"]

FLOW = 500
IN_FLIGHT = 4000
INBOX = b"_INBOX.replay00000000000000000."


class _Nobody:
    """The host of an PublisherCore that is only recorded."""

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


class Recording:
    """What a publisher writes for some events: the bytes, and where each message's frame ends."""

    def __init__(self, data: bytes, ends: list[int], *, fast: bool) -> None:
        self.data = data
        self.ends = ends
        self.fast = fast


def record(stream: str, events: list[Event], *, fast: bool, dedup: bool) -> Recording:
    """Have our publisher's own core write the events into memory."""
    options = {"dedup": dedup, "wants_acks": False, "max_bytes": 1 << 40, "give_up_s": 3600.0}
    out = Outbound(lambda: None)
    target = Destination(stream, 1 << 20)
    core = PublisherCore(_Nobody(), out, target, INBOX, "bench", max_pending=len(events) + 1, **options)
    return _recorded(core, out, events, fast=fast)


def record_packs(stream: str, events: list[Event], pack: eda.Pack) -> Recording:
    """Have the core of a publisher with packs write the events into memory, as fast ingest."""
    options = {"dedup": True, "wants_acks": False, "max_bytes": 1 << 40, "give_up_s": 3600.0}
    out = Outbound(lambda: None)
    core = PackingCore(
        _Nobody(), out, Destination(stream, 1 << 20), INBOX, "bench", max_events=pack.max_events,
        max_pack_bytes=pack.max_bytes, max_pending=len(events) + 1, **options,
    )  # fmt: skip
    return _recorded(core, out, events, fast=True)


def _recorded(core: PublisherCore, out: Outbound, events: list[Event], *, fast: bool) -> Recording:
    written: list[bytes] = []
    out.set_write(written.append)
    if fast:
        core.begin_batch(b"batch", FLOW)
    else:
        core.use_window_mode()
    core.set_limit(len(events) + 1)
    core.start_writing()
    ends = []
    size = 0
    taken = 0
    for event in events:
        core.accept(event)
        while taken < len(written):
            size += len(written[taken])
            taken += 1
        if size + out.size > (ends[-1] if ends else 0):
            ends.append(size + out.size)
    core.close_pack()
    out.flush()
    data = b"".join(written)
    if ends[-1] < len(data):
        ends.append(len(data))
    if fast:
        # The first event of a batch starts it.
        data = data.replace(b".1.1.$FI ", b".1.0.$FI ", 1)
    return Recording(data, ends, fast=fast)


def replay_s(server: eda.EmbeddedServer, recording: Recording) -> float:
    """Send it all, never more than IN_FLIGHT events ahead of the acknowledgements; returns the seconds it took."""
    data = memoryview(recording.data)
    ends = recording.ends
    n = len(ends)
    with bare.connect(server) as link:
        link.sendall(b"SUB %s> 1\r\nPING\r\n" % INBOX)
        link.recv(65536)
        started = time.perf_counter()
        # The answer to the first message of a batch comes before the rest is sent.
        sent = 1 if recording.fast else 0
        link.sendall(data[: ends[0]] if sent else b"")
        if sent:
            link.recv(65536)
        acknowledged = 0
        rest = b""
        link.setblocking(False)
        begin = ends[sent - 1] if sent else 0
        while acknowledged < (n - n % FLOW if recording.fast else n):
            allowed = min(n, acknowledged + IN_FLIGHT)
            end = ends[allowed - 1]
            readable, writable, _ = select.select([link], [link] if begin < end else [], [])
            if writable:
                begin += link.send(data[begin : min(end, begin + 262_144)])
            if readable:
                rest += link.recv(262_144)
                whole, _, rest = rest.rpartition(b"}\r\n")
                if not whole:
                    continue
                if recording.fast:
                    acknowledged = int(whole.rpartition(b'"seq":')[2].partition(b",")[0])
                else:
                    acknowledged += whole.count(b'"seq":')
        return time.perf_counter() - started
