"""How far a position may move over messages that the filter leaves out: on single servers, and on a cluster."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import eda
from eda.jetstream.subjects import filter_subjects
from eda.projections.passing_over import PassingOver
from helpers import Admin, Connect, Logged
from support.embedded.cluster import Cluster
from support.store.versions import on_able_servers

LOG = logging.getLogger("eda")


def passing_over(conn: eda.Conn, stream: str, *types: str, aggregate: str | None = None) -> PassingOver:
    services: Any = conn._lifetime._services
    wanted = filter_subjects(stream, types or None, aggregate)
    return PassingOver(services.api, stream, wanted, LOG, "list-v1")


async def publish(conn: eda.Conn, stream: str, *types: str) -> None:
    for each in types:
        await conn.publish(stream, eda.Event(type=each, aggregate="a"))


@pytest.mark.old_server
async def test_reach_when_only_other_types_follow_is_the_end_of_the_stream(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, "paid", "made", "made")
    info = await conn.streams.info(stream)
    assert await passing_over(conn, stream, "paid", "sent").reach(1) == (3, info.last_time_ns)
    assert await passing_over(conn, stream, "paid").reach(2) == (3, info.last_time_ns)


@pytest.mark.old_server
async def test_reach_when_a_message_that_matches_follows_is_none(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, "paid", "made", "sent", "made")
    assert await passing_over(conn, stream, "paid", "sent").reach(1) is None
    assert await passing_over(conn, stream, "paid", "sent").reach(2) is None
    assert await passing_over(conn, stream, "paid", "sent").reach(3) is not None


@pytest.mark.old_server
async def test_reach_when_there_are_no_later_messages_is_none(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, "made", "made")
    assert await passing_over(conn, stream, "paid").reach(2) is None


async def test_reach_without_a_filter_moves_only_over_what_was_removed(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await publish(conn, stream, "made", "made", "made")
    assert await passing_over(conn, stream).reach(1) is None
    await admin.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 3})
    await admin.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 2})
    reached = await passing_over(conn, stream).reach(1)
    assert reached is not None
    assert reached.sequence == 3


@pytest.mark.old_server
async def test_reach_when_a_message_is_on_the_streams_own_subject_is_none(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    """Only eda can tell whether it matches, so it is delivered."""
    await publish(conn, stream, "made")
    await admin.js.publish(stream, b"")
    await publish(conn, stream, "made")
    assert await passing_over(conn, stream, "paid").reach(1) is None
    assert await passing_over(conn, stream, "paid").reach(2) is not None


async def test_reach_when_only_eda_can_filter_is_none(conn: eda.Conn, admin: Admin, stream: str) -> None:
    name = f"{stream}-mirror"
    await publish(conn, stream, "made", "made")
    await admin.api(f"STREAM.CREATE.{name}", {"name": name, "mirror": {"name": stream}})
    try:
        assert await passing_over(conn, name, "paid").reach(1) is None
    finally:
        await admin.js.delete_stream(name)


@on_able_servers
async def test_reach_when_an_aggregate_was_forgotten_stops_before_its_tombstone(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(store=True))
    async with conn.store(stream) as store:
        for each in ("made", "paid", "made"):
            await store.append("a", [eda.Event(type=each)], expected="any")
        assert (await passing_over(conn, stream, "paid").reach(2) or (0,))[0] == 3
        await store.forget("a")
        assert await passing_over(conn, stream, "paid").reach(3) is None


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path) as cluster:
        yield cluster


async def test_reach_on_a_cluster_when_the_leader_changes_passes_over_no_event(cluster: Cluster) -> None:
    async with eda.connect(cluster.urls) as conn:
        await conn.streams.create("orders", eda.StreamOptions(replicas=3))
        over = passing_over(conn, "orders", "paid")
        position, n_reached, found = 0, 0, []
        for n in range(1, 31):
            if n == 15:
                await cluster.until_current("orders")
                await cluster.kill(await cluster.leader("orders"))
            kind = "paid" if n % 5 == 0 else "made"
            receipt = await conn.publish("orders", eda.Event(type=kind))
            reached = await over.reach(position)
            if kind == "paid":
                assert reached is None
                found.append(receipt.sequence)
                position = receipt.sequence
            elif reached is not None:
                assert reached.sequence == receipt.sequence
                position, n_reached = reached.sequence, n_reached + 1
        assert len(found) == 6
        assert n_reached >= 20


async def test_reach_when_another_leader_answers_in_the_end_is_none(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with eda.connect(cluster.urls) as conn:
        await conn.streams.create("orders", eda.StreamOptions(replicas=3))
        await publish(conn, "orders", "made")
        over = passing_over(conn, "orders", "paid")
        assert await over.reach(0) is not None
        leader = await cluster.leader("orders")
        real = over._next

        async def next_after_election(subject: str, sequence: int) -> int:
            found = await real(subject, sequence)
            await cluster.api("STREAM.LEADER.STEPDOWN.orders")
            await cluster.until_deposed(leader, "orders")
            return found

        monkeypatch.setattr(over, "_next", next_after_election)
        assert await over.reach(0) is None


async def test_reach_when_the_server_forbids_to_look_gives_up_and_says_so(
    connect: Connect, stream: str, logged: Logged
) -> None:
    config = {
        "authorization": {
            "users": [
                {"user": "all", "password": "x"},
                {"user": "few", "password": "x", "permissions": {"publish": {"deny": ["$JS.API.STREAM.MSG.GET.>"]}}},
            ]
        }
    }
    async with eda.EmbeddedServer(config=config) as server:
        async with eda.connect(server.url.replace("://", "://all:x@")) as conn:
            await publish(conn, stream, "made")
        async with eda.connect(server.url.replace("://", "://few:x@")) as conn:
            over = passing_over(conn, stream, "paid")
            assert await over.reach(0) is None
            assert await over.reach(0) is None
    assert len(logged.find("can't move its position in stream")) == 1
