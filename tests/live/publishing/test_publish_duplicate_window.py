"""No event is sent again after the stream's duplicate window, even if the window is shortened meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import eda
import eda.publishing.atomic_batch
import eda.publishing.stream_publisher
from helpers import Admin, Connect, until
from support.publishing.sent import ids_of, numbered, stored_ids
from support.transport.faulty_proxy import FaultyProxy


@pytest.fixture
async def proxy(server: eda.EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def faulty(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str
) -> AsyncIterator[eda.Conn]:
    conn = await connect(proxy.url(server.url))
    await conn.publish(stream, eda.Event(id="first"))
    yield conn
    await conn.close()


def lose_acknowledgements(proxy: FaultyProxy, stream: str) -> None:
    proxy.drop_if = lambda message: b'{"stream":"%b"' % stream.encode() in message


@pytest.mark.parametrize("who", ["this connection", "another"])
async def test_publish_when_the_window_was_shortened_before_ends_within_it(
    faulty: eda.Conn, conn: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str, who: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(eda.publishing.stream_publisher, "RESEND_S", 1.0)
    await (faulty if who == "this connection" else conn).streams.update(stream, dedup_window_s=0.6)
    lose_acknowledgements(proxy, stream)
    publishing = asyncio.create_task(faulty.publish(stream, eda.Event(id="once")))
    await until(lambda: proxy.n_dropped)
    with pytest.raises(eda.Timeout) as caught:
        await asyncio.wait_for(publishing, 10)
    assert caught.value.event_id == "once"
    assert caught.value.timeout_s < 10
    assert proxy.n_dropped == 1
    proxy.drop_if = None
    assert await stored_ids(server.url, stream) == ["first", "once"]
    assert (await faulty.publish(stream)).sequence == 3


async def test_publish_when_the_window_is_shortened_while_it_waits_is_not_sent_again(
    faulty: eda.Conn, conn: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(eda.publishing.stream_publisher, "RESEND_S", 1.0)
    lose_acknowledgements(proxy, stream)
    publishing = asyncio.gather(*(faulty.publish(stream, event) for event in numbered(50)), return_exceptions=True)
    await until(lambda: proxy.n_dropped >= 50)
    await conn.streams.update(stream, dedup_window_s=0.2)
    await asyncio.sleep(0.3)
    proxy.drop_if = None
    results = await asyncio.wait_for(publishing, 10)
    assert all(isinstance(each, eda.Timeout) for each in results)
    assert len(await stored_ids(server.url, stream)) == 51


async def test_publish_when_the_window_is_shortened_while_it_is_away_is_not_sent_again(
    faulty: eda.Conn, conn: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str
) -> None:
    """After a reconnect, unsettled events are sent again, except those older than half of the duplicate window."""
    lose_acknowledgements(proxy, stream)
    publishing = asyncio.create_task(faulty.publish(stream, eda.Event(id="once")))
    await until(lambda: proxy.n_dropped)
    await conn.streams.update(stream, dedup_window_s=0.2)
    await asyncio.sleep(0.3)
    proxy.drop_if = None
    proxy.cut()
    with pytest.raises(eda.Timeout):
        await asyncio.wait_for(publishing, 10)
    assert await stored_ids(server.url, stream) == ["first", "once"]
    assert (await faulty.publish(stream)).sequence == 3
    with pytest.raises(eda.ConfigError, match="timeout_s"):
        await faulty.publish(stream, timeout_s=5)  # the stream was checked again, so the new window is known


async def test_publish_when_the_window_is_long_enough_is_sent_again(
    faulty: eda.Conn, conn: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(eda.publishing.stream_publisher, "RESEND_S", 0.5)
    lose_acknowledgements(proxy, stream)
    publishing = asyncio.create_task(faulty.publish(stream, eda.Event(id="once")))
    await until(lambda: proxy.n_dropped)
    await conn.streams.update(stream, dedup_window_s=100)
    proxy.drop_if = None
    assert await asyncio.wait_for(publishing, 10) == eda.Receipt("once", stream, 2, 0, True)
    assert await stored_ids(server.url, stream) == ["first", "once"]


async def test_publish_when_the_stream_is_deleted_and_made_by_this_connection_knows_the_new_window(
    faulty: eda.Conn, stream: str
) -> None:
    await faulty.streams.delete(stream)
    await faulty.streams.create(stream, eda.StreamOptions(dedup_window_s=1))
    with pytest.raises(eda.ConfigError, match=r"timeout_s=5 must be between 0.001 and 0.5"):
        await faulty.publish(stream, timeout_s=5)
    await faulty.publish(stream)


@pytest.mark.old_server
async def test_timeout_when_none_is_named_is_half_of_a_short_window(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_age_s=30, dedup_window_s=20))
    await conn.publish(stream)
    with pytest.raises(eda.ConfigError, match=r"between 0.001 and 10: half of the duplicate window \(20 s\)"):
        await conn.publish(stream, timeout_s=10.1)
    await conn.publish(stream, timeout_s=10)


async def test_batch_when_the_window_is_short_works(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_age_s=30))
    assert len(await conn.publish_batch(stream, numbered(3))) == 3


async def test_batch_when_the_window_is_shortened_while_it_waits_is_not_sent_again(
    faulty: eda.Conn, conn: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(eda.publishing.atomic_batch, "ACK_TIMEOUT_S", 1.0)
    proxy.drop_if = lambda message: b'"batch":' in message
    publishing = asyncio.create_task(faulty.publish_batch(stream, numbered(3)))
    await until(lambda: proxy.n_dropped)
    await conn.streams.update(stream, dedup_window_s=0.2)
    with pytest.raises(eda.Timeout):
        await asyncio.wait_for(publishing, 10)
    proxy.drop_if = None
    assert (await stored_ids(server.url, stream))[1:] == [event.id for event in numbered(3)]


async def test_batch_when_the_window_is_as_before_is_found(
    faulty: eda.Conn, proxy: FaultyProxy, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.publishing.atomic_batch, "ACK_TIMEOUT_S", 0.3)
    proxy.drop_if = lambda message: b'"batch":' in message
    assert ids_of(await faulty.publish_batch(stream, numbered(3))) == [event.id for event in numbered(3)]
