"""conn.health: the verdict on a connection and all that it runs, in every state, and within its time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import eda
import eda.sql
from eda.transport.tolerated import Tolerated
from helpers import Admin, Connect, Logged, Proxy, freeze, needs_freeze, until, wire_of

DESCRIPTION = Path(__file__).resolve().parents[2] / "docs" / "health.md"
KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}


def nothing(event: eda.Event) -> None:
    pass


async def checked(conn: eda.Conn, timeout_s: float = 1.0) -> dict[str, Any]:
    """Return a report, which must be ready for JSON, and must come in time."""
    began = time.monotonic()
    report = await conn.health(timeout_s=timeout_s)
    assert time.monotonic() - began < timeout_s + 0.5
    assert json.loads(json.dumps(report)) == report
    assert (report["status"] == "ok") == (not report["problems"])
    return report


def only(report: dict[str, Any], group: str) -> dict[str, Any]:
    (found,) = report[group]
    assert isinstance(found, dict)
    return found


# --- the connection --------------------------------------------------------------------------------------------------


async def test_health_when_all_is_well_is_ok_and_names_the_server(conn: eda.Conn, stream: str) -> None:
    async with conn.subscribe(stream, nothing, **KEPT) as subscription, conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event(), eda.Event()])
        await publisher.flush()
        await until(lambda: subscription.stats().handled == 2)
        await until(lambda: wire_of(conn).is_up)
        report = await checked(conn)
        assert (report["status"], report["problems"], report["unknown"]) == ("ok", [], [])
        assert (report["connected"], report["state"], report["reconnects"]) == (True, "connected", 0)
        server = report["server"]
        assert server["version"].split(".")[0] == "2"
        assert server["name"]
        assert server["address"].startswith("nats://127.0.0.1:")
        assert "@" not in server["address"]
        assert 0 < server["round_trip_s"] < 1
        found = only(report, "subscriptions")
        assert (found["name"], found["stream"], found["kind"], found["state"]) == ("me", stream, "shared", "active")
        assert (found["lag"], found["lag_s"], found["in_flight"], found["error"]) == (0, 0.0, 0, None)
        found = only(report, "publishers")
        assert (found["kind"], found["stream"], found["pending"]) == ("publisher", stream, 0)
        assert (found["oldest_pending_s"], found["timeout_s"]) == (0.0, 30.0)


async def test_health_when_the_connection_is_not_open_yet_or_closed_is_down(server: eda.EmbeddedServer) -> None:
    conn = eda.connect(server.url)
    report = await checked(conn)
    assert (report["status"], report["state"], report["connected"]) == ("down", "new", False)
    assert report["problems"] == ["the connection is not open yet"]
    assert report["server"]["version"] is None
    async with conn:
        assert (await checked(conn))["status"] == "ok"
    report = await checked(conn)
    assert (report["status"], report["problems"]) == ("down", ["the connection is closed"])


async def test_health_when_the_server_is_gone_is_down_and_says_since_when_and_why(
    own_server: eda.EmbeddedServer, connect: Connect, stream: str
) -> None:
    conn = await connect(own_server.url)
    async with conn.subscribe(stream, nothing, **KEPT):
        await own_server.kill()
        await until(lambda: conn.state == "disconnected")
        await until(lambda: wire_of(conn).n_failed_attempts)
        report = await checked(conn, 0.2)
        assert (report["status"], report["connected"], report["state"]) == ("down", False, "disconnected")
        assert report["disconnected_s"] > 0
        (problem,) = report["problems"]
        assert problem.startswith(f"the connection to {report['server']['address']} has been lost for")
        assert report["last_failure"] in problem
        assert report["server"]["round_trip_s"] is None
        assert only(report, "subscriptions")["lag"] is None
        assert report["unknown"] == [f"the lag of subscription me to {stream}: there is no connection"]
        await own_server.start()
        await until(lambda: conn.state == "reconnected")
        report = await until(lambda: ok(conn))
        assert (report["reconnects"], report["disconnected_s"], report["last_failure"]) == (1, None, None)


async def ok(conn: eda.Conn) -> dict[str, Any] | None:
    report = await checked(conn)
    return report if report["status"] == "ok" and not report["unknown"] else None


@needs_freeze
async def test_health_when_the_server_is_frozen_is_down_in_time_and_well_again_afterwards(
    own_server: eda.EmbeddedServer, connect: Connect, stream: str
) -> None:
    conn = await connect(own_server.url)
    async with conn.subscribe(stream, nothing, **KEPT):
        assert (await checked(conn))["status"] == "ok"
        assert own_server.pid is not None
        freeze(own_server.pid)
        try:
            report = await checked(conn, 0.6)
            assert report["status"] == "down"
            assert "has not answered for" in report["problems"][0]
            assert report["server"]["silent_s"] >= 0.5
            assert only(report, "subscriptions")["lag"] is None
            assert f"the lag of subscription me to {stream}: the server did not answer in time" in report["unknown"]
            report = await checked(conn, 0.0)  # the silence is known already
            assert report["status"] == "down"
            assert report["server"]["silent_s"] > 0.6
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        assert await until(lambda: ok(conn))


async def test_health_when_called_many_times_at_once_shares_the_requests(
    connect: Connect, server: eda.EmbeddedServer, stream: str
) -> None:
    async with Proxy(int(server.url.rpartition(":")[2])) as proxy:
        conn = await connect(proxy.url(server.url))
        async with conn.subscribe(stream, nothing, **KEPT):
            await asyncio.sleep(0.05)
            proxy.sent.clear()
            reports = await asyncio.gather(*(conn.health() for _ in range(50)))
            assert {report["status"] for report in reports} == {"ok"}
            assert bytes(proxy.sent).count(b"PING\r\n") <= 2
            assert bytes(proxy.sent).count(f"CONSUMER.INFO.{stream}.me".encode()) <= 2


async def test_health_when_its_caller_is_cancelled_leaves_no_task(conn: eda.Conn, stream: str) -> None:
    async with conn.subscribe(stream, nothing, **KEPT):
        task = asyncio.create_task(conn.health(timeout_s=5))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await checked(conn))["status"] == "ok"


async def test_health_when_the_connection_is_closed_meanwhile_answers(
    own_server: eda.EmbeddedServer, connect: Connect, stream: str
) -> None:
    conn = await connect(own_server.url)
    await conn.subscribe(stream, nothing, **KEPT)
    asking = asyncio.create_task(conn.health(timeout_s=5))
    await asyncio.sleep(0)
    await conn.close()
    async with asyncio.timeout(2):
        await asking


@pytest.mark.parametrize("timeout_s", [-1, 61, "1", None, True, float("nan")])
async def test_health_when_its_time_is_no_time_refuses(conn: eda.Conn, timeout_s: Any) -> None:
    with pytest.raises(eda.ConfigError, match="timeout_s must be between 0 and 60"):
        await conn.health(timeout_s=timeout_s)


async def test_health_when_called_in_another_loop_refuses(conn: eda.Conn) -> None:
    with pytest.raises(eda.ConfigError, match="only in the event loop that opened it"):
        await asyncio.to_thread(asyncio.run, conn.health())


async def test_health_when_it_is_over_leaves_no_mark_on_the_subjects_that_it_asked(
    conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = []
    add = Tolerated.add
    monkeypatch.setattr(Tolerated, "add", lambda self, subject: marked.append(subject) or add(self, subject))
    async with conn.subscribe(stream, nothing, **KEPT):
        subject = f"$JS.API.STREAM.INFO.{stream}"
        await asyncio.gather(*(conn.health() for _ in range(3)))
        assert subject in marked
        assert subject not in wire_of(conn).may_be_forbidden


# --- subscriptions ---------------------------------------------------------------------------------------------------


async def test_subscription_when_a_member_stands_by_is_well(conn: eda.Conn, connect: Connect, stream: str) -> None:
    other = await connect()
    await conn.publish(stream)
    async with conn.subscribe(stream, nothing, exclusive=True, **KEPT) as active:
        await until(lambda: active.stats().handled == 1)
        async with other.subscribe(stream, nothing, exclusive=True, **KEPT):
            report = await checked(other)
            found = only(report, "subscriptions")
            assert (report["status"], found["state"], found["kind"]) == ("ok", "standby", "ordered")
            assert found["holder"].startswith(conn.client)
            report = await until(lambda: ok(other))
            assert only(report, "subscriptions")["lag"] in (0, 1)  # its position is written a moment later


async def test_subscription_when_it_is_behind_tells_events_and_seconds(conn: eda.Conn, stream: str) -> None:
    for kind in ({}, {"exclusive": True}, {"durable": False}):
        options = {**KEPT, **kind, "name": None if kind.get("durable") is False else f"n{len(kind)}"}
        subscription = conn.subscribe(stream, nothing, **options)
        subscription.pause()
        async with subscription:
            await conn.publish(stream)
            await asyncio.sleep(0.05)
            report = await checked(conn)
            found = only(report, "subscriptions")
            info = await conn.streams.info(stream)
            assert (report["status"], found["state"], found["lag"]) == ("ok", "paused", info.events)
            assert 0.04 < found["lag_s"] < 5


async def test_subscription_when_its_circuit_is_open_is_degraded_and_tells_the_last_error(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    slow = eda.Retry(initial_s=20.0)

    async def fail(event: eda.Event) -> None:
        raise ValueError("no such customer")

    async with conn.subscribe(stream, fail, circuit=2, retry=slow, **KEPT):
        for _ in range(3):
            await conn.publish(stream)
        report = await until(lambda: degraded(conn))
        found = only(report, "subscriptions")
        assert found["state"] == "circuit_open"
        assert report["problems"] == [
            f"subscription me to {stream} has an open circuit: its handlers fail for one event after another"
        ]
        assert found["last_error"]["stream"] == stream
        assert found["last_error"]["subscription"] == "me"
        texts = [each["text"] for each in report["last_errors"]]
        assert any("ValueError: no such customer" in text for text in texts)


async def degraded(conn: eda.Conn) -> dict[str, Any] | None:
    report = await checked(conn)
    return report if report["status"] == "degraded" else None


async def test_subscription_when_an_error_has_ended_it_is_degraded_until_it_is_opened_again(
    conn: eda.Conn, admin: Admin, stream: str, logged: Logged
) -> None:
    logged.expect(f"subscription me to {stream} ends")
    subscription = await conn.subscribe(stream, nothing, **KEPT)
    await admin.js.delete_consumer(stream, "me")
    with pytest.raises(eda.ConsumerDeleted):
        await subscription.wait()
    report = await checked(conn)
    found = only(report, "subscriptions")
    assert (report["status"], found["state"]) == ("degraded", "ended")
    assert found["error"].startswith("ConsumerDeleted: ")
    assert found["ended"].endswith("Z")
    assert report["problems"] == [f"subscription me to {stream} has ended: {found['error']}"]
    async with conn.subscribe(stream, nothing, **KEPT):
        report = await checked(conn)
        assert (report["status"], only(report, "subscriptions")["state"]) == ("ok", "active")


async def test_subscription_when_the_user_has_closed_it_is_not_shown(conn: eda.Conn, stream: str) -> None:
    async with conn.subscribe(stream, nothing, **KEPT):
        pass
    assert (await checked(conn))["subscriptions"] == []


# --- publishers ------------------------------------------------------------------------------------------------------


@needs_freeze
async def test_publisher_when_its_oldest_event_waits_for_half_of_its_time_is_a_problem(
    own_server: eda.EmbeddedServer, connect: Connect, stream: str
) -> None:
    conn = await connect(own_server.url)
    async with conn.publisher(stream, timeout_s=2.0, on_error=lambda event, error: None) as publisher:
        await publisher.send(eda.Event())
        await publisher.flush()
        await conn.publish(stream)
        assert own_server.pid is not None
        freeze(own_server.pid)
        try:
            await publisher.send(eda.Event())
            publishing = asyncio.create_task(conn.publish(stream, timeout_s=30))
            await asyncio.sleep(0)
            report = await checked(conn, 0.1)
            assert [each["pending"] for each in report["publishers"]] == [1, 1]
            assert not [problem for problem in report["problems"] if "publisher" in problem]
            report = await until(lambda: has_problem(conn, "the publisher to"))
            (one, other) = report["publishers"]
            assert (one["kind"], other["kind"]) == ("publish", "publisher")
            assert 1.0 < other["oldest_pending_s"] < 2.5
            assert one["oldest_pending_s"] > 0.9
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        await publishing


async def has_problem(conn: eda.Conn, text: str) -> dict[str, Any] | None:
    report = await checked(conn, 0.05)
    return report if any(text in problem for problem in report["problems"]) else None


# --- the description -------------------------------------------------------------------------------------------------


async def test_fields_when_compared_with_the_description_are_all_described(
    conn: eda.Conn, stream: str, tmp_path: Path, logged: Logged
) -> None:
    described = set(re.findall(r"`(\w+)`", DESCRIPTION.read_text(encoding="utf-8")))
    outbox = eda.sql.Outbox(eda.sql.SQLite(tmp_path / "outbox.db"))
    sink = eda.sql.SQLite(tmp_path / "list.db")
    async with (
        conn.subscribe(stream, nothing, **KEPT),
        conn.publisher(stream),
        conn.projection(stream, lambda events, tx: None, into=sink, name="list"),
        conn.view("list", into=sink),
        conn.relay(outbox),
    ):
        report = await checked(conn)
        assert all(report[group] for group in ("subscriptions", "publishers", "projections", "views", "relays"))
        assert names_in(report) <= described


def names_in(value: object) -> set[str]:
    """Return the names of all fields, at any depth."""
    if isinstance(value, list):
        return {name for each in value for name in names_in(each)}
    if isinstance(value, dict):
        return {*value, *(name for each in value.values() for name in names_in(each))}
    return set()
