"""`wait_for` of a projection: what it means with filters, lanes, dead letters, standbys and errors."""

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
from helpers import Admin, Connect, Logged, until
from support.projections.memory_sink import MemorySink
from support.store.versions import on_able_servers


def insert(events: list[eda.Event], tx: sqlite3.Connection) -> None:
    tx.execute("CREATE TABLE IF NOT EXISTS list (id TEXT)")
    for event in events:
        if event.type == "bad":
            raise ValueError("this event is bad")
    tx.executemany("INSERT INTO list VALUES (?)", [(event.id,) for event in events])


@pytest.fixture
def sink(tmp_path: Path) -> eda.sql.SQLite:
    return eda.sql.SQLite(tmp_path / "read.db")


async def at(sink: eda.sql.SQLite, stream: str) -> int:
    """Return the position that is stored."""
    (row,) = await sink.rows("list", 1, stream)
    return row.sequence


def ids(sink: Any) -> list[str]:
    driver = sqlite3.connect(sink.database.path)
    try:
        return [each for (each,) in driver.execute("SELECT id FROM list ORDER BY rowid")]
    finally:
        driver.close()


async def test_wait_for_reads_ones_own_write(conn: eda.Conn, stream: str, sink: eda.sql.SQLite) -> None:
    first = await conn.publish(stream)
    async with conn.projection(stream, insert, into=sink, name="list", linger_s=0) as projection:
        await projection.wait_for(first, 20)
        taken = []
        for _ in range(30):
            receipt = await conn.publish(stream)
            begin = time.perf_counter()
            await projection.wait_for(receipt, timeout_s=20)
            taken.append(time.perf_counter() - begin)
            assert ids(sink)[-1] == receipt.id
        await projection.wait_for(receipt.position, 0)
    assert statistics.median(taken) < 0.2


@pytest.mark.parametrize("value", [None, 7, ("orders", 0, 0), ("orders", 1), "orders"])
async def test_wait_for_anything_but_a_position_is_refused(
    conn: eda.Conn, stream: str, sink: eda.sql.SQLite, value: Any
) -> None:
    await conn.publish(stream)
    async with conn.projection(stream, insert, into=sink, name="list") as projection:
        with pytest.raises(eda.ConfigError) as caught:
            await projection.wait_for(value, 1)
        assert caught.value.argument == "position"
        with pytest.raises(eda.ConfigError, match="does not read stream 'other'"):
            await projection.wait_for(("other", 1, 0), 1)


@pytest.mark.old_server
async def test_wait_for_an_event_that_the_filter_leaves_out_does_not_take_a_second(
    conn: eda.Conn, stream: str, sink: eda.sql.SQLite
) -> None:
    await conn.publish(stream, eda.Event(type="paid"))
    async with conn.projection(
        stream, insert, into=sink, name="list", types=["paid", "sent"], linger_s=0
    ) as projection:
        taken = []
        for _ in range(5):
            receipt = await conn.publish(stream, eda.Event(type="made"))
            begin = time.perf_counter()
            await projection.wait_for(receipt, 20)
            taken.append(time.perf_counter() - begin)
        assert min(taken) < 0.5

        async def has_followed() -> bool:
            return await at(sink, stream) == receipt.sequence

        await until(has_followed)  # nobody had to wait for this transaction
        (row,) = await sink.rows("list", 1, stream)
        assert row.time == (await conn.streams.info(stream)).last_time_ns
    async with conn.projection(stream, insert, into=sink, name="list", types=["paid", "sent"]) as projection:
        await projection.wait_for(receipt, 0)  # the position's time is that of its message, so it may be opened again


async def test_wait_for_with_lanes_waits_for_the_lowest(conn: eda.Conn, stream: str, tmp_path: Path) -> None:
    """The lanes need a sink that has several; rows in memory do."""
    sink = MemorySink()
    slow = asyncio.Event()

    async def apply(events: list[eda.Event], tx: object) -> None:
        if any(event.aggregate == "slow" for event in events):
            await slow.wait()

    async with conn.projection(
        stream, apply, into=sink, name="list", key="aggregate", lanes=4, linger_s=0
    ) as projection:
        before = await conn.publish(stream, eda.Event(aggregate="slow"))
        receipts = [await conn.publish(stream, eda.Event(aggregate=f"a{n}")) for n in range(8)]
        with pytest.raises(eda.Timeout):
            await projection.wait_for(receipts[-1], 0.3)
        slow.set()
        await projection.wait_for(receipts[-1], 20)
        await projection.wait_for(before, 0)


async def test_wait_for_with_lanes_does_not_wait_for_idle_ones(conn: eda.Conn, stream: str) -> None:
    async def apply(events: list[eda.Event], tx: object) -> None:
        await asyncio.sleep(0.01 if events[0].aggregate == "a0" else 0)

    async with conn.projection(
        stream, apply, into=MemorySink(), name="list", key="aggregate", lanes=4, linger_s=0
    ) as projection:
        taken = []
        for _ in range(10):
            receipts = [await conn.publish(stream, eda.Event(aggregate=f"a{n}")) for n in range(4)]
            begin = time.perf_counter()
            await projection.wait_for(receipts[-1], 20)
            taken.append(time.perf_counter() - begin)
    assert statistics.median(taken) < 0.3, taken


async def test_wait_for_a_dead_letter_raises_its_reason(
    conn: eda.Conn, admin: Admin, stream: str, sink: eda.sql.SQLite, logged: Logged
) -> None:
    logged.expect("handler failed for event")
    retry = eda.Retry(initial_s=0.01, max_attempts=2)
    try:
        async with conn.projection(stream, insert, into=sink, name="list", retry=retry) as projection:
            bad = await conn.publish(stream, eda.Event(type="bad"))
            good = await conn.publish(stream, eda.Event(type="good"))
            for _ in range(2):
                with pytest.raises(eda.NotApplied, match="this event is bad"):
                    await projection.wait_for(bad, 20)
            await projection.wait_for(good, 20)
            stats = await projection.stats()
            assert (stats.applied, stats.dead_lettered, stats.failed >= 2) == (1, 1, True)
    finally:
        await admin.js.delete_stream(f"{stream}-dead")


async def test_wait_for_at_a_standby_returns_when_the_owner_has_applied_it(
    connect: Connect, stream: str, tmp_path: Path
) -> None:
    first, second = await connect(), await connect()
    await first.publish(stream)
    async with (
        first.projection(stream, insert, into=eda.sql.SQLite(tmp_path / "read.db"), name="list") as owner,
        second.projection(stream, insert, into=eda.sql.SQLite(tmp_path / "read.db"), name="list") as standby,
    ):
        taken = []
        for _ in range(10):
            receipt = await first.publish(stream)
            begin = time.perf_counter()
            await standby.wait_for(receipt, 20)
            taken.append(time.perf_counter() - begin)
        assert [(await each.stats()).active for each in (owner, standby)] == [True, False]
        assert (await standby.stats()).streams == (await owner.stats()).streams
        assert min(taken) < 0.5


async def test_wait_for_when_the_projection_ends_raises_its_error(
    conn: eda.Conn, stream: str, sink: eda.sql.SQLite, logged: Logged
) -> None:
    def commits(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        tx.commit()

    logged.allow("ends: ")
    await conn.streams.create(stream)
    projection = await conn.projection(stream, commits, into=sink, name="list")
    receipt = await conn.publish(stream)
    with pytest.raises(eda.TransactionEnded):
        await projection.wait_for(receipt, 20)
    with pytest.raises(eda.TransactionEnded):
        await projection.wait()


async def test_reader_with_a_filter_asks_for_the_streams_own_subject_from_the_beginning(
    conn: eda.Conn, admin: Admin, stream: str, sink: eda.sql.SQLite
) -> None:
    """Other programs, and replays of dead letters, publish to it."""
    await conn.publish(stream, eda.Event(type="made"))
    async with conn.projection(stream, insert, into=sink, name="list", types=["paid"]) as projection:
        (reader,) = await admin.consumers(stream)
        assert stream in (await admin.consumer(stream, reader))["config"]["filter_subjects"]
        letter = await conn.publish(stream, eda.Event(type="paid"))
        message = await admin.js.get_msg(stream, letter.sequence)
        assert message.data
        again = await admin.js.publish(stream, message.data)
        await projection.wait_for((stream, again.seq, 0), 20)
        assert ids(sink) == [letter.id, letter.id]


@on_able_servers
async def test_wait_for_the_receipt_of_a_command(conn: eda.Conn, stream: str, sink: eda.sql.SQLite) -> None:
    decider: eda.Decider[int, int] = eda.Decider(
        0, lambda state, event: state + 1, lambda state, command: eda.Event(type="made"), state=int
    )
    async with (
        conn.store(stream, decider) as store,
        conn.projection(stream, insert, into=sink, name="list") as projection,
    ):
        result = await store.execute("a", 1)
        assert result.receipt is not None
        await projection.wait_for(result.receipt, 20)
        assert ids(sink) == [result.receipt.id]


async def test_wait_for_an_event_that_was_skipped_raises_its_reason(
    conn: eda.Conn, stream: str, sink: eda.sql.SQLite, logged: Logged
) -> None:
    logged.expect("handler failed for event")
    options: Any = {"retry": eda.Retry(initial_s=0.01, max_attempts=1), "dead_letter": None}
    async with conn.projection(stream, insert, into=sink, name="list", **options) as projection:
        bad = await conn.publish(stream, eda.Event(type="bad"))
        with pytest.raises(eda.NotApplied, match="this event is bad"):
            await projection.wait_for(bad, 20)
        stats = await projection.stats()
        assert (stats.applied, stats.dead_lettered, stats.lag) == (0, 0, 0)
