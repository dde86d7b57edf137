"""Read models while their processes and the nats-server die or freeze: each event is applied once and in order.

What is proven is in support/projections/evidence.py. Each test states how many transactions faults must have struck.
With packs, lists are shorter than packs, so nearly all transactions end in the middle of a pack.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import eda
from helpers import until
from support.faults.scene import scaled
from support.projections.members import ProjectionMembers
from support.projections.tables import POSTGRES, SQLITE, drivers, n_in_packs

Report = Callable[[Mapping[str, object]], None]

LANES: dict[str, Any] = {"key": "aggregate", "lanes": 4}
PACKS: dict[str, Any] = {"pack": 40, "options": {"batch": 7}}

with_packs_too = pytest.mark.parametrize("stored", [{}, PACKS], ids=["messages", "packs"])


@with_packs_too
@drivers("sqlite", "asyncpg")
async def test_table_when_the_process_is_killed_has_each_event_once(
    own_server: eda.EmbeddedServer,
    projecting: ProjectionMembers,
    driver: str,
    stored: dict[str, Any],
    chance: random.Random,
    report: Report,
) -> None:
    """SIGKILL at random moments; the next member waits for its turn already, or is started then."""
    n, n_cut = scaled(6, 50), 0
    await projecting.begin(own_server.url, driver, streams=2, **stored)
    for number in range(n):
        if number % 2:
            projecting.start()
        await projecting.more(3)
        await asyncio.sleep(chance.random() * 0.05)
        projecting.kill(projecting.any_busy(chance))
        n_cut += n_in_packs(projecting.address) if stored else 0
        if not number % 2:
            projecting.start()
    report(await projecting.end(kill=n // 2) | {"cut packs": n_cut})
    if stored:
        assert n_cut >= n // 2


@with_packs_too
@drivers("psycopg", all=POSTGRES)
async def test_table_when_the_process_of_four_lanes_is_killed_has_the_events_of_each_key_in_order(
    own_server: eda.EmbeddedServer,
    projecting: ProjectionMembers,
    driver: str,
    stored: dict[str, Any],
    chance: random.Random,
    report: Report,
) -> None:
    n = scaled(4, 50)
    await projecting.begin(own_server.url, driver, **stored | {"options": LANES | stored.get("options", {})})
    for _ in range(n):
        await projecting.more(8)
        await asyncio.sleep(chance.random() * 0.05)
        projecting.kill(projecting.any_busy(chance))
        projecting.start()
    report(await projecting.end(by_key=True, kill=n // 2))


@with_packs_too
@drivers("sqlite", "psycopg")
async def test_table_when_the_process_dies_before_and_after_its_commit_has_each_event_once(
    own_server: eda.EmbeddedServer, projecting: ProjectionMembers, driver: str, stored: dict[str, Any], report: Report
) -> None:
    """All rows are inserted, and neither the position nor the commit is sent; or both are stored, and nobody knows."""
    first = await projecting.begin(own_server.url, driver, **stored)
    await projecting.more(2)
    projecting.kill(first)
    for number in range(scaled(2, 10)):
        name = projecting.start(**{"die_after" if number % 2 else "die_in_apply": 1 + number % 3})
        await until(lambda name=name: projecting.lines("dying", member=name), 30)  # type: ignore[misc]
        projecting.harm("death", name)
        projecting.died(name)
    projecting.start()
    report(await projecting.end(death=scaled(2, 10)))


@drivers("psycopg", "sqlite")
async def test_table_when_a_member_freezes_in_apply_and_another_takes_over_has_each_event_once(
    own_server: eda.EmbeddedServer, projecting: ProjectionMembers, driver: str, report: Report
) -> None:
    """The frozen one has inserted half of its rows. It wakes up when another has applied the same events, and later."""
    n = scaled(2, 10)
    await projecting.begin(own_server.url, driver)
    await projecting.more(2)
    for number in range(n):
        await projecting.close(*projecting.readers())
        # PostgreSQL ends the transaction of the frozen one before it wakes up, or has it still.
        options = {"options": {"timeout_s": 30.0 if number % 2 else 1.0}}
        frozen = projecting.start(freeze_at=3, **options)
        await projecting.until_open()
        other = projecting.start(**options)
        await until(lambda name=frozen: projecting.lines("frozen", member=name), 30)  # type: ignore[misc]
        projecting.harm("freeze", frozen)
        if driver in SQLITE:  # it holds the lock of the file
            await asyncio.sleep(2.0)
            assert not projecting.lines("end", member=other)
        else:
            await until(lambda name=other: len(projecting.lines("end", member=name)) > 3, 30)  # type: ignore[misc]
        projecting.send(frozen, signal.SIGCONT)
        await projecting.more(10)
    report(await projecting.end(freeze=n))


@drivers("sqlite", "sqlalchemy")
async def test_table_when_members_freeze_at_random_moments_has_each_event_once(
    own_server: eda.EmbeddedServer,
    projecting: ProjectionMembers,
    driver: str,
    chance: random.Random,
    report: Report,
) -> None:
    """Two members, of which the one that applies is frozen for longer than the other one waits."""
    n = scaled(4, 30)
    await projecting.begin(own_server.url, driver)
    projecting.start()
    await projecting.until_open()
    for number in range(n):
        await projecting.more(3)
        await asyncio.sleep(chance.random() * 0.05)
        if number % 2:  # else also between two transactions
            await projecting.until_busy()
        owner = projecting.owner()
        projecting.send(owner, signal.SIGSTOP)
        projecting.harm("freeze", owner)
        await asyncio.sleep(2.0)
        projecting.send(owner, signal.SIGCONT)
    report(await projecting.end(freeze=n // 4))


@with_packs_too
@drivers("sqlite", "asyncpg")
async def test_table_when_the_nats_server_is_killed_has_each_event_once(
    own_server: eda.EmbeddedServer,
    projecting: ProjectionMembers,
    driver: str,
    stored: dict[str, Any],
    chance: random.Random,
    report: Report,
) -> None:
    """With each second kill, the process that projects is killed as well."""
    n = scaled(3, 50)
    await projecting.begin(own_server.url, driver, **stored)
    for number in range(n):
        await projecting.more(5)
        await asyncio.sleep(chance.random() * 0.05)
        await projecting.until_busy()
        projecting.harm("server")
        await own_server.kill()
        if number % 2:
            projecting.kill(projecting.any_busy(chance))
            projecting.start()
        await own_server.start()
    report(await projecting.end(server=n // 2))
