"""conn.publish_batch when answers are lost and connections break: all or nothing is stored, exactly once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

import eda
import eda.publishing.atomic_batch
from helpers import Connect, until, wire_of
from support.publishing.sent import ids_of, numbered, stored_ids
from support.transport.faulty_proxy import DOWN, UP, FaultyProxy

N = 1000
IDS = [event.id for event in numbered(N)]

with_batches = pytest.mark.parametrize("server_version", ["current", "2.12.8"], indirect=True)


@pytest.fixture
async def proxy(server: eda.EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def faulty(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[eda.Conn]:
    """A connection through the proxy with an existing stream and a short time-out for answers."""
    monkeypatch.setattr(eda.publishing.atomic_batch, "ACK_TIMEOUT_S", 0.3)
    conn = await connect(proxy.url(server.url))
    await conn.streams.create(stream)
    yield conn
    await conn.close()


class Loss:
    """Drops the first `n` answers to stored batches."""

    def __init__(self, proxy: FaultyProxy, n: int = 1) -> None:
        self.left = n
        self.n_dropped = 0
        proxy.drop_if = self.drops

    def drops(self, message: bytes) -> bool:
        if self.left and b'"batch":' in message:
            self.left -= 1
            self.n_dropped += 1
            return True
        return False


# --- lost answers ----------------------------------------------------------------------------------------------------


@with_batches
@pytest.mark.parametrize("n", [1, 2, N])
async def test_batch_when_its_answer_is_lost_is_stored_once_and_gives_its_ids(
    faulty: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str, n: int
) -> None:
    loss = Loss(proxy)
    assert ids_of(await faulty.publish_batch(stream, numbered(n))) == IDS[:n]
    assert loss.n_dropped == 1
    assert await stored_ids(server.url, stream) == IDS[:n]


async def test_batch_when_every_answer_is_lost_times_out_and_is_stored_once(
    faulty: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.publishing.atomic_batch, "TIMEOUT_S", 1.0)
    proxy.drop_if = lambda message: b'"batch":' in message or b'"err_code":10201' in message
    began = time.monotonic()
    with pytest.raises(eda.Timeout):
        await faulty.publish_batch(stream, numbered(10))
    assert 1.0 <= time.monotonic() - began < 4
    assert proxy.n_dropped > 2
    assert await stored_ids(server.url, stream) == IDS[:10]


@with_batches
@pytest.mark.parametrize("at", [0, 1, 2])
async def test_batch_when_answers_are_lost_and_an_id_was_published_before_is_refused(
    faulty: eda.Conn, proxy: FaultyProxy, stream: str, at: int
) -> None:
    await faulty.publish(stream, eda.Event(id=IDS[at], type="t"))
    n_refused = 0

    def drops(message: bytes) -> bool:
        nonlocal n_refused
        n_refused += b'"err_code":10201' in message
        return b'"err_code":10201' in message and n_refused == 1

    proxy.drop_if = drops
    with pytest.raises(eda.ServerError) as caught:
        await faulty.publish_batch(stream, numbered(3))
    assert caught.value.err_code == 10201
    assert n_refused == 2
    assert (await faulty.streams.info(stream)).events == 1


async def test_batch_when_its_answer_is_lost_is_found_among_many_of_its_subject(
    faulty: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other events with the batch's subject are stored between the check of the stream and the batch, and after it."""
    original = eda.publishing.atomic_batch.AtomicBatch._try
    others = [eda.Event(id=f"before-{i}", type="t") for i in range(150)]

    async def after_others(self: Any) -> Any:
        if not self._batches:
            await asyncio.gather(*(faulty.publish(stream, event) for event in others))
        return await original(self)

    monkeypatch.setattr(eda.publishing.atomic_batch.AtomicBatch, "_try", after_others)
    await faulty.publish(stream, eda.Event(type="t"))
    loss = Loss(proxy)
    assert ids_of(await faulty.publish_batch(stream, numbered(3))) == IDS[:3]
    assert loss.n_dropped == 1
    assert (await stored_ids(server.url, stream))[-3:] == IDS[:3]
    assert (await faulty.streams.info(stream)).events == 154


async def test_batch_when_its_answer_is_lost_and_the_stream_takes_no_batches_any_more_is_found(
    faulty: eda.Conn, proxy: FaultyProxy, stream: str, conn: eda.Conn
) -> None:
    loss = Loss(proxy)
    publishing = asyncio.create_task(faulty.publish_batch(stream, numbered(3)))
    await until(lambda: loss.n_dropped)
    await conn.streams.update(stream, eda.StreamOptions(atomic=False))
    assert ids_of(await publishing) == IDS[:3]
    assert (await conn.streams.info(stream)).events == 3


async def test_batch_when_its_answer_is_lost_and_its_events_are_removed_is_not_called_refused(
    faulty: eda.Conn, proxy: FaultyProxy, stream: str, conn: eda.Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.publishing.atomic_batch, "TIMEOUT_S", 1.0)
    loss = Loss(proxy)
    publishing = asyncio.create_task(faulty.publish_batch(stream, numbered(3)))
    await until(lambda: loss.n_dropped)
    await conn.streams.purge(stream)
    with pytest.raises(eda.Timeout) as caught:
        await publishing
    assert isinstance(caught.value.__cause__, eda.ServerError)
    assert caught.value.__cause__.err_code == 10201


async def test_batch_when_its_answer_is_lost_and_the_stream_is_made_anew_is_stored_there(
    faulty: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str, conn: eda.Conn
) -> None:
    await faulty.publish_batch(stream, numbered(5, start=100))
    loss = Loss(proxy, 2)
    publishing = asyncio.create_task(faulty.publish_batch(stream, numbered(3)))
    await until(lambda: loss.n_dropped)
    await conn.streams.delete(stream)
    assert ids_of(await publishing) == IDS[:3]
    assert loss.n_dropped == 2
    assert await stored_ids(server.url, stream) == IDS[:3]


async def test_timeout_when_the_duplicate_window_is_short_is_half_of_it(
    faulty: eda.Conn, proxy: FaultyProxy, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.publishing.atomic_batch, "ACK_TIMEOUT_S", 5.0)
    await faulty.streams.update(stream, eda.StreamOptions(dedup_window_s=1.0))
    Loss(proxy)
    with pytest.raises(eda.Timeout) as caught:
        await faulty.publish_batch(stream, numbered(3))
    assert caught.value.timeout_s == 0.5
    proxy.drop_if = None
    assert (await faulty.streams.info(stream)).events == 3


# --- broken connections ----------------------------------------------------------------------------------------------


@with_batches
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
async def test_batch_when_the_connection_is_cut_within_is_stored_once(
    faulty: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str, share: float
) -> None:
    events = numbered(N, size=1000)
    before = proxy.n_bytes[UP]
    await faulty.publish_batch(stream, events)
    size = proxy.n_bytes[UP] - before
    await faulty.streams.purge(stream)
    again = [event.replace(id=f"again-{event.id}") for event in events]
    proxy.cut_after(int(size * share) + random.randrange(1000), UP)
    ids = ids_of(await asyncio.wait_for(faulty.publish_batch(stream, again), 20))
    assert proxy.n_cut == 1
    assert ids == [event.id for event in again]
    assert await stored_ids(server.url, stream) == ids


@pytest.mark.parametrize("n_down", [1, 40, 100])
async def test_batch_when_the_connection_is_cut_in_its_answer_is_stored_once(
    faulty: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str, n_down: int
) -> None:
    def cuts(message: bytes) -> bool:
        if b'"batch":' in message and not proxy.n_cut:
            proxy.cut_after(n_down, DOWN)
        return False

    proxy.drop_if = cuts
    began = time.monotonic()
    assert ids_of(await asyncio.wait_for(faulty.publish_batch(stream, numbered(N)), 20)) == IDS
    assert proxy.n_cut == 1
    assert time.monotonic() - began < 5
    assert await stored_ids(server.url, stream) == IDS


async def test_batch_when_the_connection_is_cut_again_and_again_is_stored_once(
    faulty: eda.Conn, proxy: FaultyProxy, server: eda.EmbeddedServer, stream: str
) -> None:
    publishing = asyncio.create_task(faulty.publish_batch(stream, numbered(N, size=3000)))
    for _ in range(6):
        await until(lambda: proxy.n_open)
        proxy.cut_after(random.randrange(4_000_000), UP)
        await asyncio.sleep(random.random() / 3)
    proxy.cut_after(2**60, UP)
    assert ids_of(await asyncio.wait_for(publishing, 20)) == IDS
    assert await stored_ids(server.url, stream) == IDS


async def test_batch_when_nothing_is_kept_of_a_cut_try_sends_it_once_afterwards(
    faulty: eda.Conn, proxy: FaultyProxy, stream: str
) -> None:
    """Bytes that were not written when the connection broke must not be sent after the reconnect."""
    events = [eda.Event(data=eda.Bytes(bytes(500_000))) for _ in range(40)]
    proxy.rate = 5e6
    proxy.cut_after(2_000_000, UP)
    publishing = asyncio.create_task(faulty.publish_batch(stream, events))
    await until(lambda: proxy.n_cut)
    await until(lambda: not wire_of(faulty).is_up)
    assert wire_of(faulty).out.size < 1000
    proxy.rate = None
    before = proxy.n_bytes[UP]
    await publishing
    assert proxy.n_bytes[UP] - before < 25e6
    assert (await faulty.streams.info(stream)).events == 40


async def test_batch_when_the_peer_takes_nothing_times_out(
    faulty: eda.Conn, proxy: FaultyProxy, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.publishing.atomic_batch, "TIMEOUT_S", 0.7)
    events = [eda.Event(data=eda.Bytes(bytes(900_000))) for _ in range(100)]
    publishing = asyncio.create_task(faulty.publish_batch(stream, events))
    await until(lambda: eda_has_sent(proxy, 2_000_000))
    proxy.hold()
    began = time.monotonic()
    with pytest.raises(eda.Timeout):
        await publishing
    assert time.monotonic() - began < 4
    proxy.release()
    await faulty.publish(stream)
    assert (await faulty.streams.info(stream)).events == 1


def eda_has_sent(proxy: FaultyProxy, n: int) -> bool:
    return proxy.n_bytes[UP] > n
