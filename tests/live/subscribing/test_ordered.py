"""Ordered subscriptions (private, exclusive, serial, key): every event, in order, from where one asks; what is kept."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import eda
import eda._codec
from helpers import Admin, Connect, Logged, until
from support.cursors.member import Keys

pytestmark = pytest.mark.old_server

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "private": {},
    "private serial": {"serial": True},
    "exclusive": {"name": "me", "durable": True, "exclusive": True},
    "serial": {"name": "me", "durable": True, "serial": True},
    "strict": {"name": "me", "durable": True, "serial": "strict"},
    "key": {"name": "me", "durable": True, "key": "aggregate"},
}
DURABLE = [kind for kind, options in KINDS.items() if "durable" in options]


async def publish(conn: eda.Conn, stream: str, n: int, **fields: Any) -> list[str]:
    """Publish `n` events; returns their ids in stream order."""
    async with conn.publisher(stream) as publisher:
        return await publisher.send_many([eda.Event(**fields) for _ in range(n)])


class Seen(list[int]):
    """A handler that keeps the sequences."""

    async def __call__(self, event: eda.Event) -> None:
        await asyncio.sleep(0)
        self.append(event.sequence)


# --- every event, in order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_ordered_when_events_are_there_and_come_gets_each_in_order(
    conn: eda.Conn, stream: str, kind: str
) -> None:
    n = 200 if kind == "strict" else 2000
    ids = await publish(conn, stream, n, aggregate="a")
    seen: list[eda.Event] = []
    async with conn.subscribe(stream, seen.append, backfill=True, **KINDS[kind]) as subscription:
        ids += await publish(conn, stream, n, aggregate="a")
        await until(lambda: len(seen) == 2 * n)
        assert [event.id for event in seen] == ids
        assert [event.sequence for event in seen] == list(range(1, 2 * n + 1))
        assert {event.attempt for event in seen} == {1}
        await until(lambda: subscription.stats().pending == 0)
        stats = subscription.stats()
    assert (stats.handled, stats.last_sequence, stats.in_flight, stats.buffered) == (2 * n, 2 * n, 0, 0)
    assert (stats.failed, stats.redelivered, stats.skipped, stats.passed_over, stats.undecodable) == (0, 0, 0, 0, 0)


async def test_ordered_when_private_sees_every_event_beside_others(connect: Connect, stream: str) -> None:
    conns = [await connect() for _ in range(2)]
    seen = [Seen() for _ in range(4)]
    for n, each in enumerate(seen):
        await conns[n % 2].subscribe(stream, each, serial=n > 1)
    await publish(conns[0], stream, 500)
    await until(lambda: all(len(each) == 500 for each in seen))
    assert all(each == list(range(1, 501)) for each in seen)


async def test_ordered_when_concurrent_handles_several_at_once_and_all(conn: eda.Conn, stream: str) -> None:
    running = most = 0
    done: list[int] = []

    async def handle(event: eda.Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        done.append(event.sequence)

    await publish(conn, stream, 200)
    async with conn.subscribe(stream, handle, exclusive=True, concurrency=10, **KEPT):
        await until(lambda: len(done) == 200)
    assert most == 10
    assert sorted(done) == list(range(1, 201))


@pytest.mark.parametrize("prefetch", [1, 10, 1000])
async def test_ordered_when_the_handler_is_slow_holds_no_more_than_prefetch(
    conn: eda.Conn, stream: str, prefetch: int
) -> None:
    await publish(conn, stream, 2000)
    release = asyncio.Event()
    options: dict[str, Any] = {"backfill": True, "prefetch": prefetch}
    async with conn.subscribe(stream, lambda event: release.wait(), **options) as subscription:
        await until(lambda: subscription.stats().buffered == prefetch - 1)
        await asyncio.sleep(0.05)
        stats = subscription.stats()
        assert (stats.in_flight, stats.buffered, stats.pending) == (1, prefetch - 1, 2000 - prefetch)
        release.set()
        await until(lambda: subscription.stats().handled == 2000)


async def test_ordered_when_events_are_large_holds_no_more_than_prefetch_bytes(conn: eda.Conn, stream: str) -> None:
    for size in [10_000] * 50 + [900_000, 10, 500_000]:
        await conn.publish(stream, eda.Event(data=eda.Bytes(bytes(size))))
    release = asyncio.Event()
    options: dict[str, Any] = {"backfill": True, "prefetch_bytes": 100_000}
    async with conn.subscribe(stream, lambda event: release.wait(), **options) as subscription:
        await until(lambda: subscription.stats().buffered >= 5)
        await asyncio.sleep(0.05)
        assert subscription._dispatcher.ledger.n_bytes <= 100_000
        release.set()
        await until(lambda: subscription.stats().handled == 53)


# --- where it begins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["private", "exclusive"])
async def test_start_when_given_is_where_it_begins(conn: eda.Conn, stream: str, admin: Admin, kind: str) -> None:
    async def first(**options: Any) -> int:
        seen = Seen()
        subscription = await conn.subscribe(stream, seen, **(KINDS[kind] | options))
        await conn.publish(stream)
        await until(lambda: seen)
        await subscription.unsubscribe()
        return seen[0]

    await publish(conn, stream, 5)
    await asyncio.sleep(0.02)
    middle = datetime.now(UTC)
    await asyncio.sleep(0.02)
    await publish(conn, stream, 5)
    assert await first() == 11
    assert await first(backfill=True) == 1
    assert await first(start=1) == 1
    assert await first(start=4) == 4
    assert await first(start=middle) == 6
    assert await first(start=middle - timedelta(hours=1)) == 1
    assert await first(start=datetime.now(UTC)) == 17
    await admin.js.purge_stream(stream, seq=3)
    await admin.js.delete_msg(stream, 3)
    assert await first(backfill=True) == 4
    assert await first(start=2) == 4
    assert await first(start=middle - timedelta(hours=1)) == 4


@pytest.mark.parametrize("kind", ["private", "exclusive"])
async def test_start_when_yet_to_come_waits_for_it_over_a_reopening(conn: eda.Conn, stream: str, kind: str) -> None:
    await publish(conn, stream, 2)
    seen = Seen()
    options = KINDS[kind] | {"start": 8}
    async with conn.subscribe(stream, seen, **options):
        await publish(conn, stream, 2)
    async with conn.subscribe(stream, seen, **options) as subscription:
        await publish(conn, stream, 6)
        await until(lambda: len(seen) == 3)
        assert subscription.stats().skipped == 0
    assert seen == [8, 9, 10]


# --- filters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["private", "serial", "key"])
@pytest.mark.parametrize(
    "options",
    [{"types": ["a"]}, {"types": ["a", ""]}, {"aggregate": "x"}, {"types": ["a", "b.>"], "aggregate": ""}],
    ids=str,
)
async def test_filter_when_given_lets_only_those_through(
    conn: eda.Conn, stream: str, kind: str, options: dict[str, Any]
) -> None:
    events = [
        eda.Event(type=type, aggregate=aggregate) for type in ("a", "b.>", "", "*") for aggregate in ("x", "", "y")
    ]
    for event in events * 2:
        await conn.publish(stream, event)
    wanted = [
        (event.type, event.aggregate)
        for event in events * 2
        if event.type in options.get("types", [event.type])
        and event.aggregate == options.get("aggregate", event.aggregate)
    ]
    seen: list[tuple[str, str]] = []
    handler = lambda event: seen.append((event.type, event.aggregate))  # noqa: E731
    async with conn.subscribe(stream, handler, backfill=True, **(KINDS[kind] | options)) as subscription:
        await until(lambda: len(seen) == len(wanted))
        await until(lambda: subscription.stats().pending == 0)
        assert subscription.stats().skipped == 0
    assert seen == wanted


async def test_filter_when_nothing_matches_for_long_moves_the_position_all_the_same(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    """What others publish to the stream's bare subject is looked at and passed over."""
    await publish(conn, stream, 1, type="a")
    seen = Seen()
    async with conn.subscribe(stream, seen, types=["a"], serial=True, **KEPT) as subscription:
        for _ in range(10):
            await admin.client.publish(stream, eda._codec.encode_event(eda.Event(type="b", id="x")))
        await until(lambda: subscription.stats().passed_over == 10)
        await until(lambda: seen)
    value = await Keys(admin, stream, "me").get()
    assert value is not None
    assert value["seq"] == 11
    assert seen == [1]


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DURABLE)
async def test_position_when_closed_is_kept_and_nothing_comes_twice(
    connect: Connect, stream: str, admin: Admin, kind: str
) -> None:
    seen = Seen()
    for n in range(3):
        conn = await connect()
        await publish(conn, stream, 50, aggregate="a")
        options = KINDS[kind] | [{"backfill": True}, {}, {"start": 3}][n]
        async with conn.subscribe(stream, seen, **options):
            await until(lambda n=n: len(seen) >= 50 * n + 20)
        value = await Keys(admin, stream, "me").get()
        assert value is not None
        assert (value["seq"], value["holder"], value["tries"]) == (len(seen), "", 0)
        async with conn.subscribe(stream, seen, **options):
            await until(lambda n=n: len(seen) == 50 * (n + 1))
        await conn.close()
    assert seen == list(range(1, 151))
    assert await admin.consumers(stream) == []


async def test_position_when_not_durable_is_not_kept(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await publish(conn, stream, 5)
    for options in ({}, {"serial": True}, {"key": "aggregate"}):
        seen = Seen()
        async with conn.subscribe(stream, seen, backfill=True, **options):
            await until(lambda seen=seen: len(seen) == 5)
            assert all(name.startswith("eda-r-") for name in await admin.consumers(stream))
        assert await Keys(admin, stream, "me").get() is None
    await until(lambda: no_consumer(admin, stream))


async def no_consumer(admin: Admin, stream: str) -> bool:
    return await admin.consumers(stream) == []


async def test_position_when_reset_is_forgotten_and_other_members_end(
    connect: Connect, stream: str, logged: Logged
) -> None:
    logged.expect("subscription me to .* ends: .*(reset|deleted)")
    one, other = await connect(), await connect()
    await publish(one, stream, 5)
    seen, again = Seen(), Seen()
    first = await one.subscribe(stream, seen, serial=True, **KEPT)
    standby = await one.subscribe(stream, seen, serial=True, **KEPT)
    await until(lambda: len(seen) == 5)
    assert (first.stats().active, standby.stats().active) == (True, False)
    async with other.subscribe(stream, again, serial=True, reset=True, **KEPT):
        for each in (first, standby):
            with pytest.raises(eda.ConsumerDeleted) as caught:
                await asyncio.wait_for(each.wait(), 5)
            assert (caught.value.stream, caught.value.consumer) == (stream, "me")
        await until(lambda: len(again) == 5)
    assert again == seen == [1, 2, 3, 4, 5]


async def test_unsubscribe_when_called_forgets_the_position(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await publish(conn, stream, 5)
    for _ in range(2):
        seen = Seen()
        subscription = await conn.subscribe(stream, seen, exclusive=True, **KEPT)
        await until(lambda seen=seen: len(seen) == 5)
        await subscription.unsubscribe()
        assert await Keys(admin, stream, "me").get() is None
        assert seen == [1, 2, 3, 4, 5]
    await subscription.unsubscribe()


async def test_unsubscribe_when_called_in_a_handler_forgets_the_position_after_it(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    after: list[int] = []

    async def handle(event: eda.Event) -> None:
        await subscription.unsubscribe()
        await asyncio.sleep(0.02)
        after.append(event.sequence)

    await publish(conn, stream, 5)
    subscription = conn.subscribe(stream, handle, serial=True, **KEPT)
    await subscription
    await asyncio.wait_for(subscription.wait(), 5)
    assert after == [1]
    assert await Keys(admin, stream, "me").get() is None


# --- two kinds under one name ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {"exclusive": True}, "shared.*exclusive"),
        ({"key": "aggregate"}, {}, "ordered.*shared"),
        ({"serial": True}, {"serial": True, "types": ["a"]}, r"nothing.*\.a\.\*"),
        ({"exclusive": True, "types": ["a"]}, {"exclusive": True, "aggregate": "x"}, r"\.a\.\*.*\.\*\.x"),
    ],
    ids=str,
)
async def test_name_when_its_position_is_of_another_kind_is_refused_until_reset(
    conn: eda.Conn, stream: str, first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    await publish(conn, stream, 3, type="a", aggregate="x")
    async with conn.subscribe(stream, print, name="me", durable=True, **first):
        pass
    with pytest.raises(eda.ConfigError, match=said) as caught:
        await conn.subscribe(stream, print, name="me", durable=True, **second)
    assert caught.value.argument == "name"
    assert "reset=True" in str(caught.value)
    seen = Seen()
    async with conn.subscribe(stream, seen, reset=True, **KEPT, **second):
        await until(lambda: len(seen) == 3)
    # The other kind's position is gone, so its own members are refused now.
    with pytest.raises(eda.ConfigError, match="differs"):
        await conn.subscribe(stream, print, name="me", durable=True, **first)


async def test_name_when_its_position_is_of_an_ordered_kind_may_change_among_those(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, 4, aggregate="a")
    seen = Seen()
    for n, kind in enumerate(DURABLE):
        await conn.publish(stream, eda.Event(aggregate="a"))
        async with conn.subscribe(stream, seen, backfill=True, **KINDS[kind]):
            await until(lambda n=n: len(seen) == 5 + n)
    assert seen == list(range(1, 5 + len(DURABLE)))


async def test_start_when_yet_to_come_is_kept_for_whoever_reopens_without_it(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, 2)
    seen = Seen()
    async with conn.subscribe(stream, seen, **KINDS["exclusive"], start=8):
        await publish(conn, stream, 2)
    for _ in range(2):
        async with conn.subscribe(stream, seen, **KINDS["exclusive"]):
            await publish(conn, stream, 1)
    async with conn.subscribe(stream, seen, **KINDS["exclusive"]):
        await publish(conn, stream, 4)
        await until(lambda: len(seen) == 3)
    assert seen == [8, 9, 10]
