"""Middleware while servers and processes die: no event is lost, and none is stored twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

import eda
from helpers import Admin, Connect, Logged, until
from support.middleware.hooks import Base64, Zlib
from support.subscribing.members import QUICK, Members

KEPT: dict[str, Any] = {"name": "team", "durable": True, "backfill": True}


class Slow(eda.Middleware):
    """Waits before and after each publish."""

    async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
        await asyncio.sleep(0.002)
        await call_next(event)
        await asyncio.sleep(0.002)


async def stored_ids(server: eda.EmbeddedServer) -> list[str]:
    client = await nats.connect(server.url, allow_reconnect=False)
    try:
        return await Admin(client).ids("stream")
    finally:
        await client.close()


@pytest.mark.parametrize("way", ["publish", "publisher", "batch"])
async def test_publish_when_the_server_is_killed_below_the_hooks_stores_each_event_once(
    own_server: eda.EmbeddedServer, way: str, logged: Logged
) -> None:
    logged.allow("publish_batch")
    ids: list[str] = []
    middleware = [Slow(), Zlib(), Base64()]
    async with eda.connect(own_server.url, middleware=middleware) as conn, conn.publisher("stream") as publisher:
        publishing: set[asyncio.Task[Any]] = set()
        for round in range(3):
            for _ in range(100):
                event = eda.Event(type=str(round), data=eda.JSON({"a": "x" * 100}))
                if way == "publish":
                    publishing.add(asyncio.create_task(conn.publish("stream", event)))
                elif way == "publisher":
                    publishing.add(asyncio.create_task(publisher.send(event)))
                elif len(publishing) < 20 * (round + 1):
                    publishing.add(asyncio.create_task(conn.publish_batch("stream", [event] * 5)))
            await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
            await own_server.kill()
            await own_server.start()
        for results in await asyncio.wait_for(asyncio.gather(*publishing), 25):
            ids += map(str, results) if isinstance(results, list) else [str(results)]
        await publisher.flush()
    assert len(set(ids)) == len(ids) == 300
    assert sorted(await stored_ids(own_server)) == sorted(ids)


@pytest.fixture
def members(tmp_path: Path, server: eda.EmbeddedServer, stream: str) -> Iterator[Members]:
    """Members of the test's stream on the shared server."""
    made = Members(tmp_path / "journal", server.url, stream)
    yield made
    made.end()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
@pytest.mark.parametrize("kind", ["shared", "serial"])
async def test_handler_when_its_process_dies_in_a_hook_afterwards_loses_no_event(
    connect: Connect, stream: str, members: Members, kind: str
) -> None:
    conn = await connect(middleware=[Zlib(), Base64()])
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event(data=eda.JSON(number)) for number in range(30)])
    options = KEPT | ({"serial": True} if kind == "serial" else {"lease_s": 1.0})
    orders = {"options": options, "constants": QUICK, "layers": True}
    await members.start("a", **orders, kill_after=7)
    await until(lambda: members.has_died("a"), 20)
    await members.start("b", **orders)
    await members.until_handled(30)
    handled = members.handled()
    assert set(handled) == set(range(1, 31))
    # The hook had not ended, so the event is handled again.
    assert handled.count(7) == 2
    if kind == "serial":
        assert handled[handled.index(7) + 1 :] == sorted(handled[handled.index(7) + 1 :])
