"""Eight publishers and eight subscriptions at once: memory and descriptors stay flat. 10 minutes by `make soak`."""

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
N_EACH = 8
MAX_GROWTH = 24 * 2**20  # what allocators and caches may still come to; 10 minutes are 480,000 events

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


class Counter:
    """Counts what a subscription handles in a place of fixed size: one byte for each event of the stream."""

    def __init__(self, n_places: int) -> None:
        self.seen = bytearray(b"\0") * n_places  # written to, so that its memory is there from the start
        self.n = self.n_again = 0

    def __call__(self, what: eda.Event | list[eda.Event]) -> None:
        for event in what if isinstance(what, list) else [what]:
            if self.seen[event.sequence]:
                self.n_again += 1
            else:
                self.seen[event.sequence] = 1
                self.n += 1


def n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
async def test_soak_when_eight_publishers_and_eight_subscriptions_run_stays_flat(
    own_server: eda.EmbeddedServer, report: Callable[[Mapping[str, object]], None]
) -> None:
    """Each subscription on a connection of its own. Nothing comes twice, and all that is stored comes."""
    n_acked = 0
    sizes: list[int] = []
    descriptors: list[int] = []

    def on_ack(event_id: str, sequence: int) -> None:
        nonlocal n_acked
        n_acked += 1

    async def publish(conn: eda.Conn, mode: Any, until_s: float) -> None:
        async with conn.publisher("stream", mode=mode, on_ack=on_ack) as publisher:
            number = 0
            begin = time.monotonic()
            while time.monotonic() < until_s:
                number += 1
                await publisher.send(eda.Event(type="t", aggregate=str(number % 20), data=eda.Bytes(bytes(100))))
                await asyncio.sleep(max(0.0, begin + number / RATE - time.monotonic()) if number % 10 == 0 else 0)

    counters = [Counter(int(2 * N_EACH * RATE * SOAK_S) + 10_000) for _ in KINDS]
    async with eda.connect(own_server.url, client="soak") as conn:
        await conn.streams.create("stream")
        conns = [await eda.connect(own_server.url, client=f"soak-{i}") for i in range(N_EACH)]
        try:
            for i, (each, options) in enumerate(zip(conns, KINDS, strict=True)):
                name = {"name": f"s{i}"} if "durable" in options else {}
                await each.subscribe("stream", counters[i], **options, **name)
            end = time.monotonic() + SOAK_S
            async with asyncio.TaskGroup() as group:
                for i, each in enumerate(conns):
                    group.create_task(publish(each, ("fast", "window")[i % 2], end))
                while time.monotonic() < end:
                    await asyncio.sleep(min(1.0, SOAK_S / 20))
                    gc.collect()
                    sizes.append(resident())
                    descriptors.append(n_descriptors())
            stored = (await conn.streams.info("stream")).events
            assert stored == n_acked
            await until(lambda: all(counter.n == stored for counter in counters), 30)
            assert [counter.n_again for counter in counters] == [0] * len(counters)
        finally:
            for each in conns:
                await each.close()
    # The first fifth fills buffers and caches.
    settled = len(sizes) // 5
    growth = max(sizes[settled:]) - sizes[settled]
    report(
        {"events": stored, "seconds": round(SOAK_S), "growth KiB": growth // 1024, "of": f"{sizes[settled] >> 10} KiB"}
        | {"descriptors": f"{min(descriptors[settled:])} to {max(descriptors[settled:])}"}
    )
    assert growth < MAX_GROWTH
    assert max(descriptors[settled:]) == min(descriptors[settled:])
