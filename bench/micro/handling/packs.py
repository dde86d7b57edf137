"""From bytes to the handler, without a server: the events of packs beside the same events in messages of their own."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import eda
from eda._codec import encode_event
from eda._nuid import next_nuid
from micro import Maker, Round
from micro.handling.dispatch import N_DISPATCH, STREAM, dispatched, frames_of, handle, make_event
from support.packs import pack_of

__all__ = ["CONTENDERS", "N_PACKS"]

N_PACKS = 8

KINDS: dict[str, dict[str, Any]] = {
    "lists": {"ordered": True, "batch": 500, "linger_s": 0.0},
    "shared": {},
    "serial": {"ordered": True, "serial": True},
    "key": {"ordered": True, "key": "aggregate"},
}


def handle_list(events: list[eda.Event]) -> None:
    for event in events:
        _ = event.type, event.data


def frames_of_packs(events: list[eda.Event]) -> bytes:
    """Return deliveries of N_PACKS packs as the server writes them, numbered from 1."""
    frames = []
    n = len(events) // N_PACKS
    for seq in range(1, N_PACKS + 1):
        pack = pack_of(
            event.replace(id=next_nuid(), client="bench", time=time.time_ns())
            for event in events[(seq - 1) * n : seq * n]
        )
        reply = b"$JS.ACK.%s.me.1.%d.%d.%d.0" % (STREAM.encode(), seq, seq, time.time_ns())
        headers = b"NATS/1.0\r\nNats-Msg-Id: %s\r\nEda-Pack: %d\r\n\r\n" % (next_nuid().encode(), n)
        sizes = b"%d %d" % (len(headers), len(headers) + len(pack))
        subject = f"{STREAM}.{events[0].type}.%pack".encode()
        frames.append(b"HMSG %s 1 %s %s\r\n%s%s\r\n" % (subject, reply, sizes, headers, pack))
    return b"".join(frames)


def contender(kind: str, *, packed: bool) -> Round:
    events = [make_event(n) for n in range(N_DISPATCH)]
    data = frames_of_packs(events) if packed else frames_of(events)
    return dispatched(handle_list if "batch" in KINDS[kind] else handle, data, **KINDS[kind])


def envelopes() -> Round:
    """What each event takes for its envelope to be read, and its type and data."""
    from eda._codec import decode_event

    ready = [encode_event(make_event(n), next_nuid(), "bench", time.time_ns()) for n in range(N_DISPATCH)]

    def run() -> int:
        for each in ready:
            event = decode_event(each)
            _ = event.type, event.data
        return 0

    return Round(run, N_DISPATCH)


CONTENDERS: dict[str, Maker] = {
    f"{prefix}_{kind}": partial(contender, kind, packed=prefix == "packed")
    for kind in KINDS
    for prefix in ("packed", "unpacked")
} | {"envelopes": envelopes}
