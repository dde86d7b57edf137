"""The event store on three nodes: 16 processes, 50 aggregates, while leaders, nodes and processes die or freeze.

What is proven is in support/store/evidence.py. Each test states how many commands faults must have struck.
"""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from helpers import freeze
from support.embedded.cluster import Cluster
from support.faults.scene import scaled
from support.store.load import STREAM, begin, end, kill_some, make_stream
from support.store.members import Members
from support.store.versions import has_sound_batches, on_able_servers

Report = Callable[[Mapping[str, object]], None]


@pytest.fixture
async def cluster(tmp_path: Path, executable: Path | None) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path, executable=executable) as cluster:
        yield cluster


@on_able_servers
async def test_commands_when_leaders_and_clients_are_killed_are_applied_once(
    cluster: Cluster, server_version: str, members: Members, chance: random.Random, report: Report
) -> None:
    n = scaled(1, 15)
    await make_stream(cluster.urls, replicas=3, dedup_window_s=20.0)
    await begin(members, cluster.urls)
    for _ in range(n):
        await members.more(200)
        await kill_some(members, chance)
        leader = await cluster.leader(STREAM)
        members.harm("leader")
        await cluster.kill(leader)
        members.replace(members.any(chance))
        await members.more(200)
        await cluster.start(leader)
        await cluster.until_current(STREAM)
    await members.more(200)
    has_batches = has_sound_batches(server_version)
    report(await end(members, cluster.urls, has_batches=has_batches, kill=2 * n, leader=n))


@on_able_servers
async def test_commands_when_nodes_freeze_or_are_restarted_one_by_one_are_applied_once(
    cluster: Cluster, server_version: str, members: Members, chance: random.Random, report: Report
) -> None:
    """A leader that freezes is deposed, and does not know it when it wakes up. Then a rolling restart."""
    n = scaled(1, 10)
    await make_stream(cluster.urls, replicas=3, dedup_window_s=4.0)
    await begin(members, cluster.urls)
    for _ in range(n):
        await members.more(200)
        leader = await cluster.leader(STREAM)
        process = cluster.nodes[leader].process
        assert process is not None
        members.harm("freeze")
        freeze(process.pid)
        try:
            members.replace(members.any(chance))
            await cluster.until_deposed(leader, STREAM)
        finally:
            process.send_signal(signal.SIGCONT)
        await members.more(200)
        for name in chance.sample(sorted(cluster.nodes), 3)[: scaled(1, 3)]:
            members.harm("stop")
            await cluster.nodes[name].stop()
            await members.more(100)
            await cluster.start(name)
            await cluster.until_current(STREAM)
    await members.more(200)
    has_batches = has_sound_batches(server_version)
    report(await end(members, cluster.urls, has_batches=has_batches, freeze=n, stop=n))
