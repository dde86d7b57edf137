"""The event store under load: 16 processes, 50 aggregates, while server, leader, nodes and processes die or freeze.

What is proven is in support/store/evidence.py: versions without a gap or a repeat, each acknowledged command applied
once, each conflict real, nothing applied that was reported as refused, and all that was read equal to the contents.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import freeze
from support.embedded.cluster import Cluster
from support.faults.scene import scaled
from support.store.attempts import Request
from support.store.contents import read_contents
from support.store.evidence import assert_promise
from support.store.members import Members

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="members are forked")

Report = Callable[[Mapping[str, object]], None]
STREAM = "accounts"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    with Members(tmp_path) as members:
        yield members


async def make_stream(url: str | list[str], **options: Any) -> None:
    async with eda.connect(url) as conn:
        await conn.streams.create(STREAM, eda.StreamOptions(store=True, **options))


async def begin(members: Members, url: str | list[str], n: int = 16, **orders: Any) -> None:
    """Start members. Two of them have one stem: both execute the same commands, under the same command ids."""
    members.orders |= {"url": url, **orders}
    for _ in range(2):
        members.start(stem="twin", seed=0, how=["execute"])
    for _ in range(n - 2):
        members.start()
    await members.until_open()


async def end(members: Members, url: str | list[str]) -> dict[str, int]:
    """Have all members close, and assert that the store kept its promise."""
    await members.close()
    return assert_promise(await read_contents(url, STREAM), members.attempts())


# --- one server ------------------------------------------------------------------------------------------------------


async def test_commands_when_server_and_clients_are_killed_are_applied_once(
    own_server: eda.EmbeddedServer, members: Members, chance: random.Random, report: Report
) -> None:
    """SIGKILL of the server and of processes. A process that follows a dead one executes its open commands again."""
    n = scaled(2, 50)
    await make_stream(own_server.url, dedup_window_s=20.0)
    await begin(members, own_server.url)
    for _ in range(n):
        await members.more(200)
        for _ in range(4):
            members.replace(members.any(chance))
            await asyncio.sleep(chance.random() * 0.05)
        await own_server.kill()
        members.replace(members.any(chance))
        await own_server.start()
    await members.more(400)
    report(await end(members, own_server.url) | {"kills": n})


async def test_commands_when_the_server_freezes_are_applied_once(
    own_server: eda.EmbeddedServer, members: Members, chance: random.Random, report: Report
) -> None:
    """SIGSTOP for longer than a call waits: its outcome is unknown, and the server still has its message before it."""
    n = scaled(1, 10)
    await make_stream(own_server.url, dedup_window_s=2.0)  # a call waits for half of it
    await begin(members, own_server.url)
    for _ in range(n):
        await members.more(200)
        process = own_server.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(2.5)
            members.replace(members.any(chance))
        finally:
            process.send_signal(signal.SIGCONT)
    await members.more(400)
    report(await end(members, own_server.url) | {"stops": n})


async def test_commands_when_clients_freeze_for_longer_than_the_duplicate_window_are_applied_once(
    own_server: eda.EmbeddedServer, members: Members, chance: random.Random, report: Report
) -> None:
    """A frozen process has sent a command and has not read the answer; the server forgets the id in the meantime."""
    n = scaled(3, 50)
    await make_stream(own_server.url, dedup_window_s=0.5)
    await begin(members, own_server.url, delay_s=0.01)
    for _ in range(n):
        frozen = chance.sample(members.alive(), 6)
        for name in frozen:
            await asyncio.sleep(chance.random() * 0.05)
            members.send(name, signal.SIGSTOP)
        # The others execute again what those that are killed left open.
        members.replace(frozen[0])
        members.replace(frozen[1])
        await asyncio.sleep(0.8)
        for name in frozen[2:]:
            members.send(name, signal.SIGCONT)
        await members.more(100)
    report(await end(members, own_server.url) | {"frozen": 6 * n})


async def test_forgotten_when_processes_append_and_the_one_that_forgets_is_killed_has_only_its_tombstone(
    own_server: eda.EmbeddedServer, members: Members, chance: random.Random, report: Report
) -> None:
    n = scaled(3, 30)
    await make_stream(own_server.url)
    await begin(members, own_server.url, n_aggregates=40)
    await members.more(300)
    for number in range(n):
        forget = asdict(Request("forget", f"a{number}"))
        name = members.start(again=[forget], only_again=True)
        if number:  # at some moment it is done, or not
            await asyncio.sleep(chance.random() * 0.03)
            members.kill(name)
            members.start(again=[forget], only_again=True)
        await members.more(100)
    counts = await end(members, own_server.url)
    contents = await read_contents(own_server.url, STREAM)
    assert {message.aggregate for message in contents if message.type == "eda.forgotten"} == {f"a{i}" for i in range(n)}
    report(counts)


# --- three nodes -----------------------------------------------------------------------------------------------------


async def test_commands_when_leaders_and_clients_are_killed_are_applied_once(
    cluster: Cluster, members: Members, chance: random.Random, report: Report
) -> None:
    n = scaled(1, 15)
    await make_stream(cluster.urls, replicas=3, dedup_window_s=20.0)
    await begin(members, cluster.urls)
    for _ in range(n):
        await members.more(200)
        for _ in range(4):
            members.replace(members.any(chance))
        leader = await cluster.leader(STREAM)
        await cluster.kill(leader)
        members.replace(members.any(chance))
        await members.more(200)
        await cluster.start(leader)
        await cluster.until_current(STREAM)
    await members.more(200)
    report(await end(members, cluster.urls) | {"kills": n})


async def test_commands_when_nodes_freeze_or_are_restarted_one_by_one_are_applied_once(
    cluster: Cluster, members: Members, chance: random.Random, report: Report
) -> None:
    """A leader that freezes is deposed, and does not know it when it wakes up. Then a rolling restart."""
    n = scaled(1, 10)
    await make_stream(cluster.urls, replicas=3, dedup_window_s=4.0)
    await begin(members, cluster.urls)
    for number in range(n):
        await members.more(200)
        leader = await cluster.leader(STREAM)
        process = cluster.nodes[leader].process
        assert process is not None
        freeze(process.pid)
        try:
            members.replace(members.any(chance))
            await asyncio.sleep(chance.choice((1.0, 3.0, 6.0)) if number else 3.0)
        finally:
            process.send_signal(signal.SIGCONT)
        await members.more(200)
        for name in chance.sample(sorted(cluster.nodes), 3)[: scaled(1, 3)]:
            await cluster.nodes[name].stop()
            await members.more(100)
            await cluster.start(name)
            await cluster.until_current(STREAM)
    await members.more(200)
    report(await end(members, cluster.urls) | {"turns": n})


# --- a process manager -----------------------------------------------------------------------------------------------


async def test_process_manager_when_its_members_are_killed_applies_each_events_commands_once(
    own_server: eda.EmbeddedServer, members: Members, chance: random.Random, report: Report
) -> None:
    """A handler executes a command on two accounts for each event, under the event's id."""
    n_kills, n_events = scaled(4, 60), scaled(300, 6_000)
    await make_stream(own_server.url)
    ids = []
    async with eda.connect(own_server.url) as conn:
        async with conn.publisher("requests") as publisher:
            for _ in range(n_events):
                accounts = [f"a{number}" for number in chance.sample(range(20), 2)]
                event = eda.Event(type="requested", data=eda.JSON({"aggregates": accounts}))
                event_id = await publisher.send(event)
                ids += [(event_id, account) for account in accounts]
    members.orders |= {"url": own_server.url, "manager": "requests"}
    for _ in range(3):
        members.start()
    await members.until_open()
    for _ in range(n_kills):
        await members.more(n_events // n_kills // 4)
        await asyncio.sleep(chance.random() * 0.1)
        members.kill(members.any(chance))
        members.start()
    done: set[tuple[str, str]] = set()
    async with asyncio.timeout(60 + n_events / 50):
        while len(done) < len(ids):
            await asyncio.sleep(0.1)
            members.check()
            attempts = [attempt for attempt in members.attempts() if attempt.outcome == "done"]
            done = {(attempt.request.id, attempt.request.aggregate) for attempt in attempts}
    counts = await end(members, own_server.url)
    contents = await read_contents(own_server.url, STREAM)
    applied = [(message.data["c"], message.aggregate) for message in contents if message.data["i"] == 1]
    assert sorted(applied) == sorted(ids)
    report(counts | {"kills": n_kills})
