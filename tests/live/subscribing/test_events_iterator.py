"""conn.events(): a subscription as an iterator and a context manager."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, until, wire_of
from support.cursors.member import Keys

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {"shared": KEPT, "serial": {"serial": True, **KEPT}}
each_kind = pytest.mark.parametrize("kind", KINDS)
QUICK = eda.Retry(initial_s=0.02, factor=1)


async def publish(conn: eda.Conn, stream: str, n: int) -> None:
    for _ in range(n):
        await conn.publish(stream)


async def kept(admin: Admin, stream: str, kind: str) -> int:
    """Return the position on the server; for a shared subscription the acknowledgement floor."""
    if kind == "shared":
        return int((await admin.consumer(stream, "me"))["ack_floor"]["stream_seq"])
    value = await Keys(admin, stream, "me").get()
    assert value is not None
    return int(value["seq"])


@pytest.mark.old_server
@each_kind
async def test_events_when_iterated_gives_each_and_acknowledges_it_when_the_next_is_asked_for(
    conn: eda.Conn, stream: str, admin: Admin, kind: str
) -> None:
    await publish(conn, stream, 5)
    seen: list[int] = []
    async with conn.events(stream, **KINDS[kind]) as events:
        async for event in events:
            seen.append(event.sequence)
            assert events.subscription.stats().handled == event.sequence - 1
            await until(lambda event=event: is_kept(admin, stream, kind, event.sequence - 1))
            if event.sequence == 3:
                await asyncio.sleep(0.05)
                assert await kept(admin, stream, kind) == 2
            if event.sequence == 5:
                break
    # Leaving normally acknowledges the one in hand.
    assert seen == [1, 2, 3, 4, 5]
    assert await kept(admin, stream, kind) == 5


async def is_kept(admin: Admin, stream: str, kind: str, seq: int) -> bool:
    return await kept(admin, stream, kind) == seq


@each_kind
async def test_events_when_left_by_an_exception_gives_the_one_in_hand_back_at_once(
    connect: Connect, stream: str, admin: Admin, kind: str
) -> None:
    conn, other = await connect(), await connect()
    await publish(conn, stream, 5)
    with pytest.raises(KeyError):
        async with conn.events(stream, **KINDS[kind]) as events:
            async for event in events:
                if event.sequence == 2:
                    raise KeyError("mine")
    assert await kept(admin, stream, kind) == 1
    seen: list[int] = []
    async with asyncio.timeout(10), other.events(stream, **KINDS[kind]) as events:
        async for event in events:
            seen.append(event.sequence)
            if len(seen) == 4:
                break
    assert sorted(seen) == [2, 3, 4, 5]
    if kind == "serial":
        assert seen == [2, 3, 4, 5]


@each_kind
async def test_events_when_left_without_an_event_in_hand_loses_none(
    conn: eda.Conn, stream: str, admin: Admin, kind: str
) -> None:
    await publish(conn, stream, 3)
    for _ in range(3):
        async with conn.events(stream, **KINDS[kind]) as events:
            await until(lambda events=events: events.subscription.stats().in_flight == 1)
    assert await kept(admin, stream, kind) == 0
    async with conn.events(stream, **KINDS[kind]) as events:
        seen = [await anext(events) for _ in range(3)]
    # Given back in order; the server puts what it has nobody to give to behind the others.
    assert sorted(event.sequence for event in seen) == [1, 2, 3]
    if kind == "serial":
        assert [event.sequence for event in seen] == [1, 2, 3]
    assert await kept(admin, stream, kind) == 3


@each_kind
async def test_events_when_waiting_is_cancelled_loses_none(conn: eda.Conn, stream: str, kind: str) -> None:
    seen: list[int] = []
    async with conn.events(stream, **KINDS[kind]) as events:
        publishing = asyncio.create_task(publish(conn, stream, 300))
        while len(seen) < 300:
            try:
                async with asyncio.timeout(0.0007):
                    seen.append((await anext(events)).sequence)
            except TimeoutError:
                continue
        await publishing
    assert sorted(seen) == list(range(1, 301))


@each_kind
async def test_events_when_one_is_kept_for_too_long_has_it_come_again(
    conn: eda.Conn, stream: str, kind: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    await publish(conn, stream, 2)
    seen: list[tuple[int, int]] = []
    async with conn.events(stream, timeout_s=0.2, retry=QUICK, **KINDS[kind]) as events:
        async for event in events:
            seen.append((event.sequence, event.attempt))
            if len(seen) == 1:
                await asyncio.sleep(0.3)
            if len(seen) == 3:
                break
    assert sorted(seen) == [(1, 1), (1, 2), (2, 1)]
    if kind == "serial":
        assert seen == [(1, 1), (1, 2), (2, 1)]
    error = logged.find("handler failed")[0].exc_info[1]
    assert isinstance(error, eda.Timeout)


async def test_events_when_nobody_asks_for_long_do_not_time_out(conn: eda.Conn, stream: str) -> None:
    """The time runs from when an event is taken."""
    await publish(conn, stream, 1)
    async with conn.events(stream, timeout_s=0.1, **KEPT) as events:
        await asyncio.sleep(0.3)
        event = await anext(events)
    assert event.attempt == 1


@pytest.mark.parametrize("kind", ["shared", "exclusive", "private"])
async def test_events_when_in_batches_gives_lists(conn: eda.Conn, stream: str, kind: str) -> None:
    options = {"shared": KEPT, "exclusive": {"exclusive": True, **KEPT}, "private": {"backfill": True}}[kind]
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event() for _ in range(100)])
    seen: list[int] = []
    async with conn.events(stream, batch=30, **options) as events:
        async for batch in events:
            assert type(batch) is list
            seen += [event.sequence for event in batch]
            if len(seen) == 100:
                break
    assert seen == list(range(1, 101))


@each_kind
async def test_events_when_the_stream_is_deleted_raises_what_ended_it(
    conn: eda.Conn, stream: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("subscription me to .* ends")
    await publish(conn, stream, 1)
    events = conn.events(stream, **KINDS[kind])
    assert (await anext(events)).sequence == 1
    waiting = asyncio.ensure_future(anext(events))
    await wire_of(conn).barrier(5)
    await asyncio.sleep(0.02)
    await admin.js.delete_stream(stream)
    with pytest.raises(eda.StreamNotFound):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(eda.StreamNotFound):
        await anext(events)
    await events.aclose()


@each_kind
async def test_events_when_closed_ends_the_iteration(conn: eda.Conn, stream: str, kind: str) -> None:
    await publish(conn, stream, 1)
    events = await conn.events(stream, **KINDS[kind])
    seen: list[int] = []

    async def iterate() -> None:
        async for event in events:
            seen.append(event.sequence)

    iterating = asyncio.create_task(iterate())
    await until(lambda: events.subscription.stats().handled == 1)
    await events.aclose()
    await asyncio.wait_for(iterating, 10)
    assert seen == [1]


async def test_events_when_private_sees_every_event(conn: eda.Conn, stream: str) -> None:
    async with conn.events(stream) as one, conn.events(stream) as other:
        await publish(conn, stream, 20)
        for events in (one, other):
            assert [(await anext(events)).sequence for _ in range(20)] == list(range(1, 21))


async def test_events_when_two_wait_at_once_the_second_is_refused(conn: eda.Conn, stream: str) -> None:
    async with conn.events(stream) as events:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.02)
        with pytest.raises(RuntimeError, match="already"):
            await anext(events)
        await conn.publish(stream)
        assert (await waiting).sequence == 1


async def test_events_when_options_can_not_work_are_refused(conn: eda.Conn, stream: str, admin: Admin) -> None:
    with pytest.raises(eda.ConfigError, match="concurrency") as caught:
        conn.events(stream, concurrency=2)
    assert caught.value.argument == "concurrency"
    with pytest.raises(eda.ConfigError, match="backfil"):
        conn.events(stream, backfil=True)
    assert stream not in await admin.stream_names()


async def test_events_when_the_connection_closes_ends(connect: Connect, stream: str, admin: Admin) -> None:
    conn = await connect()
    await publish(conn, stream, 3)
    events = await conn.events(stream, **KEPT)
    assert (await anext(events)).sequence == 1
    await asyncio.wait_for(conn.close(), 5)
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    # What was in hand is given back.
    assert (await admin.consumer(stream, "me"))["ack_floor"]["stream_seq"] == 0
