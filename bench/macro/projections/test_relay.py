"""The relay of an outbox in PostgreSQL, beside a program that only reads the rows and one that only publishes them."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable

import psycopg
import pytest

import eda
import eda.sql
from eda._nuid import next_nuid
from helpers import until
from macro import delete
from macro.projections.sales import databases, make_event

N = 100_000
N_SIGNALS = 200
N_AT_ONCE = 1000  # rows of a transaction that fills the outbox, and of a query
_numbers = itertools.count()


def fill(address: str, stream: str, n: int) -> None:
    """Leave `n` events in an empty outbox."""
    outbox = eda.sql.Outbox(eda.sql.Psycopg(address))
    asyncio.run(outbox.create())
    with psycopg.connect(address) as tx:
        tx.execute("TRUNCATE eda_outbox, eda_outbox_relay")
        for begin in range(0, n, N_AT_ONCE):
            outbox.add_many(tx, stream, [make_event(number) for number in range(begin, begin + N_AT_ONCE)])
            tx.commit()
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute("CHECKPOINT")


def new_stream(server: eda.EmbeddedServer) -> str:
    async def run() -> None:
        async with eda.connect(server.url) as conn:
            await conn.streams.create(stream)

    stream = f"relay-{next(_numbers)}"
    asyncio.run(run())
    return stream


def relay_s(server: eda.EmbeddedServer, address: str) -> float:
    """Return the seconds until all rows are published and deleted."""
    stream = new_stream(server)
    fill(address, stream, N)

    async def run() -> float:
        outbox = eda.sql.Outbox(eda.sql.Psycopg(address))
        async with eda.connect(server.url, client="bench") as conn:
            started = time.perf_counter()
            async with conn.relay(outbox) as relay:
                await until(lambda: relay.stats().acknowledged == N, 60)
            return time.perf_counter() - started

    took_s = asyncio.run(run())
    with psycopg.connect(address) as conn:
        assert conn.execute("SELECT count(*) FROM eda_outbox").fetchone() == (0,)
    delete(server, stream)
    return took_s


def reading_s(server: eda.EmbeddedServer, address: str) -> float:
    """Return the seconds of a program that reads the rows in order, in chunks, and does nothing with them."""
    fill(address, "none", N)
    started = time.perf_counter()
    with psycopg.connect(address, autocommit=True) as conn:
        n = last = 0
        while n < N:
            rows = conn.execute(
                "SELECT serial, id, stream, key, xid < pg_snapshot_xmin(pg_current_snapshot()), envelope "
                "FROM eda_outbox WHERE serial > %s ORDER BY serial LIMIT %s",
                (last, N_AT_ONCE),
            ).fetchall()
            n, last = n + len(rows), rows[-1][0]
    return time.perf_counter() - started


def publishing_s(server: eda.EmbeddedServer) -> float:
    stream = new_stream(server)

    async def run() -> float:
        events = [make_event(number).replace(id=next_nuid()) for number in range(N)]
        async with eda.connect(server.url, client="bench") as conn:
            started = time.perf_counter()
            async with conn.publisher(stream) as publisher:
                await publisher.send_many(events)
            return time.perf_counter() - started

    took_s = asyncio.run(run())
    delete(server, stream)
    return took_s


def signal_us(server: eda.EmbeddedServer, address: str) -> float:
    """Return the median microseconds from a commit until a handler has the event, which is stored by then."""
    stream = new_stream(server)
    fill(address, stream, 0)

    async def run() -> float:
        took = []
        came = asyncio.Event()
        outbox = eda.sql.Outbox(eda.sql.Psycopg(address))

        async def handle(event: eda.Event) -> None:
            came.set()

        async with (
            eda.connect(server.url, client="bench") as conn,
            conn.subscribe(stream, handle),
            conn.relay(outbox) as relay,
            await psycopg.AsyncConnection.connect(address) as tx,
        ):
            await until(lambda: relay.stats().active)
            for number in range(N_SIGNALS):
                await outbox.add(tx, stream, make_event(number))
                await tx.commit()
                started = time.perf_counter_ns()
                await asyncio.wait_for(came.wait(), 10)
                took.append(time.perf_counter_ns() - started)
                came.clear()
        return statistics.median(took) / 1000

    took_us = asyncio.run(run())
    delete(server, stream)
    return took_us


@pytest.mark.timeout(300)
def test_relay(server: eda.EmbeddedServer, duel: Callable[..., None], note: Callable[[str, float], None]) -> None:
    note("a millisecond us", 1000)
    with databases() as postgres, postgres.database() as address:
        duel(
            ("eda relay s", lambda: relay_s(server, address)),
            ("reading and publishing s", lambda: reading_s(server, address) + publishing_s(server)),
            ("notify to stored us", lambda: signal_us(server, address)),
        )
