"""`eda.sql.SQLAlchemy`: what it accepts, and SQLite through aiosqlite."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

import eda
from eda import sql
from support.projections.lists import numbers

NAME, STREAM = "order-list", "orders"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "read.db"


@pytest.fixture
async def engine(path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 0.2})
    yield engine
    await engine.dispose()


async def claimed(sink: sql.Sink) -> sql.PositionRow:
    await sink.open()
    rows = await sink.claim(NAME, 1, STREAM, seen=await sink.rows(NAME, 1, STREAM), created="c", lanes=1)
    assert rows
    return rows[0]


async def moved(sink: sql.Sink, row: sql.PositionRow, work: Any) -> sql.PositionRow:
    return await sink.move(NAME, 1, row, sequence=row.sequence + 1, index=0, time=0, work=work)


async def make_table(tx: AsyncConnection) -> None:
    await tx.execute(sqlalchemy.text("CREATE TABLE applied (n INTEGER)"))


def applied(path: Path) -> list[int]:
    return numbers(path, "SELECT n FROM applied ORDER BY n")


@pytest.mark.parametrize("engine", [None, "sqlite+aiosqlite:///read.db", sqlalchemy.create_engine("sqlite://")])
def test_engine_when_it_is_not_asynchronous_is_refused(engine: Any) -> None:
    with pytest.raises(eda.ConfigError, match="AsyncEngine") as raised:
        sql.SQLAlchemy(engine)
    assert raised.value.argument == "engine"


@pytest.mark.parametrize(
    "url",
    ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:", "sqlite+aiosqlite:///file::memory:?cache=shared&uri=true"],
)
def test_engine_when_its_database_is_in_memory_is_refused(url: str) -> None:
    with pytest.raises(eda.ConfigError, match="must have a file"):
        sql.SQLAlchemy(create_async_engine(url))


def test_engine_when_it_has_one_connection_for_all_is_refused(path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", poolclass=StaticPool)
    with pytest.raises(eda.ConfigError, match="must have a file"):
        sql.SQLAlchemy(engine)


def test_label_when_the_address_has_secrets_shows_none() -> None:
    sink = sql.SQLAlchemy(create_async_engine("postgresql+asyncpg://user:secret@db.example:5433/shop?password=other"))
    assert sink.label == "postgresql+asyncpg db.example:5433/shop"


async def test_apply_when_it_uses_the_connection_is_in_a_transaction(engine: AsyncEngine, path: Path) -> None:
    sink = sql.SQLAlchemy(engine)
    row = await moved(sink, await claimed(sink), make_table)
    seen: list[Any] = []

    async def work(tx: AsyncConnection) -> None:
        seen.extend((type(tx), tx.in_transaction()))
        await tx.execute(sqlalchemy.text("INSERT INTO applied VALUES (:n)"), [{"n": 1}, {"n": 2}])
        async with tx.begin_nested():
            await tx.execute(sqlalchemy.text("INSERT INTO applied VALUES (3)"))

    await moved(sink, row, work)
    assert seen == [AsyncConnection, True]
    assert applied(path) == [1, 2, 3]


async def test_file_when_opened_is_in_wal_mode(engine: AsyncEngine, path: Path) -> None:
    await sql.SQLAlchemy(engine).open()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


async def test_engine_when_a_listener_begins_the_transaction_works_as_well(engine: AsyncEngine, path: Path) -> None:
    """SQLAlchemy's documentation tells users of SQLite to do so."""

    @sqlalchemy.event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    sink = sql.SQLAlchemy(engine)
    row = await moved(sink, await claimed(sink), make_table)

    async def fail(tx: AsyncConnection) -> None:
        await tx.execute(sqlalchemy.text("INSERT INTO applied VALUES (1)"))
        raise KeyError

    with pytest.raises(KeyError):
        await moved(sink, row, fail)
    with pytest.raises(eda.TransactionEnded):
        await moved(sink, row, lambda tx: tx.commit())
    assert await sink.find(NAME, 1, row) == row
    assert applied(path) == []


async def test_claim_when_the_write_lock_is_held_is_an_outage(engine: AsyncEngine, path: Path) -> None:
    sink = sql.SQLAlchemy(engine)
    row = await claimed(sink)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(sqlalchemy.exc.OperationalError, match="locked") as raised:
            await sink.claim(NAME, 1, STREAM, seen=[row], created="c", lanes=1)
        assert sink.is_outage(raised.value)
        assert await sink.rows(NAME, 1, STREAM) == [row]
    finally:
        holder.close()
    assert await sink.claim(NAME, 1, STREAM, seen=[row], created="c", lanes=1)


async def test_touch_when_apply_works_for_long_waits_and_is_no_outage(engine: AsyncEngine) -> None:
    sink = sql.SQLAlchemy(engine)
    row = await claimed(sink)
    has_begun = asyncio.Event()

    async def work(tx: AsyncConnection) -> None:
        has_begun.set()
        await asyncio.sleep(0.5)  # longer than the engine waits for a lock

    moving = asyncio.create_task(moved(sink, row, work))
    await has_begun.wait()
    await sink.touch(NAME, 1, [row])
    await moving


async def test_move_when_cancelled_leaves_no_lock_and_no_thread(engine: AsyncEngine, path: Path) -> None:
    sink = sql.SQLAlchemy(engine)
    row = await moved(sink, await claimed(sink), make_table)
    has_begun = asyncio.Event()

    async def work(tx: AsyncConnection) -> None:
        await tx.execute(sqlalchemy.text("INSERT INTO applied VALUES (1)"))
        has_begun.set()
        await tx.execute(
            sqlalchemy.text(
                "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000000) SELECT max(n) FROM c"
            )
        )

    moving = asyncio.create_task(moved(sink, row, work))
    await has_begun.wait()
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    before = set(threading.enumerate())
    for _ in range(200):  # the statement goes on in aiosqlite's thread until its end
        try:
            await moved(sink, row, lambda tx: tx.execute(sqlalchemy.text("INSERT INTO applied VALUES (9)")))
        except sqlalchemy.exc.OperationalError as error:
            assert sink.is_outage(error)  # noqa: PT017
        else:
            break
    assert applied(path) == [9]
    await engine.dispose()
    for thread in before - {threading.current_thread()}:
        thread.join(20)
        assert not thread.is_alive()
