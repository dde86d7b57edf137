"""`conn.browse`: reads every kind of stream, and leaves no trace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import nats
import pytest

import eda
from helpers import Admin, Connect, Logged, Proxy, until
from support.subscribing.short_mirror import short_mirror


def events(n: int, first: int = 0) -> list[eda.Event]:
    return [
        eda.Event(type="even" if i % 2 == 0 else "odd", aggregate=str(i % 5), data=eda.JSON(i))
        for i in range(first, first + n)
    ]


async def make(admin: Admin, name: str, **config: Any) -> None:
    subjects = {} if "mirror" in config else {"subjects": [name, f"{name}.>"]}
    await admin.api(f"STREAM.CREATE.{name}", {"name": name, "storage": "file", **subjects, **config})


async def browsed(conn: eda.Conn, stream: str, **options: Any) -> list[Any]:
    """Return the data of all events of a stream."""
    found: list[Any] = []
    async with asyncio.timeout(20), aclosing(conn.browse(stream, **options)) as reading:
        async for each in reading:
            assert each
            found += [event.data.decode() for event in each]
    return found


@pytest.fixture
async def other(stream: str, admin: Admin) -> AsyncIterator[str]:
    """The name of a second stream of the test's own."""
    name = f"{stream}-other"
    yield name
    if name in await admin.stream_names():
        await admin.js.delete_stream(name)


KINDS = ["limits", "interest", "workqueue"]


async def fill(admin: Admin, conn: eda.Conn, stream: str, retention: str, n: int, **config: Any) -> None:
    """Make a stream with n events. A stream of interest has a consumer, else it would keep nothing."""
    await make(admin, stream, retention=retention, **config)
    if retention == "interest":
        await admin.api(
            f"CONSUMER.DURABLE.CREATE.{stream}.c",
            {"stream_name": stream, "config": {"durable_name": "c", "ack_policy": "explicit"}},
        )
    async with conn.publisher(stream) as publisher:
        await publisher.send_many(events(n))


@pytest.mark.old_server
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "leader"])
@pytest.mark.parametrize("retention", KINDS)
async def test_browse_when_a_stream_has_any_retention_reads_all_and_removes_nothing(
    conn: eda.Conn, stream: str, admin: Admin, retention: str, direct: bool
) -> None:
    await fill(admin, conn, stream, retention, 700, allow_direct=direct)
    before, consumers = await conn.streams.info(stream), await admin.consumers(stream)
    for _ in range(2):
        assert await browsed(conn, stream) == list(range(700))
    assert await browsed(conn, stream, start=698) == [697, 698, 699]
    assert await browsed(conn, stream, types=["odd"]) == list(range(1, 700, 2))
    assert await browsed(conn, stream, types=["odd", "none"], aggregate="3") == list(range(3, 700, 10))
    assert await browsed(conn, stream, types=["none"]) == []
    assert await browsed(conn, stream, start=701) == []
    assert await browsed(conn, stream, backfill=False) == []
    await until(lambda: _has_consumers(admin, stream, consumers))
    assert await conn.streams.info(stream) == before


async def _has_consumers(admin: Admin, stream: str, wanted: list[str]) -> bool:
    return await admin.consumers(stream) == wanted


@pytest.mark.parametrize("retention", KINDS)
async def test_browse_when_it_starts_at_a_time_begins_with_the_first_event_stored_since(
    conn: eda.Conn, stream: str, admin: Admin, retention: str
) -> None:
    await fill(admin, conn, stream, retention, 3)
    await asyncio.sleep(0.01)
    since = datetime.now(UTC)
    await conn.publish(stream, eda.Event(type="late", data=eda.JSON("late")))
    assert await browsed(conn, stream, start=since) == ["late"]
    assert await browsed(conn, stream, start=datetime(2000, 1, 1, tzinfo=UTC)) == [0, 1, 2, "late"]
    assert await browsed(conn, stream, start=datetime(2200, 1, 1, tzinfo=UTC)) == []


@pytest.mark.parametrize("retention", KINDS)
async def test_browse_when_it_follows_also_reads_what_comes_later(
    conn: eda.Conn, stream: str, admin: Admin, retention: str
) -> None:
    await fill(admin, conn, stream, retention, 3)
    found: list[Any] = []

    async def follow() -> None:
        async with aclosing(conn.browse(stream, follow=True)) as reading:
            async for each in reading:
                found.extend(event.data.decode() for event in each)

    task = asyncio.create_task(follow())
    await until(lambda: found == [0, 1, 2])
    for n in range(3, 6):
        await conn.publish(stream, eda.Event(type="t", data=eda.JSON(n)))
    await until(lambda: found == [0, 1, 2, 3, 4, 5])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("retention", KINDS)
async def test_browse_when_the_connection_is_lost_goes_on_where_it_was(
    connect: Connect, server: eda.EmbeddedServer, conn: eda.Conn, stream: str, admin: Admin, retention: str
) -> None:
    await fill(admin, conn, stream, retention, 3)
    found: list[Any] = []
    async with Proxy(int(server.url.rpartition(":")[2])) as proxy:
        reader = await connect(proxy.url(server.url))

        async def follow() -> None:
            async with aclosing(reader.browse(stream, follow=True)) as reading:
                async for each in reading:
                    found.extend(event.data.decode() for event in each)

        task = asyncio.create_task(follow())
        await until(lambda: found == [0, 1, 2])
        proxy.drop()
        for n in range(3, 6):
            await conn.publish(stream, eda.Event(type="t", data=eda.JSON(n)))
        await until(lambda: found == [0, 1, 2, 3, 4, 5], 20)
        await reader.close()
        async with asyncio.timeout(10):
            await task  # it ends with the connection


@pytest.mark.parametrize("retention", ["limits", "workqueue"])
async def test_browse_when_the_stream_is_deleted_while_it_follows_raises(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged, retention: str
) -> None:
    logged.allow("ends")
    await fill(admin, conn, stream, retention, 3)
    reading = conn.browse(stream, follow=True)
    assert (await anext(reading))[0].sequence == 1
    await admin.js.delete_stream(stream)
    with pytest.raises((eda.StreamNotFound, eda.ConsumerDeleted)):
        async with asyncio.timeout(20):
            async for _ in reading:
                pass


@pytest.mark.parametrize("retention", KINDS)
async def test_browse_when_events_were_deleted_reads_the_others(
    conn: eda.Conn, stream: str, admin: Admin, retention: str
) -> None:
    await fill(admin, conn, stream, retention, 10)
    for seq in (1, 4, 5, 10):
        await admin.js.delete_msg(stream, seq)
    assert await browsed(conn, stream) == [1, 2, 5, 6, 7, 8]
    await admin.js.purge_stream(stream)
    assert await browsed(conn, stream) == []


async def test_browse_when_the_rest_is_purged_meanwhile_ends(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    await fill(admin, conn, stream, "limits", 60_000)
    n = 0
    async with asyncio.timeout(30), aclosing(conn.browse(stream)) as reading:
        async for each in reading:
            if n == 0:
                await conn.streams.purge(stream)
            n += len(each)
    assert 0 < n < 60_000


async def test_browse_when_others_publish_meanwhile_ends_with_the_events_of_its_beginning(
    conn: eda.Conn, stream: str
) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_many(events(5_000))
        await publisher.flush()
        found: list[Any] = []
        async with aclosing(conn.browse(stream)) as reading:
            async for each in reading:
                found += [event.data.decode() for event in each]
                await publisher.send_many(events(1_000))
                await publisher.flush()
    assert found == list(range(5_000))


@pytest.mark.parametrize("retention", KINDS)
async def test_browse_when_the_stream_is_packed_reads_each_event_of_its_packs(
    conn: eda.Conn, stream: str, admin: Admin, retention: str
) -> None:
    await fill(admin, conn, stream, retention, 0, metadata={"eda-packed": "1"})
    async with conn.publisher(stream, pack=eda.Pack(max_events=100, linger_s=0.5)) as publisher:
        await publisher.send_many(events(3_000))
    assert (await conn.streams.info(stream)).events < 100
    assert await browsed(conn, stream) == list(range(3_000))
    assert await browsed(conn, stream, types=["odd"]) == list(range(1, 3_000, 2))
    places = []
    async with aclosing(conn.browse(stream, start=2)) as reading:
        async for each in reading:
            places += [(event.sequence, event.index) for event in each]
    assert places[0] == (2, 0)
    assert places == sorted(set(places))


async def test_browse_when_the_stream_is_a_mirror_reads_it(
    conn: eda.Conn, stream: str, admin: Admin, other: str
) -> None:
    await fill(admin, conn, stream, "limits", 20)
    await make(admin, other, mirror={"name": stream})
    await until(lambda: _last(admin, other, 20))
    assert await browsed(conn, other) == list(range(20))
    assert await browsed(conn, other, types=["odd"], aggregate="1") == [1, 11]


@pytest.mark.parametrize("retention", KINDS)
async def test_browse_when_a_mirror_answers_that_is_behind_reads_all(
    conn: eda.Conn, stream: str, admin: Admin, retention: str
) -> None:
    await fill(admin, conn, stream, retention, 0, allow_direct=True)
    await conn.publish(stream, eda.Event(type="first", data=eda.JSON("first")))
    async with short_mirror(admin, stream, "first"):
        async with conn.publisher(stream) as publisher:
            await publisher.send_many(events(600))
        for _ in range(20):
            assert await browsed(conn, stream) == ["first", *range(600)]
            assert await browsed(conn, stream, start=602) == []


async def test_browse_when_the_leader_may_not_be_asked_whether_it_is_over_raises(logged: Logged) -> None:
    logged.allow("the server forbids")
    denied = {"publish": {"deny": ["$JS.API.STREAM.MSG.GET.orders"]}}
    users = [{"user": "free", "password": "p"}, {"user": "tied", "password": "p", "permissions": denied}]
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        address = f"nats://127.0.0.1:{server.port}"
        client = await nats.connect(address, user="free", password="p")
        try:
            admin = Admin(client)
            async with eda.connect(address, user="free", password="p") as conn:
                await fill(admin, conn, "orders", "workqueue", 3, allow_direct=True)
            async with eda.connect(address, user="tied", password="p") as conn:
                assert await browsed(conn, "orders") == [0, 1, 2]
                await admin.js.delete_msg("orders", 3)
                with pytest.raises(eda.ServerError, match=r"STREAM\.MSG\.GET\.orders") as caught:
                    await browsed(conn, "orders")
                assert caught.value.code == 403
        finally:
            await client.close()


async def _last(admin: Admin, stream: str, seq: int) -> bool:
    return await admin.last_seq(stream) == seq


@pytest.mark.parametrize("retention", KINDS)
async def test_browse_when_a_message_is_no_event_skips_it_and_says_so(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged, retention: str
) -> None:
    logged.allow("not an event|not events")
    await fill(admin, conn, stream, retention, 1)
    for _ in range(15):
        await admin.js.publish(stream, b"\xff\xff")
    await conn.publish(stream, eda.Event(type="t", data=eda.JSON("after")))
    assert await browsed(conn, stream) == [0, "after"]
    assert logged.find("no event|not an event")


async def test_browse_when_there_is_no_stream_raises_and_creates_none(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    with pytest.raises(eda.StreamNotFound):
        await browsed(conn, stream)
    with pytest.raises(eda.StreamNotFound):
        await browsed(conn, stream, follow=True)
    assert stream not in await admin.stream_names()
    with pytest.raises(eda.ConfigError):
        await browsed(conn, "no such name")
    with pytest.raises(eda.ConfigError):
        await browsed(conn, stream, start=0)


async def test_browse_when_its_user_is_slow_reads_ahead_no_further_than_allowed(conn: eda.Conn, stream: str) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_many(eda.Event(type="t", data=eda.Bytes(bytes(1_000))) for _ in range(60_000))
    async with aclosing(conn.browse(stream)) as reading:
        n = len(await anext(reading))
        await asyncio.sleep(0.3)
        assert max(sub.stats().buffered for sub in conn._lifetime.subscriptions) <= 8 * 1024
        async for each in reading:
            n += len(each)
    assert n == 60_000
