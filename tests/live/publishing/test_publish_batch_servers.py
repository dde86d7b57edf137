"""conn.publish_batch when the server or stream goes away, or the caller is cancelled: all or nothing is stored."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from typing import Any

import pytest

import eda
import eda.publishing.atomic_batch
from helpers import Admin, Connect, freeze, needs_freeze, until, wire_of
from support.publishing.sent import ids_of, numbered, stored_ids

N = 1000
IDS = [event.id for event in numbered(N)]

with_batches = pytest.mark.parametrize("server_version", ["current", "2.12.8"], indirect=True)


# --- dying servers ---------------------------------------------------------------------------------------------------


@with_batches
@pytest.mark.parametrize("patience_s", [0.0, 0.002, 0.005, 0.01, 0.02, 0.04])
async def test_batch_when_the_server_is_killed_within_is_stored_once(
    own_server: eda.EmbeddedServer, patience_s: float
) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.publish_batch("stream", [])
        publishing = asyncio.create_task(conn.publish_batch("stream", numbered(N, size=500)))
        await until(lambda: conn._lifetime.batches)
        await asyncio.sleep(patience_s)
        await own_server.kill()
        await own_server.start()
        assert ids_of(await asyncio.wait_for(publishing, 25)) == IDS
        assert await stored_ids(own_server.url, "stream") == IDS


async def test_batches_when_the_server_is_killed_again_and_again_are_whole(own_server: eda.EmbeddedServer) -> None:
    async with eda.connect(own_server.url) as conn:
        await conn.publish_batch("stream", [])
        batches = [numbered(50, start=50 * n) for n in range(60)]

        async def publish(mine: list[list[eda.Event]]) -> None:
            for batch in mine:
                await conn.publish_batch("stream", batch)

        publishing = asyncio.gather(*(publish(batches[n::4]) for n in range(4)))
        for _ in range(4):
            await asyncio.sleep(random.random() / 20)
            await own_server.kill()
            await own_server.start()
        await asyncio.wait_for(publishing, 60)
        stored = await stored_ids(own_server.url, "stream")
        assert len(stored) == 3000
        for batch in batches:
            ids = [event.id for event in batch]
            assert stored[stored.index(ids[0]) :][:50] == ids


async def test_batch_when_the_server_stays_away_times_out(
    own_server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.publishing.atomic_batch, "TIMEOUT_S", 0.5)
    original = eda.publishing.atomic_batch.AtomicBatch._try

    async def killing(self: Any) -> Any:
        await own_server.kill()
        return await original(self)

    async with eda.connect(own_server.url) as conn:
        await conn.publish_batch("stream", [])
        monkeypatch.setattr(eda.publishing.atomic_batch.AtomicBatch, "_try", killing)
        began = time.monotonic()
        with pytest.raises(eda.Timeout, match=r"publish_batch took longer than 0\.5 s"):
            await conn.publish_batch("stream", numbered(N))
        assert time.monotonic() - began < 4
        await own_server.start()
        assert await stored_ids(own_server.url, "stream") == []


@needs_freeze
async def test_batch_when_the_server_is_frozen_meanwhile_is_stored_once(
    own_server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.publishing.atomic_batch, "ACK_TIMEOUT_S", 0.2)
    original = eda.publishing.atomic_batch.AtomicBatch._try
    assert own_server.pid is not None
    pid = own_server.pid
    n_tries = 0

    async def freezing(self: Any) -> Any:
        nonlocal n_tries
        n_tries += 1
        if n_tries == 1:
            freeze(pid)
            asyncio.get_running_loop().call_later(1.0, os.kill, pid, signal.SIGCONT)
        return await original(self)

    async with eda.connect(own_server.url) as conn:
        await conn.publish_batch("stream", [])
        monkeypatch.setattr(eda.publishing.atomic_batch.AtomicBatch, "_try", freezing)
        assert ids_of(await asyncio.wait_for(conn.publish_batch("stream", numbered(N)), 20)) == IDS
        assert n_tries >= 2
        assert await stored_ids(own_server.url, "stream") == IDS


async def test_batch_when_nobody_knows_the_stream_any_more_creates_it_or_says_so(
    connect: Connect, stream: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = eda.publishing.atomic_batch.AtomicBatch._try

    async def deleting(self: Any) -> Any:
        if not self._batches:
            await admin.api(f"STREAM.DELETE.{stream}")
        return await original(self)

    creating, other = await connect(), await connect(auto_create=False)
    await creating.streams.create(stream)
    monkeypatch.setattr(eda.publishing.atomic_batch.AtomicBatch, "_try", deleting)
    assert ids_of(await creating.publish_batch(stream, numbered(3))) == IDS[:3]
    with pytest.raises(eda.StreamNotFound):
        await other.publish_batch(stream, numbered(3))


# --- cancelled -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cancelled_at", [*range(0, 20, 3), *range(21, 60, 8)])
async def test_batch_when_cancelled_is_stored_whole_or_not_at_all(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, monkeypatch: pytest.MonkeyPatch, cancelled_at: int
) -> None:
    """Cancelled before one of the batch's 17 writes, or some turns of the loop after the last write."""
    await conn.publish_batch(stream, [])
    original = wire_of(conn).wait_writable
    n_writes = 0

    async def counting() -> None:
        nonlocal n_writes
        if n_writes == cancelled_at:
            publishing.cancel()
            await asyncio.sleep(0)
        n_writes += 1
        await original()

    monkeypatch.setattr(wire_of(conn), "wait_writable", counting)
    events = numbered(150, size=30_000)
    publishing = asyncio.create_task(conn.publish_batch(stream, events))
    await until(lambda: n_writes >= min(cancelled_at, 17))
    for _ in range(cancelled_at - 17):
        await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.wait({publishing})
    assert publishing.cancelled() or cancelled_at > 17
    # The cancelled batch does not disturb the next one.
    assert ids_of(await conn.publish_batch(stream, numbered(N, start=N))) == [
        event.id for event in numbered(N, start=N)
    ]
    stored = await stored_ids(server.url, stream)
    assert stored[:-N] in ([], [event.id for event in events])
    assert stored[:-N] == [] or cancelled_at > 17
    assert len(stored) >= N
