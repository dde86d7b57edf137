"""Three nodes, three replicas: leaders are killed and nodes restarted, under load."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

import eda
import eda.subscribing.source
from support.embedded.cluster import Cluster
from support.faults.evidence import assert_stored_once, read_stream
from support.faults.patience import ask_again_after
from support.faults.scene import IS_LONG, Scene, packed_too, packed_too_if_long, scaled

Report = Callable[[Mapping[str, object]], None]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the short form, let eda ask again after 1 s instead of 5, and notice after 2 s that no heartbeat comes."""
    if not IS_LONG:
        ask_again_after(1.0, monkeypatch)
        monkeypatch.setattr(eda.subscribing.source, "HEARTBEAT_S", 1.0)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path) as cluster:
        yield cluster


async def test_cluster_when_up_stores_on_three_nodes_and_tells_its_leaders(cluster: Cluster) -> None:
    async with eda.connect(cluster.urls) as conn:
        await conn.streams.create("s", eda.StreamOptions(replicas=3))
        event_id = (await conn.publish("s")).id
    leader = await cluster.leader("s")
    await cluster.until_current("s")
    await cluster.nodes[leader].stop()  # in good order: the others need not wait for an election
    other = await cluster.leader("s")
    assert {leader, other} <= {"n1", "n2", "n3"}
    stored = await read_stream(cluster.nodes[other].url, "s")
    assert_stored_once([event_id], stored)
    await cluster.start(leader)
    await cluster.until_current("s")


@packed_too
async def test_load_when_the_leaders_of_stream_and_consumer_are_killed_loses_nothing(
    cluster: Cluster, tmp_path: Path, report: Report, packed: bool
) -> None:
    """SIGKILL of the leader of the stream, then of the shared subscription's consumer; the others elect another.

    Duplicates: shared, up to its prefetch for each kill; ordered ones none.
    """
    n = scaled(1, 5)
    async with Scene(cluster.urls, tmp_path, replicas=3, pause_s=0.004, packed=packed) as scene:
        for _ in range(n):
            for consumer in ("", "shared"):
                await scene.more(50)
                leader = await cluster.leader("stream", consumer)
                scene.harm(kills=True)
                await cluster.kill(leader)
                await scene.more(50)
                scene.harm()
                await cluster.start(leader)
                await cluster.until_current("stream")
        await scene.more(50)
    report(scene.duplicates | {"events": len(scene.stored), "kills": 2 * n})
    assert scene.duplicates["shared"] <= scene.may_repeat(2 * n)


@packed_too_if_long
async def test_load_when_all_nodes_are_restarted_one_by_one_loses_nothing(
    cluster: Cluster, tmp_path: Path, chance: random.Random, report: Report, packed: bool
) -> None:
    """A rolling restart, each node stopped in good order. Duplicates: shared, up to its prefetch for each stop."""
    n = scaled(1, 4)
    async with Scene(cluster.urls, tmp_path, replicas=3, pause_s=0.004, packed=packed) as scene:
        for _ in range(n):
            for name in chance.sample(sorted(cluster.nodes), 3):
                await scene.more(50)
                scene.harm()
                await cluster.nodes[name].stop()
                await scene.more(50)
                scene.harm()
                await cluster.start(name)
                await cluster.until_current("stream")
        await scene.more(50)
    report(scene.duplicates | {"events": len(scene.stored), "restarts": 3 * n})
    assert scene.duplicates["shared"] <= scene.may_repeat(3 * n)
