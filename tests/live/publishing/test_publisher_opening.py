"""A publisher whose opening is cancelled or closed at any await leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import eda
from helpers import Connect, until, wire_of
from support.publishing.sent import MODES

both = pytest.mark.parametrize("mode", MODES)
N_TURNS = 40


def left_of(conn: eda.Conn) -> list[Any]:
    """Return the number of callbacks, subscriptions and tasks that publishers have added to the connection."""
    wire = wire_of(conn)
    hooks = (wire.on_lost, wire.on_restored, wire.on_refused, wire.on_closed, wire.on_info)
    tasks = {task for task in asyncio.all_tasks() if "publisher" in repr(task.get_coro())}
    return [len(each) for each in (*hooks, wire._subs, conn._lifetime.publishers, tasks)]


async def entered(pub: eda.Publisher) -> None:
    async with pub:
        await pub.send(eda.Event())


async def awaited(pub: eda.Publisher) -> None:
    await pub
    try:
        await pub.send(eda.Event())
    finally:
        await pub.close()


async def with_another(pub: eda.Publisher) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(entered(pub))
        group.create_task(awaited(pub))


@both
@pytest.mark.parametrize("use", [entered, awaited, with_another])
async def test_publisher_when_cancelled_after_any_number_of_turns_leaves_nothing(
    conn: eda.Conn, stream: str, mode: str, use: Callable[[eda.Publisher], Any]
) -> None:
    await conn.publish(stream)
    before = left_of(conn)
    for n in range(N_TURNS):
        task = asyncio.create_task(use(conn.publisher(stream, mode=mode)))
        for _ in range(n):
            await asyncio.sleep(0)
        if n % 4 == 3:
            await asyncio.sleep(0.0005 * n)
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert task.done()
        assert task.cancelled() or not isinstance(task.exception(), AssertionError)
    await until(lambda: left_of(conn) == before)


@both
async def test_publisher_when_closed_after_any_number_of_turns_leaves_nothing(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    await conn.publish(stream)
    before = left_of(conn)
    for n in range(N_TURNS):
        pub = conn.publisher(stream, mode=mode)
        opening = asyncio.ensure_future(pub.__aenter__())
        for _ in range(n):
            await asyncio.sleep(0)
        if n % 4 == 3:
            await asyncio.sleep(0.0005 * n)
        await pub.close()
        with suppress(eda.Closed):
            await asyncio.wait_for(opening, 10)
        with pytest.raises(eda.Closed):
            await pub
    await until(lambda: left_of(conn) == before)


@both
async def test_publisher_when_one_of_two_that_open_it_gives_up_is_opened_for_the_other(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    pub = conn.publisher(stream, mode=mode)
    first, second = (asyncio.create_task(pub.__aenter__()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.wait_for(second, 10) is pub
    await pub.send(eda.Event())
    await pub.flush()
    await pub.close()


async def test_publisher_when_made_and_never_awaited_keeps_nothing_alive(conn: eda.Conn, stream: str) -> None:
    before = left_of(conn)
    seen = [weakref.ref(conn.publisher(stream)) for _ in range(10)]
    gc.collect()
    assert not any(each() for each in seen)
    assert left_of(conn) == before


async def test_publisher_when_the_connection_is_closing_is_refused(connect: Connect, stream: str) -> None:
    conn = await connect()
    pub = conn.publisher(stream)
    closing = asyncio.create_task(conn.close())
    await asyncio.sleep(0)
    with pytest.raises(eda.Closed):
        await pub
    await closing


@both
async def test_publisher_when_its_opening_swallows_the_cancellation_by_close_leaves_nothing(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    async def check_stream(is_new_server: bool) -> Any:
        with suppress(asyncio.CancelledError):  # as wait_for of Python 3.11 may
            await asyncio.sleep(10)
        return await check_stream_indeed(is_new_server)

    await conn.publish(stream)
    before = left_of(conn)
    pub = conn.publisher(stream, mode=mode)
    check_stream_indeed, pub._check_stream = pub._check_stream, check_stream
    opening = asyncio.create_task(pub._open())
    await asyncio.sleep(0.01)
    await pub.close()
    with pytest.raises(eda.Closed):
        await opening
    assert left_of(conn) == before
