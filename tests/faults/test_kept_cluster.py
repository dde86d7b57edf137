"""Positions of kept subscriptions are moved in a cluster of three, whose servers are killed meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import eda
from eda.jetstream.bucket import BUCKET_STREAM
from helpers import until
from support.embedded.cluster import Cluster
from support.faults.scene import IS_LONG
from support.subscribing.kept import BOTH, N, fill, handle_all, member, places

# Whose leader is killed during a move.
KILLED = ("stream", "bucket", "consumer", "none")


async def _prepare(cluster: Cluster, conn: eda.Conn, options: dict[str, Any]) -> None:
    await conn.streams.create("s", eda.StreamOptions(replicas=3))
    await fill(conn, "s")
    # The replicated bucket exists before the first move, as it does wherever ordered subscriptions are used.
    async with conn.subscribe("s", print, name="other", durable=True, serial=True):
        pass
    await handle_all(conn, "s", **options)
    for stream in ("s", BUCKET_STREAM):
        await cluster.until_current(stream)


async def _leader(cluster: Cluster, killed: str, options: dict[str, Any]) -> str:
    if killed == "bucket":
        return await cluster.leader(BUCKET_STREAM)
    if killed == "consumer" and not options:  # an ordered subscription has a consumer only while a member is open
        return await cluster.leader("s", "n")
    return await cluster.leader("s")


async def _handled_until(conn: eda.Conn, end: int, options: dict[str, Any]) -> list[str]:
    """Publish event number `end`, and return what a member handles until it is done."""
    async with member(conn, "s", **options) as (_, got):
        await conn.publish("s", eda.Event(id=f"last-{end}", type="t", aggregate="a"))
        await until(lambda: got and got[-1] == str(end), 30)
        await asyncio.sleep(0.1)
    return got


@BOTH
@pytest.mark.timeout(120)
async def test_move_when_leaders_are_killed_is_done_or_has_failed(tmp_path: Path, options: dict[str, Any]) -> None:
    """Each move ends with the new position, or with an error and one of the two."""
    async with Cluster(tmp_path) as cluster, eda.connect(cluster.urls) as conn, eda.connect(cluster.urls) as operator:
        await _prepare(cluster, conn, options)
        short = ("bucket",) if options else ("consumer",)  # what holds the position
        for number, killed in enumerate(KILLED if IS_LONG else short):
            to, end = 3 + number, N + 1 + number
            leader = await _leader(cluster, killed, options)
            moving = asyncio.create_task(operator.move_subscription("s", "n", to=to))
            if killed != "none":
                await asyncio.sleep(0.002 * number)
                await cluster.kill(leader)
            try:
                moved = await asyncio.wait_for(moving, 60)
            except (eda.ServerError, eda.Timeout):
                moved = None
            if killed != "none":
                await cluster.start(leader)
            await cluster.until_led()
            for stream in ("s", BUCKET_STREAM):
                await cluster.until_current(stream)
            got = await _handled_until(conn, end, options)
            if moved is None and got == places(end, end):
                continue  # the old position: all events but the last were done
            assert got == places(to, end)
