"""The bucket of cursors on real servers: what others made of it, and what accounts and servers demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

import eda
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM
from helpers import Logged, until

S = 10**9
MIB = 2**20
BASE: dict[str, Any] = {
    "name": BUCKET_STREAM,
    "subjects": [f"$KV.{BUCKET}.>"],
    "max_msgs_per_subject": 1,
    "allow_rollup_hdrs": True,
    "allow_direct": True,
    "duplicate_window": S,
}
ORDERED: list[dict[str, Any]] = [{"serial": True}, {"exclusive": True}, {"key": "aggregate"}]


async def api(url: str, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    client = await nats.connect(url, allow_reconnect=False)
    try:
        reply = await client.request(f"$JS.API.{verb}", json.dumps(body).encode() if body else b"", timeout=5)
    finally:
        await client.close()
    answer: dict[str, Any] = json.loads(reply.data)
    assert "error" not in answer, answer["error"]
    return answer


async def bucket_of(url: str) -> dict[str, Any]:
    config: dict[str, Any] = (await api(url, f"STREAM.INFO.{BUCKET_STREAM}"))["config"]
    return config


@asynccontextmanager
async def account(
    limits: dict[str, Any], server: dict[str, Any] | None = None, executable: Path | None = None
) -> AsyncIterator[str]:
    """Give the URL of a server with an account of these limits."""
    users = [{"user": "u", "password": "p"}]
    config = {"authorization": None, "accounts": {"A": {"jetstream": limits, "users": users}}}
    config["jetstream"] = server or {}
    async with eda.EmbeddedServer(config=config, executable=executable) as running:
        yield f"nats://u:p@127.0.0.1:{running.port}"


async def handled(conn: eda.Conn, stream: str, **options: Any) -> list[str]:
    """Publish an event and handle all with a durable subscription; return the ids."""
    await conn.publish(stream, eda.Event(type="t"), timeout_s=4.0)
    n = (await conn.streams.info(stream)).last_sequence
    seen: list[str] = []
    async with conn.subscribe(
        stream, lambda event: seen.append(event.id), name="n", durable=True, backfill=True, **options
    ) as sub:
        await until(lambda: sub.stats().last_sequence == n)
    return seen


# --- settings of others ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ORDERED, ids=["serial", "exclusive", "key"])
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_age": 3600 * S}, r"max_age=3600000000000: .* 0 works"),
        ({"max_bytes": MIB}, r"max_bytes=1048576: .* discard 'new', works"),
        ({"max_msgs": 100}, r"max_msgs=100: .* discard 'new', works"),
        ({"max_msg_size": 100}, r"max_msg_size=100: .* 2048 or more works"),
        ({"discard": "new", "discard_new_per_subject": True}, r"discard_new_per_subject=True: .* False works"),
        ({"retention": "interest"}, r"retention='interest': .* 'limits' works"),
        ({"retention": "workqueue"}, r"retention='workqueue': .* 'limits' works"),
        ({"no_ack": True}, r"no_ack=True: .* False works"),
        ({"storage": "memory"}, r"storage='memory': .* 'file' works"),
        ({"subjects": ["$KV.eda-cursors.other.>"]}, r"subjects=.*: .*works"),
        ({"subjects": None, "mirror": {"name": "orders"}}, r"mirror=.*: .*works"),
    ],
)
async def test_ordered_when_its_bucket_would_lose_the_position_is_refused_and_names_the_setting(
    own_server: eda.EmbeddedServer, settings: dict[str, Any], named: str, options: dict[str, Any]
) -> None:
    async with eda.connect(own_server.url, client="c") as conn:
        await conn.publish("orders", eda.Event(type="t"))
        config = {key: value for key, value in (BASE | settings).items() if value is not None}
        if "mirror" in config:
            config = {"name": BUCKET_STREAM, "mirror": config["mirror"]}
        await api(own_server.url, f"STREAM.CREATE.{BUCKET_STREAM}", config)
        before = await bucket_of(own_server.url)
        with pytest.raises(eda.ConfigError, match=f"bucket {BUCKET}: its stream {BUCKET_STREAM} has {named}"):
            await conn.subscribe("orders", print, name="n", durable=True, **options)
        assert await bucket_of(own_server.url) == before
        assert await handled(conn, "orders"), "a shared subscription needs no bucket"
        async with conn.subscribe("orders", print, serial=True) as private:
            assert private.is_active


@pytest.mark.old_server
@pytest.mark.parametrize(
    "settings",
    [
        {"max_bytes": MIB, "discard": "new"},
        {"max_msgs": 100, "discard": "new"},
        {"max_msg_size": 4096},
        {"max_msgs_per_subject": 64},
        {"max_msgs_per_subject": -1},
        {"deny_delete": True, "deny_purge": True, "allow_rollup_hdrs": False},
        {"allow_rollup_hdrs": False},
        {"allow_direct": False},
        {"compression": "s2"},
        {"subjects": ["$KV.eda-cursors.>", "more.>"]},
    ],
    ids=str,
)
async def test_ordered_when_its_buckets_settings_are_harmless_keeps_and_forgets_its_position(
    own_server: eda.EmbeddedServer, settings: dict[str, Any]
) -> None:
    async with eda.connect(own_server.url, client="c") as conn:
        await api(own_server.url, f"STREAM.CREATE.{BUCKET_STREAM}", BASE | settings)
        before = await bucket_of(own_server.url)
        assert len(await handled(conn, "orders", serial=True)) == 1
        assert len(await handled(conn, "orders", serial=True)) == 1
        sub = await conn.subscribe("orders", print, name="n", durable=True, serial=True)
        await sub.unsubscribe()
        assert len(await handled(conn, "orders", serial=True)) == 3
        assert await bucket_of(own_server.url) == before


async def test_ordered_when_stream_and_bucket_are_in_memory_is_served(own_server: eda.EmbeddedServer) -> None:
    defaults = eda.StreamOptions(storage="memory")
    async with eda.connect(own_server.url, client="c", stream_defaults=defaults) as conn:
        assert len(await handled(conn, "orders", serial=True)) == 1
        assert (await bucket_of(own_server.url))["storage"] == "memory"
        await conn.streams.create("kept", eda.StreamOptions())
        with pytest.raises(eda.ConfigError, match="storage='memory': positions are gone when its server restarts"):
            await conn.subscribe("kept", print, name="n", durable=True, serial=True)


async def test_ordered_when_the_buckets_settings_may_not_be_read_is_served(logged: Logged) -> None:
    denied = {"publish": {"deny": [f"$JS.API.STREAM.INFO.{BUCKET_STREAM}"]}}
    users = [{"user": "u", "password": "p", "permissions": denied}]
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        url = f"nats://u:p@127.0.0.1:{server.port}"
        async with eda.connect(url, client="c") as conn:
            for _ in range(2):
                assert len(await handled(conn, "orders", serial=True)) == 1
    assert not logged.find("forbids", 30)


async def test_position_when_it_is_too_large_for_the_bucket_is_refused_with_the_limit(
    own_server: eda.EmbeddedServer,
) -> None:
    await api(own_server.url, f"STREAM.CREATE.{BUCKET_STREAM}", BASE | {"max_msg_size": 2048})
    async with eda.connect(own_server.url, client="c") as conn:
        await conn.publish("orders", eda.Event(type="t"))
        types = [f"type-{n:060}" for n in range(50)]
        with pytest.raises(eda.ConfigError, match=rf"max_msg_size of the bucket {BUCKET}"):
            await conn.subscribe("orders", print, name="n", durable=True, serial=True, types=types)


# --- what is demanded ------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize(
    ("limits", "server", "expected"),
    [
        ({"max_file": 200 * MIB, "max_bytes_required": True}, {}, {"max_bytes": 8 * MIB}),
        ({"max_file": 5 * MIB, "max_bytes_required": True}, {}, {"max_bytes": 4 * MIB}),
        (
            {"max_file": 200 * MIB, "max_bytes_required": True, "disk_max_stream_bytes": 3 * MIB},
            {"limits": {"duplicate_window": "1m30s"}},
            {"max_bytes": 2 * MIB, "duplicate_window": 90 * S},
        ),
        ({"max_file": -1}, {"limits": {"duplicate_window": "10s"}}, {"duplicate_window": 10 * S, "max_bytes": -1}),
    ],
    ids=["bytes", "few bytes", "bytes and window", "window"],
)
async def test_bucket_when_account_and_server_have_limits_keeps_to_them_and_loses_nothing(
    limits: dict[str, Any], server: dict[str, Any], expected: dict[str, int], executable: Path | None
) -> None:
    async with account(limits, server, executable) as url:
        small = {"max_bytes": MIB, "duplicate_window": 10 * S}
        await api(url, "STREAM.CREATE.orders", {"name": "orders", "subjects": ["orders", "orders.>"]} | small)
        async with eda.connect(url, client="c") as conn:
            assert len(await handled(conn, "orders", serial=True)) == 1
            config = await bucket_of(url)
            assert {key: config[key] for key in expected} == expected
            assert config["discard"] == "new"
            assert len(await handled(conn, "orders", serial=True)) == 1


async def test_bucket_when_the_defaults_have_a_limit_of_bytes_demands_no_more() -> None:
    async with account({"max_file": 200 * MIB, "max_bytes_required": True}) as url:
        defaults = eda.StreamOptions(max_bytes=3 * MIB, max_events=5, max_age_s=60, discard="old")
        async with eda.connect(url, client="c", stream_defaults=defaults) as conn:
            assert len(await handled(conn, "orders", serial=True)) == 1
        config = await bucket_of(url)
        assert (config["max_bytes"], config["max_msgs"], config["max_age"]) == (3 * MIB, -1, 0)
        assert config["discard"] == "new"


async def test_bucket_when_the_account_has_no_room_for_it_ends_with_the_servers_words() -> None:
    async with account({"max_file": MIB, "max_bytes_required": True}) as url:
        config = {"name": "orders", "subjects": ["orders", "orders.>"], "max_bytes": MIB}
        await api(url, "STREAM.CREATE.orders", config)
        async with eda.connect(url, client="c") as conn:
            with pytest.raises(eda.ServerError, match="insufficient storage resources available"):
                await conn.subscribe("orders", print, name="n", durable=True, serial=True)


async def test_bucket_when_the_defaults_ask_for_more_replicas_than_there_are_has_those_of_the_stream(
    own_server: eda.EmbeddedServer,
) -> None:
    await api(own_server.url, "STREAM.CREATE.orders", {"name": "orders", "subjects": ["orders", "orders.>"]})
    defaults = eda.StreamOptions(replicas=3)
    async with eda.connect(own_server.url, client="c", stream_defaults=defaults) as conn:
        assert len(await handled(conn, "orders", serial=True)) == 1
    assert (await bucket_of(own_server.url))["num_replicas"] == 1


async def test_bucket_when_it_is_full_refuses_the_new_position_and_keeps_the_others(
    own_server: eda.EmbeddedServer,
) -> None:
    async with eda.connect(own_server.url, client="c") as conn:
        assert len(await handled(conn, "orders", serial=True)) == 1
        await api(own_server.url, f"STREAM.UPDATE.{BUCKET_STREAM}", await bucket_of(own_server.url) | {"max_msgs": 1})
        with pytest.raises(eda.ServerError, match="maximum messages exceeded"):
            async with asyncio.timeout(9):
                await conn.subscribe("orders", print, name="second", durable=True, serial=True)
        assert len(await handled(conn, "orders", serial=True)) == 1
