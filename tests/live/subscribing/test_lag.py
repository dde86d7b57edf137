"""`conn.subscriptions` on real servers: positions, lag, holders and standbys, as somebody else sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import eda
from eda.cursors import standby
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM
from helpers import Admin, Connect, Logged, until, wire_of
from support.embedded.cluster import Cluster
from support.subscribing.short_mirror import short_mirror


async def publish(conn: eda.Conn, stream: str, *types: str) -> None:
    for type_ in types:
        await conn.publish(stream, eda.Event(type=type_, aggregate="x"))


async def info_of(conn: eda.Conn, stream: str, name: str = "n") -> eda.SubscriptionInfo:
    (found,) = [each for each in await conn.subscriptions(stream) if each.name == name]
    return found


async def handle_all(conn: eda.Conn, stream: str, **options: Any) -> None:
    """Have a durable subscription handle what there is, and close it."""
    async with conn.subscribe(stream, print, **{"name": "n", "durable": True, "backfill": True} | options) as sub:
        await until(lambda: sub.is_active and sub.stats().pending == 0 and sub.stats().handled > 0)
        await until(lambda: sub.stats().in_flight + sub.stats().buffered == 0)


@pytest.mark.old_server
@pytest.mark.parametrize("options", [{"serial": True}, {"exclusive": True}, {"key": "aggregate"}], ids=str)
async def test_ordered_when_its_member_is_away_is_behind_by_what_came_since(
    conn: eda.Conn, stream: str, admin: Admin, options: dict[str, Any]
) -> None:
    await publish(conn, stream, *"aaa")
    await handle_all(conn, stream, **options)
    done = await info_of(conn, stream)
    assert (done.kind, done.stream, done.position, done.lag, done.lag_s) == ("ordered", stream, 3, 0, 0.0)
    assert (done.holder, done.standbys, done.in_flight, done.redelivered) == (None, 0, None, None)
    assert done.updated is not None
    assert abs((datetime.now(UTC) - done.updated).total_seconds()) < 60
    await publish(conn, stream, *"bbbbb")
    began = time.monotonic()
    await asyncio.sleep(0.3)
    behind = await info_of(conn, stream)
    assert (behind.position, behind.lag) == (3, 5)
    assert behind.lag_s is not None
    assert 0.3 <= behind.lag_s < time.monotonic() - began + 5
    assert await admin.consumers(stream) == [], "somebody's consumer is left"


@pytest.mark.old_server
async def test_ordered_when_it_filters_counts_what_it_would_get(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await publish(conn, stream, *"abc")
    await handle_all(conn, stream, serial=True, types=["a", "b"])
    position = (await info_of(conn, stream)).position
    assert position >= 2
    await publish(conn, stream, *"ccacbcb")
    found = await info_of(conn, stream)
    assert (found.position, found.lag) == (position, 3)
    assert found.lag_s is not None
    assert found.lag_s >= 0
    await publish(conn, stream, "c")
    await handle_all(conn, stream, serial=True, types=["a", "b"])
    await publish(conn, stream, "c")
    rest = await info_of(conn, stream)
    assert (rest.lag, rest.lag_s) == (0, 0.0)
    assert await until(lambda: no_reader(admin, stream))


async def no_reader(admin: Admin, stream: str) -> bool:
    return not await admin.consumers(stream)


@pytest.mark.old_server
async def test_ordered_when_events_behind_it_were_deleted_does_not_count_them(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await publish(conn, stream, "a")
    await handle_all(conn, stream, serial=True)
    await publish(conn, stream, *"aaaaaa")
    for sequence in (3, 4, 6):
        await admin.js.delete_msg(stream, sequence)
    assert (await info_of(conn, stream)).lag == 3
    await conn.streams.purge(stream)
    gone = await info_of(conn, stream)
    assert (gone.lag, gone.lag_s) == (0, 0.0)


@pytest.mark.old_server
async def test_shared_when_some_are_in_flight_says_so_and_how_old_the_oldest_is(
    conn: eda.Conn, connect: Connect, stream: str
) -> None:
    await publish(conn, stream, *"abab")
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: eda.Event) -> None:
        if event.sequence > 1:
            started.set()
            await go_on.wait()

    watcher = await connect()
    options: dict[str, Any] = {"name": "n", "durable": True, "backfill": True, "prefetch": 2}
    async with conn.subscribe(stream, handle, **options):
        await started.wait()
        await asyncio.sleep(0.2)
        found = await until(lambda: at_position(watcher, stream, 1))
        assert (found.kind, found.lag, found.holder, found.standbys) == ("shared", 3, None, None)
        assert 0 < found.in_flight <= 3
        assert found.redelivered == 0
        assert found.lag_s >= 0.2
        assert found.updated is not None
        go_on.set()
        done = await until(lambda: at_position(watcher, stream, 4))
        assert (done.lag, done.lag_s, done.in_flight) == (0, 0.0, 0)
    before = await watcher._lifetime._services.api.consumer_info(stream, "n")  # type: ignore[union-attr]
    await watcher.subscriptions(stream)
    after = await watcher._lifetime._services.api.consumer_info(stream, "n")  # type: ignore[union-attr]
    assert {**(before or {}), "ts": 0} == {**(after or {}), "ts": 0}, "it was disturbed"


async def at_position(conn: eda.Conn, stream: str, position: int) -> Any:
    found = await info_of(conn, stream)
    return found if found.position == position else None


@pytest.mark.old_server
async def test_shared_when_it_filters_counts_what_it_would_get(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, "a")
    await handle_all(conn, stream, types=["a", "b"])
    await publish(conn, stream, *"ccacbcb")
    behind = await info_of(conn, stream)
    assert (behind.lag, behind.in_flight) == (3, 0)
    assert behind.lag_s is not None
    await handle_all(conn, stream, types=["a", "b"])
    await publish(conn, stream, "c")
    done = await info_of(conn, stream)
    assert (done.lag, done.lag_s) == (0, 0.0)


@pytest.mark.old_server
async def test_shared_when_it_began_with_new_events_is_not_as_old_as_the_stream(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, *"aa")
    await asyncio.sleep(0.5)
    sub = await conn.subscribe(stream, print, name="n", durable=True)
    await sub.close()
    idle = await info_of(conn, stream)
    assert (idle.position, idle.lag, idle.lag_s) == (2, 0, 0.0)
    began = time.monotonic()
    await publish(conn, stream, "a")
    behind = await info_of(conn, stream)
    assert behind.lag == 1
    assert behind.lag_s is not None
    assert behind.lag_s < time.monotonic() - began + 0.4


async def test_holder_and_standbys_when_members_come_and_go_are_seen_by_others(
    conn: eda.Conn, connect: Connect, stream: str
) -> None:
    await publish(conn, stream, "a")
    watcher = await connect()
    options: dict[str, Any] = {"name": "n", "durable": True, "serial": True}
    members = [await (await connect(client=f"member-{n}")).subscribe(stream, print, **options) for n in range(4)]
    other = await conn.subscribe(stream, print, name="alone", durable=True, exclusive=True)
    found = await info_of(watcher, stream)
    assert found.holder is not None
    assert found.holder.startswith("member-0-")
    assert found.standbys == 3
    assert (await info_of(watcher, stream, "alone")).standbys == 0
    await members[0].close()
    await until(lambda: members[1].is_active or members[2].is_active or members[3].is_active)
    found = await info_of(watcher, stream)
    assert found.standbys == 2
    for each in (*members, other):
        await each.close()
    found = await info_of(watcher, stream)
    assert (found.holder, found.standbys) == (None, 0)


async def test_standbys_when_nobody_stands_by_are_counted_without_a_wait(
    conn: eda.Conn, connect: Connect, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "ANSWERS_S", 60.0)
    await publish(conn, stream, "a")
    options: dict[str, Any] = {"durable": True, "serial": True}
    async with conn.subscribe(stream, print, name="n", **options), asyncio.timeout(10):
        for asking in (conn, await connect()):
            found = await info_of(asking, stream)
            assert found.holder is not None
            assert found.standbys == 0
            details = await asking.subscription(stream, "n")
            assert details is not None
            assert details.info.standbys == 0


async def test_standbys_when_they_are_of_another_subscription_are_waited_for(
    conn: eda.Conn, connect: Connect, stream: str
) -> None:
    await publish(conn, stream, "a")
    options: dict[str, Any] = {"durable": True, "serial": True}
    members = [await (await connect()).subscribe(stream, print, name="n", **options) for _ in range(2)]
    alone = await conn.subscribe(stream, print, name="alone", **options)
    assert [(each.name, each.standbys) for each in await conn.subscriptions(stream)] == [("alone", 0), ("n", 1)]
    for each in (alone, *members):
        await each.close()


async def test_standbys_when_they_are_on_other_servers_of_a_cluster_are_counted(tmp_path: Path) -> None:
    options: dict[str, Any] = {"name": "n", "durable": True, "serial": True}
    async with Cluster(tmp_path) as cluster, contextlib.AsyncExitStack() as stack:
        conns = [await stack.enter_async_context(eda.connect(url)) for url in cluster.urls]
        await conns[0].streams.create("s")
        await publish(conns[0], "s", "a")
        members = [await each.subscribe("s", print, **options) for each in conns[:2]]
        await until(lambda: members[0].is_active)
        for asking in conns:  # one of the holder, one of the standby, and one that knows neither
            assert (await info_of(asking, "s")).standbys == 1
        await members[1].close()
        for asking in conns:
            assert (await info_of(asking, "s")).standbys == 0
        await members[0].close()


async def test_standbys_when_somebody_asks_with_nonsense_answer_to_their_own_subject_only(
    conn: eda.Conn, connect: Connect, stream: str, admin: Admin
) -> None:
    await publish(conn, stream, "a")
    options: dict[str, Any] = {"name": "n", "durable": True, "serial": True}
    for _ in range(2):
        await (await connect()).subscribe(stream, print, **options)
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    await admin.client.subscribe("$EDA.standing.>", cb=hear)
    await admin.client.subscribe("stranger.>", cb=hear)
    await admin.flush()
    for token in (b"", b"stranger.x", b"a b", b"x\r\nPUB stranger.x 0\r\n\r\n", b"*", b"x" * 65, b"good"):
        await admin.client.publish(f"$EDA.standby._.{stream}", token)
        await admin.flush()
        await asyncio.sleep(0.06)
    await until(lambda: heard)
    assert heard == [f"$EDA.standing._.{stream}.good"]


async def test_subscriptions_when_there_are_several_kinds_are_listed_by_name(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, "a")
    assert await conn.subscriptions(stream) == []
    await handle_all(conn, stream, name="b", serial=True)
    await handle_all(conn, stream, name="a")
    await handle_all(conn, stream, name="c", key="aggregate")
    async with conn.subscribe(stream, print):  # private: keeps nothing
        found = await conn.subscriptions(stream)
    assert [(each.name, each.kind) for each in found] == [("a", "shared"), ("b", "ordered"), ("c", "ordered")]
    sub = await conn.subscribe(stream, print, name="b", durable=True, serial=True)
    await sub.unsubscribe()
    assert [each.name for each in await conn.subscriptions(stream)] == ["a", "c"]


async def test_subscriptions_when_there_is_no_stream_raise(conn: eda.Conn) -> None:
    with pytest.raises(eda.StreamNotFound):
        await conn.subscriptions("nowhere")
    with pytest.raises(eda.ConfigError):
        await conn.subscriptions("no.where")


async def test_ordered_when_its_stream_was_made_again_has_a_lag_that_nobody_knows(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, *"aaa")
    await handle_all(conn, stream, serial=True)
    await conn.streams.delete(stream)
    await publish(conn, stream, "a")
    found = await info_of(conn, stream)
    assert (found.position, found.lag, found.lag_s) == (0, None, None)


async def test_ordered_when_direct_gets_are_off_or_forbidden_is_known_all_the_same(
    connect: Connect, stream: str, admin: Admin, logged: Logged
) -> None:
    conn = await connect()
    await publish(conn, stream, *"abab")
    await handle_all(conn, stream, serial=True, types=["a"])
    config = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    await admin.api(f"STREAM.UPDATE.{stream}", config | {"allow_direct": False})
    await publish(conn, stream, *"bab")
    found = await info_of(conn, stream)
    assert found.lag == 1
    assert found.lag_s is not None
    assert await until(lambda: no_reader(admin, stream))


async def test_lag_when_a_mirror_answers_that_is_behind_is_that_of_the_stream(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await publish(conn, stream, *"ab")
    await handle_all(conn, stream, serial=True, types=["b"])
    async with short_mirror(admin, stream, "a"):
        await publish(conn, stream, *"ab")
        for _ in range(30):
            found = await info_of(conn, stream)
            assert found.lag == 1
            assert found.lag_s is not None
            assert found.lag_s > 0
        await handle_all(conn, stream, serial=True, types=["b"])
        for _ in range(10):
            found = await info_of(conn, stream)
            assert (found.lag, found.lag_s) == (0, 0.0)


async def test_lag_when_the_leader_may_not_be_asked_is_counted_by_a_reader() -> None:
    denied = {"publish": {"deny": ["$JS.API.STREAM.MSG.GET.orders"]}}
    users = [{"user": "free", "password": "p"}, {"user": "tied", "password": "p", "permissions": denied}]
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        address = f"nats://127.0.0.1:{server.port}"
        async with eda.connect(address, user="free", password="p") as conn:
            await publish(conn, "orders", *"ab")
            await handle_all(conn, "orders", serial=True, types=["a"])
        async with eda.connect(address, user="tied", password="p") as conn:
            found = await info_of(conn, "orders")
            assert (found.position, found.lag) == (1, 0)


async def test_subscriptions_when_something_is_forbidden_say_what(logged: Logged) -> None:
    logged.allow("the server forbids")
    users: list[dict[str, Any]] = [{"user": "free", "password": "p"}]
    denied = {
        "info": f"$JS.API.STREAM.INFO.{BUCKET_STREAM}",
        "get": f"$JS.API.STREAM.MSG.GET.{BUCKET_STREAM}",
        "list": "$JS.API.CONSUMER.LIST.orders",
        "direct": "$JS.API.DIRECT.GET.orders",
        "standby": "$EDA.>",
    }
    users += [
        {"user": user, "password": "p", "permissions": {"publish": {"deny": [subject]}}}
        for user, subject in denied.items()
    ]
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        address = f"nats://127.0.0.1:{server.port}"
        async with eda.connect(address, user="free", password="p", client="c") as conn:
            await publish(conn, "orders", "a")
            await handle_all(conn, "orders", serial=True)
            await publish(conn, "orders", "a")
            async with conn.subscribe("orders", print, name="held", durable=True, serial=True):
                for user, subject in denied.items():
                    async with eda.connect(address, user=user, password="p") as bound:
                        if user == "direct":
                            assert (await info_of(bound, "orders")).lag == 1
                        elif user == "standby":
                            assert (await info_of(bound, "orders", "held")).standbys is None
                        else:
                            with pytest.raises(eda.ServerError, match="no permission") as caught:
                                await bound.subscriptions("orders")
                            assert caught.value.code == 403
                            assert subject in str(caught.value)


@pytest.mark.parametrize("what", ["publish", "subscribe"])
async def test_standby_when_it_may_not_answer_takes_over_and_is_not_counted(what: str, logged: Logged) -> None:
    bound = {"user": "bound", "password": "p", "permissions": {what: {"deny": ["$EDA.>"]}}}
    users = [{"user": "free", "password": "p"}, bound]
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        address = f"nats://127.0.0.1:{server.port}"
        async with (
            eda.connect(address, user="free", password="p", client="c") as conn,
            eda.connect(address, user="bound", password="p", client="d") as other,
        ):
            await publish(conn, "orders", "a")
            options: dict[str, Any] = {"name": "n", "durable": True, "serial": True}
            holding = await conn.subscribe("orders", print, **options)
            async with other.subscribe("orders", print, **options) as waiting:
                assert (await info_of(conn, "orders")).standbys == 0
                await holding.close()
                await until(lambda: waiting.is_active)
    assert not logged.find("forbids", logging.WARNING)


async def test_subscriptions_when_there_are_thousands_are_all_read(own_server: eda.EmbeddedServer, stream: str) -> None:
    n = 2_000
    async with eda.connect(own_server.url, client="c") as conn:
        await publish(conn, stream, *"abc")
        await handle_all(conn, stream, serial=True)
        assert conn._lifetime._services is not None
        created = (await conn._lifetime._services.api.request(f"STREAM.INFO.{stream}"))["created"]
        for number in range(n):
            value = {"v": 1, "seq": number % 4, "epoch": 1, "holder": "", "tries": 0, "filter": [], "created": created}
            await wire_of(conn).publish(f"$KV.{BUCKET}.{stream}.k{number}", json.dumps(value).encode())
        await conn._lifetime._services.wire.flush()
        found = {each.name: each for each in await until(lambda: all_of(conn, stream, n + 1), 60)}
        assert {(each.position, each.lag) for each in found.values()} == {(seq, 3 - seq) for seq in range(4)}
        assert found["k1999"].position == 1999 % 4


async def all_of(conn: eda.Conn, stream: str, n: int) -> list[eda.SubscriptionInfo]:
    found = await conn.subscriptions(stream)
    return found if len(found) == n else []
