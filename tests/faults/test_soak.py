"""Eight publishers and eight subscriptions at once: memory and descriptors stay flat. 10 minutes by `make soak`.

Two more publishers and four more subscriptions have a packed stream.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import eda
from helpers import until
from leaks import resident

SOAK_S = float(os.environ.get("EDA_SOAK_S") or 6)
RATE = 100  # events per second of each publisher
MAX_GROWTH = 24 * 2**20  # what allocators and caches may still come to; 10 minutes are 600,000 events
PACK = eda.Pack(max_events=16, linger_s=0.02)
PUBLISHERS: list[tuple[str, str]] = [("stream", "fast"), ("stream", "window")] * 4
PUBLISHERS += [("packed", "fast"), ("packed", "window")]
N_EACH = {stream: sum(each == stream for each, _ in PUBLISHERS) for stream in ("stream", "packed")}

KEPT: dict[str, Any] = {"durable": True, "backfill": True}
KINDS: list[dict[str, Any]] = [
    KEPT,
    KEPT | {"concurrency": 8},
    KEPT | {"batch": 50},
    KEPT | {"serial": True},
    KEPT | {"serial": "strict"},
    KEPT | {"key": "aggregate", "concurrency": 8},
    KEPT | {"exclusive": True, "batch": 20},
    {"backfill": True},
]
SUBSCRIPTIONS = [("stream", options) for options in KINDS]
SUBSCRIPTIONS += [("packed", KINDS[kind]) for kind in (0, 3, 5, 6)]


class Counter:
    """Counts what a subscription handles in a place of fixed size: one byte for each event of the stream.

    `n_messages`: how many messages the stream may get; `n_events`: how many events each may have.
    """

    def __init__(self, n_messages: int, n_events: int) -> None:
        self.seen = bytearray(b"\0") * (n_messages * n_events)  # written to, so that its memory is there from the start
        self.n_events = n_events
        self.n = self.n_again = 0

    def __call__(self, what: eda.Event | list[eda.Event]) -> None:
        for event in what if isinstance(what, list) else [what]:
            place = event.sequence * self.n_events + event.index
            if self.seen[place]:
                self.n_again += 1
            else:
                self.seen[place] = 1
                self.n += 1


def counter_of(stream: str) -> Counter:
    n_sent = int(2 * N_EACH[stream] * RATE * SOAK_S)
    # The publishers send ten events at a time, so that many are in a pack.
    return Counter(n_sent // 10 + 10_000, PACK.max_events) if stream == "packed" else Counter(n_sent + 10_000, 1)


def n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
async def test_soak_when_eight_publishers_and_eight_subscriptions_run_stays_flat(
    own_server: eda.EmbeddedServer, report: Callable[[Mapping[str, object]], None]
) -> None:
    """Each subscription on a connection of its own. Nothing comes twice, and all that is stored comes."""
    n_acked = dict.fromkeys(N_EACH, 0)
    sizes: list[int] = []
    descriptors: list[int] = []

    async def publish(conn: eda.Conn, stream: str, mode: Any, until_s: float) -> None:
        def on_ack(event_id: str, sequence: int) -> None:
            n_acked[stream] += 1

        pack = PACK if stream == "packed" else None
        async with conn.publisher(stream, pack=pack, mode=mode, on_ack=on_ack) as publisher:
            number = 0
            begin = time.monotonic()
            while time.monotonic() < until_s:
                number += 1
                await publisher.send(eda.Event(type="t", aggregate=str(number % 20), data=eda.Bytes(bytes(100))))
                await asyncio.sleep(max(0.0, begin + number / RATE - time.monotonic()) if number % 10 == 0 else 0)

    counters = [counter_of(stream) for stream, _ in SUBSCRIPTIONS]
    async with eda.connect(own_server.url, client="soak") as conn:
        for stream in N_EACH:
            await conn.streams.create(stream, eda.StreamOptions(packed=stream == "packed"))
        conns = [await eda.connect(own_server.url, client=f"soak-{i}") for i in range(len(SUBSCRIPTIONS))]
        try:
            for i, (each, (stream, options)) in enumerate(zip(conns, SUBSCRIPTIONS, strict=True)):
                name = {"name": f"s{i}"} if "durable" in options else {}
                await each.subscribe(stream, counters[i], **options, **name)
            end = time.monotonic() + SOAK_S
            async with asyncio.TaskGroup() as group:
                for each, (stream, mode) in zip(conns, PUBLISHERS, strict=False):
                    group.create_task(publish(each, stream, mode, end))
                while time.monotonic() < end:
                    await asyncio.sleep(min(1.0, SOAK_S / 20))
                    gc.collect()
                    sizes.append(resident())
                    descriptors.append(n_descriptors())
            n_messages = {stream: (await conn.streams.info(stream)).events for stream in N_EACH}
            assert n_messages["stream"] == n_acked["stream"]
            assert n_messages["packed"] <= n_acked["packed"] / 4
            wanted = [n_acked[stream] for stream, _ in SUBSCRIPTIONS]
            await until(lambda: [counter.n for counter in counters] == wanted, 30)
            assert [counter.n_again for counter in counters] == [0] * len(counters)
        finally:
            for each in conns:
                await each.close()
    # The first fifth fills buffers and caches.
    settled = len(sizes) // 5
    growth = max(sizes[settled:]) - sizes[settled]
    report(
        n_acked
        | {"packs": n_messages["packed"], "seconds": round(SOAK_S), "growth KiB": growth // 1024}
        | {"of": f"{sizes[settled] >> 10} KiB"}
        | {"descriptors": f"{min(descriptors[settled:])} to {max(descriptors[settled:])}"}
    )
    assert growth < MAX_GROWTH
    assert max(descriptors[settled:]) == min(descriptors[settled:])
