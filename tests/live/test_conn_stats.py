"""`conn.stats()` on a real server: what a connection has published and handled, whoever did it, open or closed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import eda
from eda.middleware.base import Middleware
from helpers import Connect, Logged, until


async def test_stats_when_events_were_published_in_all_ways_add_them_up(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream, eda.Event(type="a"))
    await conn.publish_batch(stream, [eda.Event(type="b"), eda.Event(type="b")])
    async with conn.publisher(stream, mode="window") as first:
        await first.send_many([eda.Event(type="c")] * 3)
    async with conn.publisher(stream, mode="fast", max_pending=100) as second:
        await second.send_many([eda.Event(type="d") for _ in range(5)])
        await second.flush()
        stats = conn.stats().publishers[stream]
        assert (stats.sent, stats.acknowledged, stats.failed, stats.pending) == (11, 11, 0, 0)
        assert (stats.open, stats.max_pending) == (1, 100)
        assert stats.publishing.count == 11
        assert stats.publishing.sum_s > 0
    closed = conn.stats().publishers[stream]
    assert (closed.acknowledged, closed.open, closed.max_pending, closed.publishing.count) == (11, 0, 0, 11)
    assert (await conn.streams.info(stream)).events == 11


async def test_stats_when_publishes_fail_count_them_by_their_errors(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.ConfigError):
        await conn.publish(stream, eda.Event(id="not an id"))  # refused before it is sent, so it does not count
    pub = await conn.publisher(stream, on_error=lambda event, error: None)
    await pub.send_many([eda.Event(type="a")] * 3)
    await pub.close()
    await conn.publish_batch(stream, [eda.Event(id="x", type="a")])
    with pytest.raises(eda.ServerError):
        await conn.publish_batch(stream, [eda.Event(id="x", type="a"), eda.Event(type="a")])
    stats = conn.stats().publishers[stream]
    assert (stats.sent, stats.acknowledged, stats.failed) == (6, 1, 5)
    assert stats.errors == {"eda.errors.Closed": 3, "eda.errors.ServerError": 2}


async def test_stats_of_packs_count_events(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    async with conn.publisher(stream, pack=eda.Pack(max_events=4)) as pub:
        await pub.send_many([eda.Event(type="a") for _ in range(10)])
        await pub.flush()
        async with conn.subscribe(stream, print, name="n", backfill=True) as sub:
            await until(lambda: sub.stats().handled == 10)
            stats = conn.stats()
    assert stats.publishers[stream].acknowledged == 10
    assert stats.publishers[stream].publishing.count == 10
    assert stats.subscriptions[stream, "n"].handled == 10
    assert stats.subscriptions[stream, "n"].handling.count == 10


@pytest.mark.parametrize("options", [{"name": "n"}, {"name": "n", "durable": True, "serial": True}], ids=str)
async def test_stats_of_subscriptions_add_up_those_of_one_name_and_keep_the_closed(
    conn: eda.Conn, stream: str, options: dict[str, Any], logged: Logged
) -> None:
    logged.allow("handler failed")
    failing = True

    def handle(event: eda.Event) -> None:
        if failing:
            raise ValueError("not yet")

    await conn.publish(stream, eda.Event(type="a"))
    retry = eda.Retry(initial_s=0.01, max_s=0.01)
    async with conn.subscribe(stream, handle, backfill=True, retry=retry, **options) as sub:
        await until(lambda: sub.stats().retried >= 2)
        failing = False
        await until(lambda: sub.stats().handled == 1)
        stats = conn.stats().subscriptions[stream, "n"]
        assert stats.retried == stats.failed == stats.errors["ValueError"]
        assert (stats.handling.count, stats.failing.count) == (1, stats.failed)
        assert (stats.open, stats.prefetch) == (1, 4096)
    closed = conn.stats().subscriptions[stream, "n"]
    assert (closed.handled, closed.failed, closed.open, closed.prefetch) == (1, stats.failed, 0, 0)
    assert not closed.active
    await conn.publish(stream, eda.Event(type="a"))
    async with conn.subscribe(stream, handle, backfill=True, **options) as again:
        await until(lambda: conn.stats().subscriptions[stream, "n"].handled >= 2)
        assert again.stats().handled >= 1


async def test_stats_of_private_subscriptions_are_under_one_name(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream, eda.Event(type="a"))
    for options in ({}, {"serial": True}, {}):
        async with conn.events(stream, backfill=True, **options) as events:  # type: ignore[arg-type]
            async for _ in events:
                break
    ((key, stats),) = conn.stats().subscriptions.items()
    assert key == (stream, "private")
    assert (stats.handled, stats.open) == (3, 0)


async def test_stats_after_reconnects_and_after_close_still_count(connect: Connect, logged: Logged) -> None:
    logged.allow("disconnected")
    server = eda.EmbeddedServer()
    await server.start()
    try:
        conn = await connect(server.url)
        assert conn.stats().reconnects == 0
        await conn.publish("s", eda.Event(type="a"))
        await server.kill()
        await until(lambda: conn.stats().state == "disconnected")
        await server.start()
        await until(lambda: conn.stats().reconnects == 1, 20)
        assert conn.stats().state == "reconnected"
        await conn.close()
    finally:
        await server.stop()
    stats = conn.stats()
    assert (stats.state, stats.reconnects, stats.publishers["s"].acknowledged) == ("closed", 1, 1)
    assert stats.publishers["s"].pending == 0


async def test_stats_of_a_connection_with_middleware_count_as_well(connect: Connect, stream: str) -> None:
    class Hook(Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext, /) -> object:
            return await call_next(event)

    conn = await connect(middleware=[Hook()])
    await conn.publish(stream, eda.Event(type="a"))
    async with conn.publisher(stream) as pub:
        await pub.send(eda.Event(type="a"))
    assert conn.stats().publishers[stream].acknowledged == 2


async def test_stats_when_read_in_a_thread_while_all_opens_and_closes_never_go_down(
    conn: eda.Conn, stream: str
) -> None:
    await conn.publish(stream, eda.Event(type="a"))
    stop = threading.Event()
    faults: list[object] = []

    def scrape() -> None:
        last = (0, 0)
        try:
            while not stop.is_set():
                stats = conn.stats()
                handled = stats.subscriptions.get((stream, "private"))
                now = (stats.publishers[stream].acknowledged, 0 if handled is None else handled.handled)
                if now < last or now[1] < last[1]:
                    faults.append((last, now))
                last = now
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=scrape) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            async with conn.publisher(stream) as pub:
                await pub.send_many([eda.Event(type="a") for _ in range(50)])
            async with conn.subscribe(stream, lambda event: None, backfill=True) as sub:
                await until(lambda sub=sub: sub.stats().handled >= 50)  # type: ignore[misc]
    finally:
        stop.set()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
    assert faults == []
    assert conn.stats().publishers[stream].acknowledged == 1001
