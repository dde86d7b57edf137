"""Closing and unsubscribing: what runs ends, what waits is given back, what was acknowledged is confirmed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from typing import Any

import pytest

import eda
from eda.cursors.entry import CursorEntry
from eda.jetstream.api import Api
from helpers import N_QUICK, Admin, Connect, Logged, Proxy, until
from support.cursors.member import Keys

TEAM: dict[str, Any] = {"name": "team", "durable": True, "backfill": True}


@pytest.mark.old_server
async def test_close_when_a_handler_runs_waits_for_it_and_gives_the_rest_back(
    connect: Connect, stream: str, admin: Admin
) -> None:
    first, second = await connect(), await connect()
    sent = await asyncio.gather(*(first.publish(stream) for _ in range(N_QUICK + 100)))
    ids = [receipt.id for receipt in sent]
    running, release = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def handle(event: eda.Event) -> None:
        if event.sequence > N_QUICK:
            running.set()
            await release.wait()
        seen.append(event.id)

    subscription = await first.subscribe(stream, handle, **TEAM)
    await running.wait()
    await until(lambda: subscription.stats().buffered == 99)
    closing = asyncio.create_task(subscription.close())
    others: list[eda.Event] = []
    await second.subscribe(stream, others.append, **TEAM)
    await until(lambda: len(others) == 99)
    assert not closing.done()
    assert len(seen) == N_QUICK
    release.set()
    await asyncio.wait_for(closing, 5)
    assert len(seen) == N_QUICK + 1
    assert Counter(seen + [event.id for event in others]) == Counter(ids)
    stats = subscription.stats()
    assert (stats.handled, stats.in_flight, stats.buffered) == (N_QUICK + 1, 0, 0)
    await until(lambda: second.streams.info(stream))
    assert (await admin.consumer(stream, "team"))["num_redelivered"] == 0


@pytest.mark.old_server
async def test_close_when_all_is_handled_has_every_acknowledgement_confirmed(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    for n in range(5):
        await asyncio.gather(*(conn.publish(stream) for _ in range(500)))
        subscription = await conn.subscribe(stream, lambda event: None, **TEAM)
        await until(lambda subscription=subscription: subscription.stats().handled == 500)
        await subscription.close()
        info = await admin.consumer(stream, "team")
        assert info["num_ack_pending"] == 0
        assert info["ack_floor"]["stream_seq"] == 500 * (n + 1)


@pytest.mark.old_server
async def test_close_when_events_keep_coming_loses_none_and_keeps_none(
    connect: Connect, stream: str, admin: Admin
) -> None:
    """Deliveries that are under way while the subscription closes are given back, not kept until their lease ends."""
    conn, other = await connect(), await connect()
    seen: list[str] = []
    done = False

    async def publish() -> None:
        while not done:
            receipts = await asyncio.gather(*(other.publish(stream) for _ in range(200)))
            sent.extend(receipt.id for receipt in receipts)

    sent: list[str] = []
    publishing = asyncio.create_task(publish())
    for _ in range(10):
        subscription = await conn.subscribe(stream, lambda event: seen.append(event.id), prefetch=500, **TEAM)
        n = len(seen)
        await until(lambda n=n: len(seen) > n + 300)
        await subscription.close()
    done = True
    await publishing
    async with conn.subscribe(stream, lambda event: seen.append(event.id), **TEAM):
        await until(lambda: len(seen) >= len(sent))  # the lease is 30 s
    assert set(seen) == set(sent)
    assert (await admin.consumer(stream, "team"))["num_ack_pending"] == 0


async def test_close_when_the_handler_takes_too_long_cancels_it_and_the_event_comes_again(
    connect: Connect, stream: str, logged: Logged
) -> None:
    first, second = await connect(), await connect()
    cancelled, running = asyncio.Event(), asyncio.Event()

    async def handle(event: eda.Event) -> None:
        running.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    await first.publish(stream)
    subscription = await first.subscribe(stream, handle, timeout_s=0.3, retry=eda.Retry(initial_s=60, max_s=60), **TEAM)
    await running.wait()
    logged.allow("handler failed")  # its own time-out may come first
    begin = time.monotonic()
    await subscription.close()
    assert time.monotonic() - begin < 5
    assert cancelled.is_set()
    if not logged.find("handler failed"):
        assert logged.find("1 handlers were cancelled", logging.WARNING)
        others: list[eda.Event] = []
        async with second.subscribe(stream, others.append, **TEAM):
            await until(lambda: others)


async def test_close_when_called_in_a_handler_returns_at_once_and_closes_after_it(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    after: list[str] = []

    async def handle(event: eda.Event) -> None:
        await subscription.close()
        await asyncio.sleep(0.02)
        after.append(event.id)

    await asyncio.gather(*(conn.publish(stream) for _ in range(10)))
    subscription = conn.subscribe(stream, handle, **TEAM)
    await subscription
    await asyncio.wait_for(subscription.wait(), 5)
    assert len(after) == 1
    assert subscription.stats().handled == 1
    assert (await admin.consumer(stream, "team"))["ack_floor"]["stream_seq"] == 1


async def test_close_of_the_connection_when_called_in_a_handler_closes_after_it(
    connect: Connect, stream: str, admin: Admin
) -> None:
    conn = await connect()
    after: list[str] = []

    async def handle(event: eda.Event) -> None:
        await conn.close()
        await conn.publish(stream, eda.Event(type="said at the end"))
        after.append(event.id)

    await conn.publish(stream)
    subscription = await conn.subscribe(stream, handle, **TEAM)
    await asyncio.wait_for(subscription.wait(), 5)
    await until(lambda: conn.state == "closed")
    assert len(after) == 1
    assert await admin.last_seq(stream) == 2
    assert (await admin.consumer(stream, "team"))["ack_floor"]["stream_seq"] == 1


async def test_close_of_the_connection_when_a_handler_publishes_lets_it(
    connect: Connect, stream: str, admin: Admin
) -> None:
    conn = await connect()
    running, release = asyncio.Event(), asyncio.Event()

    async def handle(event: eda.Event) -> None:
        running.set()
        await release.wait()
        await conn.publish(f"{stream}-copy", event)

    sent = (await conn.publish(stream)).id
    await conn.subscribe(stream, handle, **TEAM)
    await running.wait()
    closing = asyncio.create_task(conn.close())
    await asyncio.sleep(0.02)
    with pytest.raises(eda.Closed):
        conn.subscribe(stream, print)
    release.set()
    await asyncio.wait_for(closing, 5)
    assert await admin.ids(f"{stream}-copy") == [sent]
    await admin.js.delete_stream(f"{stream}-copy")
    assert (await admin.consumer(stream, "team"))["num_ack_pending"] == 0


async def test_close_of_the_connection_when_a_handler_hangs_cancels_it_in_time(
    connect: Connect, stream: str, logged: Logged
) -> None:
    conn = await connect()
    running = asyncio.Event()
    ended: list[str] = []

    async def handle(event: eda.Event) -> None:
        running.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(event.id)

    await conn.publish(stream)
    await conn.subscribe(stream, handle, timeout_s=60, **TEAM)
    await running.wait()
    begin = time.monotonic()
    await conn.close(timeout_s=0.5)
    assert time.monotonic() - begin < 5
    assert len(ended) == 1
    assert logged.find("1 handlers were cancelled", logging.WARNING)


async def test_close_when_called_twice_or_by_two_closes_once(conn: eda.Conn, stream: str) -> None:
    subscription = await conn.subscribe(stream, print)
    await asyncio.gather(subscription.close(), subscription.close())
    await subscription.close()
    await subscription.wait()
    assert "closed" in repr(subscription)


async def test_close_when_the_body_raises_closes_and_lets_it_through(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(KeyError):
        async with conn.subscribe(stream, print) as subscription:
            raise KeyError("body")
    assert "closed" in repr(subscription)


async def test_open_when_cancelled_leaves_no_handler_running(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream)
    for delay_s in (0, 0.0005, 0.001, 0.002, 0.004):
        seen: list[eda.Event] = []
        subscription = conn.subscribe(stream, seen.append, backfill=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s), subscription:
                seen.clear()
                await asyncio.sleep(60)
        await subscription.close()
        n = len(seen)
        await conn.publish(stream)
        await asyncio.sleep(0.02)
        assert len(seen) == n
        assert "closed" in repr(subscription)


async def test_worker_when_cancelled_from_outside_closes_the_subscription(conn: eda.Conn, stream: str) -> None:
    subscription = await conn.subscribe(stream, print, concurrency=3)
    (worker, *_) = [task for task in asyncio.all_tasks() if task.get_name().endswith("worker 1")]
    worker.cancel()
    with pytest.raises(eda.Closed, match="was cancelled"):
        await asyncio.wait_for(subscription.wait(), 5)


@pytest.mark.parametrize("options", [TEAM, {"serial": True}], ids=["shared", "ordered"])
async def test_subscription_when_its_caller_is_cancelled_as_it_opens_is_closed(
    conn: eda.Conn, stream: str, options: dict[str, Any]
) -> None:
    """In the very turn in which the opening ends, nobody else would close it."""
    subscription = conn.subscribe(stream, print, **options)

    async def wanted() -> None:
        await subscription

    caller = asyncio.create_task(wanted())
    await asyncio.sleep(0)
    opening = subscription._opening
    assert opening is not None
    opening.add_done_callback(lambda _: caller.cancel())
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert opening.done()
    await until(lambda: subscription.is_closed)
    assert subscription not in conn._lifetime.subscriptions


# --- unsubscribe -----------------------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_unsubscribe_when_called_forgets_the_position(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await asyncio.gather(*(conn.publish(stream) for _ in range(10)))
    for _ in range(2):
        seen: list[int] = []
        subscription = await conn.subscribe(stream, lambda event, seen=seen: seen.append(event.sequence), **TEAM)
        await until(lambda seen=seen: len(seen) == 10)
        await subscription.unsubscribe()
        assert seen == list(range(1, 11))
        assert await admin.consumers(stream) == []


async def test_unsubscribe_when_called_in_a_handler_forgets_the_position_after_it(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    after: list[str] = []

    async def handle(event: eda.Event) -> None:
        await subscription.unsubscribe()
        await asyncio.sleep(0.02)
        after.append(event.id)

    await asyncio.gather(*(conn.publish(stream) for _ in range(10)))
    subscription = conn.subscribe(stream, handle, **TEAM)
    await subscription
    await asyncio.wait_for(subscription.wait(), 5)
    assert len(after) == 1
    assert await admin.consumers(stream) == []
    assert not logged.find("", logging.WARNING)


async def test_unsubscribe_when_closed_before_or_gone_does_no_harm(conn: eda.Conn, stream: str, admin: Admin) -> None:
    subscription = await conn.subscribe(stream, print, **TEAM)
    await subscription.close()
    assert await admin.consumers(stream) == ["team"]
    await subscription.unsubscribe()
    await subscription.unsubscribe()
    assert await admin.consumers(stream) == []
    await admin.js.delete_stream(stream)
    await subscription.unsubscribe()


@pytest.mark.parametrize("kind", [{}, {"serial": True}], ids=["shared", "serial"])
async def test_unsubscribe_when_it_fails_after_a_handler_called_it_is_what_wait_raises(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
) -> None:
    refused = eda.ServerError(403, 0, "no")

    async def refuse(*_: object) -> None:
        raise refused

    async def handle(event: eda.Event) -> None:
        await subscription.unsubscribe()

    await conn.publish(stream)
    with monkeypatch.context() as patch:
        patch.setattr(Api, "delete_consumer", refuse)
        patch.setattr(CursorEntry, "delete", refuse)
        subscription = await conn.subscribe(stream, handle, **TEAM, **kind)
        with pytest.raises(eda.ServerError) as caught:
            await asyncio.wait_for(subscription.wait(), 5)
        assert caught.value is refused
        assert subscription.is_closed
        assert subscription.stats().handled == 1
        logged.expect("forgetting its position failed")
        with pytest.raises(eda.ServerError):
            await subscription.unsubscribe()
    await subscription.unsubscribe()  # again, and now it can be
    assert await admin.consumers(stream) == []
    kept = await Keys(admin, stream, "team").get()
    assert kept is None


@pytest.mark.parametrize("kind", [{}, {"serial": True}], ids=["shared", "serial"])
async def test_unsubscribe_when_it_fails_raises_and_can_be_called_again(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
) -> None:
    async def refuse(*_: object) -> None:
        raise eda.Timeout("asking", 1)

    subscription = await conn.subscribe(stream, print, **TEAM, **kind)
    logged.expect("forgetting its position failed")
    with monkeypatch.context() as patch:
        patch.setattr(Api, "delete_consumer", refuse)
        patch.setattr(CursorEntry, "delete", refuse)
        with pytest.raises(eda.Timeout, match="forgetting the position of subscription team"):
            await subscription.unsubscribe()
    assert subscription.is_closed
    await subscription.unsubscribe()
    assert await admin.consumers(stream) == []


async def test_unsubscribe_when_the_connection_is_closed_raises(connect: Connect, stream: str, admin: Admin) -> None:
    """Silence would say that the position is gone."""
    conn = await connect()
    subscription = await conn.subscribe(stream, print, **TEAM)
    await conn.close()
    with pytest.raises(eda.Closed):
        await subscription.unsubscribe()
    assert await admin.consumers(stream) == ["team"]


@pytest.mark.parametrize("kind", [{}, {"serial": True}], ids=["shared", "serial"])
async def test_unsubscribe_when_it_was_never_opened_forgets_what_was_kept_before(
    conn: eda.Conn, stream: str, admin: Admin, kind: dict[str, Any]
) -> None:
    await conn.publish(stream)
    async with conn.subscribe(stream, print, **TEAM, **kind) as subscription:
        await until(lambda: subscription.stats().handled)
    await conn.subscribe(stream, print, **TEAM, **kind).unsubscribe()
    assert await admin.consumers(stream) == []
    assert await Keys(admin, stream, "team").get() is None


@pytest.mark.parametrize("kind", [{}, {"serial": True}], ids=["shared", "serial"])
async def test_unsubscribe_when_the_server_is_away_for_a_moment_forgets_when_it_is_back(
    own_server: eda.EmbeddedServer, kind: dict[str, Any]
) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.publish("s")
        subscription = await conn.subscribe("s", print, **TEAM, **kind)
        await until(lambda: subscription.stats().handled)
        await own_server.kill()
        forgetting = asyncio.create_task(subscription.unsubscribe())
        await until(lambda: conn.state == "disconnected")
        await own_server.start()
        await asyncio.wait_for(forgetting, 20)
        seen: list[int] = []
        async with conn.subscribe("s", lambda event: seen.append(event.sequence), **TEAM, **kind):
            await until(lambda: seen, 5)


# --- a connection that is down ---------------------------------------------------------------------------------------


async def test_close_when_the_connection_is_down_ends_in_time_and_says_what_may_come_again(
    server: eda.EmbeddedServer, connect: Connect, stream: str, logged: Logged
) -> None:
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await asyncio.gather(*(conn.publish(stream) for _ in range(10)))
        release = asyncio.Event()

        async def handle(event: eda.Event) -> None:
            await release.wait()

        subscription = await conn.subscribe(stream, handle, timeout_s=0.4, **TEAM)
        await until(lambda: subscription.stats().in_flight == 1)
        proxy.refusing = True
        proxy.drop()
        await until(lambda: conn.state == "disconnected")
        release.set()
        begin = time.monotonic()
        await subscription.close()
        assert time.monotonic() - begin < 3
        assert logged.find("did not confirm", logging.WARNING)
        await conn.close()
