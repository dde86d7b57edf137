"""Projections whose stream was made again, restored, purged or has expired: when they end, and when they go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest

import eda
import eda.sql
from eda.projections import stream_runner
from eda.projections.sink import PositionRow
from eda.projections.stream_check import StreamCheck, StreamNow
from helpers import Admin, Connect, Logged, Proxy
from support.projections.lists import insert, publish, sequences
from support.store.backups import backup, restore


async def applied(conn: eda.Conn, stream: str, path: Path, receipt: eda.Receipt, version: int = 1) -> None:
    """Open the projection, wait for the event, and close it."""
    async with conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list", version=version) as projection:
        await projection.wait_for(receipt, 20)


async def test_open_when_the_stream_was_made_again_is_refused_and_a_new_version_is_not(
    conn: eda.Conn, stream: str, path: Path
) -> None:
    await applied(conn, stream, path, await publish(conn, stream, 3))
    await conn.streams.delete(stream)
    receipt = await publish(conn, stream, 5)
    with pytest.raises(eda.PositionInvalid, match=r"made again .*version=2"):
        await conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list")
    assert sequences(path) == [1, 2, 3]
    await applied(conn, stream, path, receipt, version=2)
    assert sequences(path) == [1, 2, 3, 1, 2, 3, 4, 5]


async def test_open_when_the_stream_was_restored_from_an_older_backup_is_refused(
    conn: eda.Conn, admin: Admin, stream: str, path: Path
) -> None:
    await publish(conn, stream, 3)
    saved = await backup(admin, stream)
    await applied(conn, stream, path, await publish(conn, stream, 2))
    await conn.streams.delete(stream)
    await restore(admin, saved)
    await publish(conn, stream, 4)
    with pytest.raises(eda.PositionInvalid, match="version=2"):
        await conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list")
    assert sequences(path) == [1, 2, 3, 4, 5]


async def test_open_when_events_were_purged_before_they_were_applied_is_refused(
    conn: eda.Conn, admin: Admin, stream: str, path: Path
) -> None:
    await applied(conn, stream, path, await publish(conn, stream, 3))
    await publish(conn, stream, 3)
    await admin.api(f"STREAM.PURGE.{stream}", {"seq": 6})
    with pytest.raises(eda.PositionInvalid, match="events 4 to 5 are gone and not applied"):
        await conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list")


async def test_open_when_applied_events_are_gone_goes_on(conn: eda.Conn, admin: Admin, stream: str, path: Path) -> None:
    await applied(conn, stream, path, await publish(conn, stream, 3))
    await conn.streams.purge(stream)
    await applied(conn, stream, path, await publish(conn, stream, 2))
    assert sequences(path) == [1, 2, 3, 4, 5]


@pytest.mark.old_server
async def test_running_when_the_stream_is_made_again_ends_with_an_error(
    conn: eda.Conn, stream: str, path: Path, logged: Logged
) -> None:
    logged.allow("ends: ")
    receipt = await publish(conn, stream, 3)
    projection = await conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list")
    await projection.wait_for(receipt, 20)
    await conn.streams.delete(stream)
    await publish(conn, stream, 5)
    with pytest.raises((eda.PositionInvalid, eda.StreamNotFound)):  # the second one, if it was quicker
        await projection.wait()
    with pytest.raises(eda.PositionInvalid, match="made again"):
        await conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list")
    assert sequences(path) == [1, 2, 3]


async def test_running_when_the_stream_was_replaced_while_the_connection_was_lost_ends(
    connect: Connect, conn: eda.Conn, server: eda.EmbeddedServer, admin: Admin, stream: str, path: Path, logged: Logged
) -> None:
    logged.allow("ends: ", "lost")
    await publish(conn, stream, 3)
    saved = await backup(admin, stream)
    receipt = await publish(conn, stream, 2)
    async with Proxy(server.port) as proxy:
        far = await connect(proxy.url(server.url))
        projection = await far.projection(stream, insert, into=eda.sql.SQLite(path), name="list")
        await projection.wait_for(receipt, 20)
        proxy.refusing = True
        proxy.drop()
        await conn.streams.delete(stream)
        await restore(admin, saved)
        await publish(conn, stream, 5)
        proxy.refusing = False
        with pytest.raises(eda.PositionInvalid, match="version=2"):
            await projection.wait()
        await far.close()
    assert sequences(path) == [1, 2, 3, 4, 5]


async def test_running_when_nothing_tells_of_a_restore_is_checked_from_time_to_time(
    conn: eda.Conn, admin: Admin, stream: str, path: Path, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    logged.allow("ends: ")
    monkeypatch.setattr(stream_runner, "CHECK_S", 0.2)
    receipt = await publish(conn, stream, 3)
    projection = await conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list")
    await projection.wait_for(receipt, 20)
    driver = sqlite3.connect(path)  # as if the stream had another event there
    driver.execute('UPDATE eda_positions SET "time" = "time" - 1000')
    driver.commit()
    driver.close()
    (row,) = projection._runners[stream].reading.rows  # type: ignore[union-attr]
    projection._runners[stream].reading.lanes[0].applying.moving.row = row.__class__(  # type: ignore[union-attr]
        **{name: getattr(row, name) for name in row.__slots__} | {"time": row.time - 1000}
    )
    with pytest.raises(eda.PositionInvalid, match="event 3 was stored"):
        await projection.wait()


async def test_streams_that_discard_old_events_after_they_were_applied_are_normal(
    conn: eda.Conn, stream: str, path: Path
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_events=3))
    async with conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list") as projection:
        for _ in range(10):
            await projection.wait_for(await publish(conn, stream, 1), 20)
    await applied(conn, stream, path, await publish(conn, stream, 2))
    assert sequences(path) == list(range(1, 13))
    await publish(conn, stream, 6)
    with pytest.raises(eda.PositionInvalid, match=r"events 13 to 15 are gone .*discards old events \(max_msgs\)"):
        await conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list")


async def test_open_when_the_stream_is_made_again_after_its_check_applies_nothing(
    conn: eda.Conn, stream: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await applied(conn, stream, path, await publish(conn, stream, 3))
    real = StreamCheck.check
    n_checks = 0

    async def check(self: StreamCheck, rows: Iterable[PositionRow], *, read_to: int = 0) -> StreamNow:
        nonlocal n_checks
        now = await real(self, rows, read_to=read_to)
        n_checks += 1
        if n_checks == 1:
            await conn.streams.delete(stream)
            await publish(conn, stream, 6)
        return now

    monkeypatch.setattr(StreamCheck, "check", check)
    with pytest.raises(eda.PositionInvalid, match="made again"):
        await conn.projection(stream, insert, into=eda.sql.SQLite(path), name="list")
    assert sequences(path) == [1, 2, 3]
