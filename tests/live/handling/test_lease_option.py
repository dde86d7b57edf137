"""`lease_s`: how long the server waits for a member of a shared subscription before others get its events."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, until
from support.subscribing.members import Members

SHARED: dict[str, Any] = {"name": "team", "durable": True, "backfill": True}
NS = 1_000_000_000


@pytest.fixture
def members(tmp_path: Path, server: eda.EmbeddedServer, stream: str) -> Iterator[Members]:
    """Members of the test's stream on the shared server, as processes."""
    made = Members(tmp_path / "journal", server.url, stream)
    yield made
    made.end()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
async def test_member_when_its_process_is_killed_leaves_its_events_to_others_after_the_lease(
    conn: eda.Conn, stream: str, admin: Admin, members: Members
) -> None:
    for _ in range(5):
        await conn.publish(stream)
    options = SHARED | {"lease_s": 3.0}
    await members.start("a", options=options, sleep_s=20.0)  # longer than the lease, which is extended meanwhile
    await until(lambda: members.times("a", "begin"))
    assert (await admin.consumer(stream, "team"))["config"]["ack_wait"] == 3 * NS
    killed_ns = await members.kill("a")
    await members.start("b", options=options)
    await until(lambda: len(set(members.handled())) == 5, 15)
    waited_s = (members.times("b", "end")[-1] - killed_ns) / NS
    assert 0.5 < waited_s < 10  # the lease was extended within its last third, at most; 30 s without the option


async def test_lease_when_others_are_attached_is_not_changed(connect: Connect, stream: str, admin: Admin) -> None:
    ours, theirs = await connect(), await connect()
    async with ours.subscribe(stream, print, **SHARED, lease_s=5) as subscription:
        assert subscription._pipeline.source.lease_s == 5
        await until(lambda: subscription._pipeline.source._next_pull > 1)
        for lease in ({"lease_s": 7}, {}):
            with pytest.raises(eda.ConfigError, match=r"5 s \(ack_wait\).*lease_s=5") as caught:
                await theirs.subscribe(stream, print, **SHARED, **lease)
            assert caught.value.argument == "lease_s"
        async with theirs.subscribe(stream, print, **SHARED, lease_s=5):
            pass
        assert (await admin.consumer(stream, "team"))["config"]["ack_wait"] == 5 * NS
    async with theirs.subscribe(stream, print, **SHARED, lease_s=7) as subscription:
        assert subscription._pipeline.source.lease_s == 7
        assert (await admin.consumer(stream, "team"))["config"]["ack_wait"] == 7 * NS


async def test_lease_when_a_member_has_its_hands_full_is_not_changed(
    connect: Connect, stream: str, admin: Admin
) -> None:
    """It has no pull under way, only events that it has not acknowledged yet."""
    ours, theirs = await connect(), await connect()
    for _ in range(3):
        await ours.publish(stream)
    begun = []

    async def handle(event: eda.Event) -> None:
        begun.append(event)
        await until(lambda: released, 30)

    released: list[bool] = []
    async with ours.subscribe(stream, handle, **SHARED, prefetch=1, lease_s=5):
        await until(lambda: begun)

        async def has_no_pull() -> bool:
            info = await admin.consumer(stream, "team")
            return bool(not info["num_waiting"] and info["num_ack_pending"])

        await until(has_no_pull)
        with pytest.raises(eda.ConfigError, match="lease_s"):
            await theirs.subscribe(stream, print, **SHARED, lease_s=7)
        released.append(True)


async def test_lease_when_the_only_member_was_killed_long_ago_is_changed(
    connect: Connect, stream: str, admin: Admin
) -> None:
    """Its events are still unacknowledged, and nobody holds them."""
    conn = await connect()
    await conn.publish(stream)
    config = {"durable_name": "team", "ack_policy": "explicit", "deliver_policy": "all", "ack_wait": NS}
    await admin.api(f"CONSUMER.CREATE.{stream}.team", {"stream_name": stream, "config": config})
    puller = await admin.js.pull_subscribe_bind("team", stream)
    await puller.fetch(1, timeout=2)
    assert (await admin.consumer(stream, "team"))["num_ack_pending"] == 1
    with pytest.raises(eda.ConfigError, match="lease_s=1"):
        await conn.subscribe(stream, print, **SHARED)
    deadline = time.monotonic() + 10
    while True:
        try:
            async with conn.subscribe(stream, print, **SHARED):
                break
        except eda.ConfigError:
            assert time.monotonic() < deadline
    assert (await admin.consumer(stream, "team"))["config"]["ack_wait"] == 30 * NS


async def test_lease_when_it_is_short_is_extended_while_the_handler_runs(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await conn.publish(stream)
    seen: list[int] = []

    async def handle(event: eda.Event) -> None:
        seen.append(event.attempt)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 3)

    async with conn.subscribe(stream, handle, **SHARED, lease_s=1) as subscription:
        await until(lambda: subscription.stats().handled)
    assert seen == [1]
    assert (await admin.consumer(stream, "team"))["num_redelivered"] == 0
