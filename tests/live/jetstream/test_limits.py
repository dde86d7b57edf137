"""Limits of servers, accounts, streams and consumers: eda keeps to them, or ends with the server's words."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Admin, Logged, until

KINDS: dict[str, dict[str, Any]] = {
    "durable": {"name": "me", "durable": True},
    "named": {"name": "me"},
    "private": {},
    "serial": {"name": "me", "durable": True, "serial": True},
    "batch": {"name": "me", "durable": True, "batch": 50},
}
NS = 1_000_000_000


async def handled(conn: eda.Conn, stream: str, n: int, **options: Any) -> float:
    """Subscribe from the beginning until `n` events were handled; returns how long it took."""
    seen: list[int] = []

    def handle(given: Any) -> None:
        seen.extend(event.sequence for event in (given if isinstance(given, list) else [given]))

    begin = time.monotonic()
    async with conn.subscribe(stream, handle, backfill=True, **options):
        await until(lambda: len(seen) >= n, 8)
    assert sorted(seen) == list(range(1, n + 1))
    return time.monotonic() - begin


# --- pulls -----------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("n", [1, 100])
async def test_pull_when_the_server_limits_its_batch_keeps_to_that(
    n: int, kind: dict[str, Any], executable: Path | None
) -> None:
    config = {"jetstream": {"limits": {"max_request_batch": n}}}
    async with (
        eda.EmbeddedServer(config=config, executable=executable) as server,
        eda.connect(server.url, client="c") as conn,
    ):
        await asyncio.gather(*(conn.publish("orders") for _ in range(300)))
        assert await handled(conn, "orders", 300, **kind) < 8


@pytest.mark.parametrize(
    ("setting", "value"),
    [("max_batch", 7), ("max_batch", 1), ("max_expires", NS), ("max_expires", NS // 10), ("max_bytes", 3000)],
)
async def test_pull_when_the_consumer_limits_it_keeps_to_that(
    setting: str, value: int, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await asyncio.gather(*(conn.publish(stream, eda.Event(data=eda.Bytes(bytes(500)))) for _ in range(100)))
    config = {"durable_name": "me", "ack_policy": "explicit", "deliver_policy": "all", setting: value}
    await admin.api(f"CONSUMER.CREATE.{stream}.me", {"stream_name": stream, "config": config, "action": "create"})
    await handled(conn, stream, 100, name="me", durable=True)
    assert (await admin.consumer(stream, "me"))["config"][setting] == value


async def test_pull_when_an_event_is_larger_than_the_consumers_limit_of_bytes_brings_it(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    for size in (100, 10_000, 100):
        await conn.publish(stream, eda.Event(data=eda.Bytes(bytes(size))))
    config = {"durable_name": "me", "ack_policy": "explicit", "deliver_policy": "all", "max_bytes": 2000}
    await admin.api(f"CONSUMER.CREATE.{stream}.me", {"stream_name": stream, "config": config, "action": "create"})
    await handled(conn, stream, 3, name="me", durable=True)


async def test_pull_when_the_consumer_takes_one_at_a_time_has_one_under_way(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    """A pull beyond `max_waiting` is dropped without a word, and would be missed only when no heartbeat comes."""
    await asyncio.gather(*(conn.publish(stream) for _ in range(1000)))
    config = {"durable_name": "me", "ack_policy": "explicit", "deliver_policy": "all", "max_waiting": 1}
    await admin.api(f"CONSUMER.CREATE.{stream}.me", {"stream_name": stream, "config": config, "action": "create"})
    await handled(conn, stream, 1000, name="me", durable=True, prefetch=50)


@pytest.mark.old_server
@pytest.mark.parametrize(
    ("setting", "value"), [("max_batch", 3), ("max_expires", NS // 2), ("max_bytes", 2000)], ids=lambda it: str(it)
)
async def test_pull_when_its_limit_is_lowered_while_subscribed_is_made_again_at_once(
    setting: str, value: int, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    seen: list[int] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), name="me", durable=True):
        await conn.publish(stream, eda.Event(data=eda.Bytes(bytes(200))))
        await until(lambda: seen)
        kept = (await admin.consumer(stream, "me"))["config"]
        body = {"stream_name": stream, "config": kept | {setting: value}, "action": "update"}
        await admin.api(f"CONSUMER.CREATE.{stream}.me", body)
        begin = time.monotonic()
        for _ in range(200):
            await conn.publish(stream, eda.Event(data=eda.Bytes(bytes(200))))
        await until(lambda: len(seen) == 201, 8)
        assert time.monotonic() - begin < 8
        assert (await admin.consumer(stream, "me"))["config"][setting] == value


# --- consumers -------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_consumer_when_the_server_limits_what_is_unacknowledged_is_made_with_that(
    kind: dict[str, Any], executable: Path | None
) -> None:
    config = {"jetstream": {"limits": {"max_ack_pending": 500}}}
    async with (
        eda.EmbeddedServer(config=config, executable=executable) as server,
        eda.connect(server.url, client="c") as conn,
    ):
        await asyncio.gather(*(conn.publish("orders") for _ in range(1200)))
        await handled(conn, "orders", 1200, **kind)


async def test_consumer_when_the_account_limits_what_is_unacknowledged_is_made_and_kept_with_that() -> None:
    account = {"users": [{"user": "u", "password": "p"}], "jetstream": {"max_ack_pending": 300}}
    async with eda.EmbeddedServer(config={"accounts": {"A": account}, "authorization": None}) as server:
        async with eda.connect(f"nats://u:p@127.0.0.1:{server.port}", client="c") as conn:
            await asyncio.gather(*(conn.publish("orders") for _ in range(700)))
            for _ in range(2):
                await handled(conn, "orders", 700, **KINDS["durable"], reset=True)
            async with conn.subscribe("orders", print, **KINDS["durable"]) as subscription:
                config = (await subscription._pipeline.source._api.consumer_info("orders", "me"))["config"]
                assert config["max_ack_pending"] == 300


@pytest.mark.parametrize("kind", ["named", "private", "serial"])
async def test_consumer_when_the_stream_limits_consumers_is_made_with_that(
    kind: str, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    limits = {"inactive_threshold": 20 * NS, "max_ack_pending": 100}
    config = {"name": stream, "subjects": [stream, f"{stream}.>"], "consumer_limits": limits}
    await admin.api(f"STREAM.CREATE.{stream}", config)
    await asyncio.gather(*(conn.publish(stream) for _ in range(300)))
    await handled(conn, stream, 300, **KINDS[kind])


async def test_consumer_when_it_has_what_the_stream_allows_is_not_said_to_be_changed(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    config = {"name": stream, "subjects": [stream, f"{stream}.>"], "consumer_limits": {"max_ack_pending": 100}}
    await admin.api(f"STREAM.CREATE.{stream}", config)
    options: dict[str, Any] = {"name": "n", "durable": True}
    for _ in range(2):
        async with conn.subscribe(stream, print, **options):
            assert (await admin.consumer(stream, "n"))["config"]["max_ack_pending"] == 100
    assert not logged.find("that was changed")
    # What could be changed is told, and how far.
    kept = (await admin.consumer(stream, "n"))["config"] | {"max_ack_pending": 10, "max_deliver": 7}
    await admin.api(f"CONSUMER.CREATE.{stream}.n", {"stream_name": stream, "config": kept, "action": "update"})
    async with conn.subscribe(stream, print, **options):
        assert (await admin.consumer(stream, "n"))["config"]["max_ack_pending"] == 100
    (said,) = logged.find("that was changed")
    assert "max_deliver=7" in said.getMessage()
    assert "max_ack_pending=10 " in said.getMessage()
    assert said.getMessage().endswith("that was changed, as far as the server allows")


async def test_start_at_a_time_when_the_stream_limits_consumers_is_found(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    limits = {"inactive_threshold": 20 * NS, "max_ack_pending": 100}
    config = {"name": stream, "subjects": [stream, f"{stream}.>"], "consumer_limits": limits}
    await admin.api(f"STREAM.CREATE.{stream}", config)
    await conn.publish(stream)
    await asyncio.sleep(0.01)
    start = datetime.now(UTC)
    await conn.publish(stream)
    seen: list[int] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), start=start):
        await until(lambda: seen)
    assert seen == [2]


async def test_durable_subscription_when_the_stream_limits_its_life_is_refused(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    limits = {"inactive_threshold": 20 * NS}
    config = {"name": stream, "subjects": [stream, f"{stream}.>"], "consumer_limits": limits}
    await admin.api(f"STREAM.CREATE.{stream}", config)
    with pytest.raises(eda.ConfigError, match=r"inactive_threshold.*20 s.*exclusive"):
        await conn.subscribe(stream, print, **KINDS["durable"])
    assert await admin.consumers(stream) == []
    async with conn.subscribe(stream, print, **KINDS["serial"]):
        pass


async def test_consumer_when_there_are_as_many_as_allowed_may_be_made_later(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    config = {"name": stream, "subjects": [stream, f"{stream}.>"], "max_consumers": 1}
    await admin.api(f"STREAM.CREATE.{stream}", config)
    async with conn.subscribe(stream, print, name="one"):
        for kind in ({"name": "two"}, {}):
            with pytest.raises(eda.ServerError, match="maximum consumers") as caught:
                await conn.subscribe(stream, print, **kind)
            assert caught.value.retryable


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_stream_when_the_server_limits_its_window_is_made_with_that(executable: Path | None) -> None:
    config = {"jetstream": {"limits": {"duplicate_window": "10s"}}}
    async with (
        eda.EmbeddedServer(config=config, executable=executable) as server,
        eda.connect(server.url, client="c") as conn,
    ):
        await conn.publish("orders", timeout_s=5)
        assert (await conn.streams.info("orders")).options.dedup_window_s == 10
        with pytest.raises(eda.ConfigError, match=r"10 s"):
            await conn.publish("orders", timeout_s=5.1)
        assert (await conn.streams.create("others")).options.dedup_window_s == 10
        assert (await conn.streams.create("others")).options.dedup_window_s == 10
        with pytest.raises(eda.ServerError, match="limit of 10s"):
            await conn.streams.create("long", eda.StreamOptions(dedup_window_s=600))


async def test_stream_when_the_account_wants_a_limit_of_bytes_says_how_to_give_it() -> None:
    account = {"users": [{"user": "u", "password": "p"}], "jetstream": {"max_bytes_required": True}}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            eda.EmbeddedServer(config={"accounts": {"A": account}, "authorization": None})
        )
        url = f"nats://u:p@127.0.0.1:{server.port}"
        conn = await stack.enter_async_context(eda.connect(url, client="c"))
        with pytest.raises(eda.ServerError, match=r"max bytes set: .*stream_defaults") as caught:
            await conn.publish("orders")
        assert caught.value.err_code == 10113
        options = eda.StreamOptions(max_bytes=1_000_000)
        conn = await stack.enter_async_context(eda.connect(url, client="c", stream_defaults=options))
        await conn.publish("orders")
        await handled(conn, "orders", 1, **KINDS["durable"])


async def test_limits_when_they_are_lowered_below_a_kept_consumers_are_kept_to(tmp_path: Path) -> None:
    """A consumer that was made under no limit is attached to after the server got one."""
    seen: list[int] = []
    kept: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
    for n, limits in enumerate(({}, {"max_ack_pending": 500, "max_request_batch": 10}), 1):
        async with (
            eda.EmbeddedServer(tmp_path, config={"jetstream": {"limits": limits}} if limits else {}) as server,
            eda.connect(server.url, client="c") as conn,
        ):
            await asyncio.gather(*(conn.publish("orders") for _ in range(100)))
            async with conn.subscribe("orders", lambda event: seen.append(event.sequence), **kept):
                await until(lambda n=n: len(seen) == 100 * n)
