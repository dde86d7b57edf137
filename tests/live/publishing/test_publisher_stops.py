"""A publisher that stops at a failure, as the relay of an outbox needs it: nothing overtakes what has failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import eda
from eda.publishing.outcomes import Stopped
from eda.publishing.publisher_options import PublisherOptions
from helpers import Connect, until
from support.publishing.sent import MODES, Outcomes, numbered, stored_ids
from support.transport.faulty_proxy import FaultyProxy


@pytest.fixture
async def proxy(server: eda.EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(server.port) as proxy:
        yield proxy


@pytest.mark.parametrize("mode", MODES)
async def test_event_when_it_is_overdue_fails_with_all_that_follow_it(
    connect: Connect, conn: eda.Conn, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: eda.Mode
) -> None:
    await conn.streams.create(stream)
    through = await connect(proxy.url(server.url))
    outcomes = Outcomes()
    options = PublisherOptions(mode=mode, timeout_s=0.5, stops_on_failure=True, **outcomes.callbacks)
    publisher = await through._new_publisher(through._lifetime.require_open(), stream, options)
    events = numbered(30)
    await publisher.send_many(events[:10])
    await publisher.flush()
    proxy.hold()
    await publisher.send_many(events[10:20])
    await asyncio.sleep(0.3)
    await publisher.send_many(events[20:])
    loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    await until(lambda: bool(outcomes.failed))
    assert loop.time() - began < 0.4  # the last ones had more time left
    assert [event.id for event, _ in outcomes.failures] == [event.id for event in events[10:]]
    assert all(isinstance(error, eda.Timeout) for _, error in outcomes.failures)
    for send in (publisher.send, publisher.send_and_wait):
        with pytest.raises(Stopped):
            await send(eda.Event())
    with pytest.raises(Stopped):
        await publisher.send_many(numbered(3, start=100))
    proxy.release()
    await publisher.flush()
    later = await publisher.send(eda.Event())
    await publisher.flush()
    await publisher.close()
    assert later in outcomes.acknowledged
    assert outcomes.failed.total() == 20
    stored = await stored_ids(server.url, stream)
    assert stored[-1] == later
    assert stored[:-1] == [event.id for event in events[: len(stored) - 1]]  # those that were written were stored


async def test_sender_when_it_waits_for_room_while_an_event_fails_is_told(
    connect: Connect, conn: eda.Conn, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str
) -> None:
    await conn.streams.create(stream)
    through = await connect(proxy.url(server.url))
    outcomes = Outcomes()
    options = PublisherOptions(timeout_s=0.3, max_pending=64, stops_on_failure=True, **outcomes.callbacks)
    publisher = await through._new_publisher(through._lifetime.require_open(), stream, options)
    proxy.hold()
    with pytest.raises(Stopped):
        await publisher.send_many(numbered(500))
    assert publisher.stats().sent == len(outcomes.failures) < 500
    proxy.release()
    await publisher.close()
