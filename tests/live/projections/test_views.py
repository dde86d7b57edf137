"""Views and promotions, over SQLite: reading one's own write in another process, and switching versions."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

import eda
import eda.sql
from helpers import Connect, Logged, until
from support.projections.lists import numbers
from support.projections.memory_sink import MemorySink


def insert(events: list[eda.Event], tx: sqlite3.Connection) -> None:
    tx.execute("CREATE TABLE IF NOT EXISTS list (id TEXT)")
    tx.executemany("INSERT INTO list VALUES (?)", [(event.id,) for event in events])


def rows(path: Path) -> int:
    return numbers(path, "SELECT count(*) FROM list")[0]


async def publish(conn: eda.Conn, stream: str, n: int, type: str = "made") -> eda.Receipt:
    """Publish events, and return the receipt of the last one."""
    async with conn.publisher(stream) as publisher:
        for _ in range(n - 1):
            await publisher.send(eda.Event(type=type))
    return await conn.publish(stream, eda.Event(type=type))


async def test_wait_for_in_another_process_returns_when_the_event_is_applied(
    connect: Connect, stream: str, path: Path
) -> None:
    writer, reader = await connect(), await connect()
    view = reader.view("list", into=eda.sql.SQLite(path))
    async with view:
        assert view.version is None
        receipt = await publish(writer, stream, 10)
        waiting = asyncio.ensure_future(view.wait_for(receipt, 20))
        async with writer.projection(stream, insert, into=eda.sql.SQLite(path), name="list"):
            await waiting
            assert rows(path) == 10
            assert view.version == 1
            taken = []
            for _ in range(15):
                receipt = await publish(writer, stream, 1)
                begin = time.perf_counter()
                await view.wait_for(receipt, 20)
                taken.append(time.perf_counter() - begin)
            # The bar is 20 ms for the median on a quiet machine, linger_s included.
            assert statistics.median(taken) < 0.2
            stats = await view.stats()
            (progress,) = stats.streams
            assert (stats.version, stats.active, stats.applied) == (1, False, 0)
            assert (progress.position, progress.lag, progress.lag_s, progress.lanes) == (25, 0, 0.0, (25,))


async def test_wait_for_in_another_process_does_not_wait_for_idle_lanes(connect: Connect, stream: str) -> None:
    sink = MemorySink()

    async def apply(events: list[eda.Event], tx: object) -> None: ...

    writer, reader = await connect(), await connect()
    await writer.publish(stream)
    projection = writer.projection(
        stream, apply, into=sink, name="list", key="aggregate", lanes=4, types=["made"], linger_s=0
    )
    async with projection, reader.view("list", into=sink) as view:
        taken = []
        for n in range(10):
            receipt = await writer.publish(stream, eda.Event(type="made", aggregate=f"a{n}"))
            begin = time.perf_counter()
            await view.wait_for(receipt, 20)
            taken.append(time.perf_counter() - begin)
        assert statistics.median(taken) < 0.3, taken
        sink.calls.clear()
        await asyncio.sleep(0.5)
        assert sink.calls.count("move") <= 4  # while nothing happens, nothing is written


async def test_row_of_an_idle_lane_follows_while_other_lanes_are_busy(connect: Connect, stream: str) -> None:
    """Otherwise views would wait for ever under load, and a stream may discard events after the idle lane's row."""
    sink, conn = MemorySink(), await connect()

    async def apply(events: list[eda.Event], tx: object) -> None:
        await asyncio.sleep(0.005)

    projection = conn.projection(stream, apply, into=sink, name="list", key="aggregate", lanes=4, batch=1, linger_s=0)
    await conn.publish(stream, eda.Event(aggregate="rare"))
    async with projection, conn.publisher(stream) as publisher:
        for _ in range(400):  # all in one lane
            await publisher.send(eda.Event(aggregate="often"))
        await publisher.flush()
        await until(lambda: min(row.sequence for row in sink.stored["list", 1, stream]) > 5, 20)
        assert min(row.sequence for row in sink.stored["list", 1, stream]) < 401


async def test_stats_of_a_view_when_nobody_applies_count_what_is_missing(
    connect: Connect, stream: str, path: Path
) -> None:
    conn = await connect()
    receipt = await publish(conn, stream, 3)
    async with conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list") as projection:
        await projection.wait_for(receipt, 20)
        stats = await projection.stats()
        assert (stats.lag, stats.lag_s, stats.applied, stats.active) == (0, 0.0, 3, True)
        assert stats.transactions >= 1
    await publish(conn, stream, 4)
    async with conn.view("list", into=eda.sql.SQLite(path)) as view:
        (progress,) = (await view.stats()).streams
        assert (progress.stream, progress.position, progress.lag) == (stream, 3, 4)
        assert progress.lag_s is not None
        assert 0 < progress.lag_s < 60


async def test_view_of_another_database_file_creates_no_tables(connect: Connect, path: Path) -> None:
    conn = await connect()
    async with conn.view("list", into=eda.sql.SQLite(path)) as view:
        with pytest.raises(eda.Timeout):
            await view.wait_for(("orders", 1, 0), 0.05)
    driver = sqlite3.connect(path)
    assert driver.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    driver.close()


async def test_promote_switches_views_while_they_wait(connect: Connect, stream: str, path: Path) -> None:
    conn = await connect()
    receipt = await publish(conn, stream, 5)
    reader = await connect()
    sink = eda.sql.SQLite(path)
    async with (
        conn.projection(stream, insert, into=sink, name="list") as first,
        reader.view("list", into=eda.sql.SQLite(path)) as view,
    ):
        await view.wait_for(receipt, 20)
        async with conn.projection(stream, insert, into=sink, name="list", version=2) as second:
            await second.wait_for(receipt, 20)
            assert await sink.current("list") == 1  # a version that was opened later does not become current by that
            assert view.version == 1
            await second.promote()
            await until(lambda: view.version == 2)
            await view.wait_for(await publish(conn, stream, 1), 20)
            await first.promote()
            await until(lambda: view.version == 1)


async def test_promote_when_the_version_lags_is_refused_with_the_numbers(
    connect: Connect, stream: str, path: Path
) -> None:
    conn = await connect()
    await publish(conn, stream, 40)
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        if events[0].sequence > 10:
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(20)
        insert(events, tx)

    sink = eda.sql.SQLite(path)
    async with conn.projection(stream, insert, into=sink, name="list"):
        pass
    async with conn.projection(stream, slow, into=sink, name="list", version=2, batch=10) as second:
        await second.wait_for((stream, 10, 0), 20)
        with pytest.raises(
            eda.ConfigError,
            match=rf"version 2 of projection 'list' is not promoted: it has not applied 30 events of stream '{stream}' "
            r"\(it is at 10\), and max_lag allows 5",
        ):
            await second.promote(max_lag=5)
        assert await sink.current("list") == 1
        go_on.set()  # before, because apply holds SQLite's write lock
        await second.promote(max_lag=30)
        assert await sink.current("list") == 2


@pytest.mark.parametrize("value", [-1, True, "1", 1.5])
async def test_promote_when_the_bound_is_no_number_is_refused(
    connect: Connect, stream: str, path: Path, value: Any
) -> None:
    conn = await connect()
    await publish(conn, stream, 1)
    async with conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list") as projection:
        with pytest.raises(eda.ConfigError, match="max_lag"):
            await projection.promote(max_lag=value)


async def test_view_when_its_connection_closes_is_closed_too(connect: Connect, path: Path, logged: Logged) -> None:
    conn = await connect()
    view = await conn.view("list", into=eda.sql.SQLite(path))
    waiting = asyncio.ensure_future(view.wait_for(("orders", 1, 0), 20))
    await asyncio.sleep(0.05)
    await conn.close()
    assert view.is_closed
    with pytest.raises(eda.Closed):
        await waiting
    assert not logged.find("did not end|was not finished")


@pytest.mark.parametrize(
    ("name", "into", "argument"),
    [("a b", "sqlite", "name"), ("", "sqlite", "name"), (7, "sqlite", "name"), ("list", "read.db", "into")],
)
async def test_view_with_wrong_arguments_is_refused(
    conn: eda.Conn, path: Path, name: Any, into: str, argument: str
) -> None:
    sink: Any = eda.sql.SQLite(path) if into == "sqlite" else into
    with pytest.raises(eda.ConfigError) as caught:
        conn.view(name, into=sink)
    assert caught.value.argument == argument
