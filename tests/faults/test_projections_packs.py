"""Read models over packed streams while their processes and the nats-server die: each event of a pack once, in order.

Lists are shorter than packs, so nearly all transactions end in the middle of a pack.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

import eda
from helpers import until
from support.faults.scene import scaled
from support.projections.members import ProjectionMembers
from support.projections.tables import POSTGRES, drivers, n_in_packs

Report = Callable[[Mapping[str, object]], None]

PACK = 40
BATCH = {"batch": 7}
LANES = {"key": "aggregate", "lanes": 4}


@drivers("sqlite", "asyncpg")
async def test_table_of_packs_when_the_process_is_killed_has_each_event_once(
    own_server: eda.EmbeddedServer,
    projecting: ProjectionMembers,
    driver: str,
    chance: random.Random,
    report: Report,
) -> None:
    """SIGKILL at random moments; the next member waits for its turn already, or is started then."""
    n, n_cut = scaled(6, 50), 0
    await projecting.begin(own_server.url, driver, streams=2, pack=PACK, options=BATCH)
    for number in range(n):
        if number % 2:
            projecting.start()
        await projecting.more(3)
        await asyncio.sleep(chance.random() * 0.05)
        projecting.kill(projecting.any_busy(chance))
        n_cut += n_in_packs(projecting.address)
        if not number % 2:
            projecting.start()
    report(await projecting.end(kill=n // 2) | {"cut packs": n_cut})
    assert n_cut >= n // 2


@drivers("psycopg", all=POSTGRES)
async def test_table_of_packs_when_the_process_of_four_lanes_is_killed_has_the_events_of_each_key_in_order(
    own_server: eda.EmbeddedServer,
    projecting: ProjectionMembers,
    driver: str,
    chance: random.Random,
    report: Report,
) -> None:
    n = scaled(4, 50)
    await projecting.begin(own_server.url, driver, pack=PACK, options=LANES | BATCH)
    for _ in range(n):
        await projecting.more(8)
        await asyncio.sleep(chance.random() * 0.05)
        projecting.kill(projecting.any_busy(chance))
        projecting.start()
    report(await projecting.end(by_key=True, kill=n // 2))


@drivers("sqlite", "psycopg")
async def test_table_of_packs_when_the_process_dies_before_and_after_its_commit_has_each_event_once(
    own_server: eda.EmbeddedServer, projecting: ProjectionMembers, driver: str, report: Report
) -> None:
    """All rows are inserted, and neither the position nor the commit is sent; or both are stored, and nobody knows."""
    first = await projecting.begin(own_server.url, driver, pack=PACK, options=BATCH)
    await projecting.more(2)
    projecting.kill(first)
    for number in range(scaled(2, 10)):
        name = projecting.start(**{"die_after" if number % 2 else "die_in_apply": 1 + number % 3})
        await until(lambda name=name: projecting.lines("dying", member=name), 30)  # type: ignore[misc]
        projecting.harm("death", name)
        projecting.died(name)
    projecting.start()
    report(await projecting.end(death=scaled(2, 10)))


@drivers("sqlite", "asyncpg")
async def test_table_of_packs_when_the_nats_server_is_killed_has_each_event_once(
    own_server: eda.EmbeddedServer,
    projecting: ProjectionMembers,
    driver: str,
    chance: random.Random,
    report: Report,
) -> None:
    """With each second kill, the process that projects is killed as well."""
    n = scaled(3, 50)
    await projecting.begin(own_server.url, driver, pack=PACK, options=BATCH)
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
