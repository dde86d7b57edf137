"""A projection with a filter on a cluster of three whose leader is killed."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import eda
import eda.sql
from support.embedded.cluster import Cluster


def insert(events: list[eda.Event], tx: sqlite3.Connection) -> None:
    tx.execute("CREATE TABLE IF NOT EXISTS list (n INTEGER PRIMARY KEY, sequence INTEGER)")
    tx.executemany("INSERT INTO list (sequence) VALUES (?)", [(each.sequence,) for each in events])


async def test_projection_with_a_filter_when_the_leader_dies_passes_over_nothing_that_it_wants(tmp_path: Path) -> None:
    """Two callers wait all the time, so the position moves over what is left out as early as it may."""
    path = tmp_path / "read.db"
    async with Cluster(tmp_path) as cluster, eda.connect(cluster.urls) as conn, eda.connect(cluster.urls) as writer:
        await conn.streams.create("orders", eda.StreamOptions(replicas=3))
        await cluster.until_current("orders")
        wanted: list[int] = []
        async with conn.projection(
            "orders", insert, into=eda.sql.SQLite(path), name="list", types=["paid"], linger_s=0, dead_letter=None
        ) as projection:

            async def write(kinds: list[str]) -> None:
                for kind in kinds:
                    receipt = await writer.publish("orders", eda.Event(type=kind))
                    if kind == "paid":
                        wanted.append(receipt.sequence)
                    await projection.wait_for(receipt, 30)

            await asyncio.gather(write(["made", "made", "paid"] * 20), write(["made", "paid", "made"] * 20))
            dead = await cluster.leader("orders")
            await asyncio.gather(
                cluster.kill(dead), write(["made", "made", "paid"] * 20), write(["made", "paid", "made"] * 20)
            )
    driver = sqlite3.connect(path)
    applied = [each for (each,) in driver.execute("SELECT sequence FROM list ORDER BY n")]
    driver.close()
    assert applied == sorted(wanted)
    assert len(applied) == 80
