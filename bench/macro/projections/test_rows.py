"""Rows that are projected in batches of 500, beside a plain loop over ready-made events in the same transactions.

The loop has its events in memory: as they were received, so that it decodes what it reads, as the projection does; and
decoded before, so that it does less.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import psycopg

import eda
from macro.projections.sales import (
    BATCH,
    apply_asyncpg,
    apply_psycopg,
    apply_sqlite,
    databases,
    emptied,
    filled,
    last_receipt,
    ready_made,
)

N = 100_000
N_SQLITE = 400_000  # so many that opening and closing count little
Batches = list[list[eda.Event]]
FENCE = "UPDATE positions SET sequence = {0}, time = {1} WHERE name = 'plain' AND sequence = {2}"


def projected_s(server: eda.EmbeddedServer, stream: str, sink: Any, apply: Any, n: int = N, **options: Any) -> float:
    """Project `n` events, and return the seconds from before the projection opens until `wait_for` knows the last."""

    async def run() -> float:
        async with eda.connect(server.url, client="bench") as conn:
            projection = conn.projection([stream], apply, into=sink, name="bench", **options)
            started = time.perf_counter()
            async with projection:
                await projection.wait_for(last_receipt(stream, n), timeout_s=120)
                return time.perf_counter() - started

    return asyncio.run(run())


def test_sqlite(server: eda.EmbeddedServer, duel: Callable[..., None], tmp_path: Path) -> None:
    path = str(tmp_path / "read.db")

    def plain_s(address: str, batches: Batches) -> float:
        started = time.perf_counter()
        with closing(sqlite3.connect(address, isolation_level=None)) as tx:
            tx.execute("PRAGMA synchronous = FULL")
            tx.execute("INSERT INTO positions VALUES ('plain', 0, 0)")
            at = 0
            for events in batches:
                tx.execute("BEGIN IMMEDIATE")
                apply_sqlite(events, tx)
                last = events[-1].sequence
                tx.execute(FENCE.format("?", "?", "?"), (last, events[-1].time_ns, at))
                tx.execute("COMMIT")
                at = last
            return time.perf_counter() - started

    with filled(server, "rows", N_SQLITE) as stream:
        decoded = ready_made(server, stream, N_SQLITE, are_decoded=True)
        duel(
            (
                "eda rows sqlite s",
                lambda: projected_s(server, stream, eda.sql.SQLite(emptied(path)), apply_sqlite, N_SQLITE, batch=BATCH),
            ),
            (
                "plain rows sqlite s",
                lambda: plain_s(emptied(path), ready_made(server, stream, N_SQLITE, are_decoded=False)),
            ),
            ("decoded rows sqlite s", lambda: plain_s(emptied(path), decoded)),
        )


def plain_psycopg_s(address: str, batches: Batches) -> float:
    started = time.perf_counter()
    with psycopg.connect(address) as tx:
        tx.execute("INSERT INTO positions VALUES ('plain', 0, 0)")
        at = 0
        for events in batches:
            apply_psycopg(events, tx)
            last = events[-1].sequence
            tx.execute(FENCE.format("%s", "%s", "%s").encode(), (last, events[-1].time_ns, at))
            tx.commit()
            at = last
        return time.perf_counter() - started


def plain_asyncpg_s(address: str, batches: Batches) -> float:
    async def run() -> float:
        started = time.perf_counter()
        tx = await asyncpg.connect(address)
        await tx.execute("INSERT INTO positions VALUES ('plain', 0, 0)")
        at = 0
        for events in batches:
            async with tx.transaction():
                await apply_asyncpg(events, tx)
                last = events[-1].sequence
                await tx.execute(FENCE.format("$1", "$2", "$3"), last, events[-1].time_ns, at)
            at = last
        await tx.close()
        return time.perf_counter() - started

    return asyncio.run(run())


def test_postgresql(server: eda.EmbeddedServer, duel: Callable[..., None]) -> None:
    with databases() as postgres, postgres.database() as address, filled(server, "rows", N) as stream:
        decoded = ready_made(server, stream, N, are_decoded=True)

        def received() -> Batches:
            return ready_made(server, stream, N, are_decoded=False)

        duel(
            (
                "eda rows psycopg s",
                lambda: projected_s(server, stream, eda.sql.Psycopg(emptied(address)), apply_psycopg, batch=BATCH),
            ),
            ("plain rows psycopg s", lambda: plain_psycopg_s(emptied(address), received())),
            ("decoded rows psycopg s", lambda: plain_psycopg_s(emptied(address), decoded)),
            (
                "eda rows asyncpg s",
                lambda: projected_s(server, stream, eda.sql.Asyncpg(emptied(address)), apply_asyncpg, batch=BATCH),
            ),
            ("plain rows asyncpg s", lambda: plain_asyncpg_s(emptied(address), received())),
            ("decoded rows asyncpg s", lambda: plain_asyncpg_s(emptied(address), decoded)),
        )
