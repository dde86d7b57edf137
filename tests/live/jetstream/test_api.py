"""Requests to JetStream's API that get no answer: they end as soon as that is clear, and leave nothing behind."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest
from nats.aio.msg import Msg

import eda
from eda.cursors.entry import CursorEntry
from eda.cursors.position import Position
from eda.cursors.value import new_value
from eda.jetstream.api import Api
from helpers import Admin, Logged, Proxy, until, wire_of


async def test_api_when_closed_meanwhile_raises_closed_at_once(own_server: eda.EmbeddedServer) -> None:
    async with Proxy(own_server.port) as proxy:
        conn = await eda.connect(proxy.url(own_server.url))
        await conn.streams.list()
        proxy.hold()
        asking = asyncio.create_task(conn.streams.info("stream"))
        await until(lambda: b"STREAM.INFO.stream" in proxy.sent)
        await conn.close()
        with pytest.raises(eda.Closed):
            await asyncio.wait_for(asking, 4)


async def test_api_when_the_connection_is_lost_meanwhile_asks_again_at_once(own_server: eda.EmbeddedServer) -> None:
    async with Proxy(own_server.port) as proxy, eda.connect(proxy.url(own_server.url)) as conn:
        await conn.publish("stream")
        wire = wire_of(conn)
        before = [list(calls) for calls in (wire.on_lost, wire.on_closed, wire.on_refused)]
        n_asked = proxy.sent.count(b"STREAM.INFO.stream")
        proxy.hold()
        asking = asyncio.create_task(conn.streams.info("stream"))
        await until(lambda: proxy.sent.count(b"STREAM.INFO.stream") > n_asked)
        proxy.drop()
        proxy.release()
        info = await asyncio.wait_for(asking, 4)
        assert info.events == 1
        # Other requests may be under way: the lists are looked at until they are as before.
        await until(lambda: [wire.on_lost, wire.on_closed, wire.on_refused] == before)


async def test_api_when_the_subject_is_forbidden_raises_at_once(logged: Logged) -> None:
    logged.expect("the server forbids")
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": ["$JS.API.STREAM.LIST"]}}}
    async with (
        eda.EmbeddedServer(config={"authorization": {"users": [user]}}) as server,
        eda.connect(f"nats://127.0.0.1:{server.port}", user="u", password="p") as conn,
    ):
        async with asyncio.timeout(4):
            with pytest.raises(eda.ServerError, match=r"no permission to publish to \$JS\.API\.STREAM\.LIST") as caught:
                await conn.streams.list()
        assert caught.value.code == 403
        await conn.publish("stream")


@pytest.mark.parametrize("kind", [{}, {"serial": True}, {"name": "me", "durable": True}, {"exclusive": True}])
async def test_subscription_when_its_filter_is_over_max_payload_is_refused_at_once_naming_it(
    conn: eda.Conn, stream: str, kind: dict[str, Any]
) -> None:
    await conn.publish(stream)
    options = {"name": "me", "durable": True, **kind} if kind.get("exclusive") else kind
    before = wire_of(conn).stats["reconnects"]
    begin = time.monotonic()
    with pytest.raises(eda.ConfigError, match="max_payload") as caught:
        await conn.subscribe(stream, print, types=[f"t{n}" + "x" * 3000 for n in range(400)], **options)
    assert time.monotonic() - begin < 3
    assert caught.value.argument == "types"
    assert re.search("40[01] (values|subjects)", str(caught.value))
    assert not caught.value.retryable
    await conn.publish(stream)
    assert wire_of(conn).stats["reconnects"] == before
    assert not conn._lifetime.subscriptions


async def test_cursor_when_its_filter_is_over_max_payload_is_refused_at_once(conn: eda.Conn, stream: str) -> None:
    """The reader is made without a filter there, so the cursor alone is too large."""
    await conn.publish(stream)
    entry = CursorEntry(wire_of(conn), conn._lifetime._services.api, stream, "me")  # type: ignore[union-attr]
    await entry.open()
    value = new_value(Position(0), 1, "h", 0, ["x" * 3000] * 400, "", 0)
    with pytest.raises(eda.ConfigError, match=r"its filter has 400 subjects"):
        await entry.put(value, 0)
    await entry.close()
    await conn.publish(stream)


async def test_api_when_a_request_must_not_be_done_twice_sends_it_once(conn: eda.Conn, admin: Admin) -> None:
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        heard.append(message.subject.rpartition(".")[2])

    await admin.client.subscribe("$JS.silent.API.>", cb=hear)
    await admin.flush()
    api = Api(wire_of(conn), "silent")
    with pytest.raises(eda.Timeout):
        await api.request("ONCE", timeout_s=0.3, attempt_timeout_s=0.3)
    with pytest.raises(eda.Timeout):
        await api.request("AGAIN", timeout_s=0.3, attempt_timeout_s=0.1)
    await admin.flush()
    await until(lambda: heard.count("AGAIN") > 1)
    assert heard.count("ONCE") == 1
