"""A full window of a publisher, by count or bytes: which senders wait, and how much memory is used."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator

import pytest

import eda
from helpers import Connect, until
from leaks import resident
from support.publishing.sent import MODES, MODES_AND_PACKS, Outcomes, numbered, options_of, stored_ids
from support.transport.faulty_proxy import FaultyProxy

both = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
async def proxy(server: eda.EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(server.port) as proxy:
        yield proxy


@both
@pytest.mark.parametrize("max_pending", [1, 4, 7, 100])
async def test_send_when_the_window_is_small_never_holds_more(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str, max_pending: int
) -> None:
    outcomes = Outcomes()
    wanted = mode if max_pending >= 4 else "auto"
    async with asyncio.timeout(20):
        async with conn.publisher(stream, mode=wanted, max_pending=max_pending, **outcomes.callbacks) as pub:
            most, ids = 0, []
            for event in numbered(500):
                ids.append(await pub.send(event))
                most = max(most, pub.stats().pending)
            ids += await pub.send_many(numbered(500, start=500))
            await pub.flush()
            assert pub.stats().mode == (mode if max_pending >= 4 else "window")
    assert most == max_pending
    outcomes.check(ids, await stored_ids(server.url, stream), pub.stats())


@both
async def test_send_when_the_window_is_full_suspends_its_caller_and_nobody_else(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    other = await connect()
    async with conn.publisher(stream, mode=mode, max_pending=100, ack_timeout_s=30) as pub:
        await pub.send(eda.Event(id="first"))
        await pub.flush()
        proxy.hold()
        sending = asyncio.create_task(pub.send_many(numbered(300)))
        await until(lambda: pub.stats().pending == 100)
        n = 0
        for _ in range(20):
            await other.publish(stream, eda.Event(id=f"other-{n}"))
            n += 1
        assert not sending.done()
        assert pub.stats().sent == 101
        proxy.release()
        ids = await asyncio.wait_for(sending, 10)
        await asyncio.wait_for(pub.flush(), 10)
    stored = await stored_ids(server.url, stream)
    assert [each for each in stored if not each.startswith("other")] == ["first", *ids]


@both
async def test_send_when_the_window_has_its_bytes_waits(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    async with conn.publisher(stream, mode=mode, max_pending_bytes=100_000, ack_timeout_s=30) as pub:
        await pub.send(eda.Event(id="first"))
        await pub.flush()
        proxy.hold()
        sending = asyncio.create_task(pub.send_many(numbered(100, size=10_000)))
        await until(lambda: pub.stats().pending_bytes >= 100_000)
        await asyncio.sleep(0)
        assert pub.stats().pending == 10
        assert pub.stats().pending_bytes < 115_000
        proxy.release()
        await asyncio.wait_for(sending, 10)
        await asyncio.wait_for(pub.flush(), 10)
        assert pub.stats().pending_bytes == 0


@both
@pytest.mark.parametrize("max_pending_bytes", [1, 1000, 60_000])
async def test_send_when_events_are_larger_than_the_window_sends_them_one_by_one(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str, max_pending_bytes: int
) -> None:
    outcomes = Outcomes()
    async with asyncio.timeout(20):
        async with conn.publisher(stream, mode=mode, max_pending_bytes=max_pending_bytes, **outcomes.callbacks) as pub:
            ids = await pub.send_many(numbered(60, size=70_000))
            for event in numbered(60, start=60, size=70_000):
                ids.append(await pub.send(event))
                assert pub.stats().pending == 1
    outcomes.check(ids, await stored_ids(server.url, stream), pub.stats())


@both
async def test_send_when_sizes_vary_wildly_keeps_going(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    chance = random.Random(mode)
    events = [
        eda.Event(id=f"e{i}", data=eda.Bytes(bytes(chance.choice((0, 10, 1000, 30_000, 200_000))))) for i in range(600)
    ]
    async with asyncio.timeout(20):
        async with conn.publisher(stream, mode=mode, max_pending=50, max_pending_bytes=300_000) as pub:
            ids = [await pub.send(event) for event in events]
    assert await stored_ids(server.url, stream) == ids


@both
async def test_send_when_many_tasks_wait_takes_them_in_the_order_of_their_calls(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    async with asyncio.timeout(20):
        async with conn.publisher(stream, mode=mode, max_pending=20) as pub:
            tasks = []
            for i, event in enumerate(numbered(2000)):
                tasks.append(asyncio.create_task(pub.send(event)))
                if i % 7 == 0:
                    await asyncio.sleep(0)
            ids = await asyncio.gather(*tasks)
    assert await stored_ids(server.url, stream) == ids


@both
async def test_send_when_cancelled_while_it_waits_takes_nothing_of_it(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    async with conn.publisher(stream, mode=mode, max_pending=40, ack_timeout_s=30) as pub:
        await pub.send(eda.Event(id="first"))
        await pub.flush()
        proxy.hold()
        taken: list[str] = []

        async def send_all(events: list[eda.Event]) -> None:
            for event in events:
                taken.append(await pub.send(event))

        tasks = [asyncio.create_task(send_all(numbered(30, start=i * 30))) for i in range(4)]
        many = asyncio.create_task(pub.send_many(numbered(30, start=200)))
        await until(lambda: pub.stats().pending == 40)
        for task in (tasks[2], many, tasks[0], tasks[1]):
            task.cancel()
        await asyncio.sleep(0.02)
        assert pub.stats().sent == 41 == len(taken) + 1
        proxy.release()
        await asyncio.wait_for(tasks[3], 10)
        await asyncio.wait_for(pub.flush(), 10)
        await asyncio.gather(*tasks, many, return_exceptions=True)
    assert await stored_ids(server.url, stream) == ["first", *taken]
    assert len(taken) == 40 + 30


@pytest.mark.parametrize("mode", MODES_AND_PACKS)
async def test_send_when_there_are_many_events_keeps_memory_flat(conn: eda.Conn, stream: str, mode: str) -> None:
    options = eda.StreamOptions(storage="memory", max_events=1000, packed="packs" in mode)
    await conn.streams.create(stream, options)
    async with asyncio.timeout(60):
        async with conn.publisher(
            stream, **options_of(mode), max_pending=4096, on_ack=lambda event_id, sequence: None
        ) as pub:
            data = eda.Bytes(bytes(128))
            sizes = []
            for _ in range(6):
                for _ in range(50_000):
                    await pub.send(eda.Event(type="t", data=data))
                await pub.flush()
                gc.collect()
                sizes.append(resident())
    assert sizes[-1] - sizes[1] < 4 * 2**20, [size // 2**20 for size in sizes]
