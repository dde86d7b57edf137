"""Ordered subscriptions in trouble (connection, server, stream, reader): nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import eda
import eda.subscribing.monitor
import eda.subscribing.source
from helpers import Admin, Connect, Logged, Proxy, until, wire_of
from support.cursors.member import Keys, shorten
from support.transport.faulty_proxy import DOWN, FaultyProxy

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "private": {"backfill": True},
    "serial": {"serial": True, **KEPT},
    "key": {"key": "aggregate", "concurrency": 8, **KEPT},
}


async def publish(conn: eda.Conn, stream: str, n: int, *, timeout_s: float = 30.0) -> None:
    """Publish `n` events, of 20 aggregates."""
    async with conn.publisher(stream, timeout_s=timeout_s) as publisher:
        await publisher.send_many([eda.Event(aggregate=str(i % 20)) for i in range(n)])


class Orders:
    """A handler that checks the order as it goes: of all events, or by aggregate."""

    def __init__(self, kind: str, pause_s: float = 0.0) -> None:
        self.by_key = kind == "key"
        self.pause_s = pause_s
        self.seen: list[int] = []
        self.last: dict[str, int] = {}
        self.wrong: list[tuple[int, int]] = []

    async def __call__(self, event: eda.Event) -> None:
        await asyncio.sleep(self.pause_s)
        key = event.aggregate if self.by_key else ""
        if event.sequence <= self.last.get(key, 0):
            self.wrong.append((self.last[key], event.sequence))
        self.last[key] = event.sequence
        self.seen.append(event.sequence)

    def is_complete(self, n: int) -> bool:
        """Whether events 1 to `n` have come, each once and in order."""
        return not self.wrong and sorted(self.seen) == list(range(1, n + 1))


# --- the connection --------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("kind", KINDS)
async def test_reconnect_when_it_comes_again_and_again_nothing_is_lost_and_nothing_comes_twice(
    server: eda.EmbeddedServer, connect: Connect, stream: str, kind: str
) -> None:
    async with Proxy(server.port) as proxy:
        conn, publisher = await connect(proxy.url(server.url)), await connect()
        orders = Orders(kind)
        subscription = await conn.subscribe(stream, orders, prefetch=100, **KINDS[kind])
        for _ in range(15):
            await publish(publisher, stream, 150)
            n = len(orders.seen)
            proxy.drop()
            await publish(publisher, stream, 50)  # all that came before may have been seen before the drop
            await until(lambda n=n: len(orders.seen) > n)
        await until(lambda: len(orders.seen) >= 3000)
        assert orders.is_complete(3000), orders.wrong
        stats = subscription.stats()
        assert (stats.handled, stats.failed, stats.skipped) == (3000, 0, 0)
        await conn.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_reconnect_when_the_connection_ends_within_a_frame_nothing_is_lost(
    server: eda.EmbeddedServer, connect: Connect, stream: str, kind: str
) -> None:
    """Cut after so many bytes, wherever that is."""
    async with FaultyProxy(server.port) as proxy:
        conn, publisher = await connect(proxy.url(server.url)), await connect()
        await publish(publisher, stream, 2000)
        orders = Orders(kind)
        await conn.subscribe(stream, orders, prefetch=500, **KINDS[kind])
        for n_bytes in (1, 997, 5003, 20011, 30011):
            proxy.cut_after(n_bytes, DOWN)
            n = proxy.n_accepted
            await until(lambda n=n: proxy.n_accepted > n or len(orders.seen) == 2000)
        await until(lambda: len(orders.seen) >= 2000)
        assert orders.is_complete(2000), orders.wrong
        await conn.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_server_when_killed_and_restarted_nothing_is_lost_and_nothing_comes_twice(
    own_server: eda.EmbeddedServer, kind: str
) -> None:
    """The kernel keeps what the server had written, so the stream is whole; the reader is not there any more."""
    async with eda.connect(own_server.url, client="me") as conn:
        orders = Orders(kind, pause_s=0.0001)
        done = False
        n_sent = 0

        async def go_on_publishing() -> None:
            nonlocal n_sent
            while not done:
                if n_sent < len(orders.seen) + 1000:
                    await publish(conn, "stream", 100)
                    n_sent += 100
                await asyncio.sleep(0.005)

        publishing = asyncio.create_task(go_on_publishing())
        async with conn.subscribe("stream", orders, prefetch=200, **KINDS[kind]) as subscription:
            for _ in range(2):
                n = len(orders.seen)
                await until(lambda n=n: len(orders.seen) > n + 200)
                await own_server.kill()
                await own_server.start()
            done = True
            await publishing
            await until(lambda: len(orders.seen) >= n_sent, 15)
            assert orders.is_complete(n_sent), orders.wrong
            assert subscription.stats().skipped == 0


async def test_lease_when_the_connection_is_away_for_longer_cancels_handlers_and_goes_on_after(
    server: eda.EmbeddedServer,
    connect: Connect,
    stream: str,
    monkeypatch: pytest.MonkeyPatch,
    logged: Logged,
) -> None:
    shorten(monkeypatch, 0.1)
    async with Proxy(server.port) as proxy:
        conn, publisher = await connect(proxy.url(server.url)), await connect()
        calls: list[tuple[int, str]] = []

        async def handle(event: eda.Event) -> None:
            calls.append((event.sequence, "begin"))
            try:
                if event.sequence == 2 and len(calls) < 5:
                    await asyncio.sleep(60)
            except asyncio.CancelledError:
                calls.append((event.sequence, "cancelled"))
                raise
            calls.append((event.sequence, "end"))

        await publish(publisher, stream, 3)
        subscription = await conn.subscribe(stream, handle, serial=True, **KEPT)
        await until(lambda: len(calls) == 3)
        proxy.refusing = True
        proxy.drop()
        await until(lambda: calls[-1] == (2, "cancelled"))
        await asyncio.sleep(0.1)
        assert len(calls) == 4
        proxy.refusing = False
        await until(lambda: calls[-1] == (3, "end"))
        assert calls[4:] == [(2, "begin"), (2, "end"), (3, "begin"), (3, "end")]
        assert subscription.stats().failed == 0
        assert logged.find("could not be stored", logging.DEBUG)  # the connection has warned already
        await conn.close()


# --- the stream ------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("kind", KINDS)
async def test_stream_when_purged_goes_on_and_says_what_was_skipped(
    conn: eda.Conn, stream: str, kind: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.subscribing.monitor, "TICK_MAX_S", 0.05)
    await publish(conn, stream, 1000)
    release = asyncio.Event()
    seen: list[int] = []

    async def handle(event: eda.Event) -> None:
        await release.wait()
        seen.append(event.sequence)

    async with conn.subscribe(stream, handle, prefetch=100, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().buffered + subscription.stats().in_flight == 100)
        assert await conn.streams.purge(stream) == 1000
        await publish(conn, stream, 5)
        release.set()
        await until(lambda: len(seen) == 105)
        assert subscription.stats().skipped == 900
        await until(lambda: logged.find("900 events were not delivered", logging.WARNING))
    assert sorted(seen) == [*range(1, 101), *range(1001, 1006)]


@pytest.mark.parametrize("options", [{"serial": True}, {}], ids=["serial", "shared"])
async def test_stream_when_events_expired_or_were_deleted_counts_them_as_skipped(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(eda.subscribing.monitor, "TICK_MAX_S", 0.05)
    await conn.streams.create(stream, eda.StreamOptions(max_age_s=0.5))
    seen: list[int] = []
    handler = lambda event: seen.append(event.sequence)  # noqa: E731
    await publish(conn, stream, 10, timeout_s=0.25)
    async with conn.subscribe(stream, handler, **options, **KEPT):
        await until(lambda: len(seen) == 10)
    await publish(conn, stream, 20, timeout_s=0.25)

    async def is_empty() -> bool:
        return (await conn.streams.info(stream)).events == 0

    await until(is_empty)
    await publish(conn, stream, 5, timeout_s=0.25)
    await admin.js.delete_msg(stream, 32)
    async with conn.subscribe(stream, handler, **options, **KEPT) as subscription:
        await until(lambda: len(seen) == 14)
        assert subscription.stats().skipped == 21
        await until(lambda: logged.find("21 events were not delivered|20 events were not delivered", logging.WARNING))
    assert seen == [*range(1, 11), 31, 33, 34, 35]


@pytest.mark.old_server
@pytest.mark.parametrize("kind", KINDS)
async def test_stream_when_deleted_ends_the_subscription(
    conn: eda.Conn, stream: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect(f"to {stream} ends")
    subscription = await conn.subscribe(stream, print, **KINDS[kind])
    await wire_of(conn).barrier(5)
    await admin.js.delete_stream(stream)
    with pytest.raises(eda.StreamNotFound) as caught:
        await asyncio.wait_for(subscription.wait(), 5)
    assert caught.value.stream == stream
    with pytest.raises(eda.StreamNotFound):
        await subscription.wait()
    await subscription.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_stream_when_deleted_while_a_handler_runs_lets_it_end(
    conn: eda.Conn, stream: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect(f"to {stream} ends")
    running, release = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def handle(event: eda.Event) -> None:
        running.set()
        await release.wait()
        done.append(event.id)

    await publish(conn, stream, 3)
    subscription = await conn.subscribe(stream, handle, **(KINDS[kind] | {"concurrency": 1}))
    await running.wait()
    await admin.js.delete_stream(stream)
    await until(lambda: logged.find("ends"))
    assert not subscription.is_closed
    release.set()
    with pytest.raises(eda.StreamNotFound):
        await asyncio.wait_for(subscription.wait(), 5)
    assert len(done) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_stream_when_made_again_while_subscribed_ends_the_subscription(
    server: eda.EmbeddedServer, connect: Connect, stream: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect(f"to {stream} ends")
    async with Proxy(server.port) as proxy:
        conn, other = await connect(proxy.url(server.url)), await connect()
        seen: list[int] = []
        subscription = await conn.subscribe(stream, lambda event: seen.append(event.sequence), **KINDS[kind])
        await publish(other, stream, 10)
        await until(lambda: len(seen) == 10)
        proxy.refusing = True
        proxy.drop()
        await until(lambda: conn.state == "disconnected")
        await admin.js.delete_stream(stream)
        await other.streams.create(stream)
        await publish(other, stream, 20)
        proxy.refusing = False
        with pytest.raises(eda.ConsumerDeleted, match="made again"):
            await asyncio.wait_for(subscription.wait(), 10)
        assert len(seen) == 10
        await conn.close()


async def test_stream_when_made_again_begins_a_kept_position_anew(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    for n in (10, 15):
        seen: list[int] = []
        await conn.streams.create(stream)
        await publish(conn, stream, n)
        async with conn.subscribe(stream, lambda event, seen=seen: seen.append(event.sequence), serial=True, **KEPT):
            await until(lambda seen=seen, n=n: len(seen) == n)
        assert seen == list(range(1, n + 1))
        await admin.js.delete_stream(stream)
    assert logged.find("made again", logging.WARNING)


# --- the reader ------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("kind", KINDS)
async def test_reader_when_deleted_behind_our_back_is_made_anew(
    conn: eda.Conn, stream: str, admin: Admin, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A pull that reaches the reader as it goes is answered by nobody: only the heartbeats that do not come tell.
    monkeypatch.setattr(eda.subscribing.source, "HEARTBEAT_S", 0.5)
    orders = Orders(kind)
    async with conn.subscribe(stream, orders, prefetch=100, **KINDS[kind]):
        for n in range(1, 6):
            await publish(conn, stream, 300)
            (reader, *_) = await until(lambda: admin.consumers(stream))
            assert reader.startswith("eda-r-")
            await admin.client.request(f"$JS.API.CONSUMER.DELETE.{stream}.{reader}", b"")
            await until(lambda n=n: len(orders.seen) >= 300 * n)
    assert orders.is_complete(1500), orders.wrong


@pytest.mark.parametrize("kind", KINDS)
async def test_reader_when_a_delivery_is_lost_reads_it_again(
    server: eda.EmbeddedServer, connect: Connect, stream: str, kind: str
) -> None:
    async with FaultyProxy(server.port) as proxy:
        conn, publisher = await connect(proxy.url(server.url)), await connect()
        orders = Orders(kind)
        lost: set[bytes] = set()

        def lose(message: bytes) -> bool:
            head = message.partition(b"\r\n")[0]
            at = head.find(b"$JS.ACK." + stream.encode())
            if at < 0:
                return False
            place = head[at:].split(b".")[5]  # its stream sequence
            if int(place) % 97 or place in lost:
                return False
            lost.add(place)
            return True

        proxy.drop_if = lose
        await conn.subscribe(stream, orders, **KINDS[kind])
        await publish(publisher, stream, 1000)
        await until(lambda: len(orders.seen) >= 1000)
        assert len(lost) == 10
        assert orders.is_complete(1000), orders.wrong
        await conn.close()


async def test_position_when_it_is_deleted_ends_the_subscription(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged.expect("subscription me to .* ends")
    shorten(monkeypatch)
    await publish(conn, stream, 3)
    subscription = await conn.subscribe(stream, print, serial=True, **KEPT)
    await Keys(admin, stream, "me").put(b"", {"KV-Operation": "PURGE", "Nats-Rollup": "sub"})
    with pytest.raises(eda.ConsumerDeleted):
        await asyncio.wait_for(subscription.wait(), 5)
