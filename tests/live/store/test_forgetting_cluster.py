"""Snapshots and forgetting on a cluster of three, whose leaders change meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import eda
from support.embedded.cluster import Cluster

STREAM = "orders"


def evolve(state: int, event: eda.Event) -> int:
    return state + 1


COUNTER: eda.Decider[int, str] = eda.Decider(0, evolve, lambda _, command: eda.Event(type=command), state=int)


async def test_forget_when_leaders_change_leaves_only_the_tombstone_and_a_marker(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster, eda.connect(cluster.urls) as conn, eda.connect(cluster.urls) as reader:
        await conn.streams.create(STREAM, eda.StreamOptions(replicas=3, store=True))
        async with conn.store(STREAM, COUNTER, snapshot_every=5) as store:
            for at in range(23):
                await store.execute(f"a{at % 2}", "abc"[at % 3])
        await cluster.until_current(f"{STREAM}-snapshots")  # as many replicas as the stream has

        other = reader.store(STREAM, COUNTER, snapshot_every=5)
        for _ in range(50):  # on a busy machine a snapshot may not be stored in time; a load writes it then
            loaded = [await other.load(name) for name in ("a0", "a1")]
            assert [(each.version, each.state) for each in loaded] == [(12, 12), (11, 11)]
            if all(len(each.events) < 10 for each in loaded):
                break
            await asyncio.sleep(0.1)
        assert all(len(each.events) < 10 for each in loaded)  # a snapshot was used

        forgetting = asyncio.create_task(store.forget("a0"))
        for stream in (STREAM, f"{STREAM}-snapshots"):
            assert await cluster.api(f"STREAM.LEADER.STEPDOWN.{stream}")
        try:
            await forgetting
        except (eda.ServerError, eda.Timeout):
            await store.forget("a0")
        for each in (store, other, reader.store(STREAM, COUNTER)):
            with pytest.raises(eda.AggregateForgotten):
                await each.load("a0")
            with pytest.raises(eda.AggregateForgotten):
                await each.execute("a0", "a")
            assert (await each.load("a1")).state == 11
        info = await cluster.api(f"STREAM.INFO.{STREAM}")
        assert info is not None
        assert info["state"]["messages"] == 12
