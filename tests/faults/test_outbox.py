"""The outbox while its relays, its database and the nats-server are killed: each event is stored once, in order.

What is proven is in support/projections/outbox_load.py.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import eda
from support.faults.nursery import Nursery
from support.faults.scene import scaled
from support.projections.outbox_load import OutboxLoad
from support.projections.postgres import Postgres
from support.projections.tables import POSTGRES, SQLITE, drivers

Report = Callable[[Mapping[str, object]], None]

WINDOW_S = 0.4  # a relay that is away for longer must search the stream


@pytest.fixture(scope="module")
def relaying_nursery() -> Iterator[Nursery]:
    if not hasattr(os, "fork"):
        pytest.skip("members are forked")
    with Nursery("support.projections.relaying") as nursery:
        yield nursery


@pytest.fixture
async def load(
    relaying_nursery: Nursery, tmp_path: Path, own_server: eda.EmbeddedServer, driver: str, address: str
) -> OutboxLoad:
    load = OutboxLoad(relaying_nursery, tmp_path, own_server.url, driver, address)
    await load.prepare(dedup_window_s=WINDOW_S)
    return load


@pytest.fixture(autouse=True)
def all_end(relaying_nursery: Nursery) -> Iterator[None]:
    yield
    relaying_nursery.end_all()


@drivers("sqlite", "psycopg")
async def test_stream_when_relays_are_killed_has_each_event_once(
    load: OutboxLoad, driver: str, chance: random.Random, report: Report
) -> None:
    """After each second kill, nobody relays for longer than the duplicate window."""
    n, n_struck = scaled(5, 50), 0
    load.start()
    with load.writing(chance):
        for number in range(n):
            active = await load.until_active()
            if number % 2:
                load.start()  # it stands by, and takes over
            await load.more(chance.randrange(100, 400))
            await asyncio.sleep(chance.random() * 0.02)
            n_struck += load.kill(active)
            if number % 2 == 0:
                await asyncio.sleep(WINDOW_S * 1.5)
                load.start()
        await load.until_active()
        await load.more(50)
    report(await load.end() | {"kills with rows on their way": n_struck})
    assert n_struck >= n // 2


@drivers("psycopg", all=(*SQLITE, *POSTGRES))
async def test_stream_when_the_server_is_killed_has_each_event_once(
    load: OutboxLoad, own_server: eda.EmbeddedServer, driver: str, chance: random.Random, report: Report
) -> None:
    """The server is away for longer than the duplicate window, and after each second time the relay is killed, too."""
    n = scaled(2, 20)
    load.start()
    with load.writing(chance):
        for number in range(n):
            active = await load.until_active()
            await load.more(chance.randrange(100, 400))
            await own_server.kill()
            if number % 2:
                load.kill(active)
                load.start()
            await asyncio.sleep(WINDOW_S * 1.5)
            await own_server.start()
        await load.until_active()
        await load.more(50)
    report(await load.end())


@drivers("sqlalchemy", all=POSTGRES)
async def test_stream_when_the_database_is_killed_has_each_event_once(
    load: OutboxLoad, postgres: Postgres, driver: str, chance: random.Random, report: Report
) -> None:
    n = scaled(2, 20)
    load.start()
    with load.writing(chance):
        for _ in range(n):
            await load.until_active()
            await load.more(chance.randrange(100, 400))
            postgres.kill()
            await asyncio.sleep(chance.random() * WINDOW_S * 3)
            postgres.start()
            await load.more(50)
    report(await load.end())


@drivers("sqlite", "psycopg")
async def test_stream_when_a_relay_freezes_for_longer_than_the_duplicate_window_has_each_event_once(
    load: OutboxLoad, driver: str, chance: random.Random, report: Report
) -> None:
    """A frozen relay has rows on their way, so nobody may take over. The lock ends with the process."""
    n = scaled(2, 20)
    load.start()
    active = await load.until_active()
    standby = load.start()
    with load.writing(chance):
        for _ in range(n):
            await load.more(chance.randrange(100, 300))
            load.send(active, signal.SIGSTOP)
            await asyncio.sleep(WINDOW_S * 2)
            assert not load.is_active(standby)
            load.send(active, signal.SIGCONT)
        await load.more(50)
    report(await load.end())
