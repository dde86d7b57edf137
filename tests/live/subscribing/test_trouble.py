"""Subscriptions whose stream, consumer, server or messages are not as they should be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

import pytest

import eda
import eda.options
import eda.subscribing.monitor
import eda.subscribing.source
from helpers import N_QUICK, Admin, Connect, Logged, Proxy, until, wire_of

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}


@pytest.mark.old_server
async def test_subscription_when_its_stream_is_deleted_ends_with_stream_not_found(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.expect(f"subscription me to {stream} ends")
    subscription = await conn.subscribe(stream, print, **KEPT)
    await wire_of(conn).barrier(5)  # a pull on its way when the stream goes is answered by nobody
    await admin.js.delete_stream(stream)
    with pytest.raises(eda.StreamNotFound) as caught:
        await asyncio.wait_for(subscription.wait(), 5)
    assert caught.value.stream == stream
    with pytest.raises(eda.StreamNotFound):
        await subscription.wait()
    await subscription.close()


@pytest.mark.old_server
async def test_subscription_when_its_consumer_is_deleted_ends_with_consumer_deleted(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.expect(f"subscription me to {stream} ends")
    subscription = await conn.subscribe(stream, print, **KEPT)
    await wire_of(conn).barrier(5)
    await admin.js.delete_consumer(stream, "me")
    with pytest.raises(eda.ConsumerDeleted) as caught:
        await asyncio.wait_for(subscription.wait(), 5)
    assert (caught.value.stream, caught.value.consumer) == (stream, "me")


async def test_subscription_when_its_consumer_is_deleted_while_a_handler_runs_lets_it_end(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.expect(f"subscription me to {stream} ends")
    running, release = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def handle(event: eda.Event) -> None:
        running.set()
        await release.wait()
        done.append(event.id)

    await conn.publish(stream)
    subscription = await conn.subscribe(stream, handle, **KEPT)
    await running.wait()
    await admin.js.delete_consumer(stream, "me")
    await until(lambda: logged.find("ends"))
    release.set()
    with pytest.raises(eda.ConsumerDeleted):
        await asyncio.wait_for(subscription.wait(), 5)
    assert len(done) == 1


async def test_subscription_when_entered_and_its_consumer_is_deleted_raises_at_the_end_of_the_body(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.expect(f"subscription me to {stream} ends")

    async def use() -> None:
        async with conn.subscribe(stream, print, **KEPT) as subscription:
            await wire_of(conn).barrier(5)
            await admin.js.delete_consumer(stream, "me")
            await until(lambda: "closed" in repr(subscription))

    with pytest.raises(eda.ConsumerDeleted):
        await use()


@pytest.mark.old_server
async def test_subscription_when_its_consumer_was_replaced_while_it_was_away_ends(
    server: eda.EmbeddedServer, connect: Connect, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.expect(f"subscription me to {stream} ends")
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        subscription = await conn.subscribe(stream, print, **KEPT)
        proxy.refusing = True
        proxy.drop()
        await until(lambda: conn.state == "disconnected")
        await admin.js.delete_consumer(stream, "me")
        await admin.flush()
        proxy.refusing = False
        with pytest.raises(eda.ConsumerDeleted):
            await asyncio.wait_for(subscription.wait(), 10)
        await conn.close()


@pytest.mark.old_server
async def test_subscription_when_its_stream_is_purged_goes_on_with_what_comes(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    seen: list[int] = []
    await asyncio.gather(*(conn.publish(stream) for _ in range(100)))
    release = asyncio.Event()

    async def handle(event: eda.Event) -> None:
        await release.wait()
        seen.append(event.sequence)

    async with conn.subscribe(stream, handle, prefetch=8, **KEPT) as subscription:
        await until(lambda: subscription.stats().buffered == 7)
        assert await conn.streams.purge(stream) == 100
        release.set()
        await asyncio.gather(*(conn.publish(stream) for _ in range(5)))
        await until(lambda: seen[-5:] == [101, 102, 103, 104, 105])
    # What was held when the stream was purged was handled all the same.
    assert seen == [*range(1, 9), *range(101, 106)]
    assert (await admin.consumer(stream, "me"))["num_ack_pending"] == 0


# --- the server goes and comes ---------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("durable", [True, False])
async def test_subscription_when_the_server_is_killed_and_restarted_handles_every_event(
    own_server: eda.EmbeddedServer, durable: bool, short_lease: float
) -> None:
    async with eda.connect(own_server.url) as conn:
        sent = await asyncio.gather(*(conn.publish("stream") for _ in range(3000)))
        seen: Counter[str] = Counter()

        async def handle(event: eda.Event) -> None:
            await asyncio.sleep(0)
            seen[event.id] += 1

        options: dict[str, Any] = {"backfill": True, "durable": durable, "prefetch": 200, "concurrency": 4}
        async with conn.subscribe("stream", handle, name="me", **options) as subscription:
            for part in (500, 1500):
                await until(lambda part=part: len(seen) > part)
                await own_server.kill()
                await own_server.start()
            sent += await asyncio.gather(*(conn.publish("stream") for _ in range(100)))
            await until(lambda: len(seen) == 3100, 15)
            assert subscription.stats().pending == 0
        assert set(seen) == {receipt.id for receipt in sent}


@pytest.mark.old_server
async def test_subscription_when_the_connection_is_cut_again_and_again_handles_every_event(
    server: eda.EmbeddedServer, connect: Connect, stream: str, admin: Admin, short_lease: float
) -> None:
    """What was sent into a connection that died, events and acknowledgements, comes again when its lease is over."""
    async with Proxy(server.port) as proxy:
        conn, publisher = await connect(proxy.url(server.url)), await connect()
        seen: Counter[str] = Counter()
        async with conn.subscribe(stream, lambda event: seen.update([event.id]), prefetch=100, **KEPT):
            ids: list[str] = []
            for _ in range(10):
                sent = await asyncio.gather(*(publisher.publish(stream) for _ in range(200)))
                ids += [receipt.id for receipt in sent]
                proxy.drop()
            await until(lambda: set(ids) <= set(seen))
            await until(lambda: nothing_pending(admin, stream))
        await conn.close()


async def nothing_pending(admin: Admin, stream: str) -> bool:
    return (await admin.consumer(stream, "me"))["num_ack_pending"] == 0


# --- leases ----------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_lease_when_the_handler_is_slower_than_it_is_extended(
    conn: eda.Conn, stream: str, admin: Admin, short_lease: float
) -> None:
    for _ in range(10):
        await conn.publish(stream)
    seen: list[tuple[int, int]] = []

    async def handle(event: eda.Event) -> None:
        seen.append((event.sequence, event.attempt))
        await asyncio.sleep(2.5 * short_lease if event.sequence == 1 else 0)

    async with conn.subscribe(stream, handle, **KEPT) as subscription:
        assert (await admin.consumer(stream, "me"))["config"]["ack_wait"] == int(short_lease * 1e9)
        await until(lambda: subscription.stats().handled == 10)
        assert subscription.stats().redelivered == 0
    # Those that waited behind the slow one kept their leases too.
    assert seen == [(seq, 1) for seq in range(1, 11)]
    assert (await admin.consumer(stream, "me"))["num_redelivered"] == 0


async def test_lease_when_it_ran_out_all_the_same_is_not_handled_beside_itself(
    server: eda.EmbeddedServer, connect: Connect, stream: str, admin: Admin, short_lease: float
) -> None:
    """The connection is away for longer than the lease: the event is delivered again while its handler runs."""
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.publish(stream)
        release = asyncio.Event()
        calls: list[int] = []

        async def handle(event: eda.Event) -> None:
            calls.append(event.attempt)
            await release.wait()

        async with conn.subscribe(stream, handle, **KEPT) as subscription:
            await until(lambda: calls)
            proxy.refusing = True
            proxy.drop()
            await asyncio.sleep(short_lease * 1.3)
            proxy.refusing = False
            await until(lambda: subscription.stats().redelivered >= 1)
            release.set()
            await until(lambda: subscription.stats().handled == 1)
            await conn.publish(stream)
            await until(lambda: subscription.stats().handled == 2)
        assert len(calls) == 2
        assert (await admin.consumer(stream, "me"))["num_ack_pending"] == 0
        await conn.close()


async def test_memory_when_the_connection_is_away_for_long_holds_no_more_lease_extensions(
    server: eda.EmbeddedServer, connect: Connect, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.options, "MIN_LEASE_S", 0.02)
    monkeypatch.setattr(eda.options, "DEFAULT_LEASE_S", 0.02)
    monkeypatch.setattr(eda.subscribing.monitor, "TICK_MAX_S", 0.01)
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await asyncio.gather(*(conn.publish(stream) for _ in range(N_QUICK + 100)))
        release = asyncio.Event()

        async def handle(event: eda.Event) -> None:
            if event.sequence > N_QUICK:
                await release.wait()

        subscription = await conn.subscribe(stream, handle, **KEPT)
        await until(lambda: subscription.stats().buffered == 99)
        proxy.refusing = True
        proxy.drop()
        await until(lambda: conn.state == "disconnected")
        await asyncio.sleep(0.1)
        size = wire_of(conn).out.size
        await asyncio.sleep(0.2)
        assert wire_of(conn).out.size <= size
        release.set()
        proxy.refusing = False
        await until(lambda: subscription.stats().handled >= N_QUICK + 100)
        await conn.close()


async def test_pull_when_the_connection_breaks_before_it_is_written_is_never_sent(
    server: eda.EmbeddedServer, connect: Connect, stream: str
) -> None:
    """Its credit was forgotten with the connection: what it brought would be more than `prefetch` allows."""
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        seen: list[int] = []
        async with conn.subscribe(stream, lambda event: seen.append(event.sequence), **KEPT) as subscription:
            await until(lambda: b"CONSUMER.MSG.NEXT" in proxy.sent)
            tap = wire_of(conn)._interceptor
            assert tap is not None
            subscription._pipeline.source.pull(7777, None)
            tap.connection_lost(None)  # in the same turn, before the buffer is written
            assert conn.state == "disconnected"
            n_sent = len(proxy.sent)
            proxy.drop()
            await until(lambda: conn.state == "reconnected")
            await conn.publish(stream)
            await until(lambda: seen == [1])
        assert b"CONSUMER.MSG.NEXT" in proxy.sent[n_sent:]
        assert b"7777" not in proxy.sent
        await conn.close()


# --- a server that falls silent --------------------------------------------------------------------------------------


async def test_pull_when_the_server_falls_silent_is_made_anew(
    conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """A pull that the server has forgotten, as after a change of leader, sends no heartbeats any more."""
    monkeypatch.setattr(eda.subscribing.source, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(eda.subscribing.monitor, "TICK_MAX_S", 0.05)
    seen: list[eda.Event] = []
    async with conn.subscribe(stream, seen.append, **KEPT) as subscription:
        source = subscription._pipeline.source
        # The pull's inbox is gone, as far as the server knows.
        wire_of(conn).out.command(b"UNSUB %d\r\n" % source._subscription._id)
        await wire_of(conn).barrier(5)
        wire_of(conn).out.command(b"SUB %s* %d\r\n" % (source.inbox, source._subscription._id))
        begin = time.monotonic()
        await conn.publish(stream)
        await until(lambda: seen, 5)
        assert time.monotonic() - begin < 3


# --- permissions -----------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize(
    "permissions",
    [
        {"publish": {"deny": ["$JS.API.CONSUMER.MSG.NEXT.stream.me"]}},
        {"subscribe": {"deny": ["_INBOX.*.*"], "allow": [">"]}, "publish": {"allow": [">"]}},
    ],
    ids=["pull", "inbox"],
)
async def test_subscription_when_the_server_forbids_it_ends_with_server_error(
    executable: Any, permissions: dict[str, Any], logged: Logged
) -> None:
    logged.expect("the server forbids")
    logged.allow("subscription me to stream ends")
    users = [{"user": "u", "password": "p", "permissions": permissions}, {"user": "admin", "password": "p"}]
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}, executable=executable) as server:
        url = f"nats://admin:p@127.0.0.1:{server.port}"
        async with eda.connect(url) as conn:
            await conn.publish("stream")
        if "subscribe" in permissions:
            with pytest.raises(eda.EdaError):
                await eda.connect(url.replace("admin", "u"), connect_timeout_s=1)
            return
        async with eda.connect(url.replace("admin", "u")) as conn:
            subscription = await conn.subscribe("stream", print, **KEPT)
            with pytest.raises(eda.ServerError) as caught:
                await asyncio.wait_for(subscription.wait(), 5)
            assert caught.value.code == 403
            assert "CONSUMER.MSG.NEXT.stream.me" in str(caught.value)
            await conn.publish("stream")
        assert logged.find("forbids", logging.ERROR)
