"""A stream that does not answer: publishes to other streams go on."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import eda
import eda.publishing.stream_publisher
from helpers import Connect
from support.publishing.sent import numbered, stored_ids
from support.transport.faulty_proxy import FaultyProxy


async def test_publish_when_another_streams_window_is_full_goes_on(
    server: eda.EmbeddedServer, connect: Connect, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow stream's window is full, so publishes to it wait. Publishes to the other stream do not wait."""
    monkeypatch.setattr(eda.publishing.stream_publisher, "MAX_PENDING", 100)
    async with FaultyProxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        slow = f"{stream}-slow"
        await conn.publish(slow)
        try:
            proxy.drop_if = lambda message: b'{"stream":"%b"' % slow.encode() in message
            stuck = [asyncio.create_task(conn.publish(slow, event)) for event in numbered(150)]
            await asyncio.sleep(0)
            async with asyncio.timeout(4):
                receipts = await asyncio.gather(*(conn.publish(stream, event) for event in numbered(90)))
                for event in numbered(200, start=1000):  # more than a window has slots
                    receipts.append(await conn.publish(stream, event))
            assert [each.id for each in receipts] == await stored_ids(server.url, stream)
            assert not any(task.done() for task in stuck)
            proxy.drop_if = None
            for task in stuck:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*stuck, return_exceptions=True)
        finally:
            await conn.streams.delete(slow)
        await conn.close()


async def test_publish_when_one_event_waits_long_does_not_stop_its_own_stream_early(
    server: eda.EmbeddedServer, connect: Connect, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an event waits for a lost answer, its stream still accepts as many events as the window has slots."""
    monkeypatch.setattr(eda.publishing.stream_publisher, "MAX_PENDING", 100)
    monkeypatch.setattr(eda.publishing.stream_publisher, "RESEND_S", 3.0)
    async with FaultyProxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.publish(stream)
        proxy.drop_if = lambda message: b'"seq":2}' in message
        lost = asyncio.create_task(conn.publish(stream, eda.Event(id="lost")))
        await asyncio.sleep(0)
        async with asyncio.timeout(2.8):
            for event in numbered(90):
                await conn.publish(stream, event)
        assert not lost.done()
        assert (await asyncio.wait_for(lost, 10)).sequence == 2
        await conn.close()
