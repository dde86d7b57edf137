"""Appends to a stream with three replicas: many writers of the same aggregates, lost answers, a lost leader."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import eda
import eda.publishing.atomic_batch
import eda.publishing.stream_publisher
from eda._codec import decode_event
from eda.errors import ServerError
from eda.server_codes import MESSAGE_NOT_FOUND
from eda.store.appending import Refused, Stored
from support.embedded.cluster import Cluster
from support.store.appends import Writer, envelope_of
from support.transport.faulty_proxy import FaultyProxy

STREAM = "orders"


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setattr(eda.publishing.atomic_batch, "ACK_TIMEOUT_S", 0.5)
    monkeypatch.setattr(eda.publishing.stream_publisher, "RESEND_S", 0.5)
    async with Cluster(tmp_path) as cluster:
        async with eda.connect(cluster.urls) as conn:
            await conn.streams.create(STREAM, eda.StreamOptions(replicas=3))
        yield cluster


async def last_of(conn: eda.Conn, aggregate: str, sequence: int = 0) -> tuple[int, int]:
    """Return sequence and version of the aggregate's last event, as the leader has it; 0, 0 if there is none."""
    assert conn._lifetime._services is not None
    query = {"seq": sequence} if sequence else {"last_by_subj": f"{STREAM}.*.{aggregate}"}
    try:
        found = await conn._lifetime._services.api.message(STREAM, query)
    except ServerError as error:
        if error.err_code != MESSAGE_NOT_FOUND:
            raise
        return 0, 0
    return found.seq, decode_event(found.data).version


class Log:
    """What the writers were told."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.refused: list[str] = []
        self.unknown: list[str] = []


async def write(writer: Writer, name: str, n: int, log: Log, chance: random.Random) -> None:
    """Append n times to one of three aggregates, one or several events."""
    for number in range(n):
        aggregate = f"a{chance.randrange(3)}"
        for attempt in range(100):
            ids = [f"{name}-{number}-{attempt}-{k}" for k in range(chance.choice([1, 1, 3]))]
            try:
                sequence, version = await last_of(writer.conn, aggregate)
            except (eda.ServerError, eda.Timeout):
                continue
            envelopes = [
                envelope_of(id, aggregate, f"t{chance.randrange(3)}", version + k) for k, id in enumerate(ids, 1)
            ]
            try:
                await writer.appending.store(aggregate, envelopes, sequence=sequence)
            except Refused:
                log.refused += ids
                await asyncio.sleep(chance.random() * 0.02)
            except (eda.Timeout, eda.ServerError):
                log.unknown += ids
            else:
                log.stored += ids
                break


async def events_of(cluster: Cluster) -> list[eda.Event]:
    """Return all events of the stream."""
    await cluster.until_current(STREAM)
    async with eda.connect(cluster.urls) as conn:
        assert conn._lifetime._services is not None
        info = await conn.streams.info(STREAM)
        api = conn._lifetime._services.api
        return [decode_event((await api.message(STREAM, {"seq": at})).data) for at in range(1, info.last_sequence + 1)]


def check(events: list[eda.Event], log: Log) -> None:
    """Every append that was acknowledged is stored once, none that was refused; the versions have no gap or repeat."""
    ids = [event.id for event in events]
    assert len(set(ids)) == len(ids)
    assert set(log.stored) <= set(ids) <= {*log.stored, *log.unknown}
    assert not set(log.refused) & set(ids)
    for aggregate in {event.aggregate for event in events}:
        versions = [event.version for event in events if event.aggregate == aggregate]
        assert versions == list(range(1, len(versions) + 1))


async def test_append_on_a_cluster_judges_the_id_before_the_expectation(cluster: Cluster) -> None:
    async with eda.connect(cluster.urls) as conn:
        writer = Writer(conn, STREAM)
        assert await writer.store("i1", sequence=0) == Stored([1], False)
        assert await writer.store("i1", sequence=0) == Stored([1], True)
        assert await writer.store("i2", "i3", sequence=1) == Stored([2, 3], False)
        assert await writer.store("i2", "i3", sequence=1) == Stored([], True)
        with pytest.raises(Refused):
            await writer.store("i4", sequence=1)
        with pytest.raises(Refused):
            await writer.store("i4", "i5", sequence=1)


async def test_appends_on_a_cluster_when_many_write_the_same_aggregates_keep_the_versions(cluster: Cluster) -> None:
    log = Log()
    async with contextlib.AsyncExitStack() as stack:
        urls = [cluster.urls[n % 3] for n in range(12)]
        writers = [Writer(await stack.enter_async_context(eda.connect(url)), STREAM) for url in urls]
        writing = [write(writer, f"w{n}", 15, log, random.Random(n)) for n, writer in enumerate(writers)]
        await asyncio.gather(*writing)
    check(await events_of(cluster), log)
    assert not log.unknown
    assert log.refused  # else the writers did not meet


async def test_appends_on_a_cluster_when_answers_and_the_leader_are_lost_keep_the_versions(cluster: Cluster) -> None:
    log = Log()
    chance = random.Random(1)
    async with contextlib.AsyncExitStack() as stack:
        proxies: list[FaultyProxy] = []
        writers: list[Writer] = []
        for n in range(6):
            proxy = await stack.enter_async_context(FaultyProxy(list(cluster.nodes.values())[n % 3].port))
            proxy.drop_if = lambda message: b'{"stream":' in message and chance.random() < 0.1
            proxies.append(proxy)
            conn = await stack.enter_async_context(eda.connect(proxy.url(cluster.urls[n % 3])))
            writers.append(Writer(conn, STREAM))
        writing = [
            asyncio.create_task(write(writer, f"w{n}", 12, log, random.Random(n))) for n, writer in enumerate(writers)
        ]
        await asyncio.sleep(0.5)
        leader = await cluster.leader(STREAM)
        await cluster.kill(leader)
        alive = next(server for name, server in cluster.nodes.items() if name != leader)
        for proxy in proxies:
            proxy.target = alive.port
            proxy.cut()
        while not all(task.done() for task in writing):
            await asyncio.sleep(0.3)
            chance.choice(proxies).cut()
        await asyncio.gather(*writing)
        for proxy in proxies:
            proxy.drop_if = None
    assert sum(proxy.n_dropped for proxy in proxies)
    await cluster.start(leader)
    check(await events_of(cluster), log)
