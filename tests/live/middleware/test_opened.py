"""The hooks at the beginning and at the end of a connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from helpers import Connect, Logged

SERVER = eda.EmbeddedServer


class Life(eda.Middleware):
    """Notes when it is opened and closed."""

    def __init__(self, name: str, notes: list[Any]) -> None:
        self.name = name
        self.notes = notes

    async def opened(self, conn: eda.Conn) -> None:
        self.notes.append(("opened", self.name, conn.state))
        await conn.streams.list()

    async def closed(self, conn: eda.Conn) -> None:
        self.notes.append(("closed", self.name, conn.state))


class Failing(Life):
    """Raises in one of its hooks."""

    async def opened(self, conn: eda.Conn) -> None:
        if self.name == "opened":
            raise LookupError("no collector")

    async def closed(self, conn: eda.Conn) -> None:
        assert self.name != "opened"
        raise LookupError("no collector any more")


async def test_hooks_when_a_connection_opens_and_closes_run_once_and_nest(connect: Connect) -> None:
    notes: list[Any] = []
    conn = await connect(middleware=[Life("one", notes), Life("two", notes)])
    await conn
    assert notes == [("opened", "one", "connected"), ("opened", "two", "connected")]
    await conn.close()
    await conn.close()
    assert notes[2:] == [("closed", "two", "closed"), ("closed", "one", "closed")]


async def test_opened_when_it_raises_closes_the_connection(connect: Connect, server: SERVER) -> None:
    notes: list[Any] = []
    conn = eda.connect(server.url, middleware=[Life("one", notes), Failing("opened", notes), Life("two", notes)])
    with pytest.raises(LookupError, match="no collector") as caught:
        await conn
    assert caught.value.__notes__ == ["Failing.opened raised this, so the connection was closed"]
    assert conn.state == "closed"
    assert notes == [("opened", "one", "connected"), ("closed", "one", "closed")]
    with pytest.raises(eda.Closed):
        await conn.publish("s")


async def test_opened_when_it_opens_the_connection_is_refused(server: SERVER) -> None:
    class Greedy(eda.Middleware):
        async def opened(self, conn: eda.Conn) -> None:
            async with conn:
                pass

    with pytest.raises(eda.ConfigError, match="can't open its connection again"):
        await eda.connect(server.url, middleware=[Greedy()])


async def test_opened_when_its_caller_is_cancelled_leaves_nothing_open(server: SERVER) -> None:
    began = asyncio.Event()
    notes: list[Any] = []

    class Slow(eda.Middleware):
        async def opened(self, conn: eda.Conn) -> None:
            began.set()
            await asyncio.Event().wait()

    async def opening() -> None:
        await conn

    conn = eda.connect(server.url, middleware=[Life("one", notes), Slow()])
    task = asyncio.create_task(opening())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert conn.state == "closed"
    assert [note[:2] for note in notes] == [("opened", "one"), ("closed", "one")]


async def test_closed_when_it_raises_is_logged_and_the_others_run(connect: Connect, logged: Logged) -> None:
    logged.expect("middleware Failing.closed failed")
    notes: list[Any] = []
    conn = await connect(middleware=[Life("one", notes), Failing("closed", notes)])
    await conn.close()
    assert notes[-1] == ("closed", "one", "closed")


async def test_closed_when_it_takes_too_long_is_cancelled_and_the_others_run(connect: Connect) -> None:
    ends: list[str] = []
    notes: list[Any] = []

    class Slow(eda.Middleware):
        async def closed(self, conn: eda.Conn) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

    conn = await connect(middleware=[Life("one", notes), Slow()])
    await conn.close(0.2)
    assert ends == ["cancelled"]
    assert notes[-1] == ("closed", "one", "closed")


async def test_closed_when_subscriptions_were_open_can_read_their_counts(connect: Connect, stream: str) -> None:
    handled: list[int] = []

    class Counting(eda.Middleware):
        async def closed(self, conn: eda.Conn) -> None:
            handled.append(sub.stats().handled)

    async def handle(event: eda.Event) -> None:
        done.set()

    done = asyncio.Event()
    conn = await connect(middleware=[Counting()])
    sub = await conn.subscribe(stream, handle, backfill=True)
    await conn.publish(stream, eda.Event(type="t"))
    await done.wait()
    await conn.close()
    assert handled == [1]
