"""Shared subscriptions: what is held stays theirs, and no more is held than is worked on soon."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import eda
from helpers import N_QUICK, Admin, Connect, Proxy, until

TEAM: dict[str, Any] = {"name": "team", "durable": True, "backfill": True}


async def publish(conn: eda.Conn, stream: str, n: int) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event() for _ in range(n)])


async def test_lease_when_many_are_held_by_a_slow_handler_is_never_lost(
    conn: eda.Conn, stream: str, admin: Admin, short_lease: float
) -> None:
    """With a lease of 1 s and half a second for each event. First it is quick, so that it holds a thousand."""
    await publish(conn, stream, N_QUICK + 1024)
    seen: list[tuple[int, int]] = []

    async def handle(event: eda.Event) -> None:
        seen.append((event.sequence, event.attempt))
        if event.sequence > N_QUICK:
            await asyncio.sleep(0.5 * short_lease)

    async with conn.subscribe(stream, handle, prefetch=1024, **TEAM) as subscription:
        await until(lambda: subscription.stats().buffered > 700)
        await asyncio.sleep(3 * short_lease)
        assert subscription.stats().buffered > 700
        assert subscription.stats().redelivered == 0
        assert (await admin.consumer(stream, "team"))["num_redelivered"] == 0
    assert seen == [(sequence, 1) for sequence in range(1, len(seen) + 1)]


async def test_lease_when_prefetch_is_large_and_the_handler_slow_holds_a_few_for_others(
    connect: Connect, stream: str, admin: Admin
) -> None:
    """With the real lease: what half a second's handler holds is a second's work and no more."""
    first, second = await connect(), await connect()
    await publish(first, stream, 200)
    seen: list[list[int]] = [[], []]

    async def handle(event: eda.Event, mine: list[int]) -> None:
        await asyncio.sleep(0.1)
        mine.append(event.sequence)

    one = await first.subscribe(stream, lambda event: handle(event, seen[0]), prefetch=1024, **TEAM)
    await until(lambda: len(seen[0]) >= 5)
    two = await second.subscribe(stream, lambda event: handle(event, seen[1]), prefetch=1024, **TEAM)
    for _ in range(8):
        await asyncio.sleep(0.1)
        for each in (one, two):
            assert each.stats().buffered + each.stats().in_flight <= 12
    n = len(seen[0])
    await until(lambda: len(seen[0]) + len(seen[1]) >= 45)
    # From when both were there, each had its share.
    assert abs((len(seen[0]) - n) - (len(seen[1]) - 8)) <= 6 + 8
    assert (await admin.consumer(stream, "team"))["num_redelivered"] == 0
    await asyncio.gather(one.close(), two.close())


async def test_members_when_their_options_differ_leave_the_consumer_as_it_is(
    connect: Connect, stream: str, admin: Admin
) -> None:
    conns = [await connect() for _ in range(3)]
    await publish(conns[0], stream, 100)
    seen: Counter[int] = Counter()

    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(0.001)
        seen[event.sequence] += 1

    first = await conns[0].subscribe(stream, handle, **TEAM)
    before = await admin.consumer(stream, "team")
    options: list[dict[str, Any]] = [
        {"prefetch": 16, "timeout_s": 0.5},
        {"prefetch": 60_000, "timeout_s": 300.0, "concurrency": 8, "retry": eda.Retry(max_attempts=3)},
    ]
    others = [
        await conn.subscribe(stream, handle, **(TEAM | each)) for conn, each in zip(conns[1:], options, strict=True)
    ]
    assert (await admin.consumer(stream, "team"))["config"] == before["config"]
    await until(lambda: len(seen) == 100)
    for each in (first, *others):
        await each.close()
    after = await admin.consumer(stream, "team")
    assert after["config"] == before["config"]
    assert after["created"] == before["created"]
    assert set(seen.values()) == {1}


async def test_lease_when_a_member_is_cut_off_is_over_after_its_time(
    server: eda.EmbeddedServer, connect: Connect, stream: str, short_lease: float
) -> None:
    async with Proxy(server.port) as proxy:
        conn, other = await connect(proxy.url(server.url)), await connect()
        await publish(other, stream, 8)
        release = asyncio.Event()
        subscription = await conn.subscribe(stream, lambda event: release.wait(), **TEAM)
        await until(lambda: subscription.stats().buffered == 7)
        seen: list[tuple[int, int]] = []
        async with other.subscribe(stream, lambda event: seen.append((event.sequence, event.attempt)), **TEAM):
            await asyncio.sleep(1.5 * short_lease)
            assert not seen
            proxy.refusing = True
            proxy.drop()
            begin = time.monotonic()
            await until(lambda: len(seen) == 8)
            assert time.monotonic() - begin < 8 * short_lease
        assert sorted(seen) == [(sequence, 2) for sequence in range(1, 9)]
        release.set()
        proxy.refusing = False
        await conn.close()
