"""A hub and a leaf node, each with JetStream in a domain of its own and streams of the same names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nats
import pytest

import eda
from eda.jetstream.bucket import BUCKET, BUCKET_STREAM
from eda.jetstream.store_message import store_message
from helpers import Connect, Logged, free_port, until, wire_of

STREAM = "orders"
ORDERED: dict[str, dict[str, Any]] = {
    "serial": {"serial": True},
    "exclusive": {"exclusive": True},
    "key": {"key": "aggregate"},
}


class Site:
    """One of the two servers, seen by a plain client."""

    def __init__(self, server: eda.EmbeddedServer, client: nats.NATS) -> None:
        self.server = server
        self.client = client

    async def api(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        reply = await self.client.request(f"$JS.API.{verb}", json.dumps(body).encode() if body else b"", timeout=5)
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    async def last_seq(self, stream: str) -> int:
        return int((await self.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"])

    async def keys(self) -> dict[str, int]:
        """Return the subjects in the cursors' bucket; empty where there is none."""
        info = await self.api(f"STREAM.INFO.{BUCKET_STREAM}", {"subjects_filter": ">"})
        return dict(info.get("state", {}).get("subjects") or {})


class Sites:
    def __init__(self, hub: Site, leaf: Site) -> None:
        self.hub = hub
        self.leaf = leaf


@pytest.fixture
async def sites(executable: Path | None) -> AsyncIterator[Sites]:
    """A hub and a leaf; each has a bucket of cursors, as somebody made it, and they know each other."""
    port = free_port()
    configs: dict[str, dict[str, Any]] = {
        "hub": {"leafnodes": {"listen": f"127.0.0.1:{port}"}},
        "leaf": {"leafnodes": {"remotes": [{"url": f"nats://127.0.0.1:{port}"}]}},
    }
    async with AsyncExitStack() as stack:
        made = []
        for name, config in configs.items():
            config |= {"server_name": name, "jetstream": {"domain": name}, "authorization": None}
            server = await stack.enter_async_context(eda.EmbeddedServer(config=config, executable=executable))
            client = await nats.connect(server.url, allow_reconnect=False)
            stack.push_async_callback(client.close)
            made.append(Site(server, client))
        sites = Sites(*made)
        for site in made:
            bucket = {"name": BUCKET_STREAM, "subjects": [f"$KV.{BUCKET}.>"], "max_msgs_per_subject": 1}
            await site.api(f"STREAM.CREATE.{BUCKET_STREAM}", bucket | {"allow_rollup_hdrs": True, "allow_direct": True})
        await until(lambda: sees(sites.leaf, "hub"))
        yield sites


async def sees(site: Site, domain: str) -> bool:
    try:
        answer = json.loads((await site.client.request(f"$JS.{domain}.API.INFO", b"", timeout=0.5)).data)
    except nats.errors.Error:
        return False
    return bool(answer["domain"] == domain)


async def gateway(connect: Connect, sites: Sites, **options: Any) -> eda.Conn:
    """Connect to the leaf, for the hub's streams."""
    return await connect(sites.leaf.server.url, cluster="hub", **options)


async def store(site: Site, *names: str, stream: str = STREAM) -> None:
    """Have the hub's stream filled, and then the leaf have one of the same name."""
    async with eda.connect(site.server.url, client="writer") as conn:
        for name in names:
            await conn.publish(stream, eda.Event(id=name, type="t", aggregate=name))


async def has_no_consumer(site: Site) -> bool:
    return not (await site.api(f"CONSUMER.NAMES.{STREAM}")).get("consumers")


@pytest.mark.old_server
@pytest.mark.parametrize("kind", ORDERED)
async def test_ordered_when_its_stream_is_behind_a_leaf_node_keeps_its_position_there(
    sites: Sites, connect: Connect, kind: str
) -> None:
    await store(sites.hub, "a", "b")
    conn = await gateway(connect, sites)
    seen: list[str] = []

    def handle(event: eda.Event) -> None:
        seen.append(event.id)

    options = {"name": "n", "durable": True, "backfill": True} | ORDERED[kind]
    async with conn.subscribe(STREAM, handle, **options) as sub:
        await until(lambda: seen == ["a", "b"])
        assert sub.is_active
    assert list(await sites.hub.keys()) == [f"$KV.{BUCKET}.{STREAM}.n"]
    assert await sites.leaf.keys() == {}
    await until(lambda: has_no_consumer(sites.hub))
    await store(sites.hub, "c")
    async with conn.subscribe(STREAM, handle, **options):
        await until(lambda: len(seen) == 3)
    assert seen == ["a", "b", "c"]
    sub = await conn.subscribe(STREAM, handle, **options)
    await sub.unsubscribe()
    seen.clear()
    async with conn.subscribe(STREAM, handle, **options):
        await until(lambda: len(seen) == 3)
    assert seen == ["a", "b", "c"]


@pytest.mark.parametrize("first", ["leaf", "hub"])
@pytest.mark.parametrize("way", ["closed", "vanished"])
async def test_ordered_when_members_are_on_both_sides_of_a_leaf_node_takes_over(
    sites: Sites, connect: Connect, first: str, way: str, logged: Logged
) -> None:
    logged.allow("ends: connection is closed")
    await store(sites.hub, *"abc")
    ways: dict[str, Callable[[], Any]] = {
        "leaf": lambda: gateway(connect, sites),
        "hub": lambda: connect(sites.hub.server.url),
    }
    seen: list[str] = []
    conns = {name: await ways[name]() for name in ways}
    active, standby = (first, "hub" if first == "leaf" else "leaf")
    options: dict[str, Any] = {"name": "n", "durable": True, "backfill": True, "serial": True}
    holding = await conns[active].subscribe(STREAM, lambda event: seen.append(f"{active}-{event.id}"), **options)
    await until(lambda: len(seen) == 3)
    waiting = await conns[standby].subscribe(STREAM, lambda event: seen.append(f"{standby}-{event.id}"), **options)
    assert not waiting.is_active
    if way == "closed":
        await holding.close()
        await until(lambda: waiting.is_active, 3)  # it need not wait until the holder would be silent for long
    else:
        await wire_of(conns[active]).close_within()
        await until(lambda: waiting.is_active, 8)
    await store(sites.hub, "d")
    await until(lambda: f"{standby}-d" in seen)
    assert seen[:3] == [f"{active}-{name}" for name in "abc"]
    again = [name for name in "bc" if f"{standby}-{name}" in seen]  # not stored by the one that vanished
    assert seen[3:] == [f"{standby}-{name}" for name in [*(again if way == "vanished" else []), "d"]]
    assert await sites.leaf.keys() == {}


@pytest.mark.old_server
async def test_shared_when_its_stream_is_behind_a_leaf_node_handles_suspects_and_dead_letters_there(
    sites: Sites, connect: Connect, logged: Logged
) -> None:
    logged.allow("handler|fail|given up|dead")
    await store(sites.hub, "bad", "good")
    for site in (sites.leaf, sites.hub):
        subjects = [f"{STREAM}-dead", f"{STREAM}-dead.>"]
        await site.api(f"STREAM.CREATE.{STREAM}-dead", {"name": f"{STREAM}-dead", "subjects": subjects})
    conn = await gateway(connect, sites)
    seen: list[str] = []
    begun: dict[str, int] = {}

    async def handle(event: eda.Event) -> None:
        seen.append(event.id)
        if event.id == "bad":
            begun.update(await sites.hub.keys())
            raise ValueError("bad")

    retry = eda.Retry(initial_s=0.01, max_attempts=2)
    options: dict[str, Any] = {"name": "n", "durable": True, "backfill": True, "retry": retry}
    async with conn.subscribe(STREAM, handle, **options) as sub:
        await until(lambda: sub.stats().dead_lettered == 1)
    assert seen.count("bad") == 2
    assert seen.count("good") == 1
    assert list(begun) == [f"$KV.{BUCKET}.{STREAM}.n.1"], "the last attempt is on record while it runs"
    assert await sites.hub.keys() == {}
    assert await sites.leaf.keys() == {}
    assert await sites.hub.last_seq(f"{STREAM}-dead") == 1
    floor = (await sites.hub.api(f"CONSUMER.INFO.{STREAM}.n"))["ack_floor"]["stream_seq"]
    assert floor == 2
    assert await conn.replay_dead(STREAM, "n") == 1
    assert (await sites.hub.api(f"STREAM.INFO.{STREAM}-dead"))["state"]["messages"] == 0
    assert await sites.hub.last_seq(STREAM) == 3


async def test_store_message_when_another_domain_answers_first_waits_for_the_one_that_is_meant(
    sites: Sites, connect: Connect
) -> None:
    for site in (sites.hub, sites.leaf):
        await store(site, stream=STREAM)
        await site.api(f"STREAM.CREATE.{STREAM}", {"name": STREAM, "subjects": [STREAM, f"{STREAM}.>"]})
    await sites.leaf.client.publish(f"{STREAM}.x.y", b"")
    conn = await gateway(connect, sites)
    for n in range(5):
        headers = {"Nats-Msg-Id": f"id{n}"}
        answer = await store_message(wire_of(conn), STREAM, f"{STREAM}.a.b", b"", headers, domain="hub")
        assert (answer.stream, answer.domain) == (STREAM, "hub")
    await sites.hub.api(f"STREAM.DELETE.{STREAM}")
    with pytest.raises(eda.Timeout):  # the leaf's stream takes it, and does not count
        await store_message(wire_of(conn), STREAM, f"{STREAM}.a.b", b"", {"Nats-Msg-Id": "last"}, domain="hub")


async def test_shared_when_the_own_domain_has_one_of_the_name_is_refused(sites: Sites, connect: Connect) -> None:
    for site in (sites.hub, sites.leaf):
        await site.api(f"STREAM.CREATE.{STREAM}", {"name": STREAM, "subjects": [STREAM, f"{STREAM}.>"]})
    here = await connect(sites.leaf.server.url)
    conn = await gateway(connect, sites)
    async with here.subscribe(STREAM, print, name="n", durable=True):
        with pytest.raises(eda.ConfigError, match="in the domain 'leaf' as well as in 'hub'"):
            await conn.subscribe(STREAM, print, name="n", durable=True)
        async with conn.subscribe(STREAM, print, name="other", durable=True):
            pass


@pytest.mark.parametrize("kind", ["shared", "serial"])
async def test_subscription_when_the_hub_restarts_goes_on(
    sites: Sites, connect: Connect, kind: str, logged: Logged
) -> None:
    logged.allow("nats: encountered error")  # the plain client's connection to the hub
    await store(sites.hub, "a")
    conn = await gateway(connect, sites)
    seen: list[str] = []
    options: dict[str, Any] = {"name": "n", "durable": True, "backfill": True} | ORDERED.get(kind, {})
    async with conn.subscribe(STREAM, lambda event: seen.append(event.id), **options):
        await until(lambda: seen == ["a"])
        await sites.hub.server.kill()
        await sites.hub.server.start()
        await store(sites.hub, "b")
        await until(lambda: "b" in seen, 30)
    assert seen[-1] == "b"
    assert await sites.leaf.keys() == {}


async def test_cursor_when_its_key_is_forbidden_behind_a_leaf_node_says_which_subject(
    sites: Sites, connect: Connect, logged: Logged
) -> None:
    logged.allow("the server forbids", "subscription .* ends")
    await store(sites.hub, "a")
    conn = await gateway(connect, sites)
    sub = await conn.subscribe(STREAM, print, name="n", durable=True, serial=True)
    subject = f"$JS.hub.API.$KV.{BUCKET}.{STREAM}.n"
    wire_of(conn).server_error(f'Permissions Violation for Publish to "{subject}"')
    with pytest.raises(eda.ServerError, match=r"no permission for \$JS\.hub\.API\.\$KV"):
        async with asyncio.timeout(5):
            await sub.wait()


async def test_subscriptions_when_the_stream_is_behind_a_leaf_node_are_those_of_its_domain(
    sites: Sites, connect: Connect
) -> None:
    await store(sites.hub, *"ab")
    conn = await gateway(connect, sites)
    direct = await connect(sites.hub.server.url)
    options: dict[str, Any] = {"name": "n", "durable": True, "serial": True, "backfill": True}
    async with (
        conn.subscribe(STREAM, print, **options) as active,
        direct.subscribe(STREAM, print, **options),
        conn.subscribe(STREAM, print, **options),
        conn.subscribe(STREAM, print, name="team", durable=True, backfill=True),
    ):
        await until(lambda: active.is_active and active.stats().handled == 2)
        for each in (conn, direct):
            found = await until(lambda each=each: all_done(each, 2))
            assert [(one.name, one.kind, one.lag, one.standbys) for one in found] == [
                ("n", "ordered", 0, 2),
                ("team", "shared", 0, None),
            ]
    await store(sites.hub, "c")
    behind = await conn.subscriptions(STREAM)
    assert [each.lag for each in behind] == [1, 1]
    assert all(each.lag_s is not None and each.lag_s >= 0 for each in behind)


async def all_done(conn: eda.Conn, n: int) -> list[eda.SubscriptionInfo]:
    found = await conn.subscriptions(STREAM)
    return found if [each.position for each in found] == [n] * 2 else []
