"""conn.subscribe: who gets which events, where it begins, what is kept."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, until, wire_of

pytestmark = pytest.mark.old_server


async def publish(conn: eda.Conn, stream: str, n: int, **fields: Any) -> list[str]:
    """Publish `n` events in order; returns their ids."""
    return [(await conn.publish(stream, eda.Event(**fields))).id for _ in range(n)]


async def test_subscription_when_entered_gets_new_events_in_order(conn: eda.Conn, stream: str) -> None:
    seen: list[eda.Event] = []
    await publish(conn, stream, 3)
    async with conn.subscribe(stream, seen.append):
        ids = await publish(conn, stream, 100, type="t")
        await until(lambda: len(seen) == 100)
    assert [event.id for event in seen] == ids
    assert [event.sequence for event in seen] == list(range(4, 104))
    assert {event.attempt for event in seen} == {1}


async def test_subscription_when_awaited_gets_events_until_closed(conn: eda.Conn, stream: str) -> None:
    seen: list[eda.Event] = []
    subscription = await conn.subscribe(stream, seen.append)
    await publish(conn, stream, 1)
    await until(lambda: seen)
    await subscription.close()
    await subscription.wait()
    await publish(conn, stream, 1)
    async with conn.subscribe(stream, lambda event: None, start=2) as other:
        await until(lambda: other.stats().handled == 1)
    assert len(seen) == 1


async def test_subscription_when_opened_by_two_is_one(conn: eda.Conn, stream: str) -> None:
    async def opened() -> eda.Subscription:
        return await subscription

    seen: list[eda.Event] = []
    subscription = conn.subscribe(stream, seen.append)
    assert await asyncio.gather(opened(), opened()) == [subscription, subscription]
    await publish(conn, stream, 1)
    await until(lambda: len(seen) == 1)
    await subscription.close()


async def test_subscription_when_closed_before_it_was_opened_stays_closed(conn: eda.Conn, stream: str) -> None:
    subscription = conn.subscribe(stream, print)
    await subscription.close()
    with pytest.raises(eda.Closed):
        await subscription


class Handler:
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, event: eda.Event) -> None:
        await asyncio.sleep(0)
        self.seen.append(event.id)

    async def method(self, event: eda.Event) -> None:
        self.seen.append(event.id)

    def plain(self, event: eda.Event) -> None:
        self.seen.append(event.id)

    async def two(self, extra: str, event: eda.Event) -> None:
        assert extra == "extra"
        self.seen.append(event.id)

    def future(self, event: eda.Event) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, lambda: (self.seen.append(event.id), done.set_result(None)))
        return done


HANDLERS: dict[str, Any] = {
    "method": lambda handler: handler.method,
    "plain function": lambda handler: handler.plain,
    "callable object": lambda handler: handler,
    "partial": lambda handler: functools.partial(handler.two, "extra"),
    "lambda that gives a coroutine": lambda handler: lambda event: handler.method(event),
    "lambda that gives a task": lambda handler: lambda event: asyncio.ensure_future(handler.method(event)),
    "future": lambda handler: handler.future,
    "returns a value": lambda handler: lambda event: handler.plain(event) or [event],
}


@pytest.mark.parametrize("make", HANDLERS.values(), ids=HANDLERS)
async def test_handler_when_of_any_kind_is_awaited(conn: eda.Conn, stream: str, make: Any) -> None:
    handler = Handler()
    ids = await publish(conn, stream, 3)
    async with conn.subscribe(stream, make(handler), backfill=True, name="me") as subscription:
        await until(lambda: subscription.stats().handled == 3)
        assert handler.seen == ids


@pytest.mark.parametrize("handler", [None, 5, "print", [print]], ids=repr)
async def test_handler_when_it_can_not_be_called_is_refused(conn: eda.Conn, stream: str, handler: Any) -> None:
    with pytest.raises(eda.ConfigError, match="handler"):
        conn.subscribe(stream, handler)


# --- where it begins -------------------------------------------------------------------------------------------------


async def first_seen(conn: eda.Conn, stream: str, **options: Any) -> int:
    """Return the sequence of the first event that a subscription gets."""
    seen: list[int] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), **options):
        await asyncio.sleep(0)
        await conn.publish(stream, eda.Event(type="last"))
        await until(lambda: seen)
    return seen[0]


async def test_start_when_not_said_is_the_next_new_event(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, 5)
    assert await first_seen(conn, stream) == 6


async def test_start_when_backfill_is_asked_is_the_first_event(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await publish(conn, stream, 5)
    await admin.js.delete_msg(stream, 1)
    assert await first_seen(conn, stream, backfill=True) == 2


async def test_start_when_it_is_a_sequence_is_that(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, 5)
    assert await first_seen(conn, stream, start=3) == 3


async def test_start_when_it_is_a_time_is_the_first_event_from_then_on(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, 3)
    await asyncio.sleep(0.02)
    middle = datetime.now(UTC)
    await asyncio.sleep(0.02)
    await publish(conn, stream, 3)
    assert await first_seen(conn, stream, start=middle) == 4
    assert await first_seen(conn, stream, start=middle - timedelta(hours=1)) == 1


async def test_subscription_when_the_stream_is_missing_creates_it(
    connect: Connect, conn: eda.Conn, stream: str
) -> None:
    async with conn.subscribe(stream, print):
        assert (await conn.streams.info(stream)).events == 0
    strict = await connect(auto_create=False)
    with pytest.raises(eda.StreamNotFound):
        await strict.subscribe("no-such-stream", print)


# --- what is kept ----------------------------------------------------------------------------------------------------


async def test_position_when_durable_is_kept_for_the_next_connection(connect: Connect, stream: str) -> None:
    seen: list[int] = []
    for n in range(4):
        conn = await connect(client="me")
        await publish(conn, stream, 5)
        # Once a position is kept, where to begin does not matter.
        options: dict[str, Any] = [{"backfill": True}, {}, {"start": 3}, {"backfill": True}][n]
        async with conn.subscribe(stream, lambda event: seen.append(event.sequence), durable=True, **options):
            await until(lambda n=n: len(seen) == 5 * (n + 1))
        await conn.close()
    assert seen == list(range(1, 21))


async def test_position_when_durable_is_named_after_the_client_or_the_option(
    connect: Connect, stream: str, admin: Admin
) -> None:
    conn = await connect(client="billing")
    one = await conn.subscribe(stream, print, durable=True)
    other = await conn.subscribe(stream, print, durable=True, name="other")
    assert (one.name, other.name) == ("billing", "other")
    assert set(await admin.consumers(stream)) == {"billing", "other"}
    assert (await admin.consumer(stream, "billing"))["config"]["durable_name"] == "billing"


async def test_position_when_reset_is_forgotten_first(connect: Connect, stream: str) -> None:
    conn = await connect(client="me")
    await publish(conn, stream, 3)
    for options in ({}, {"reset": True}, {"reset": True}):
        seen: list[int] = []
        handler = lambda event, seen=seen: seen.append(event.sequence)  # noqa: E731
        async with conn.subscribe(stream, handler, durable=True, backfill=True, **options):
            await until(lambda seen=seen: len(seen) == 3)
        assert seen == [1, 2, 3]


async def test_reset_when_others_hold_the_name_ends_them(connect: Connect, stream: str, logged: Logged) -> None:
    logged.expect("subscription me to .* ends: .*deleted")
    conn, other = await connect(client="me"), await connect(client="other")
    first = await conn.subscribe(stream, print, name="me", durable=True)
    await wire_of(conn).barrier(5)
    second = await other.subscribe(stream, print, name="me", durable=True, reset=True)
    with pytest.raises(eda.ConsumerDeleted) as caught:
        await asyncio.wait_for(first.wait(), 5)
    assert (caught.value.stream, caught.value.consumer) == (stream, "me")
    assert "open" in repr(second)


# --- members ---------------------------------------------------------------------------------------------------------


async def test_members_when_they_share_a_name_share_the_events(connect: Connect, stream: str) -> None:
    seen: list[Counter[str]] = [Counter(), Counter(), Counter()]
    conns = [await connect(client=f"member-{n}") for n in range(3)]

    async def handle(mine: Counter[str], event: eda.Event) -> None:
        await asyncio.sleep(0.001)
        mine[event.id] += 1

    for conn, mine in zip(conns, seen, strict=True):
        await conn.subscribe(stream, functools.partial(handle, mine), name="team", durable=True, prefetch=8)
    sent = await asyncio.gather(*(conns[0].publish(stream) for _ in range(300)))
    await until(lambda: sum(mine.total() for mine in seen) == 300)
    assert sum(seen, Counter()) == Counter(receipt.id for receipt in sent)
    assert all(mine.total() >= 30 for mine in seen)


async def test_members_when_named_and_not_durable_share_too(connect: Connect, stream: str) -> None:
    seen: list[str] = []
    conns = [await connect() for _ in range(2)]
    for conn in conns:
        await conn.subscribe(stream, lambda event: seen.append(event.id), name="team")
    sent = await asyncio.gather(*(conns[0].publish(stream) for _ in range(100)))
    await until(lambda: len(seen) >= 100)
    assert Counter(seen) == Counter(receipt.id for receipt in sent)


async def test_members_when_private_each_see_all(connect: Connect, conn: eda.Conn, stream: str) -> None:
    seen: list[list[str]] = [[], [], []]
    other = await connect()
    for each, mine in zip((conn, conn, other), seen, strict=True):
        await each.subscribe(stream, lambda event, mine=mine: mine.append(event.id))
    ids = await publish(conn, stream, 50)
    await until(lambda: all(len(mine) == 50 for mine in seen))
    assert all(mine == ids for mine in seen)
