"""`eda.sql.SQLite`: what it accepts, its locks and modes, and functions that leave a mess on their connection."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import eda
from eda import sql
from eda.projections import sqlite
from support.projections.lists import numbers

NAME, STREAM = "order-list", "orders"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "read.db"


@pytest.fixture
async def sink(path: Path) -> AsyncIterator[sql.SQLite]:
    sink = sql.SQLite(path)
    await sink.open()
    yield sink
    await sink.close()
    assert eda_threads() == []


@pytest.fixture
async def row(sink: sql.SQLite) -> sql.PositionRow:
    rows = await sink.claim(NAME, 1, STREAM, seen=[], created="c", lanes=1)
    assert rows
    return await sink.move(NAME, 1, rows[0], sequence=1, index=1, time=1, work=make_table)


def make_table(tx: sqlite3.Connection) -> None:
    tx.execute("CREATE TABLE applied (n INTEGER PRIMARY KEY)")


def eda_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("eda-sqlite")]


async def moved(sink: sql.SQLite, row: sql.PositionRow, work: Any) -> sql.PositionRow:
    return await sink.move(NAME, 1, row, sequence=row.sequence + 1, index=0, time=0, work=work)


def applied(path: Path) -> list[int]:
    return numbers(path, "SELECT n FROM applied ORDER BY n")


class Locked:
    """Holds the write lock of a file, as another process that is frozen would."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> Locked:
        self._connection.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", ":memory:", "file:x?mode=memory&cache=shared", "file:read.db", b"read.db"])
def test_path_when_it_names_no_file_is_refused(path: Any) -> None:
    with pytest.raises(eda.ConfigError, match="path must") as raised:
        sql.SQLite(path)
    assert raised.value.argument == "path"


@pytest.mark.parametrize("timeout_s", [-1, float("inf"), float("nan"), True, "5", None])
def test_timeout_when_it_is_no_time_is_refused(timeout_s: Any) -> None:
    with pytest.raises(eda.ConfigError, match="timeout_s") as raised:
        sql.SQLite("read.db", timeout_s=timeout_s)
    assert raised.value.argument == "timeout_s"


def test_on_connect_when_it_is_no_function_is_refused() -> None:
    with pytest.raises(eda.ConfigError, match="on_connect"):
        sql.SQLite("read.db", on_connect="PRAGMA foreign_keys = on")  # type: ignore[arg-type]


async def test_open_when_the_directory_is_missing_says_so(tmp_path: Path) -> None:
    sink = sql.SQLite(tmp_path / "missing" / "read.db")
    with pytest.raises(eda.ConfigError, match=r"directory of the SQLite database .*missing/read.db does not exist"):
        await sink.open()
    await sink.close()


async def test_open_when_the_file_is_no_database_is_an_outage() -> None:
    path = Path(__file__)
    sink = sql.SQLite(path)
    with pytest.raises(sqlite3.DatabaseError, match="not a database") as raised:
        await sink.open()
    assert sink.is_outage(raised.value)
    await sink.close()
    assert eda_threads() == []


async def test_on_connect_when_given_prepares_each_connection(path: Path) -> None:
    def prepare(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.create_function("twice", 1, lambda n: 2 * n)
        connection.execute("CREATE TABLE IF NOT EXISTS applied (n INTEGER PRIMARY KEY)")

    sink = sql.SQLite(path, on_connect=prepare)
    await sink.open()
    rows = await sink.claim(NAME, 1, STREAM, seen=[], created="c", lanes=1)
    assert rows
    seen: list[Any] = []

    def work(tx: sqlite3.Connection) -> None:
        seen.extend(tx.execute("PRAGMA foreign_keys").fetchone())
        tx.execute("INSERT INTO applied VALUES (twice(4))")

    await moved(sink, rows[0], work)
    await sink.close()
    assert seen == [1]
    assert applied(path) == [8]


async def test_on_connect_when_it_fails_raises_the_same_and_leaves_nothing(path: Path) -> None:
    def prepare(connection: sqlite3.Connection) -> None:
        raise KeyError("mine")

    sink = sql.SQLite(path, on_connect=prepare)
    with pytest.raises(KeyError, match="mine"):
        await sink.open()
    await sink.close()
    assert eda_threads() == []


# --- modes -----------------------------------------------------------------------------------------------------------


async def test_connection_when_used_is_in_wal_mode_and_as_safe_as_sqlites_default(
    sink: sql.SQLite, row: sql.PositionRow
) -> None:
    seen: list[Any] = []

    def work(tx: sqlite3.Connection) -> None:
        for pragma in ("journal_mode", "synchronous"):
            seen.extend(tx.execute(f"PRAGMA {pragma}").fetchone())
        seen.append(tx.in_transaction)

    await moved(sink, row, work)
    assert seen == ["wal", 2, True]  # 2: FULL


async def test_rows_when_a_transaction_is_under_way_are_read_at_once(sink: sql.SQLite, row: sql.PositionRow) -> None:
    has_begun, go_on = threading.Event(), threading.Event()

    def work(tx: sqlite3.Connection) -> None:
        has_begun.set()
        go_on.wait(20)

    moving = asyncio.create_task(moved(sink, row, work))
    await asyncio.to_thread(has_begun.wait, 20)
    async with asyncio.timeout(20):
        assert await sink.rows(NAME, 1, STREAM) == [row]
    assert not moving.done()
    go_on.set()
    await moving


async def test_close_when_others_use_the_sink_lets_them_go_on(sink: sql.SQLite, row: sql.PositionRow) -> None:
    for _ in range(3):
        closing = asyncio.create_task(sink.close())
        row = await moved(sink, row, lambda tx: None)
        await closing
    assert await sink.rows(NAME, 1, STREAM) == [row]


# --- locks -----------------------------------------------------------------------------------------------------------


async def test_claim_when_the_write_lock_is_held_is_an_outage_and_no_claim_lost(path: Path, row: Any) -> None:
    standby = sql.SQLite(path, timeout_s=0.1)
    with Locked(path):
        seen = await standby.rows(NAME, 1, STREAM)
        with pytest.raises(sqlite3.OperationalError, match="database is locked") as raised:
            await standby.claim(NAME, 1, STREAM, seen=seen, created="c", lanes=1)
        assert standby.is_outage(raised.value)
    assert await standby.claim(NAME, 1, STREAM, seen=seen, created="c", lanes=1)
    await standby.close()


async def test_claim_when_the_write_lock_is_held_for_long_says_so_once(
    path: Path, row: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "LONG_WAIT_S", 0.0)
    standby = sql.SQLite(path, timeout_s=0.3)
    with Locked(path):
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError):
                await standby.claim(NAME, 1, STREAM, seen=[row], created="c", lanes=1)
    await standby.close()
    (record,) = [record for record in caplog.records if record.name == "eda"]
    assert "waiting for the write lock of the SQLite database" in record.message
    assert str(path) in record.message


async def test_claim_when_cancelled_while_it_waits_for_the_lock_ends_soon(path: Path, row: Any) -> None:
    standby = sql.SQLite(path, timeout_s=60.0)
    with Locked(path):
        claim = asyncio.create_task(standby.claim(NAME, 1, STREAM, seen=[row], created="c", lanes=1))
        await asyncio.sleep(0.05)
        claim.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(asyncio.CancelledError):
                await claim
            await standby.close()
    assert not [row for row in await rows_of(path) if row.owner_epoch != 1]


async def rows_of(path: Path) -> list[sql.PositionRow]:
    sink = sql.SQLite(path)
    try:
        return await sink.rows(NAME, 1, STREAM)
    finally:
        await sink.close()


async def test_move_when_another_connection_wrote_after_apply_left_a_cursor_open_goes_on(
    path: Path, sink: sql.SQLite, row: sql.PositionRow
) -> None:
    """A cursor that was not read to its end keeps the snapshot of its transaction."""
    kept: list[sqlite3.Cursor] = []

    def work(tx: sqlite3.Connection) -> None:
        tx.executemany("INSERT INTO applied VALUES (?)", [(1,), (2,), (3,)])
        kept.append(tx.execute("SELECT n FROM applied"))
        kept[0].fetchone()

    row = await moved(sink, row, work)
    other = sqlite3.connect(path)
    with other:
        other.execute("INSERT INTO applied VALUES (4)")
    other.close()
    row = await moved(sink, row, lambda tx: tx.execute("INSERT INTO applied VALUES (5)") and None)
    assert applied(path) == [1, 2, 3, 4, 5]


async def test_move_when_apply_leaves_a_writing_cursor_open_is_no_outage(
    path: Path, sink: sql.SQLite, row: sql.PositionRow
) -> None:
    kept: list[sqlite3.Cursor] = []

    def work(tx: sqlite3.Connection) -> None:
        kept.append(tx.execute("INSERT INTO applied VALUES (NULL), (NULL), (NULL) RETURNING n"))

    with pytest.raises(sqlite3.OperationalError, match="SQL statements in progress") as raised:
        await moved(sink, row, work)
    assert not sink.is_outage(raised.value)
    await moved(sink, row, lambda tx: tx.execute("INSERT INTO applied VALUES (9)") and None)
    assert applied(path) == [9]


# --- functions that leave a mess -------------------------------------------------------------------------------------


async def test_move_when_on_connect_closes_the_connection_does_not_try_forever(path: Path) -> None:
    sink = sql.SQLite(path, on_connect=lambda connection: connection.close())
    async with asyncio.timeout(20):
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            await sink.open()
    await sink.close()


@pytest.mark.parametrize("trick", ["script", "with", "isolation_level", "begins anew", "savepoint of the same name"])
async def test_move_when_apply_commits_in_a_roundabout_way_is_noticed(
    path: Path, sink: sql.SQLite, row: sql.PositionRow, trick: str
) -> None:
    def work(tx: sqlite3.Connection) -> None:
        tx.execute("INSERT INTO applied VALUES (1)")
        if trick == "script":
            tx.executescript("INSERT INTO applied VALUES (2);")
        elif trick == "with":
            with tx:
                tx.execute("INSERT INTO applied VALUES (2)")
        elif trick == "isolation_level":
            tx.isolation_level = "DEFERRED"
            tx.commit()
            tx.execute("INSERT INTO applied VALUES (2)")
        elif trick == "begins anew":
            tx.execute("COMMIT")
            tx.execute("BEGIN")
            tx.execute("INSERT INTO applied VALUES (2)")
        else:
            tx.execute("RELEASE SAVEPOINT eda_apply")

    with pytest.raises(eda.TransactionEnded):
        await moved(sink, row, work)
    assert await sink.rows(NAME, 1, STREAM) == [row]
    await moved(sink, row, lambda tx: tx.execute("INSERT INTO applied VALUES (9)") and None)


async def test_move_when_apply_changes_how_rows_are_read_does_not_disturb_eda(
    sink: sql.SQLite, row: sql.PositionRow
) -> None:
    def work(tx: sqlite3.Connection) -> None:
        tx.row_factory = lambda cursor, row: {"mine": row}
        tx.text_factory = bytes

    row = await moved(sink, row, work)
    assert await sink.find(NAME, 1, row) == row
    seen: list[Any] = []
    await moved(sink, row, lambda tx: seen.append(tx.execute("SELECT 'a'").fetchone()))
    assert seen == [{"mine": (b"a",)}]


async def test_move_when_apply_returns_an_awaitable_names_the_other_databases(
    sink: sql.SQLite, row: sql.PositionRow
) -> None:
    async def nothing() -> None:
        pass

    with pytest.raises(TypeError, match=r"returned an awaitable.*SQLAlchemy"):
        await moved(sink, row, lambda tx: nothing())
    gc.collect()  # a coroutine that was never awaited would warn here


async def test_move_when_a_deferred_constraint_fails_at_the_commit_raises_it(
    path: Path, sink: sql.SQLite, row: sql.PositionRow
) -> None:
    def work(tx: sqlite3.Connection) -> None:
        tx.execute("CREATE TABLE child (n INTEGER REFERENCES applied (n) DEFERRABLE INITIALLY DEFERRED)")

    def orphan(tx: sqlite3.Connection) -> None:
        tx.execute("INSERT INTO child VALUES (7)")

    strict = sql.SQLite(path, on_connect=lambda connection: connection.execute("PRAGMA foreign_keys = ON"))
    row = await moved(strict, row, work)
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY") as raised:
        await moved(strict, row, orphan)
    assert not strict.is_outage(raised.value)
    assert await strict.rows(NAME, 1, STREAM) == [row]
    await moved(strict, row, lambda tx: None)
    await strict.close()


async def test_move_when_the_disk_is_full_is_an_outage(sink: sql.SQLite, row: sql.PositionRow) -> None:
    """SQLite rolls the transaction back by itself then, so the savepoint is gone although apply has done nothing."""

    def work(tx: sqlite3.Connection) -> None:
        (n_pages,) = tx.execute("PRAGMA page_count").fetchone()
        tx.execute(f"PRAGMA max_page_count = {n_pages}")
        tx.execute("CREATE TABLE large AS SELECT zeroblob(1000000)")

    with pytest.raises(sqlite3.OperationalError, match="full") as raised:
        await moved(sink, row, work)
    assert sink.is_outage(raised.value)
    await moved(sink, row, lambda tx: None)


async def test_move_when_the_caller_is_cancelled_waits_for_apply_and_commits_nothing(
    path: Path, sink: sql.SQLite, row: sql.PositionRow
) -> None:
    has_begun, go_on = threading.Event(), threading.Event()

    def work(tx: sqlite3.Connection) -> None:
        tx.execute("INSERT INTO applied VALUES (1)")
        has_begun.set()
        go_on.wait(20)

    moving = asyncio.create_task(moved(sink, row, work))
    await asyncio.to_thread(has_begun.wait, 20)
    moving.cancel()
    await asyncio.sleep(0.05)
    assert not moving.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert await sink.find(NAME, 1, row) == row
    assert applied(path) == []


async def test_move_when_the_caller_is_cancelled_interrupts_a_long_statement(
    sink: sql.SQLite, row: sql.PositionRow
) -> None:
    has_begun = threading.Event()

    def work(tx: sqlite3.Connection) -> None:
        has_begun.set()
        tx.execute(
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 10000000000) SELECT max(n) FROM c"
        )

    moving = asyncio.create_task(moved(sink, row, work))
    await asyncio.to_thread(has_begun.wait, 20)
    await asyncio.sleep(0.1)
    moving.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await moving
    await moved(sink, row, lambda tx: None)


@pytest.mark.parametrize(
    ("code", "is_outage"),
    [
        *((code, True) for code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_LOCKED)),
        *((code, True) for code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CANTOPEN)),
        *((code, False) for code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_MISMATCH)),
    ],
)
def test_outage_when_judged_by_the_code_is_what_no_event_can_cause(code: int, is_outage: bool) -> None:
    error = sqlite3.OperationalError("text")
    error.sqlite_errorcode = code
    sink = sql.SQLite("read.db")
    assert sink.is_outage(error) == is_outage
    wrapped = ValueError("mine")
    wrapped.__cause__ = error
    assert sink.is_outage(wrapped) == is_outage
    assert (
        sink.is_outage(ExceptionGroup("of a TaskGroup", [KeyError(), ExceptionGroup("inner", [wrapped])])) == is_outage
    )


def test_outage_when_the_causes_are_a_circle_ends() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert not sql.SQLite("read.db").is_outage(first)


# --- several processes -----------------------------------------------------------------------------------------------


def _count(path: Path, go_at: float, answers: Any) -> None:
    """Open the sink at the same time as other processes, and move a row as often as it can be claimed."""

    async def count() -> int:
        sink = sql.SQLite(path, timeout_s=30.0)
        await asyncio.sleep(max(go_at - time.time(), 0))
        await sink.open()
        n_moved = 0
        for _ in range(20):
            seen = await sink.rows(NAME, 1, STREAM)
            rows = await sink.claim(NAME, 1, STREAM, seen=seen, created="c", lanes=1)
            if rows is None:
                continue
            try:
                await sink.move(NAME, 1, rows[0], sequence=rows[0].sequence + 1, index=0, time=0, work=None)
            except sql.ClaimLost:
                continue
            n_moved += 1
        await sink.close()
        return n_moved

    answers.put(asyncio.run(count()))


async def test_sinks_when_processes_use_one_file_lose_and_repeat_no_move(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=_count, args=(path, time.time() + 1.0, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    counted = [await asyncio.to_thread(answers.get, True, 100) for _ in processes]
    for process in processes:
        await asyncio.to_thread(process.join)
    answers.close()
    (row,) = await rows_of(path)
    assert row.sequence == sum(counted) > 0
