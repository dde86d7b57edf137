"""Opening, using and leaving that is cancelled at any moment: nothing is left, neither here nor on the server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, until, wire_of
from support.cursors.member import Keys

N_TURNS = 61
N_MOMENTS = 30  # after that, some fractions of a millisecond apart
DURABLE: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": DURABLE,
    "shared, not durable": {"name": "me", "backfill": True},
    "private": {"backfill": True},
    "private, from a time": {"start": datetime(2020, 1, 1, tzinfo=UTC)},
    "serial": {**DURABLE, "serial": True},
    "strict": {**DURABLE, "serial": "strict"},
    "exclusive": {**DURABLE, "exclusive": True},
    "key": {**DURABLE, "key": "aggregate"},
    "in batches": {**DURABLE, "batch": 2},
    "reset": {**DURABLE, "serial": True, "reset": True},
}
each_kind = pytest.mark.parametrize("kind", KINDS)

User = Callable[[], Awaitable[object]]


def held(conn: eda.Conn) -> dict[str, int]:
    """Count what a connection holds for those who use it."""
    wire = wire_of(conn)
    hooks = ("on_lost", "on_restored", "on_refused", "on_closed", "on_info")
    return {name: len(getattr(wire, name)) for name in hooks} | {
        "wire subscriptions": len(wire._subs),
        "subscriptions": len(conn._lifetime.subscriptions),
        "publishers": len(conn._lifetime.publishers),
        "batches": len(conn._lifetime.batches),
        "tasks": len(asyncio.all_tasks()),
    }


async def cancel_at_any_moment(user: User) -> None:
    """Run it again and again, and cancel it after 0, 1, 2 … turns of the loop, then after some milliseconds."""
    for n in range(N_TURNS + N_MOMENTS):
        task = asyncio.ensure_future(user())
        if n < N_TURNS:
            for _ in range(n):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep((n - N_TURNS) * 0.0004)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 5)


async def nothing_is_left(conn: eda.Conn, before: dict[str, int], admin: Admin, stream: str) -> None:
    """Fail unless all is as before, and nobody on the server waits for events or holds a cursor."""
    await until(lambda: held(conn) == before, 5)

    async def nobody_waits() -> bool:
        consumers = [await admin.consumer(stream, name) for name in await admin.consumers(stream)]
        return not any(each["num_waiting"] for each in consumers)

    await until(nobody_waits, 5)
    kept = await Keys(admin, stream, "me").get()
    assert kept is None or not kept["holder"]


@each_kind
@pytest.mark.parametrize("way", ["subscribe", "events", "await"])
async def test_subscription_when_cancelled_at_any_moment_leaves_nothing(
    conn: eda.Conn, stream: str, admin: Admin, kind: str, way: str
) -> None:
    for n in range(4):
        await conn.publish(stream, eda.Event(aggregate=f"a{n % 2}"))
    options = KINDS[kind]

    async def handle(event: object) -> None:
        await asyncio.sleep(0.001)

    async def subscribe() -> None:
        async with conn.subscribe(stream, handle, **options) as subscription:
            await until(lambda: subscription.stats().handled)

    async def iterate() -> None:
        async with conn.events(stream, **options) as events:
            async for _ in events:
                break

    async def wait() -> None:
        subscription = conn.subscribe(stream, handle, **options)
        await subscription
        await subscription.close()

    async with conn.subscribe(stream, handle, **options):
        pass  # what is made once for a connection is there before we count
    before = held(conn)
    await cancel_at_any_moment({"subscribe": subscribe, "events": iterate, "await": wait}[way])
    await nothing_is_left(conn, before, admin, stream)
    # Nothing is withheld: the next member gets all that is left, long before a lease of 30 s ends, and a new event.
    new = await conn.publish(stream)
    seen: list[int] = []
    options = {**options, "batch": None, "backfill": "start" not in options}
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), **options):
        await until(lambda: new.sequence in seen, 5)
        if "name" in options:
            await until(lambda: has_no_lease(admin, stream))


async def has_no_lease(admin: Admin, stream: str) -> bool:
    return not any([(await admin.consumer(stream, name))["num_ack_pending"] for name in await admin.consumers(stream)])


# --- iterators that are dropped --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shared", "serial", "in batches"])
async def test_events_when_left_by_break_without_context_give_back_what_they_have_and_say_so(
    conn: eda.Conn, stream: str, logged: Logged, kind: str
) -> None:
    options = {**KINDS[kind], "timeout_s": 3600.0}
    for _ in range(6):
        await conn.publish(stream)
    before = held(conn)

    async def first() -> None:
        async for _ in conn.events(stream, **options):
            break

    await first()
    gc.collect()
    await until(lambda: not conn._lifetime.subscriptions, 5)
    await until(lambda: held(conn) == before, 5)
    (said,) = logged.find("was dropped without being closed")
    assert f"subscription me to {stream}" in said.getMessage()
    assert "async with conn.events" in said.getMessage()
    seen: list[int] = []
    async with conn.events(stream, **options) as events:
        async for event in events:
            seen += [each.sequence for each in (event if isinstance(event, list) else [event])]
            if len(seen) >= 6:
                break
    assert sorted(seen) == [1, 2, 3, 4, 5, 6]
    assert len(logged.find("was dropped without being closed")) == 1


async def test_events_when_cancelled_without_context_give_back_what_they_have(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream)
    took = asyncio.Event()

    async def loop() -> None:
        async for _ in conn.events(stream, timeout_s=3600.0, **DURABLE):
            took.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(loop())
    await took.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    await until(lambda: not conn._lifetime.subscriptions, 5)
    async with conn.events(stream, **DURABLE) as events:
        assert (await asyncio.wait_for(anext(events), 5)).sequence == 1


async def test_events_when_the_loop_is_closed_are_collected_in_silence(logged: Logged, stream: str) -> None:
    def run() -> list[Any]:
        kept: list[Any] = []

        async def main() -> None:
            async with eda.connect("embedded:") as conn:
                await conn.publish(stream)
                events = await conn.events(stream, backfill=True)
                await anext(events)
                kept.append(events)

        asyncio.run(main())
        return kept

    kept = await asyncio.to_thread(run)
    assert kept
    kept.clear()
    gc.collect()
    assert not logged.find("dropped")


async def test_events_when_closed_in_good_order_say_nothing(conn: eda.Conn, stream: str, logged: Logged) -> None:
    await conn.publish(stream)
    async with conn.events(stream, backfill=True) as events:
        await anext(events)
    events = await conn.events(stream, backfill=True)
    await events.aclose()
    del events
    gc.collect()
    assert not logged.find("dropped")


@pytest.mark.parametrize("way", ["subscribe", "events"])
async def test_subscription_when_made_and_never_awaited_is_kept_by_nobody(
    conn: eda.Conn, stream: str, way: str, logged: Logged
) -> None:
    def handle(event: eda.Event) -> None: ...

    before = held(conn)
    for options in KINDS.values():
        made: Any = conn.subscribe(stream, handle, **options) if way == "subscribe" else conn.events(stream, **options)
        assert held(conn) == before
        known = weakref.ref(made)
        underneath = weakref.ref(made.subscription) if way == "events" else known
        del made
        gc.collect()
        assert known() is None
        assert underneath() is None
    assert not logged.find("dropped")


async def test_subscription_when_opened_after_the_connection_was_closed_is_refused(
    connect: Connect, stream: str
) -> None:
    conn = await connect()
    subscription, events = conn.subscribe(stream, print), conn.events(stream)
    await conn.close()
    for opening in (subscription, events):
        with pytest.raises(eda.Closed):
            await opening


# --- what else is opened and used ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["publish_batch", "replay_dead", "publish"])
async def test_call_when_cancelled_at_any_moment_leaves_nothing(
    conn: eda.Conn, stream: str, admin: Admin, what: str
) -> None:
    await conn.publish(stream)
    await conn.streams.create(f"{stream}-dead")
    calls: dict[str, User] = {
        "publish_batch": lambda: conn.publish_batch(stream, [eda.Event(), eda.Event()]),
        "replay_dead": lambda: conn.replay_dead(stream, "me"),
        "publish": lambda: conn.publish(stream),
    }
    await calls[what]()
    before = held(conn)
    await cancel_at_any_moment(calls[what])
    await until(lambda: held(conn) == before, 5)
    await admin.js.delete_stream(f"{stream}-dead")


async def test_connect_when_cancelled_at_any_moment_leaves_nothing(server: eda.EmbeddedServer, stream: str) -> None:
    async def use() -> None:
        async with eda.connect(server.url, client="given up") as conn, conn.subscribe(stream, print):
            await conn.publish(stream)

    tasks = len(asyncio.all_tasks())
    await cancel_at_any_moment(use)
    await until(lambda: len(asyncio.all_tasks()) == tasks, 5)
