"""Many events through one subscription: memory stays flat, nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from helpers import Admin, until
from leaks import resident

N = 200_000


async def fill(conn: eda.Conn, stream: str, n: int) -> None:
    event = eda.Event(type="reading-recorded", aggregate="meter-1", data=eda.Bytes(bytes(128)))
    for _ in range(n // 2000):
        await asyncio.gather(*(conn.publish(stream, event) for _ in range(2000)))


@pytest.mark.parametrize("is_async", [True, False], ids=["async handler", "plain handler"])
async def test_memory_when_many_events_pass_is_flat(conn: eda.Conn, stream: str, admin: Admin, is_async: bool) -> None:
    await fill(conn, stream, N // 4)
    seen = bytearray(N + 1)
    most = n_done = 0

    def note(event: eda.Event) -> None:
        nonlocal n_done
        seen[event.sequence] += 1
        n_done += len(event.type) > 0 and len(event.data.encode()) == 128

    async def note_later(event: eda.Event) -> None:
        await asyncio.sleep(0)
        note(event)

    async def pass_through(begin: int, end: int) -> None:
        nonlocal most
        handler: Any = note_later if is_async else note
        options: dict[str, Any] = {"start": begin + 1, "name": f"me-{begin}", "concurrency": 8}
        async with conn.subscribe(stream, handler, **options) as subscription:
            while n_done < end:
                most = max(most, resident())
                assert subscription.stats().buffered <= 4096
                await asyncio.sleep(0.02)
        assert (await admin.consumer(stream, f"me-{begin}"))["num_ack_pending"] == 0

    await pass_through(0, N // 4)
    before, most = resident(), 0
    await fill(conn, stream, N - N // 4)
    await pass_through(N // 4, N)
    assert n_done == N
    assert seen == b"\0" + b"\1" * N
    # What a prefetch of events takes is there already; 150,000 events of 200 bytes are 30 MB.
    assert most - before < 12 * 2**20


async def test_subscription_when_publishing_goes_on_keeps_up(conn: eda.Conn, stream: str) -> None:
    seen: list[int] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), name="me"):
        await fill(conn, stream, 40_000)
        await until(lambda: len(seen) == 40_000)
    assert seen == list(range(1, 40_001))
