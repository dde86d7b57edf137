"""Loads from a stream with a single copy: the stream itself may tell an aggregate's last event, but no mirror of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from nats.js.api import StreamConfig, StreamSource

import eda
from eda.jetstream.direct_get import DirectGet
from eda.store.history import History
from helpers import Admin, until
from support.embedded.cluster import Cluster
from support.embedded.domains import Domains
from support.store.versions import on_able_servers


def made(n: int) -> eda.Event:
    return eda.Event(type=f"t{n % 2}", data=eda.JSON(n))


async def history_of(conn: eda.Conn, stream: str) -> History:
    services = conn._lifetime._services
    assert services is not None
    return (await services.known_streams.parts_of_stores[stream]).history


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The filters whose last message was asked for from a stream's leader."""
    found: list[str] = []
    begin = DirectGet.begin_leader_last

    def recorded(self: DirectGet, filter: str) -> Any:
        found.append(filter)
        return begin(self, filter)

    monkeypatch.setattr(DirectGet, "begin_leader_last", recorded)
    return found


@on_able_servers
async def test_load_when_there_is_one_copy_asks_no_leader(conn: eda.Conn, stream: str, asked: list[str]) -> None:
    store = conn.store(stream)
    for n in range(20):
        await store.append("a", [made(n)], expected=n)
        assert (await store.load("a")).version == n + 1
    other = conn.store(stream)
    await other.append("a", [made(20)], expected=20)
    await other.append("a", [made(21)], expected="any")
    assert [event.data.decode() for event in await conn.store(stream).history("a")] == list(range(22))
    assert asked == []
    assert not (await other.load("b")).exists
    assert asked == [f"{stream}.*.b"]  # nobody has signed the answer that there is no message


@on_able_servers
async def test_load_when_a_mirror_is_behind_is_exact(
    conn: eda.Conn, admin: Admin, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror lacks each second event, so that it is behind whenever one of these is the last."""
    store = conn.store(stream)
    await store.append("a", [made(0)], expected="new")
    mirror = StreamConfig(
        name=f"{stream}-mirror",
        mirror=StreamSource(name=stream, filter_subject=f"{stream}.t1.*"),
        mirror_direct=True,
        allow_direct=True,
    )
    await admin.js.add_stream(mirror)
    history, n_mirrored = await history_of(conn, stream), 0

    def count() -> None:
        nonlocal n_mirrored
        n_mirrored += 1  # and go on asking the stream, or the mirror

    monkeypatch.setattr(history, "_on_mirror", count)
    n = 0
    try:
        async with asyncio.timeout(20):
            while n_mirrored < 10:  # it begins to answer when it has caught up for the first time
                if n < 20 or n_mirrored:
                    n += 1
                    await store.append("a", [made(n)], expected=n)
                events = await conn.store(stream).history("a")
                assert [event.version for event in events] == list(range(1, n + 2))
                last = await history.last("a")
                assert last is not None
                assert last.version == n + 1
    finally:
        await admin.js.delete_stream(mirror.name)


@on_able_servers
async def test_load_when_a_mirror_has_answered_asks_the_leader_until_the_next_look(
    conn: eda.Conn, stream: str, asked: list[str]
) -> None:
    store = conn.store(stream)
    await store.append("a", [made(0)], expected="new")
    history = await history_of(conn, stream)
    history._on_mirror()
    assert len(await store.history("a")) == 1
    assert asked == [f"{stream}.*.a"]
    await conn.streams.update(stream, dedup_window_s=100.0)  # the answer does not say whether there is a cluster
    assert not history._has_one_copy()
    services = conn._lifetime._services
    assert services is not None
    await services.known_streams.ensure(stream)
    assert history._has_one_copy()
    await conn.streams.update(stream, dedup_window_s=110.0)
    assert len(await store.history("a")) == 1
    assert asked == [f"{stream}.*.a"]


@on_able_servers
async def test_has_one_copy_when_the_connection_was_lost_is_not_known_until_a_look(conn: eda.Conn, stream: str) -> None:
    await conn.store(stream).append("a", [made(0)], expected="new")
    history = await history_of(conn, stream)
    assert history._has_one_copy()
    wire = history.api.wire
    found: list[bool] = []
    wire.on_lost.append(lambda: found.append(history._has_one_copy()))
    wire.on_restored.append(lambda: found.append(history._has_one_copy()))
    wire._interceptor.transport.abort()  # type: ignore[union-attr]
    await until(lambda: len(found) == 2)
    assert found == [False, False]
    await until(history._has_one_copy)


@pytest.mark.parametrize("replicas", [1, 3])
async def test_load_when_there_is_a_cluster_asks_the_leader(tmp_path: Path, asked: list[str], replicas: int) -> None:
    async with Cluster(tmp_path) as cluster, eda.connect(cluster.urls) as conn:
        await conn.streams.create("orders", eda.StreamOptions(replicas=replicas, store=True))
        store = conn.store("orders")
        for n in range(3):
            await store.append("a", [made(n)], expected=n)
        assert len(await store.history("a")) == 3
        assert asked == ["orders.*.a"]
        assert not (await conn.streams.info("orders")).single_server


async def test_has_one_copy_when_the_stream_is_in_another_domain_is_false(tmp_path: Path) -> None:
    """Another server may become a cluster without the client's connection being lost."""
    async with Domains(tmp_path) as domains:
        for url, domain in ((domains.leaf.url, "hub"), (domains.hub.url, "edge"), (domains.leaf.url, "")):
            async with eda.connect(url, cluster=domain or None) as conn:
                await conn.store("orders").append("a", [made(0)], expected="any")
                assert not (await history_of(conn, "orders"))._has_one_copy(), (url, domain)
        async with eda.connect(domains.hub.url) as conn:
            await conn.store("orders")
            assert (await history_of(conn, "orders"))._has_one_copy()
