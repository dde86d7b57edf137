"""Several members of one projection: who applies, who stands by, and how one takes over from another."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path

import pytest

import eda
import eda.sql
from eda.projections import ownership
from helpers import Connect, Logged, Proxy, until
from support.projections.lists import insert, publish, sequences
from support.projections.memory_sink import MemorySink


async def is_active(projection: eda.Projection) -> bool:
    return (await projection.stats()).active


async def test_standby_when_the_owner_closes_takes_over_within_seconds(
    connect: Connect, stream: str, path: Path, logged: Logged
) -> None:
    first, second = await connect(), await connect()
    await publish(first, stream, 5)
    owner = await first.projection(stream, insert, into=eda.sql.SQLite(path), name="list")
    standby = await second.projection(stream, insert, into=eda.sql.SQLite(path), name="list")
    assert [await is_active(each) for each in (owner, standby)] == [True, False]
    assert logged.find(f"stands by for stream {stream}")
    await owner.close()
    begin = time.monotonic()
    await standby.wait_for(await publish(first, stream, 5), 20)
    assert time.monotonic() - begin < ownership.STALE_S  # it was released, so nobody had to wait for that long
    assert await is_active(standby)
    await standby.close()
    assert sequences(path) == list(range(1, 11))


async def test_owner_when_its_rows_are_taken_over_stands_by_and_commits_nothing(
    connect: Connect, stream: str, path: Path, logged: Logged
) -> None:
    """As if it had been frozen: the other member is played by the test."""
    conn = await connect()
    await publish(conn, stream, 3)
    sink = eda.sql.SQLite(path)
    in_apply, go_on = threading.Event(), threading.Event()

    def apply(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        insert(events, tx)
        if events[-1].sequence == 4:
            in_apply.set()
            go_on.wait(20)

    projection = await conn.projection(stream, apply, into=eda.sql.SQLite(path), name="list")
    await projection.wait_for((stream, 3, 0), 20)
    rows = await sink.rows("list", 1, stream)
    claimed = await sink.claim("list", 1, stream, seen=rows, created=rows[0].created, lanes=1)
    assert claimed is not None
    await until(lambda: logged.find(f"has lost stream {stream} to another member"))
    receipt = await publish(conn, stream, 1)
    await asyncio.sleep(0.3)
    assert sequences(path) == [1, 2, 3]
    assert not await is_active(projection)
    go_on.set()
    await sink.release("list", 1, claimed)
    await projection.wait_for(receipt, 20)
    assert await is_active(projection)
    await projection.close()
    await sink.close()
    assert sequences(path) == [1, 2, 3, 4]


async def test_standby_when_the_owner_is_killed_takes_over_after_some_seconds(
    connect: Connect, stream: str, path: Path, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """As if it had died: it shows no more signs of life, and releases nothing."""
    monkeypatch.setattr(ownership, "STALE_S", 2.5)
    conn = await connect()
    await publish(conn, stream, 3)
    sink = eda.sql.SQLite(path)
    await sink.open()
    created = (await conn.streams.info(stream)).created
    async with conn.projection(stream, insert, into=sink, name="list") as first:
        await first.wait_for((stream, 3, 0), 20)
    (row,) = await sink.rows("list", 1, stream)
    dead = await sink.claim("list", 1, stream, seen=[row], created=row.created, lanes=1)
    assert dead is not None
    assert created
    async with conn.projection(stream, insert, into=sink, name="list") as second:
        assert not await is_active(second)
        receipt = await publish(conn, stream, 2)
        await second.wait_for(receipt, 20)
        assert await is_active(second)
    assert logged.find(f"takes stream {stream} over at sequence 3: its last owner has shown no sign of life for")
    assert sequences(path) == [1, 2, 3, 4, 5]


async def test_standby_when_another_connection_holds_sqlites_lock_waits_and_says_so(
    connect: Connect, stream: str, path: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen process keeps its lock. Nobody can take over before it goes on or dies."""
    monkeypatch.setattr(ownership, "STALE_S", 0.5)
    conn = await connect()
    await publish(conn, stream, 3)
    sink = eda.sql.SQLite(path, timeout_s=0.5)
    async with conn.projection(stream, insert, into=sink, name="list") as first:
        await first.wait_for((stream, 3, 0), 20)
    locked = sqlite3.connect(path, isolation_level=None)
    (row,) = await sink.rows("list", 1, stream)
    assert await sink.claim("list", 1, stream, seen=[row], created=row.created, lanes=1) is not None
    locked.execute("BEGIN IMMEDIATE")
    second = await conn.projection(stream, insert, into=sink, name="list")
    await until(lambda: logged.find(r"taking over, failed, because of the database .*: database is locked"))
    await asyncio.sleep(1)
    assert len(logged.find("taking over, failed")) == 1
    assert not await is_active(second)
    locked.execute("ROLLBACK")
    await second.wait_for(await publish(conn, stream, 1), 20)
    locked.close()
    await second.close()
    assert sequences(path) == [1, 2, 3, 4]


async def test_members_when_several_open_at_once_share_the_work_and_apply_once(
    connect: Connect, stream: str, path: Path
) -> None:
    conns = [await connect() for _ in range(4)]
    await publish(conns[0], stream, 20)
    made = [conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list") for conn in conns]
    await asyncio.gather(*(each.opened() for each in made))
    while made:
        receipt = await publish(conns[0], stream, 5)
        await made[0].wait_for(receipt, 20)
        active = [each for each in made if await is_active(each)]
        assert len(active) <= 1
        gone = active[0] if active else made[0]
        made.remove(gone)
        await gone.close()
    assert sequences(path) == list(range(1, 41))


async def test_member_with_another_number_of_lanes_is_refused(connect: Connect, stream: str) -> None:
    async def apply(events: list[eda.Event], tx: object) -> None: ...

    conn, sink = await connect(), MemorySink()
    await publish(conn, stream, 1)
    async with conn.projection(stream, apply, into=sink, name="list", key="aggregate", lanes=2):
        pass
    with pytest.raises(eda.ConfigError, match=r"has 2 lanes in .* open version=2 with lanes=3"):
        await conn.projection(stream, apply, into=sink, name="list", key="aggregate", lanes=3)


async def test_standby_when_the_owner_can_not_reach_the_server_takes_over(
    connect: Connect, server: eda.EmbeddedServer, stream: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "STALE_S", 2.0)
    monkeypatch.setattr(ownership, "TOUCH_S", 0.5)
    async with Proxy(server.port) as proxy:
        first, second = await connect(proxy.url(server.url)), await connect()
        await publish(second, stream, 3)
        owner = await first.projection(stream, insert, into=eda.sql.SQLite(path), name="list")
        standby = await second.projection(stream, insert, into=eda.sql.SQLite(path), name="list")
        await standby.wait_for((stream, 3, 0), 20)
        proxy.refusing = True
        proxy.drop()
        receipt = await publish(second, stream, 2)
        await standby.wait_for(receipt, 20)
        assert await is_active(standby)
        proxy.refusing = False
        receipt = await publish(second, stream, 2)
        await owner.wait_for(receipt, 20)
        await until(lambda: owner._runners[stream].reading is None)
        await owner.close()
        await standby.close()
        await first.close()
    assert sequences(path) == list(range(1, 8))
