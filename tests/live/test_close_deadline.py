"""Closing has one deadline for everything, a cancelled block ends now, and nobody waits for who waits for him."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, freeze, needs_freeze, until

DURABLE: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": DURABLE,
    "serial": {**DURABLE, "serial": True},
    "private": {"backfill": True},
    "in batches": {**DURABLE, "batch": 10},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@contextlib.contextmanager
def frozen(server: eda.EmbeddedServer) -> Iterator[None]:
    """Stop the server's process for as long as the context."""
    assert server.pid is not None
    freeze(server.pid)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


class Busy:
    """A handler that does not end by itself."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.n_cancelled = 0

    async def __call__(self, event: object) -> None:
        self.running.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.n_cancelled += 1
            raise


# --- one deadline ----------------------------------------------------------------------------------------------------


@each_kind
async def test_close_when_its_time_is_over_before_it_begins_leaves_nobody_waiting(
    connect: Connect, stream: str, kind: str, logged: Logged
) -> None:
    """Something else had the event loop for longer than closing may take."""
    conn = await connect()
    subscription = await conn.subscribe(stream, print, **KINDS[kind])
    publisher = conn.publisher(stream)
    await publisher.__aenter__()
    waiting = asyncio.create_task(subscription.wait())
    closing = asyncio.create_task(conn.close(0))
    await asyncio.sleep(0)
    time.sleep(0.1)  # noqa: ASYNC251
    await closing
    await asyncio.wait_for(waiting, 5)
    assert subscription.is_closed
    with pytest.raises(eda.Closed):
        await publisher.send(eda.Event())
    assert not logged.find("0 events of the publisher", 30)


@needs_freeze
@pytest.mark.parametrize("timeout_s", [0, 0.3, 2])
async def test_close_when_the_server_is_frozen_ends_by_the_deadline_and_says_what_is_left(
    own_server: eda.EmbeddedServer, logged: Logged, timeout_s: float
) -> None:
    conn = await eda.connect(own_server.url, client="svc")
    await conn.streams.create("s", eda.StreamOptions(dedup_window_s=7200))
    await conn.publish("s")
    publishers = [await conn.publisher("s", timeout_s=3600, ack_timeout_s=60) for _ in range(3)]
    busy = {kind: Busy() for kind in KINDS}
    for kind, options in KINDS.items():
        named = {"name": kind.replace(" ", "-")} if "name" in options else {}
        await conn.subscribe("s", busy[kind], timeout_s=3600, **{**options, **named})
    for each in busy.values():
        await each.running.wait()
    with frozen(own_server):
        for publisher in publishers:
            await publisher.send(eda.Event())
        publishing = asyncio.create_task(conn.publish("s", timeout_s=3600))
        await asyncio.sleep(0)
        begin = time.monotonic()
        await conn.close(timeout_s=timeout_s)
        assert time.monotonic() - begin < timeout_s + 3.0
        assert conn.state == "closed"
        with pytest.raises(eda.Closed):
            await publishing
    await until(lambda: all(each.n_cancelled for each in busy.values()))
    (said,) = logged.find("closed before these had ended", 30)
    assert "1 events of the publisher to s" in said.getMessage()
    assert "1 publishes" in said.getMessage()


async def test_close_when_the_server_is_well_and_a_handler_hangs_keeps_the_position_in_time(
    connect: Connect, stream: str, admin: Admin
) -> None:
    """What was handled stays handled, and the next member has the event in hand at once."""
    conn, other = await connect(), await connect()
    for _ in range(3):
        await conn.publish(stream)

    async def handle(event: eda.Event) -> None:
        if event.sequence == 3:
            await busy(event)

    busy = Busy()
    await conn.subscribe(stream, handle, serial=True, timeout_s=3600, **DURABLE)
    await busy.running.wait()
    begin = time.monotonic()
    await conn.close(timeout_s=1.0)
    assert time.monotonic() - begin < 5
    seen: list[int] = []
    async with other.subscribe(stream, lambda event: seen.append(event.sequence), serial=True, **DURABLE):
        await until(lambda: seen, 3)  # a lease that was not given up is kept for 5 s
    assert seen == [3]


async def test_close_when_told_again_and_less_ends_by_the_shorter_time(conn: eda.Conn, stream: str) -> None:
    busy = Busy()
    await conn.publish(stream)
    await conn.subscribe(stream, busy, timeout_s=3600, **DURABLE)
    await busy.running.wait()
    first = asyncio.create_task(conn.close())
    await asyncio.sleep(0.05)
    begin = time.monotonic()
    await conn.close(timeout_s=0.5)
    assert time.monotonic() - begin < 5
    await asyncio.wait_for(first, 5)


async def test_close_when_told_again_and_more_keeps_the_shorter_time(conn: eda.Conn, stream: str) -> None:
    busy = Busy()
    await conn.publish(stream)
    await conn.subscribe(stream, busy, timeout_s=3600, **DURABLE)
    await busy.running.wait()
    begin = time.monotonic()
    await asyncio.gather(conn.close(timeout_s=0.5), conn.close(timeout_s=60))
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("timeout_s", [-1, float("nan"), float("inf"), "1", None, True])
async def test_close_when_the_time_is_none_is_refused(conn: eda.Conn, timeout_s: Any) -> None:
    with pytest.raises(eda.ConfigError) as caught:
        await conn.close(timeout_s=timeout_s)
    assert caught.value.argument == "timeout_s"
    assert conn.state == "connected"


# --- a cancelled block -----------------------------------------------------------------------------------------------


@each_kind
async def test_subscription_when_its_block_is_cancelled_ends_now(conn: eda.Conn, stream: str, kind: str) -> None:
    busy = Busy()
    await conn.publish(stream)

    async def use() -> None:
        async with conn.subscribe(stream, busy, timeout_s=3600, **KINDS[kind]) as subscription:
            await subscription.wait()

    using = asyncio.create_task(use())
    await busy.running.wait()
    begin = time.monotonic()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert time.monotonic() - begin < 3
    assert busy.n_cancelled == 1
    assert not conn._lifetime.subscriptions


@needs_freeze
async def test_connection_when_its_block_is_cancelled_while_the_server_is_frozen_ends_now(
    own_server: eda.EmbeddedServer,
) -> None:
    busy, ready = Busy(), asyncio.Event()

    async def use() -> None:
        async with eda.connect(own_server.url, client="svc") as conn:
            await conn.publish("s")
            await conn.subscribe("s", busy, timeout_s=3600, **DURABLE)
            publisher = await conn.publisher("s")
            await busy.running.wait()
            assert own_server.pid is not None
            freeze(own_server.pid)
            await publisher.send(eda.Event())
            ready.set()
            await conn.publish("s")

    using = asyncio.create_task(use())
    try:
        await ready.wait()
        begin = time.monotonic()
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
        assert time.monotonic() - begin < 3
    finally:
        assert own_server.pid is not None
        os.kill(own_server.pid, signal.SIGCONT)


@pytest.mark.parametrize("what", ["connection", "subscription", "events"])
async def test_close_when_its_caller_is_cancelled_goes_on_for_a_short_time(
    conn: eda.Conn, stream: str, what: str
) -> None:
    busy = Busy()
    await conn.publish(stream)
    subscription = await conn.subscribe(stream, busy, timeout_s=3600, **DURABLE)
    await busy.running.wait()
    events = await conn.events(stream, timeout_s=3600)
    close = {"connection": conn.close, "subscription": subscription.close, "events": events.aclose}[what]
    closing = asyncio.create_task(close())
    await asyncio.sleep(0.01)
    closing.cancel()
    begin = time.monotonic()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    if what == "events":  # of which nothing is under way
        assert time.monotonic() - begin < 1.8
    else:
        assert not subscription.is_closed
    closed = events.subscription if what == "events" else subscription
    await until(lambda: closed.is_closed)
    if what == "connection":
        await until(lambda: conn.state == "closed")
    await events.aclose()
    await conn.close(timeout_s=0.5)


async def test_subscription_when_leaving_is_cancelled_lets_a_short_handler_finish(conn: eda.Conn, stream: str) -> None:
    running, ended = asyncio.Event(), asyncio.Event()

    async def handle(event: eda.Event) -> None:
        running.set()
        await asyncio.sleep(0.2)
        ended.set()

    async def use() -> None:
        async with conn.subscribe(stream, handle, **DURABLE):
            await running.wait()

    await conn.publish(stream)
    using = asyncio.create_task(use())
    await running.wait()
    await asyncio.sleep(0.02)  # it is leaving
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    await asyncio.wait_for(ended.wait(), 5)
    await until(lambda: not conn._lifetime.subscriptions)


# --- closing from what a handler has started -------------------------------------------------------------------------


async def in_a_group(close: Callable[[], Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(close())


async def in_a_task_of_a_task(close: Callable[[], Any]) -> None:
    await asyncio.create_task(in_a_group(close))


async def in_a_thread(close: Callable[[], Any]) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(close(), loop).result(10))


WAYS: dict[str, Callable[[Callable[[], Any]], Awaitable[object]]] = {
    "itself": lambda close: close(),
    "TaskGroup": in_a_group,
    "a task of a task": in_a_task_of_a_task,
    "gather": lambda close: asyncio.gather(close()),
    "wait_for": lambda close: asyncio.wait_for(close(), 10),
    "thread": in_a_thread,
}


@each_kind
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["conn.close", "close", "unsubscribe"])
async def test_close_when_called_by_what_a_handler_started_does_not_wait_for_the_handler(
    conn: eda.Conn, stream: str, kind: str, way: str, what: str
) -> None:
    async def handle(event: object) -> None:
        close = {"conn.close": conn.close, "close": subscription.close, "unsubscribe": subscription.unsubscribe}[what]
        await WAYS[way](close)

    await conn.publish(stream)
    subscription = conn.subscribe(stream, handle, timeout_s=20.0, **KINDS[kind])
    begin = time.monotonic()
    async with subscription:
        await asyncio.wait_for(subscription.wait(), 10)
    assert time.monotonic() - begin < 5
    assert subscription.stats().handled == 1


async def test_close_when_called_in_a_thread_of_a_threaded_handler_does_not_wait_for_it(
    conn: eda.Conn, stream: str
) -> None:
    loop = asyncio.get_running_loop()

    def handle(event: eda.Event) -> None:
        asyncio.run_coroutine_threadsafe(subscription.close(), loop).result(10)

    await conn.publish(stream)
    subscription = await conn.subscribe(stream, eda.threaded(handle), timeout_s=20.0, **DURABLE)
    await asyncio.wait_for(subscription.wait(), 10)
    assert subscription.stats().handled == 1


async def test_close_when_called_by_a_task_that_outlives_its_handler_waits_until_closed(
    conn: eda.Conn, stream: str
) -> None:
    tasks: list[asyncio.Task[bool]] = []
    handled = asyncio.Event()

    async def close() -> bool:
        await handled.wait()
        await asyncio.sleep(0.01)
        await subscription.close()
        return subscription.is_closed

    async def handle(event: eda.Event) -> None:
        tasks.append(asyncio.create_task(close()))
        handled.set()

    await conn.publish(stream)
    subscription = await conn.subscribe(stream, handle, **DURABLE)
    await handled.wait()
    assert await asyncio.wait_for(tasks[0], 5)


async def test_close_of_another_subscription_when_called_in_a_handler_waits_for_that_ones_handlers(
    conn: eda.Conn, stream: str
) -> None:
    release, running, order = asyncio.Event(), asyncio.Event(), list[str]()

    async def slow(event: eda.Event) -> None:
        running.set()
        await release.wait()
        order.append("handled")

    async def closer(event: eda.Event) -> None:
        await running.wait()
        asyncio.get_running_loop().call_later(0.05, release.set)
        await other.close()
        order.append("closed")

    await conn.publish(stream)
    other = await conn.subscribe(stream, slow, backfill=True)
    async with conn.subscribe(stream, closer, backfill=True) as subscription:
        await until(lambda: subscription.stats().handled, 5)
    assert order == ["handled", "closed"]
