"""Benchmarks on a real server, by wing, beside a bare socket and nats-py; and what they share."""

from __future__ import annotations

import asyncio
import resource

import eda

__all__ = ["N_AT_ONCE", "delete", "fill", "make_event", "rss_mb"]

PAYLOAD = bytes(range(128))
N_AT_ONCE = 1000


def make_event(n: int = 0) -> eda.Event:
    return eda.Event(type="reading-recorded", aggregate=f"sensor-{n % 1000}", data=eda.Bytes(PAYLOAD))


async def fill(server: eda.EmbeddedServer, stream: str, n: int) -> None:
    async with eda.connect(server.url) as conn:
        for begin in range(0, n, N_AT_ONCE):
            await asyncio.gather(
                *[conn.publish(stream, make_event(i)) for i in range(begin, min(begin + N_AT_ONCE, n))]
            )


def delete(server: eda.EmbeddedServer, stream: str) -> None:
    async def run() -> None:
        async with eda.connect(server.url) as conn:
            await conn.streams.delete(stream)

    asyncio.run(run())


def rss_mb() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 1e6
