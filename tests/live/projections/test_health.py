"""Projections, views and relays in conn.health: their states, lags and databases."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

import eda
import eda.sql
from helpers import Connect, Logged, until
from support.projections.memory_sink import MemorySink, Outage


def only(report: dict[str, Any], group: str) -> dict[str, Any]:
    (found,) = report[group]
    assert isinstance(found, dict)
    return found


async def test_projection_when_one_member_applies_and_one_stands_by_shows_both(
    connect: Connect, stream: str, tmp_path: Path
) -> None:
    first, second = await connect(), await connect()
    receipts = [await first.publish(stream) for _ in range(3)]

    def sink() -> eda.sql.SQLite:
        return eda.sql.SQLite(tmp_path / "list.db")

    def apply(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        pass

    async with (
        first.projection(stream, apply, into=sink(), name="list") as owner,
        second.projection(stream, apply, into=sink(), name="list"),
        second.view("list", into=sink()),
    ):
        await owner.wait_for(receipts[-1])
        report = await first.health()
        found = only(report, "projections")
        assert (report["status"], report["unknown"], report["subscriptions"]) == ("ok", [], [])
        assert (found["name"], found["version"], found["state"], found["applied"]) == ("list", 1, "open", 3)
        assert found["streams"] == [{"stream": stream, "state": "active", "lag": 0, "lag_s": 0.0}]
        report = await second.health()
        found = only(report, "projections")
        assert (report["status"], found["streams"][0]["state"]) == ("ok", "standby")
        assert report["unknown"] == [
            f"the lag of projection 'list' version 1 behind stream {stream}: another member applies it"
        ]
        assert (only(report, "views")["name"], only(report, "views")["state"]) == ("list", "open")


async def test_projection_when_its_database_fails_is_degraded_until_it_works(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    is_down = False

    def fail(method: str) -> None:
        if is_down:
            raise Outage

    sink: Any = MemorySink(fail)
    async with conn.projection(stream, lambda events, tx: None, into=sink, name="list") as projection:
        await projection.wait_for(await conn.publish(stream))
        assert (await conn.health())["status"] == "ok"
        is_down = True
        await conn.publish(stream)
        report = await until(lambda: with_status(conn, "degraded"))
        assert report["problems"] == [
            f"projection list version 1 can't use its database, and applies nothing of {stream}"
        ]
        assert "because of the database memory" in only(report, "projections")["last_error"]["text"]
        is_down = False
        assert await until(lambda: with_status(conn, "ok"))


async def with_status(conn: eda.Conn, status: str) -> dict[str, Any] | None:
    report = await conn.health()
    return report if report["status"] == status else None


async def test_projection_when_an_error_has_ended_it_is_degraded(conn: eda.Conn, stream: str, logged: Logged) -> None:
    logged.expect("projection 'list' version 1 ends")
    logged.allow("handler failed")
    is_broken = False

    def fail(method: str) -> None:
        if is_broken:
            raise RuntimeError("a defect")

    sink: Any = MemorySink(fail)
    projection = await conn.projection(stream, lambda events, tx: None, into=sink, name="list")
    is_broken = True
    await conn.publish(stream)
    with pytest.raises(RuntimeError):
        await projection.wait()
    report = await conn.health()
    assert (report["status"], only(report, "projections")["state"]) == ("degraded", "ended")
    assert report["problems"] == ["projection list version 1 has ended: RuntimeError: a defect"]


async def test_relay_when_it_is_active_or_stands_by_is_well(connect: Connect, tmp_path: Path) -> None:
    first, second = await connect(), await connect()

    def outbox() -> eda.sql.Outbox:
        return eda.sql.Outbox(eda.sql.SQLite(tmp_path / "outbox.db"))

    async with first.relay(outbox()) as active, second.relay(outbox()):
        await until(lambda: active.stats().active)
        found = only(await first.health(), "relays")
        assert (found["name"], found["state"], found["waiting"]) == ("eda_outbox", "active", 0)
        report = await second.health()
        assert (report["status"], only(report, "relays")["state"]) == ("ok", "standby")


async def test_relay_when_its_database_fails_is_degraded(
    conn: eda.Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = eda.sql.Outbox(eda.sql.SQLite(tmp_path / "outbox.db"))
    async with conn.relay(outbox) as relay:
        await until(lambda: relay.stats().active)

        async def fail(*arguments: object, **options: object) -> None:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(relay._host.rows, "read", fail)
            relay._host.look.set()
            report = await until(lambda: with_status(conn, "degraded"))
            assert report["problems"] == ["the relay of outbox eda_outbox can't use its database"]
            assert "database is locked" in only(report, "relays")["last_error"]["text"]
        assert await until(lambda: with_status(conn, "ok"))
