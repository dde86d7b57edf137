"""Which failures are reported to several callers of flush, to on_error, and by the context."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import eda
from helpers import Connect
from support.publishing.sent import MODES, numbered
from support.transport.faulty_proxy import FaultyProxy

both = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
async def proxy(server: eda.EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(server.port) as proxy:
        yield proxy


async def full(conn: eda.Conn, stream: str) -> None:
    """Create a stream that refuses all events."""
    await conn.streams.create(stream, eda.StreamOptions(max_events=1, discard="new"))
    await conn.publish(stream)


def ids_of(error: eda.PublishFailed) -> list[str]:
    return [event.id for event, _ in error.failed]


@both
async def test_flush_when_several_tasks_send_tells_each_of_its_own_event(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    async with conn.publisher(stream, mode=mode, timeout_s=0.5) as pub:
        await pub.send(eda.Event())
        await pub.flush()
        proxy.hold()

        async def task(n: int) -> list[str]:
            await pub.send(eda.Event(id=f"e{n}"))
            with pytest.raises(eda.PublishFailed) as caught:
                await pub.flush()
            return ids_of(caught.value)

        told = await asyncio.wait_for(asyncio.gather(*(task(n) for n in range(20))), 10)
        proxy.release()
        assert told == [[f"e{i}" for i in range(n + 1)] for n in range(20)]
        await pub.flush()
        assert not pub._outcomes.failures


@both
async def test_flush_when_it_began_before_an_event_was_sent_does_not_tell_of_it(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    async with conn.publisher(stream, mode=mode, timeout_s=0.5) as pub:
        await pub.send(eda.Event())
        await pub.flush()
        proxy.hold()
        await pub.send(eda.Event(id="before"))
        flushing = asyncio.create_task(pub.flush())
        await asyncio.sleep(0)
        await pub.send(eda.Event(id="after"))
        with pytest.raises(eda.PublishFailed) as caught:
            await flushing
        assert ids_of(caught.value) == ["before"]
        with pytest.raises(eda.PublishFailed) as caught:
            await pub.flush()
        assert ids_of(caught.value) == ["after"]
        await pub.flush()
        proxy.release()


@both
async def test_flush_when_cancelled_leaves_the_failures_to_the_next(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    async with conn.publisher(stream, mode=mode, timeout_s=0.5) as pub:
        await pub.send(eda.Event())
        await pub.flush()
        proxy.hold()
        await pub.send_many(numbered(3))
        for _ in range(50):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pub.flush(), 0.001)
        assert len(pub._flushes._waiting) <= 1
        with pytest.raises(eda.PublishFailed) as caught:
            await pub.flush()
        assert ids_of(caught.value) == [event.id for event in numbered(3)]
        proxy.release()


@both
async def test_flush_when_failures_were_told_long_ago_keeps_none_of_them(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    await full(conn, stream)
    async with conn.publisher(stream, mode=mode) as pub:
        for n in range(5):
            await pub.send_many(numbered(100, start=100 * n))
            with pytest.raises(eda.PublishFailed) as caught:
                await pub.flush()
            assert len(caught.value.failed) == 100
            assert not pub._outcomes.failures
            await pub.flush()


@both
async def test_flush_when_thousands_send_and_flush_each_hears_of_its_own(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    await full(conn, stream)
    async with conn.publisher(stream, mode=mode) as pub:

        async def one() -> None:
            event_id = await pub.send(eda.Event())
            with pytest.raises(eda.PublishFailed) as caught:
                await pub.flush()
            assert event_id in ids_of(caught.value)

        await asyncio.wait_for(asyncio.gather(*(one() for _ in range(1000))), 60)
        assert not pub._outcomes.failures


@both
async def test_failures_when_on_error_is_told_raise_nowhere(conn: eda.Conn, stream: str, mode: str) -> None:
    await full(conn, stream)
    told: list[str] = []
    async with conn.publisher(stream, mode=mode, on_error=lambda event, _: told.append(event.id)) as pub:
        await pub.send_many(numbered(300))
        await pub.flush()
        assert len(told) == 300
        await pub.send(eda.Event(id="last"))
    assert told[-1] == "last"
    assert not pub._outcomes.failures


@both
async def test_context_when_failures_were_not_told_raises_them(conn: eda.Conn, stream: str, mode: str) -> None:
    await full(conn, stream)
    with pytest.raises(eda.PublishFailed) as caught:
        async with conn.publisher(stream, mode=mode) as pub:
            await pub.send_many(numbered(3))
            with pytest.raises(eda.PublishFailed):
                await pub.flush()
            await pub.send(eda.Event(id="later"))
    assert ids_of(caught.value) == ["later"]
