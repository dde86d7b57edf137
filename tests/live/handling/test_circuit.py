"""Handlers that fail in a row: the subscription pauses instead of taking the next thousand events to the same end."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import eda
import eda.subscribing.source
from helpers import Admin, Connect, Logged, until

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "concurrent": {"concurrency": 8, **KEPT},
    "batch": {"batch": 5, **KEPT},
    "private": {"backfill": True},
    "exclusive": {"exclusive": True, **KEPT},
    "exclusive_batch": {"exclusive": True, "batch": 5, "concurrency": 2, **KEPT},
    "key": {"key": "aggregate", "concurrency": 4, **KEPT},
}
N = 300


class Database:
    """What handlers need; counts the calls, and the events that were handled."""

    def __init__(self) -> None:
        self.away = True
        self.n_calls = 0
        self.handled: list[int] = []

    async def handle(self, given: eda.Event | list[eda.Event]) -> None:
        self.n_calls += 1
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionError("the database is away")
        self.handled += [event.sequence for event in (given if isinstance(given, list) else [given])]


async def fill(conn: eda.Conn, stream: str) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_many(eda.Event(aggregate=str(n)) for n in range(N))


@pytest.mark.parametrize("kind", KINDS)
async def test_circuit_when_a_database_is_away_leaves_events_alone_and_goes_on_when_it_is_back(
    conn: eda.Conn, stream: str, kind: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    await fill(conn, stream)
    database = Database()
    # The first pauses last 0.4, 0.8 and 1.6 s. What failed comes again later.
    retry = eda.Retry(initial_s=0.4)
    async with conn.subscribe(stream, database.handle, retry=retry, circuit=5, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().circuit_open)
        n_calls = database.n_calls
        assert 5 <= n_calls <= 5 + KINDS[kind].get("concurrency", 1)
        (record,) = logged.find("handlers failed for 5 events in a row; no handler starts for 0.4 s")
        assert record.eda_subscription == subscription.name  # type: ignore[attr-defined]
        assert record.eda_stream == stream  # type: ignore[attr-defined]
        await until(lambda: logged.find("no handler starts for 0.8 s"))
        assert database.n_calls == n_calls + 1  # one was tried
        database.away = False
        await until(lambda: len(set(database.handled)) == N, 30)
        stats = subscription.stats()
        assert not stats.circuit_open
        assert logged.find("a handler has succeeded")
    assert sorted(database.handled) == list(range(1, N + 1))


@pytest.mark.parametrize("circuit", [None, 1000])
async def test_circuit_when_it_is_none_or_far_away_does_not_open(
    conn: eda.Conn, stream: str, circuit: int | None, logged: Logged
) -> None:
    logged.expect("handler failed")
    await fill(conn, stream)
    database = Database()
    async with conn.subscribe(
        stream, database.handle, retry=eda.Retry(initial_s=30), circuit=circuit, exclusive=True, **KEPT
    ) as subscription:
        await until(lambda: database.n_calls == N)
        assert not subscription.stats().circuit_open


async def test_circuit_when_nothing_is_said_opens_after_ten(conn: eda.Conn, stream: str, logged: Logged) -> None:
    logged.expect("handler failed")
    await fill(conn, stream)
    database = Database()
    async with conn.subscribe(stream, database.handle, retry=eda.Retry(initial_s=30), **KEPT) as subscription:
        await until(lambda: subscription.stats().circuit_open)
        await asyncio.sleep(0.2)
        assert database.n_calls == 10
        began = time.monotonic()
    assert time.monotonic() - began < 5  # it closes as ever


async def test_circuit_when_it_is_open_leaves_the_events_to_other_members(
    connect: Connect, stream: str, admin: Admin, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged.expect("handler failed")
    monkeypatch.setattr(eda.subscribing.source, "EXPIRES_S", 2.0)
    monkeypatch.setattr(eda.subscribing.source, "HEARTBEAT_S", 0.5)
    conn, other = await connect(), await connect()
    await fill(conn, stream)
    bad, good = Database(), Database()
    good.away = False
    # Its first pause outlasts the test, so what it holds is never tried.
    async with conn.subscribe(stream, bad.handle, retry=eda.Retry(initial_s=1000, max_s=1000), **KEPT) as subscription:
        await until(lambda: subscription.stats().circuit_open)
        n_held = subscription.stats().buffered
        assert n_held > 0
        async with other.subscribe(stream, good.handle, **KEPT):
            await until(lambda: len(good.handled) >= N - n_held - 10)
            assert subscription.stats().buffered == n_held
            # Its pulls are over, and it gives back what it holds. The ten that failed wait for their pause.
            await until(lambda: len(good.handled) == N - 10, 20)
            assert subscription.stats().buffered == 0
    assert bad.n_calls == 10
    assert bad.handled == []


async def test_circuit_when_events_use_up_their_attempts_keeps_most_of_them_from_the_dead_letters(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("for the last time")
    await fill(conn, stream)
    database = Database()
    retry = eda.Retry(initial_s=5, max_attempts=1)
    async with conn.subscribe(stream, database.handle, retry=retry, exclusive=True, **KEPT) as subscription:
        await until(lambda: subscription.stats().circuit_open)
        await until(lambda: subscription.stats().dead_lettered == 10)
        assert database.n_calls == 10
    await admin.js.delete_stream(f"{stream}-dead")
