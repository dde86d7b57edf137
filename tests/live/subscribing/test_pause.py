"""Subscriptions that are paused: no handler starts, and nothing is lost, handed over or asked for meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
import eda.jetstream.consumer_settings
import eda.subscribing.shared_consumer
import eda.subscribing.source
from helpers import Admin, Connect, Logged, Proxy, until, wire_of

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "batch": {"batch": 5, **KEPT},
    "private": {"backfill": True},
    "exclusive": {"exclusive": True, **KEPT},
    "serial": {"serial": True, **KEPT},
    "strict": {"serial": "strict", **KEPT},
    "key": {"key": "aggregate", "concurrency": 4, **KEPT},
}


class Seen:
    """A handler that keeps sequences and attempts."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.attempts: set[int] = set()

    async def handle(self, given: eda.Event | list[eda.Event]) -> None:
        for event in given if isinstance(given, list) else [given]:
            self.seqs.append(event.sequence)
            self.attempts.add(event.attempt)


async def fill(conn: eda.Conn, stream: str, n: int) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_many(eda.Event(aggregate=str(number)) for number in range(n))


@pytest.mark.parametrize("kind", KINDS)
async def test_pause_when_called_starts_no_handler_until_resume_and_loses_nothing(
    conn: eda.Conn, stream: str, kind: str
) -> None:
    seen = Seen()
    await fill(conn, stream, 20)
    subscription = conn.subscribe(stream, seen.handle, **KINDS[kind])
    subscription.pause()  # before it is open, too
    async with subscription:
        await asyncio.sleep(0.3)
        assert seen.seqs == []
        assert subscription.stats().paused
        subscription.resume()
        await until(lambda: len(seen.seqs) == 20)
        assert not subscription.stats().paused
        subscription.pause()
        subscription.pause()
        await fill(conn, stream, 5000)
        await asyncio.sleep(0.3)
        assert len(seen.seqs) == 20
        n_buffered = subscription.stats().buffered
        await fill(conn, stream, 5000)
        await asyncio.sleep(0.3)
        assert subscription.stats().buffered <= n_buffered + 4096  # what was asked for before
        assert len(seen.seqs) == 20
        subscription.resume()
        subscription.resume()
        await until(lambda: len(seen.seqs) == 10_020, 30)
    assert sorted(seen.seqs) == list(range(1, 10_021))
    assert seen.attempts == {1}


@pytest.mark.parametrize("kind", ["shared", "exclusive", "serial"])
async def test_pause_when_it_lasts_keeps_leases_and_the_position(
    connect: Connect, stream: str, kind: str, short_lease: float
) -> None:
    mine, others = Seen(), Seen()
    conn, other = await connect(), await connect()
    await fill(conn, stream, 5)
    subscription = await conn.subscribe(stream, mine.handle, **KINDS[kind])
    await until(lambda: len(mine.seqs) == 5)
    subscription.pause()
    await fill(conn, stream, 3)
    await until(lambda: subscription.stats().buffered == 3)
    async with other.subscribe(stream, others.handle, **KINDS[kind]) as standby:
        # Longer than it takes to take over from a member that was not heard of.
        await asyncio.sleep(3 * short_lease if kind == "shared" else 6.0)
        assert others.seqs == []
        assert subscription.stats().active
        if kind != "shared":
            assert not standby.stats().active
        subscription.resume()
        await until(lambda: len(mine.seqs) == 8)
        assert mine.attempts == {1}
        subscription.pause()
        await subscription.close()
        await fill(conn, stream, 3)
        await until(lambda: len(others.seqs) == 3)


@pytest.mark.parametrize("kind", KINDS)
async def test_close_when_paused_gives_back_what_is_held(conn: eda.Conn, stream: str, kind: str, admin: Admin) -> None:
    seen, later = Seen(), Seen()
    await fill(conn, stream, 10)
    subscription = await conn.subscribe(stream, seen.handle, **KINDS[kind])
    await until(lambda: len(seen.seqs) == 10)
    subscription.pause()
    await fill(conn, stream, 5)
    await until(lambda: subscription.stats().buffered > 0)
    async with asyncio.timeout(10):
        await subscription.close()
    subscription.resume()
    subscription.pause()
    assert len(seen.seqs) == 10
    async with conn.subscribe(stream, later.handle, **KINDS[kind]):
        await until(lambda: len(later.seqs) == (15 if kind == "private" else 5))


async def test_pause_when_the_subscription_is_an_iterator_gives_out_nothing(conn: eda.Conn, stream: str) -> None:
    await fill(conn, stream, 3)
    async with conn.events(stream, serial=True, **KEPT) as events:
        assert (await anext(events)).sequence == 1
        events.subscription.pause()
        asking = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.3)
        assert not asking.done()
        assert events.subscription.stats().handled == 1
        events.subscription.resume()
        assert (await asyncio.wait_for(asking, 5)).sequence == 2
        events.subscription.pause()
        asking = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.1)
        await events.aclose()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(asking, 5)
    async with conn.events(stream, serial=True, **KEPT) as events:
        assert (await anext(events)).sequence == 3


async def test_pause_when_the_connection_is_lost_goes_on_after_resume(own_server: eda.EmbeddedServer) -> None:
    async with Proxy(own_server.port) as proxy, eda.connect(proxy.url(own_server.url), client="c") as conn:
        for name, options in {"shared": KEPT, "serial": {"serial": True, **KEPT}}.items():
            seen = Seen()
            await fill(conn, name, 5)
            async with conn.subscribe(name, seen.handle, **options) as subscription:
                await until(lambda seen=seen: len(seen.seqs) == 5)  # type: ignore[misc]
                subscription.pause()
                await fill(conn, name, 5)
                await until(lambda subscription=subscription: subscription.stats().buffered == 5)  # type: ignore[misc]
                proxy.drop()
                await until(lambda: not wire_of(conn).is_up)
                await until(lambda: wire_of(conn).is_up)
                await fill(conn, name, 5)
                await asyncio.sleep(0.5)
                assert len(seen.seqs) == 5
                subscription.resume()
                await until(lambda seen=seen: len(set(seen.seqs)) == 15, 20)  # type: ignore[misc]


async def test_pause_when_the_consumer_is_not_durable_keeps_it_alive(
    conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.subscribing.shared_consumer, "PRIVATE_LIFE_S", 2.0)
    monkeypatch.setattr(eda.subscribing.source, "EXPIRES_S", 1.0)
    monkeypatch.setattr(eda.subscribing.source, "HEARTBEAT_S", 0.3)
    seen = Seen()
    async with conn.subscribe(stream, seen.handle, name="me") as subscription:
        await fill(conn, stream, 5)
        await until(lambda: len(seen.seqs) == 5)
        subscription.pause()
        await asyncio.sleep(2.0)
        await fill(conn, stream, 5)  # there is no pull that could bring them
        await asyncio.sleep(4.0)
        assert subscription.stats().buffered == 0
        subscription.resume()
        await until(lambda: len(seen.seqs) == 10)
        assert seen.attempts == {1}
        assert subscription.stats().redelivered == 0


@pytest.mark.parametrize("kind", ["private", "serial"])
async def test_pause_when_the_server_removes_the_reader_meanwhile_does_not_say_that_somebody_changed_it(
    conn: eda.Conn, stream: str, kind: str, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """Nothing is asked of a reader while its subscription is paused, so it is gone after a minute."""
    monkeypatch.setattr(eda.jetstream.consumer_settings, "READER_LIFE_S", 0.5)
    monkeypatch.setattr(eda.subscribing.source, "CHECK_EVERY_S", 0.3)
    monkeypatch.setattr(eda.subscribing.source, "EXPIRES_S", 1.0)
    seen = Seen()
    await conn.publish(stream)
    async with conn.subscribe(stream, seen.handle, **KINDS[kind]) as subscription:
        await until(lambda: seen.seqs == [1])
        subscription.pause()
        await until(lambda: logged.find("makes a new reader: its reader is gone"))
        await conn.publish(stream)
        subscription.resume()
        await until(lambda: seen.seqs == [1, 2])
    assert not logged.find("somebody changed")
