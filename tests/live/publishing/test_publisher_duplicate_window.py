"""A stream's duplicate window that changes under an open publisher: no event is stored twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import eda
from helpers import Connect, Logged
from support.publishing.sent import MODES, Outcomes, numbered, stored_ids
from support.transport.faulty_proxy import FaultyProxy

both = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
async def proxy(server: eda.EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(server.port) as proxy:
        yield proxy


def is_answer(message: bytes) -> bool:
    return b'{"stream":"' in message or b'{"type":"ack"' in message


@both
@pytest.mark.parametrize("lost", [False, True])
async def test_publisher_when_the_window_is_shortened_does_not_store_an_event_twice(
    connect: Connect,
    conn: eda.Conn,
    server: eda.EmbeddedServer,
    proxy: FaultyProxy,
    stream: str,
    mode: str,
    lost: bool,
    logged: Logged,
) -> None:
    through = await connect(proxy.url(server.url))
    outcomes = Outcomes()
    async with through.publisher(stream, mode=mode, ack_timeout_s=1.5, **outcomes.callbacks) as pub:
        await pub.send(eda.Event(id="first"))
        await pub.flush()
        await conn.streams.update(stream, eda.StreamOptions(dedup_window_s=1.0))
        proxy.drop_if = is_answer
        ids = await pub.send_many(numbered(3))
        await asyncio.sleep(1.3)
        if lost:
            proxy.cut()
        await asyncio.sleep(0.4)
        proxy.drop_if = None
        await asyncio.wait_for(pub.flush(), 10)
        later = await pub.send(eda.Event(id="later"))
        await asyncio.wait_for(pub.flush(), 10)
    assert list(outcomes.failed) == ids
    assert {type(error) for error in outcomes.errors.values()} == {eda.Timeout}
    assert {error.timeout_s for error in outcomes.errors.values()} == {0.5}  # type: ignore[attr-defined]
    stored = await stored_ids(server.url, stream)
    assert len(stored) == len(set(stored))
    assert {"first", later} <= set(stored)
    assert logged.find("duplicate window is 1 s now")


@both
async def test_publisher_when_no_timeout_is_given_keeps_to_half_of_the_window(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_age_s=30))
    async with conn.publisher(stream, mode=mode) as pub:
        assert pub._pump.clock.timeout_s == 15
    await conn.streams.update(stream, eda.StreamOptions())
    async with conn.publisher(stream, mode=mode) as pub:
        assert pub._pump.clock.timeout_s == 30
    async with conn.publisher(stream, mode=mode, dedup=False, timeout_s=500) as pub:
        assert pub._pump.clock.timeout_s == 500
