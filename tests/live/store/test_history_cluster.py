"""Exact reads of one aggregate's events, on a cluster of three whose nodes lag behind, freeze and die."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import eda
from eda.jetstream.direct_get import DirectGet
from eda.store._earlier import EARLIER, value_of, with_all
from eda.store.history import History
from eda.store.tail import Baseline
from helpers import freeze, needs_freeze
from support.embedded.cluster import Cluster
from support.store.appends import ListingSide
from support.store.snapshotting import Side

STREAM = "orders"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path) as cluster:
        async with eda.connect(cluster.urls) as conn:
            await conn.streams.create(STREAM, eda.StreamOptions(replicas=3))
        await cluster.until_current(STREAM)
        yield cluster


async def history_of(conn: eda.Conn) -> History:
    direct = DirectGet(Side(conn, STREAM).api, STREAM)
    await direct.open()
    return History(direct._api, STREAM, direct)


def check(events: list[eda.Event], baseline: Baseline, acknowledged: int) -> Baseline:
    """Check that the versions follow the baseline, and reach what was acknowledged before the read."""
    last = baseline.version + len(events)
    assert [event.version for event in events] == list(range(baseline.version + 1, last + 1))
    assert last >= acknowledged
    return Baseline(last, events[-1].sequence, events[-1].id) if events else baseline


@contextmanager
def frozen(server: eda.EmbeddedServer) -> Iterator[None]:
    """Let a server stand still during the context."""
    pid = server.pid
    assert pid is not None
    freeze(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def others(cluster: Cluster) -> list[str]:
    leader = await cluster.leader(STREAM)
    return [name for name in cluster.nodes if name != leader]


@needs_freeze
async def test_read_when_a_replica_is_behind_is_never_older_than_what_was_acknowledged(cluster: Cluster) -> None:
    """The reader's server is frozen while others write. It finds the reads before it has caught up."""
    lagging = cluster.nodes[(await others(cluster))[0]]
    urls = [server.url for server in cluster.nodes.values() if server is not lagging]
    n_stale = 0

    async with eda.connect(urls) as writer, eda.connect(lagging.url) as reader:
        side, listing, history = Side(writer, STREAM), ListingSide(writer, STREAM), await history_of(reader)
        direct = history._direct
        stored, baseline, listed = 0, Baseline(), Baseline()
        while stored < 10_000 and n_stale < 2:
            with frozen(lagging):
                for _ in range(100):
                    await side.append("4711", stored + 1, "abc"[stored % 3])
                    if stored % 2:
                        await listing.append_all("listed", stored, 2, "abc"[stored % 3])
                    stored += 1
                late = direct.begin_last_of_each(f"{STREAM}.*.4711")
                reads = [
                    asyncio.create_task(history.read("4711", given, types=types))
                    for given, types in ((Baseline(), None), (baseline, None), (Baseline(), ["a", "b", "c"]))
                ]
                more = [asyncio.create_task(history.read("listed", each)) for each in (Baseline(), listed)]
                await asyncio.sleep(0.02)  # the requests are written
            full, tail, known = await asyncio.gather(*reads)
            check(full.events, Baseline(), stored)
            check(known.events, Baseline(), stored)
            listed_full, listed_tail = await asyncio.gather(*more)
            check(listed_full.events, Baseline(), stored)
            assert tail.is_continued
            assert listed_tail.is_continued
            listed = check(listed_tail.events, listed, stored)
            baseline = check(tail.events, baseline, stored)
            reached = max((message.sequence for message in await direct.done(late)), default=0)
            n_stale += reached < baseline.sequence
    assert n_stale, "no answer was late"


@needs_freeze
async def test_read_when_a_replica_is_frozen_is_answered_by_others(cluster: Cluster) -> None:
    behind, other = await others(cluster)
    async with eda.connect(cluster.nodes[other].url) as conn:
        side, history = Side(conn, STREAM), await history_of(conn)
        for version in range(1, 11):
            await side.append("4711", version, "ab"[version % 2])
        with frozen(cluster.nodes[behind]):
            async with asyncio.timeout(8):
                for _ in range(5):
                    check((await history.read("4711")).events, Baseline(), 10)


async def test_read_when_leaders_are_killed_is_never_older_than_what_was_acknowledged(cluster: Cluster) -> None:
    stored = 0
    n_reads = 0

    async with eda.connect(cluster.urls) as writer, eda.connect(cluster.urls) as reader:
        side, history = Side(writer, STREAM), await history_of(reader)

        async def write() -> None:
            nonlocal stored
            sequence, earlier = 0, ""
            while not killing.done() or stored < 100:
                version = stored + 1
                headers = {
                    "Nats-Msg-Id": f"id-{version}",
                    "Nats-Expected-Last-Subject-Sequence": str(sequence),
                    "Nats-Expected-Last-Subject-Sequence-Subject": f"{STREAM}.*.4711",
                    EARLIER: value_of(earlier),
                }
                try:
                    sequence, _ = await side.append("4711", version, "ab"[version % 2], headers=headers)
                except (eda.ServerError, eda.Timeout):
                    last = None
                    with suppress(eda.EdaError):
                        last = await history.last("4711")
                    if last is None or last.version < version:
                        continue
                    sequence = last.sequence
                stored, earlier = version, with_all(earlier, [sequence])

        async def kill() -> None:
            for _ in range(2):
                await asyncio.sleep(0.5)
                leader = await cluster.leader(STREAM)
                await cluster.kill(leader)
                await asyncio.sleep(1.5)
                await cluster.start(leader)
                await cluster.until_current(STREAM)

        async def read() -> None:
            nonlocal n_reads
            while not killing.done():
                acknowledged = stored
                with suppress(eda.ServerError, eda.Timeout):
                    check((await history.read("4711")).events, Baseline(), acknowledged)
                    n_reads += 1

        killing = asyncio.create_task(kill())
        await asyncio.gather(killing, write(), read(), read())
        check((await history.read("4711")).events, Baseline(), stored)
    assert n_reads > 20
