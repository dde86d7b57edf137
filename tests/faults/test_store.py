"""The event store on one server: 16 processes, 50 aggregates, while server and processes die or freeze.

What is proven is in support/store/evidence.py. Each test states how many commands faults must have struck.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict

import eda
from helpers import freeze, until
from support.faults.scene import scaled
from support.store.attempts import Request
from support.store.contents import read_contents
from support.store.load import STREAM, begin, end, kill_some, make_stream
from support.store.members import Members

Report = Callable[[Mapping[str, object]], None]


async def test_commands_when_server_and_clients_are_killed_are_applied_once(
    own_server: eda.EmbeddedServer, members: Members, chance: random.Random, report: Report
) -> None:
    """SIGKILL of the server and of processes. A process that follows a dead one executes its open commands again."""
    n = scaled(2, 50)
    await make_stream(own_server.url, dedup_window_s=20.0)
    await begin(members, own_server.url)
    for _ in range(n):
        await members.more(200)
        await kill_some(members, chance)
        members.harm("server")
        await own_server.kill()
        members.replace(members.any(chance))
        await own_server.start()
    await members.more(200)
    report(await end(members, own_server.url, kill=3 * n, server=2 * n))


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
        members.harm("freeze")
        freeze(process.pid)
        try:
            await asyncio.sleep(2.2)
            members.replace(members.any(chance))
        finally:
            process.send_signal(signal.SIGCONT)
    await members.more(200)
    report(await end(members, own_server.url, freeze=2 * n))


async def test_commands_when_clients_freeze_for_longer_than_the_duplicate_window_are_applied_once(
    own_server: eda.EmbeddedServer, members: Members, chance: random.Random, report: Report
) -> None:
    """A frozen process has sent a command and has not read the answer; the server forgets the id in the meantime."""
    n = scaled(2, 50)
    await make_stream(own_server.url, dedup_window_s=0.5)
    await begin(members, own_server.url, delay_s=0.01)
    for _ in range(n):
        frozen: list[str] = []
        for _ in range(6):
            await asyncio.sleep(chance.random() * 0.05)
            frozen.append(members.any(chance, besides=frozen))
            members.send(frozen[-1], signal.SIGSTOP)
            members.harm("freeze", frozen[-1])
        # The others execute again what those that are killed left open.
        members.replace(frozen[0])
        members.replace(frozen[1])
        await asyncio.sleep(0.7)
        for name in frozen[2:]:
            members.send(name, signal.SIGCONT)
        await members.more(100)
    report(await end(members, own_server.url, freeze=5 * n))


async def test_forgotten_when_processes_append_and_the_one_that_forgets_is_killed_has_only_its_tombstone(
    own_server: eda.EmbeddedServer, members: Members, chance: random.Random, report: Report
) -> None:
    n = scaled(6, 30)
    await make_stream(own_server.url)
    await begin(members, own_server.url, n_aggregates=40)
    await members.more(200)
    for number in range(n):
        forget = asdict(Request("forget", f"a{number}"))
        name = members.start(again=[forget], only_again=True)
        if number:  # at some moment it is done, or not
            await until(lambda name=name: members.has_begun(name))
            await asyncio.sleep(chance.random() * 0.01)
            members.kill(name)
            members.start(again=[forget], only_again=True)
        await members.more(50)
    counts = await end(members, own_server.url, kill=1)
    contents = await read_contents(own_server.url, STREAM)
    assert {message.aggregate for message in contents if message.type == "eda.forgotten"} == {f"a{i}" for i in range(n)}
    report(counts)


async def test_process_manager_when_its_members_are_killed_applies_each_events_commands_once(
    own_server: eda.EmbeddedServer, members: Members, chance: random.Random, report: Report
) -> None:
    """A handler executes a command on two accounts for each event, under the event's id."""
    n_kills, n_events = scaled(4, 60), scaled(300, 6_000)
    # When an event is delivered again, after its lease of 1.5 s, the server has forgotten the ids of its commands.
    await make_stream(own_server.url, dedup_window_s=1.4)
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
    counts = await end(members, own_server.url, kill=n_kills // 2)
    contents = await read_contents(own_server.url, STREAM)
    applied = [(message.data["c"], message.aggregate) for message in contents if message.data["i"] == 1]
    assert sorted(applied) == sorted(ids)
    report(counts)
