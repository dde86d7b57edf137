"""`sub.lag()` on a real server: how far an open subscription is behind, also when nothing is delivered to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from helpers import Connect, until

SHARED = {"name": "n"}
ORDERED = {"name": "n", "durable": True, "serial": True}
PRIVATE = {"serial": True}


async def publish(conn: eda.Conn, stream: str, *types: str) -> None:
    for type_ in types:
        await conn.publish(stream, eda.Event(type=type_, aggregate="x"))


@pytest.mark.parametrize("options", [SHARED, ORDERED, PRIVATE], ids=["shared", "ordered", "private"])
async def test_lag_when_the_subscription_is_paused_grows_with_the_stream(
    conn: eda.Conn, stream: str, options: dict[str, Any]
) -> None:
    await publish(conn, stream, "a")
    async with conn.subscribe(stream, print, backfill=True, **options) as sub:
        await until(lambda: sub.stats().handled == 1)

        async def is_done() -> bool:
            return await sub.lag() == eda.Lag(0, 0.0)

        for _ in range(100):
            if await is_done():
                break
            await asyncio.sleep(0.02)
        assert await is_done()
        sub.pause()
        await publish(conn, stream, "a", "a")
        await asyncio.sleep(0.2)
        await publish(conn, stream, "a")
        behind = await sub.lag()
        assert behind.events == 3
        assert behind.seconds is not None
        assert 0.2 <= behind.seconds < 10


@pytest.mark.parametrize("options", [SHARED, ORDERED, PRIVATE], ids=["shared", "ordered", "private"])
async def test_lag_when_there_is_a_filter_counts_what_it_would_get(
    conn: eda.Conn, stream: str, options: dict[str, Any]
) -> None:
    await publish(conn, stream, "b")
    async with conn.subscribe(stream, print, backfill=True, types=["b"], **options) as sub:
        await until(lambda: sub.stats().handled == 1)
        sub.pause()
        await publish(conn, stream, *"acbca")
        assert (await sub.lag()).events == 1


async def test_lag_of_a_standby_is_that_of_the_holder(connect: Connect, stream: str) -> None:
    first, second = await connect(client="one"), await connect(client="two")
    options: dict[str, Any] = {"name": "n", "durable": True, "exclusive": True, "backfill": True}
    await publish(first, stream, *"aa")
    async with first.subscribe(stream, print, **options) as holder:
        await until(lambda: holder.stats().handled == 2)
        async with second.subscribe(stream, print, **options) as standby:
            holder.pause()
            await publish(first, stream, *"aaa")
            lags = await asyncio.gather(holder.lag(), standby.lag())
    assert lags[0].events == 3
    assert lags[1].events in (3, 4, 5)  # what is handled may not be stored yet
    assert not standby.is_active


async def test_lag_when_the_subscription_is_closed_raises_closed(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, "a")
    sub = conn.subscribe(stream, print)
    with pytest.raises(eda.Closed):
        await sub.lag()
    async with sub:
        assert (await sub.lag()).events == 0
    with pytest.raises(eda.Closed):
        await sub.lag()


async def test_lags_of_a_connection_are_those_of_its_open_subscriptions(conn: eda.Conn, stream: str) -> None:
    assert await conn.lags() == {}
    await publish(conn, stream, "a")
    async with (
        conn.subscribe(stream, print, name="n", backfill=True) as shared,
        conn.subscribe(stream, print, serial=True) as private,
        conn.subscribe(stream, print, serial=True) as other,
    ):
        await until(lambda: shared.stats().handled == 1)
        for each in (shared, private):
            each.pause()
        await publish(conn, stream, *"aaa")
        await until(lambda: other.stats().handled == 3)
        lags = await conn.lags()
    assert {key: lag.events for key, lag in lags.items()} == {(stream, "n"): 3, (stream, "private"): 3}
    assert await conn.lags() == {}
    await conn.close()
    with pytest.raises(eda.Closed):
        await conn.lags()
