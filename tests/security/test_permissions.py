"""What a server forbids on one subject: the error names it, nothing is lost, and all else goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Logged, until, wire_of
from support.publishing.sent import Outcomes
from support.transport.nats_jwt import Operator

N = 40
FORBIDDEN = "stream.secret.a%2Eb"


@asynccontextmanager
async def two_users(kind: str, permissions: dict[str, Any], tmp_path: Path) -> AsyncIterator[tuple[eda.Conn, eda.Conn]]:
    """Give the connections of somebody who may do all and of one who has these permissions (pub, sub)."""
    names = {"pub": "publish", "sub": "subscribe"}
    config: dict[str, Any]
    if kind == "jwt":
        operator = Operator()
        config = operator.config
        free = {"credentials": operator.user("free").write(tmp_path / "free.creds")}
        bound = {"credentials": operator.user("bound", **permissions).write(tmp_path / "bound.creds")}
    else:
        described = {names[key]: value for key, value in permissions.items()}
        users = [{"user": "free", "password": "p"}, {"user": "bound", "password": "p", "permissions": described}]
        config = {"authorization": {"users": users}}
        free, bound = {"user": "free", "password": "p"}, {"user": "bound", "password": "p"}
    async with eda.EmbeddedServer(config=config) as server:
        url = f"nats://127.0.0.1:{server.port}"
        async with eda.connect(url, **free) as admin:
            await admin.streams.create("stream")
            async with eda.connect(url, **bound, client="bound", connect_timeout_s=2) as conn:
                yield admin, conn


async def ids_in(admin: eda.Conn) -> list[str]:
    """Give the ids of all events in the stream."""
    n = (await admin.streams.info("stream")).events
    ids: list[str] = []
    async with admin.subscribe("stream", lambda event: ids.append(event.id), backfill=True, serial=True):
        await until(lambda: len(ids) >= n)
    return ids


def event(n: int) -> eda.Event:
    return eda.Event(id=f"e{n}", type="open", aggregate=str(n % 3))


SECRET = eda.Event(id="secret", type="secret", aggregate="a.b")


@pytest.mark.parametrize("kind", ["user", "jwt"])
@pytest.mark.parametrize("way", ["single", "window", "fast"])
async def test_publish_when_one_subject_is_forbidden_fails_that_event_alone(
    way: str, kind: str, tmp_path: Path, logged: Logged
) -> None:
    logged.expect(f"the server forbids: .*{FORBIDDEN}")
    outcomes = Outcomes()
    async with two_users(kind, {"pub": {"deny": [FORBIDDEN]}}, tmp_path) as (admin, conn):
        async with asyncio.timeout(20):
            if way == "single":
                secret = asyncio.create_task(conn.publish("stream", SECRET))
                await asyncio.gather(*(conn.publish("stream", event(n)) for n in range(N)))
                with pytest.raises(eda.ServerError, match=f"publish to {FORBIDDEN}") as refused:
                    await secret
                assert refused.value.code == 403
            else:
                async with conn.publisher("stream", mode=way, **outcomes.callbacks) as pub:
                    for n in range(N):
                        await pub.send(event(n))
                        if n == N // 2:
                            await pub.send(SECRET)
                assert list(outcomes.errors) == ["secret"]
                assert f"publish to {FORBIDDEN}" in str(outcomes.errors["secret"])
                assert set(outcomes.acknowledged) == {f"e{n}" for n in range(N)}
        assert conn.state == "connected"
        assert sorted(await ids_in(admin)) == sorted(f"e{n}" for n in range(N))


async def test_batch_when_one_subject_is_forbidden_is_refused_as_a_whole(tmp_path: Path, logged: Logged) -> None:
    logged.expect("the server forbids")
    async with two_users("user", {"pub": {"deny": [FORBIDDEN]}}, tmp_path) as (admin, conn):
        async with asyncio.timeout(20):
            with pytest.raises(eda.ServerError, match=f"publish to {FORBIDDEN}"):
                await conn.publish_batch("stream", [event(1), SECRET, event(2)])
            await conn.publish_batch("stream", [event(3), event(4)])
        assert await ids_in(admin) == ["e3", "e4"]


@pytest.mark.parametrize("kind", ["user", "jwt"])
async def test_connect_when_answers_are_forbidden_says_so_at_once(kind: str, tmp_path: Path, logged: Logged) -> None:
    logged.allow("the server forbids")
    async with asyncio.timeout(8):
        with pytest.raises(eda.ServerError, match=r"no permission to subscribe to _INBOX\.") as caught:
            async with two_users(kind, {"sub": {"deny": ["_INBOX.>"]}}, tmp_path):
                pass
    assert caught.value.code == 403


@pytest.mark.parametrize("kind", ["user", "jwt"])
@pytest.mark.parametrize(
    ("forbidden", "options"),
    [
        ("$JS.API.CONSUMER.CREATE.stream.>", {"durable": True}),
        ("$JS.API.CONSUMER.CREATE.stream.>", {}),
        ("$JS.API.CONSUMER.MSG.NEXT.stream.*", {"durable": True}),
        ("$JS.API.CONSUMER.MSG.NEXT.stream.*", {}),
        ("$JS.ACK.stream.bound.>", {"durable": True}),
        ("$KV.eda-cursors.stream.bound", {"durable": True, "serial": True}),
    ],
    ids=["create shared", "create ordered", "pull shared", "pull ordered", "acknowledge", "cursor"],
)
async def test_subscription_when_it_is_forbidden_ends_with_the_subject_and_publishing_goes_on(
    forbidden: str, options: dict[str, Any], kind: str, tmp_path: Path, logged: Logged
) -> None:
    logged.allow("the server forbids", "subscription .* ends")
    async with two_users(kind, {"pub": {"deny": [forbidden]}}, tmp_path) as (admin, conn):
        await admin.publish("stream", event(0))
        async with asyncio.timeout(15):
            with pytest.raises(eda.ServerError) as caught:
                subscription = await conn.subscribe("stream", print, backfill=True, **options)
                await subscription.wait()
            assert caught.value.code == 403
            assert forbidden.rstrip("*>") in str(caught.value)
            for n in range(1, 5):
                await conn.publish("stream", event(n))
        assert await ids_in(admin) == [f"e{n}" for n in range(5)]


async def test_subscription_when_acknowledging_is_forbidden_leaves_everything_to_who_may(
    tmp_path: Path, logged: Logged
) -> None:
    logged.allow("the server forbids", "subscription .* ends")
    async with two_users("user", {"pub": {"deny": ["$JS.ACK.stream.shared.>"]}}, tmp_path) as (admin, conn):
        for n in range(10):
            await admin.publish("stream", event(n))
        async with asyncio.timeout(20):
            subscription = await conn.subscribe("stream", print, name="shared", durable=True, backfill=True)
            with pytest.raises(eda.ServerError, match=r"\$JS\.ACK\.stream\.shared\."):
                await subscription.wait()
            await conn.close()
        info = await admin._lifetime._services.api.consumer_info("stream", "shared")  # type: ignore[union-attr]
        assert info is not None
        assert info["ack_floor"]["stream_seq"] == 0, "something was acknowledged"


async def test_inboxes_when_nobody_may_publish_to_them_everything_works_and_forging_is_refused(
    tmp_path: Path, logged: Logged
) -> None:
    """What SECURITY.md advises: JetStream's answers come from the server itself, and eda publishes to no inbox."""
    async with two_users("user", {"pub": {"deny": ["_INBOX.>"]}}, tmp_path) as (_, conn):
        seen: list[str] = []
        async with asyncio.timeout(20):
            await conn.publish("stream", event(1))
            async with conn.publisher("stream") as pub:
                await pub.send(event(2))
            await conn.publish_batch("stream", [event(3)])
            for options in ({"durable": True}, {"durable": True, "serial": True, "name": "in-order"}, {}):
                async with conn.subscribe("stream", lambda event: seen.append(event.id), backfill=True, **options):
                    await until(lambda: len(seen) == 3)
                seen.clear()
            assert not logged.find("forbids")
            logged.expect("the server forbids: .*_INBOX.x.1")
            await wire_of(conn).publish("_INBOX.x.1", b'{"stream":"stream","seq":1}')
            await until(lambda: logged.find("forbids"))


async def test_health_when_the_server_forbids_its_requests_says_so_and_logs_no_error(
    tmp_path: Path, logged: Logged
) -> None:
    denied = {"pub": {"deny": ["$JS.API.DIRECT.GET.stream", "$JS.API.STREAM.MSG.GET.stream"]}}
    async with two_users("user", denied, tmp_path) as (admin, conn):
        subscription = conn.subscribe("stream", print, name="me", durable=True, backfill=True)
        subscription.pause()
        async with subscription:
            await admin.publish("stream", event(0))
            report = await conn.health(timeout_s=3)
    assert report["status"] == "ok"
    (unknown,) = report["unknown"]
    assert unknown.startswith("the lag of subscription me to stream: ")
    assert "permission" in unknown
    assert not logged.find("forbids", logging.ERROR)
