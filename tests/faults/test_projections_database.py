"""Read models while their database dies, freezes or is away, and while answers of commits are lost.

What is proven is in support/projections/evidence.py. Each test states how many transactions faults must have struck.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from urllib.parse import urlsplit

import pytest

import eda
from helpers import until
from support.faults.evidence import read_stream
from support.faults.scene import scaled
from support.projections.commit_proxy import CommitProxy, Fate
from support.projections.members import ProjectionMembers
from support.projections.postgres import Postgres
from support.projections.tables import POSTGRES, SQLITE, drivers, positions, read_rows

Report = Callable[[Mapping[str, object]], None]

LONG_S = 0.2  # a transaction that is seen lasts until the fault strikes


@drivers("psycopg", "sqlalchemy", all=POSTGRES)
async def test_table_when_the_database_is_killed_has_each_event_once(
    own_server: eda.EmbeddedServer,
    postgres: Postgres,
    projecting: ProjectionMembers,
    driver: str,
    chance: random.Random,
    report: Report,
) -> None:
    """With each second kill, the process that projects is killed as well."""
    n = scaled(3, 50)
    await projecting.begin(own_server.url, driver)
    for number in range(n):
        await projecting.more(5)
        await asyncio.sleep(chance.random() * 0.05)
        await projecting.until_busy()
        projecting.harm("database")
        postgres.kill()
        is_member_killed = number % 2 == 1
        if is_member_killed:
            projecting.kill(projecting.any_busy(chance))
        postgres.start()
        if is_member_killed:
            projecting.start()  # one that finds no database when it opens ends with an error
    report(await projecting.end(database=n // 2))


@drivers("asyncpg", all=POSTGRES)
async def test_table_when_connections_of_the_database_are_ended_has_each_event_once(
    own_server: eda.EmbeddedServer, postgres: Postgres, projecting: ProjectionMembers, driver: str, report: Report
) -> None:
    """As an administrator ends them."""
    n = scaled(5, 50)
    await projecting.begin(own_server.url, driver, options={"key": "aggregate", "lanes": 2})
    database = urlsplit(projecting.address).path.removeprefix("/")
    for _ in range(n):
        await projecting.more(4)
        await projecting.until_busy()
        projecting.harm("end")
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", database)
    report(await projecting.end(by_key=True, end=n // 2))


@drivers("psycopg", "sqlite")
async def test_table_after_an_outage_of_the_database_has_each_event_once_and_none_is_a_dead_letter(
    own_server: eda.EmbeddedServer,
    projecting: ProjectionMembers,
    driver: str,
    request: pytest.FixtureRequest,
    report: Report,
) -> None:
    """Of a minute in the long form; `retry` allows one attempt. SQLite has no server: its file is locked."""
    outage_s = scaled(4, 60)
    await projecting.begin(
        own_server.url, driver, retry={"max_attempts": 1}, options={"timeout_s": 5.0}, delay_s=LONG_S
    )
    await projecting.more(5)
    await projecting.until_busy()
    if driver in SQLITE:
        with closing(sqlite3.connect(projecting.address, timeout=0, isolation_level=None)) as file:
            lock(file)
            n_committed = len(projecting.lines("end"))
            await asyncio.sleep(outage_s / 2)
            projecting.harm("outage")
            await asyncio.sleep(outage_s / 2)
            file.execute("ROLLBACK")
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        projecting.harm("outage")
        postgres.kill()
        n_committed = len(projecting.lines("end"))
        await asyncio.sleep(outage_s)
        postgres.start()
    assert len(projecting.lines("end")) <= n_committed + 1
    await projecting.more(10)
    report(await projecting.end(outage=1))


def lock(file: sqlite3.Connection) -> None:
    """Lock a file in the moment between two transactions of a member. SQLite's own waiting looks too seldom."""
    give_up_at = time.monotonic() + 30
    while True:
        try:
            file.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_at:
                raise
        else:
            return


@drivers("asyncpg", all=POSTGRES)
async def test_table_when_the_database_freezes_has_each_event_once(
    own_server: eda.EmbeddedServer, postgres: Postgres, projecting: ProjectionMembers, driver: str, report: Report
) -> None:
    """For longer than a transaction may take: its connection is given up while the server still has its statements."""
    n = scaled(1, 10)
    await projecting.begin(
        own_server.url, driver, retry={"max_attempts": 1}, options={"timeout_s": 1.0}, delay_s=LONG_S
    )
    for _ in range(n):
        await projecting.more(5)
        await projecting.until_busy()
        projecting.harm("freeze")
        postgres.freeze()
        try:
            await asyncio.sleep(2.5)
        finally:
            postgres.thaw()
    report(await projecting.end(freeze=n))


@pytest.mark.parametrize("fate", ["landed", "late", "lost"])
@drivers("psycopg", "asyncpg", all=POSTGRES)
async def test_table_when_the_answer_of_a_commit_is_lost_has_each_event_once(
    own_server: eda.EmbeddedServer,
    postgres: Postgres,
    projecting: ProjectionMembers,
    driver: str,
    fate: Fate,
    report: Report,
) -> None:
    """`late`: the server gets the COMMIT when the client has connected anew and asks what became of it.

    The member finds out, and goes on: it does not lose its claim.
    """
    n = scaled(2, 20)
    await projecting.begin(own_server.url, driver, start=False)
    async with CommitProxy(postgres.port, lambda: projecting.harm("cut")) as proxy:
        address = projecting.address.replace(f":{postgres.port}/", f":{proxy.port}/")
        name = projecting.start(address=address)
        for number in range(n):
            await projecting.more(7)
            proxy.cut_next(fate)
            await until(lambda goal=number + 1: proxy.n_cut[fate] >= goal, 30)  # type: ignore[misc]
        await projecting.more(3)
        report(await projecting.end(cut=n))
    assert "has lost stream" not in projecting.log(name)


@drivers("sqlite", "psycopg", "asyncpg", "sqlalchemy")
async def test_projection_when_apply_commits_by_itself_ends_with_an_error(
    own_server: eda.EmbeddedServer, projecting: ProjectionMembers, driver: str
) -> None:
    """The rows of that transaction are there, and the position before them; nothing else is applied."""
    await projecting.begin(own_server.url, driver, start=False)
    name = projecting.start(commit_at=3)
    await until(lambda: projecting.lines("closed", "crashed", member=name), 30)
    assert projecting.ended(name).startswith("TransactionEnded: apply of projection 'list' version 1 has committed")
    await projecting.close(*projecting.publishers())
    (committing,) = projecting.lines("committing")
    first, last = map(int, committing.event.removeprefix("orders:").split("-"))
    rows = read_rows(projecting.address)
    assert [row.sequence for row in rows] == list(range(1, last + 1))
    assert positions(projecting.address, "list") == {("orders", 0): first - 1}
    stored = await read_stream(own_server.url, "orders")
    assert [row.id for row in rows] == [each.id for each in stored[:last]]
