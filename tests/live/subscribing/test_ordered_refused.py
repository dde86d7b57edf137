"""What an ordered subscription does in the background when it is refused for good, or fails as nobody expected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import eda
import eda.cursors.entry
import eda.jetstream.grace_period
from eda.jetstream.api import Api
from helpers import Connect, Logged, Proxy, until
from support.cursors.member import Member, shorten

KINDS: dict[str, dict[str, Any]] = {
    "private": {"backfill": True},
    "serial": {"name": "n", "durable": True, "serial": True, "backfill": True},
}
FOR_GOOD = eda.ServerError(400, 10153, "consumer inactive threshold exceeds the stream's limit")
PASSING = eda.ServerError(503, 10008, "JetStream system temporarily unavailable")


def failing(call: Callable[..., Awaitable[Any]], *errors: Exception, times: int | None = None) -> Callable[..., Any]:
    """Give the method that raises the error, for ever or so many times before it works again."""
    left = iter(errors * (times or 1_000_000))

    async def fail(*args: Any, **kwargs: Any) -> Any:
        error = next(left, None)
        if error is not None:
            raise error
        return await call(*args, **kwargs)

    return fail


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [FOR_GOOD, RuntimeError("a bug")])
async def test_reader_when_it_can_not_be_had_any_more_ends_the_subscription_with_the_error(
    server: eda.EmbeddedServer,
    connect: Connect,
    stream: str,
    kind: str,
    error: Exception,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eda.jetstream.grace_period, "GRACE_S", 0.3)
    logged.allow("ends: ", "failed$")
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.streams.create(stream)
        subscription = await conn.subscribe(stream, print, **KINDS[kind])
        await until(lambda: subscription._pipeline.source.consumer)
        monkeypatch.setattr(Api, "create_consumer", failing(Api.create_consumer, error))
        proxy.drop()
        with pytest.raises(type(error), match=str(error)[:10]):
            await asyncio.wait_for(subscription.wait(), 10)
        assert not subscription.is_active
        monkeypatch.undo()
        await conn.close()
    assert logged.find(rf"subscription \S+ to {stream} ends: ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("error", "times"), [(PASSING, 3), (FOR_GOOD, 2), (eda.Timeout("asking", 1.0), 3)])
async def test_reader_when_it_can_not_be_had_for_a_moment_is_tried_again(
    server: eda.EmbeddedServer,
    connect: Connect,
    stream: str,
    kind: str,
    error: Exception,
    times: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that restarts may refuse for good what it allows a moment later."""
    seen: list[int] = []
    publisher = await connect()
    async with Proxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.streams.create(stream)
        subscription = await conn.subscribe(stream, lambda event: seen.append(event.sequence), **KINDS[kind])
        await until(lambda: subscription._pipeline.source.consumer)
        fail = failing(Api.create_consumer, error, times=times)
        monkeypatch.setattr(Api, "create_consumer", fail)
        proxy.drop()
        await publisher.publish(stream, eda.Event(type="t"))
        await until(lambda: seen == [1])
        await conn.close()


@pytest.mark.parametrize("error", [FOR_GOOD, RuntimeError("a bug")])
async def test_standby_when_it_is_refused_for_good_ends_with_the_error(
    connect: Connect, stream: str, error: Exception, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    monkeypatch.setattr(eda.jetstream.grace_period, "GRACE_S", 0.5)
    logged.allow("failed$")
    conn = await connect()
    await conn.streams.create(stream)
    holder = await Member(conn, stream).open()
    standby = await Member(await connect(), stream).open()
    monkeypatch.setattr(eda.cursors.entry.CursorEntry, "put", failing(eda.cursors.entry.CursorEntry.put, error))
    holder.vanish()
    await until(lambda: standby.story == ["end"])
    assert standby.tells("end")[0][0] is error
    monkeypatch.undo()
    await standby.close()
    await holder.cursor.close()


@pytest.mark.parametrize("is_holder", [True, False])
async def test_member_when_it_may_not_read_its_position_any_more_ends_with_the_error(
    connect: Connect, stream: str, is_holder: bool, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    monkeypatch.setattr(eda.jetstream.grace_period, "GRACE_S", 0.5)
    conn = await connect()
    await conn.streams.create(stream)
    holder = await Member(conn, stream).open()
    standby = await Member(await connect(), stream).open()
    monkeypatch.setattr(eda.cursors.entry.CursorEntry, "read", failing(eda.cursors.entry.CursorEntry.read, FOR_GOOD))
    ending = holder if is_holder else standby
    if is_holder:
        holder.cursor._held._check()  # type: ignore[union-attr]
    before = time.monotonic()
    await until(lambda: ending.story[-1:] == ["end"])
    assert 0.3 < time.monotonic() - before < 5
    assert ending.tells("end")[0][0] is FOR_GOOD
    monkeypatch.undo()
    for member in (holder, standby):
        member.vanish()
        await member.cursor.close()
