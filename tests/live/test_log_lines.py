"""What a connection writes to the log in its life: a line for each step, and one a minute while the server is away."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import subprocess
import sys
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

import eda
import eda.connection_log
import eda.sql
from helpers import Connect, Logged, Proxy, until, wire_of

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
SHORT_S = 1.0  # instead of the minute between two warnings about a loss


def nothing(event: eda.Event) -> None:
    pass


def lines(logged: Logged, level: int = logging.INFO) -> list[str]:
    """Return the lines of eda of at least this level, with numbers that vary replaced."""
    found = []
    for record in logged.records:
        if record.name == "eda" and record.levelno >= level:
            text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", record.getMessage())
            text = re.sub(r"server \w+, nats-server [\d.]+", "server NAME, nats-server VERSION", text)
            text = re.sub(r"after [\d.e-]+ s", "after N s", text)
            text = re.sub(r"\bme-\w{22}", "MEMBER", text)
            found.append(f"{record.levelname} {text}")
    return found


async def test_log_when_a_connection_lives_has_one_line_for_each_step(
    own_server: eda.EmbeddedServer, stream: str, logged: Logged
) -> None:
    first = await eda.connect(own_server.url, client="me")
    active = await first.subscribe(stream, nothing, exclusive=True, **KEPT)
    await first.publish(stream)
    await until(lambda: active.stats().handled == 1)
    second = await eda.connect(own_server.url, client="me")
    standby = await second.subscribe(stream, nothing, exclusive=True, **KEPT)
    await active.close()
    await until(lambda: standby.is_active)
    await first.close()
    await own_server.kill()
    await until(lambda: second.state == "disconnected")
    await own_server.start()
    await until(lambda: second.state == "reconnected")
    await second.close()
    address = "nats://127.0.0.1:PORT"
    assert lines(logged) == [
        f"INFO connected to {address}: server NAME, nats-server VERSION",
        f"INFO subscription me to {stream} opened: active, after position 0",
        f"INFO connected to {address}: server NAME, nats-server VERSION",
        f"INFO subscription me to {stream} opened: standing by, MEMBER is active",
        f"INFO subscription me to {stream} closed",
        f"INFO subscription me to {stream} takes over, after position 1",
        f"WARNING disconnected from {address}; reconnecting",
        f"INFO reconnected to {address} after N s: server NAME, nats-server VERSION",
        f"INFO subscription me to {stream} closed",
    ]
    for record in logged.records:
        fields = vars(record)
        assert fields["eda_client"] == "me"
        if "subscription" in str(record.msg) or "subscription" in record.getMessage():
            assert (fields["eda_stream"], fields["eda_subscription"]) == (stream, "me")
        if "connected" in str(record.msg):
            assert fields["eda_address"].startswith("nats://127.0.0.1:")


async def test_log_when_a_subscription_of_each_kind_opens_and_closes_has_one_line_for_each(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.records.clear()
    for options in ({**KEPT, "name": "shared"}, {**KEPT, "name": "one", "serial": True}, {}):
        async with conn.subscribe(stream, nothing, **options):
            pass
    assert lines(logged) == [
        f"INFO subscription shared to {stream} opened: shared",
        f"INFO subscription shared to {stream} closed",
        f"INFO subscription one to {stream} opened: active, after position 0",
        f"INFO subscription one to {stream} closed",
        f"INFO subscription private to {stream} opened: ordered",
        f"INFO subscription private to {stream} closed",
    ]


async def test_log_when_a_subscription_can_not_open_has_no_line_that_it_closed(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    await conn.streams.create(stream, eda.StreamOptions())
    logged.records.clear()
    async with conn.subscribe(stream, nothing, **KEPT):
        with pytest.raises(eda.ConfigError):
            await conn.subscribe(stream, nothing, exclusive=True, **KEPT)
    assert [each for each in lines(logged) if "closed" in each] == [f"INFO subscription me to {stream} closed"]


async def test_log_when_the_server_stays_away_has_one_warning_in_each_period(
    own_server: eda.EmbeddedServer,
    connect: Connect,
    stream: str,
    tmp_path: Path,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With every kind of subscription, publishers, a projection and a relay: one line a minute, here a second."""
    monkeypatch.setattr(eda.connection_log, "EVERY_S", SHORT_S)
    conn = await connect(own_server.url)
    other = await connect(own_server.url)
    sink = eda.sql.SQLite(tmp_path / "list.db")
    outbox = eda.sql.Outbox(eda.sql.SQLite(tmp_path / "outbox.db"))
    await conn.streams.create(stream)
    async with AsyncExitStack() as stack:
        for name, options in (
            ("a", {}),
            ("b", {"serial": True}),
            ("c", {"exclusive": True}),
            ("d", {"key": "aggregate"}),
        ):
            for each in (conn, other):
                await stack.enter_async_context(each.subscribe(stream, nothing, **{**KEPT, "name": name, **options}))
        for _ in range(3):
            await stack.enter_async_context(conn.subscribe(stream, nothing))
        publishers = [
            await stack.enter_async_context(
                conn.publisher(stream, mode=mode, timeout_s=60.0, on_error=lambda event, error: None)
            )
            for mode in ("auto", "window")
        ]
        await stack.enter_async_context(conn.projection(stream, apply, into=sink, name="list"))
        await stack.enter_async_context(conn.relay(outbox))
        await conn.publish(stream)
        for publisher in publishers:
            await publisher.send(eda.Event())
            await publisher.flush()
        await asyncio.sleep(0.5)
        logged.records.clear()
        await own_server.kill()
        await until(lambda: conn.state == other.state == "disconnected")
        for publisher in publishers:
            await publisher.send_many([eda.Event() for _ in range(10)])
        add(tmp_path / "outbox.db", outbox, stream)
        publishing = asyncio.create_task(conn.publish(stream, timeout_s=60))
        await asyncio.sleep(15)  # longer than leases, than takeovers, and than the time until a stall is told
        told = lines(logged)
        of_one = [record for record in logged.records if vars(record).get("eda_client") == conn.client]
        warnings = [record for record in of_one if record.levelno > logging.DEBUG]
        await own_server.start()
        await until(lambda: conn.state == other.state == "reconnected")
        await asyncio.wait_for(publishing, 20)
    assert {re.sub(r"\d+ attempts.*", "…", each) for each in told} == {
        "WARNING disconnected from nats://127.0.0.1:PORT; reconnecting",
        "WARNING still disconnected from nats://127.0.0.1:PORT after N s: …",
    }
    assert 12 <= len(warnings) <= 17
    for text in ("its position could not be stored", "an attempt to reconnect failed", "publishing to stream"):
        assert logged.find(text), text  # at DEBUG, which tells that there was something to keep quiet
    assert re.search(r"after 5 s: \d+ attempts to reconnect failed, the last one with: .+; \d+ events wait", "\n".join(
        record.getMessage() for record in warnings
    ))  # fmt: skip


def apply(events: list[eda.Event], tx: sqlite3.Connection) -> None:
    """Keep nothing."""


def add(path: Path, outbox: eda.sql.Outbox, stream: str) -> None:
    with closing(sqlite3.connect(path)) as driver, driver:
        outbox.add(driver, stream, eda.Event(type="a"))


async def test_log_when_a_connection_is_lost_again_and_again_has_one_warning_in_each_period(
    server: eda.EmbeddedServer, connect: Connect, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.connection_log, "EVERY_S", SHORT_S)
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        logged.records.clear()
        for n in range(6):
            proxy.drop()
            await until(lambda: not wire_of(conn).is_up)
            await until(lambda: wire_of(conn).is_up)
            await until(lambda n=n: (conn._lifetime.log is not None) and conn._lifetime.log.n_reconnects == n + 1)
        await until(lambda: logged.find("was lost and restored"))
        texts = lines(logged, logging.WARNING)
        assert sum("disconnected from" in each for each in texts) <= 3
        assert (await conn.health())["reconnects"] == 6


def test_log_when_the_program_has_not_configured_logging_prints_warnings_only(server: eda.EmbeddedServer) -> None:
    code = """
import asyncio, eda
async def main():
    async with eda.EmbeddedServer() as server, eda.connect(server.url) as conn:
        async with conn.subscribe("s", print, name="a", durable=True):
            pass
        print("quiet until here", flush=True)
        await server.kill()
        while conn.state != "disconnected":
            await asyncio.sleep(0.01)
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "quiet until here\n"
    assert re.fullmatch(r"disconnected from nats://127\.0\.0\.1:\d+; reconnecting\n", ended.stderr)
