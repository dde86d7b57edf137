"""Event stores of a stream that is restored from a backup. Up to nats-server 2.12, it keeps its `created` then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

import eda
import eda.publishing.stream_looks
from helpers import Admin, Connect, Logged, Proxy
from support.store.backups import Backup, backup, restore
from support.store.versions import on_able_servers


def added(n: int) -> eda.Event:
    return eda.Event(type="added", data=eda.JSON(n))


def evolve(state: tuple[int, ...], event: eda.Event) -> tuple[int, ...]:
    return (*state, event.data.decode())


def decide(_: Any, command: int) -> eda.Event:
    return added(command)


DECIDER: eda.Decider[tuple[int, ...], int] = eda.Decider((), evolve, decide, state=tuple[int, ...])


@pytest.fixture
async def snapshots(admin: Admin, stream: str) -> AsyncIterator[None]:
    yield
    if f"{stream}-snapshots" in await admin.stream_names():
        await admin.js.delete_stream(f"{stream}-snapshots")


async def stored(conn: eda.Conn, stream: str, aggregate: str) -> tuple[int, ...]:
    """Return the data of the aggregate's events in the stream, whose versions follow each other."""
    events = await conn.store(stream).history(aggregate)
    assert [event.version for event in events] == list(range(1, len(events) + 1))
    return tuple(event.data.decode() for event in events)


async def replaced(admin: Admin, stream: str, saved: Backup) -> None:
    await admin.js.delete_stream(stream)
    await restore(admin, saved)


@on_able_servers
@pytest.mark.usefixtures("snapshots")
async def test_store_when_its_stream_is_restored_uses_neither_cache_nor_snapshots_of_later(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    async with conn.store(stream, DECIDER, snapshot_every=2) as store:
        for n in (1, 2):
            await store.execute("a", n, command_id=f"a{n}")
            await store.execute("b", n)
    saved = await backup(admin, stream)
    async with store:
        for n in (3, 4, 5):
            last = await store.execute("a", n, command_id=f"a{n}")
        await store.execute("c", 1)
    assert (last.version, last.state) == (5, (1, 2, 3, 4, 5))
    await replaced(admin, stream, saved)
    with pytest.raises(eda.VersionConflict) as caught:
        await store.append("a", [added(6)], expected=last)
    assert (caught.value.actual, [event.version for event in caught.value.events]) == (2, [1, 2])
    with pytest.raises(eda.VersionConflict):
        await store.append("c", [added(6)], expected=1)
    again = await store.execute("a", 5, command_id="a5")  # it was lost
    assert (again.version, again.state, again.receipts[0].duplicate) == (3, (1, 2, 5), False)
    assert (await store.execute("a", 1, command_id="a1")).version == 1
    new = await store.execute("c", 7)
    assert (new.version, new.state) == (1, (7,))
    assert (await store.append("b", [added(8)], expected="any")).version == 3
    for reader in (store, conn.store(stream, DECIDER, snapshot_every=2)):
        for aggregate in ("a", "b", "c"):
            loaded = await reader.load(aggregate)
            events = await stored(conn, stream, aggregate)
            assert (loaded.state, loaded.version) == (events, len(events))


@on_able_servers
@pytest.mark.usefixtures("snapshots")
async def test_store_when_others_have_gone_on_in_the_restored_stream_does_not_mix_the_histories(
    conn: eda.Conn, connect: Connect, admin: Admin, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other's events get the sequences of those that were lost, so the expectation of the cached state holds."""
    monkeypatch.setattr(eda.publishing.stream_looks, "LOOK_EVERY_S", 0.05)
    async with conn.store(stream, DECIDER, snapshot_every=2) as store:
        await store.execute("a", 1)
    saved = await backup(admin, stream)
    async with store:
        for n in (2, 3, 4):
            await store.execute("a", n)
    await asyncio.sleep(0.3)  # the connection looks at the stream
    await replaced(admin, stream, saved)
    await asyncio.sleep(0.3)  # again
    other = (await connect()).store(stream, DECIDER)
    for n in (20, 30, 40):
        await other.execute("a", n)
    result = await store.execute("a", 5)
    assert (result.version, result.state) == (5, (1, 20, 30, 40, 5))
    assert (await store.load("a")).state == await stored(conn, stream, "a") == (1, 20, 30, 40, 5)


@pytest.mark.parametrize("is_restored", [True, False], ids=["restored", "made again"])
@on_able_servers
@pytest.mark.usefixtures("snapshots")
async def test_store_when_its_stream_is_replaced_while_it_is_disconnected_reads_again(
    server: eda.EmbeddedServer, connect: Connect, admin: Admin, stream: str, is_restored: bool
) -> None:
    async with Proxy(int(server.url.rpartition(":")[2])) as proxy:
        conn = await connect(proxy.url(server.url))
        async with conn.store(stream, DECIDER, snapshot_every=2) as store:
            await store.execute("a", 1)
        saved = await backup(admin, stream)
        async with store:
            for n in (2, 3):
                last = await store.execute("a", n, command_id=f"a{n}")
        proxy.refusing = True
        proxy.drop()
        if is_restored:
            await replaced(admin, stream, saved)
        else:
            await admin.js.delete_stream(stream)
        direct = await connect()
        other = direct.store(stream, DECIDER)
        if not is_restored:
            await other.execute("a", 10)
        for n in (20, 30):
            await other.execute("a", n)
        proxy.refusing = False
        first = 1 if is_restored else 10
        again = await store.execute("a", 3, command_id="a3")
        assert (again.version, again.state, again.receipts[0].duplicate) == (4, (first, 20, 30, 3), False)
        with pytest.raises(eda.VersionConflict) as caught:
            await store.append("a", [added(6)], expected=last)
        assert caught.value.actual == 4
        assert (await store.load("a")).state == await stored(direct, stream, "a")


@on_able_servers
@pytest.mark.parametrize("others", ["ba", "aa"], ids=["same version", "another version"])
@pytest.mark.parametrize("cache", [0, 100])
@pytest.mark.usefixtures("snapshots")
async def test_append_when_it_expects_a_loaded_state_that_was_lost_is_a_conflict(
    conn: eda.Conn, admin: Admin, stream: str, monkeypatch: pytest.MonkeyPatch, cache: int, others: str
) -> None:
    """The restored stream has another event of the aggregate at the sequence of the lost one."""
    monkeypatch.setattr(eda.publishing.stream_looks, "LOOK_EVERY_S", 0.05)
    store = conn.store(stream, DECIDER, cache=cache)
    await store.execute("a", 1)
    saved = await backup(admin, stream)
    await store.execute("b", 2)
    await store.execute("a", 3)
    loaded = await store.load("a")
    await asyncio.sleep(0.3)  # the connection looks at the stream
    await replaced(admin, stream, saved)
    await asyncio.sleep(0.3)  # again
    for aggregate in others:
        last = await conn.store(stream, DECIDER).execute(aggregate, 4)
    assert last.receipts[0].sequence == loaded.sequence
    async with asyncio.timeout(3):
        with pytest.raises(eda.VersionConflict) as caught:
            await store.append("a", [added(5)], expected=loaded)
    assert caught.value.actual == last.version
    assert await stored(conn, stream, "a") == last.state


@pytest.mark.usefixtures("snapshots")
async def test_snapshot_that_is_not_of_the_history_is_warned_of_once_for_each_aggregate_and_replaced_when_due(
    conn: eda.Conn, admin: Admin, stream: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eda.store.snapshots.MAX_REPORTED", 2)
    async with conn.store(stream, DECIDER, snapshot_every=3) as store:
        for aggregate in ("a", "b", "c"):
            for n in range(3):
                await store.execute(aggregate, n)
    await admin.js.purge_stream(stream)
    async with conn.store(stream, DECIDER, snapshot_every=3) as store:
        for aggregate in ("a", "b"):
            for n in (7, 8):
                await store.append(aggregate, [added(n)], expected="any")
                assert (await store.load(aggregate)).version == n - 6
        assert [(await store.load(aggregate)).state for aggregate in ("a", "b")] == [(7, 8), (7, 8)]
        warnings = [each.getMessage() for each in logged.find("not of its history", logging.WARNING)]
        assert [each.partition("aggregate ")[2][0] for each in warnings] == ["a", "b"]
        await store.execute("a", 9)
    async with conn.store(stream, DECIDER, snapshot_every=3) as again:
        loaded = await again.load("a")
        assert (loaded.state, loaded.version, loaded.events) == ((7, 8, 9), 3, [])
    assert len(logged.find("not of its history")) == 2
    assert store._core is not None
    assert store._core.snapshots is not None
    await store.load("c")
    assert list(store._core.snapshots._reported) == ["b", "c"]
