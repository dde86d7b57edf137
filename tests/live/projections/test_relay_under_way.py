"""Two chunks of an outbox are under way at the same time: their order, their outcomes, and the journal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
import eda.projections.refused_rows
import eda.projections.relay
import eda.projections.relay_stream
import eda.sql
from eda.projections.outbox_rows import Journal, OutboxRows
from eda.projections.relay_chunk import RelayChunk
from eda.projections.relay_stream import RelayStream
from helpers import Admin, Connect, Logged, until
from support.projections.outboxes import Box
from support.transport.faulty_proxy import FaultyProxy

N_LARGE = 1_500  # rows of a chunk of which a part waits in this process
N_ALL = 15_000


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eda.projections.relay, "CHUNK", 50)
    monkeypatch.setattr(eda.projections.relay_stream, "FULL", 50)
    monkeypatch.setattr(eda.projections.refused_rows, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(eda.projections.refused_rows, "MAX_PAUSE_S", 0.1)


def events(n: int, n_aggregates: int = 7) -> list[eda.Event]:
    return [eda.Event(id=f"e{number}", type="t", aggregate=f"a{number % n_aggregates}") for number in range(n)]


async def test_chunks_when_many_rows_wait_are_two_at_a_time_and_in_order(
    box: Box, conn: eda.Conn, admin: Admin, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_under_way: list[int] = []
    send = RelayChunk.send

    async def noting(self: RelayChunk, *given: Any) -> None:
        (of,) = relay._streams.values()
        n_under_way.append(len(of._under_way))
        await send(self, *given)

    monkeypatch.setattr(RelayChunk, "send", noting)
    await conn.streams.create(stream)
    await box.add(stream, *events(2_000))
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == 2_000)
        assert relay.stats().sent == 2_000
    assert max(n_under_way) == 2
    assert await admin.ids(stream) == [f"e{n}" for n in range(2_000)]
    assert await box.ids() == []


async def test_row_when_it_is_refused_keeps_its_aggregate_from_chunks_that_follow(
    box: Box, conn: eda.Conn, admin: Admin, stream: str, logged: Logged
) -> None:
    logged.expect("refuses event e3")
    await conn.streams.create(stream)
    info = await admin.js.stream_info(stream)
    await admin.js.update_stream(info.config.evolve(max_msg_size=2_000))
    rows = events(400)
    rows[3] = rows[3].replace(data=eda.Bytes(bytes(5_000)))
    await box.add(stream, *rows)
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().refused >= 2)
        blocked = [row.id for row in rows if row.aggregate == "a3"]
        await until(lambda: relay.stats().acknowledged == 400 - len(blocked))
        assert await box.ids() == blocked
        await admin.js.update_stream(info.config)
        await until(lambda: relay.stats().acknowledged == 400)
    stored = await admin.ids(stream)
    for aggregate in {row.aggregate for row in rows}:
        of_aggregate = [row.id for row in rows if row.aggregate == aggregate]
        assert [each for each in stored if each in of_aggregate] == of_aggregate


@pytest.mark.parametrize("limit", ["max_msgs", "max_bytes"])
async def test_stream_when_it_is_full_and_has_room_again_gets_each_aggregate_in_order(
    box: Box, conn: eda.Conn, admin: Admin, stream: str, logged: Logged, limit: str
) -> None:
    """A full stream refuses one event, and may take the next one a moment later."""
    logged.expect("refuses event")
    await conn.streams.create(stream)
    info = await admin.js.stream_info(stream)
    limits = {"max_msgs": 4} if limit == "max_msgs" else {"max_bytes": 600}
    await admin.api(f"STREAM.UPDATE.{stream}", {**info.config.as_dict(), "discard": "new", **limits})
    rows = events(120, n_aggregates=2)
    await box.add(stream, *rows)
    stored: list[str] = []

    async def drain() -> None:
        while len(stored) < len(rows):
            ids = await admin.ids(stream)
            if ids:
                stored.extend(ids)
                first = (await admin.js.stream_info(stream)).state.first_seq
                await admin.js.purge_stream(stream, seq=first + len(ids))
            await asyncio.sleep(0.002)

    async with conn.relay(box.outbox) as relay:
        async with asyncio.timeout(40):
            await drain()
        await until(lambda: relay.stats().acknowledged == len(rows))
    for aggregate in ("a0", "a1"):
        of_aggregate = [row.id for row in rows if row.aggregate == aggregate]
        assert [each for each in stored if each in of_aggregate] == of_aggregate


async def test_journal_when_an_earlier_chunk_has_no_outcome_stays_before_it(
    box: Box, conn: eda.Conn, admin: Admin, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next relay would not find stored rows of the earlier chunk, and would publish them again."""
    on_ack, delete, known = RelayStream._on_ack, OutboxRows.delete, RelayStream._known
    sequences: list[int | None] = []
    lost = [f"e{n}" for n in range(10, 20)]

    async def late(self: RelayStream) -> Any:
        await asyncio.sleep(0.05)  # so that the stream has stored the chunk before
        return await known(self)

    def losing(self: RelayStream, event_id: str, sequence: int) -> None:
        if event_id not in lost:
            on_ack(self, event_id, sequence)
        if event_id == "e99":  # the last one of the second chunk
            for each in lost:
                self._on_error(eda.Event(id=each), eda.Timeout("publishing", 5.0))
            lost.clear()

    async def noting(self: OutboxRows, serials: list[int], journal: Journal | None = None) -> None:
        sequences.append(None if journal is None else journal.sequence)
        await delete(self, serials, journal)

    monkeypatch.setattr(RelayStream, "_on_ack", losing)
    monkeypatch.setattr(RelayStream, "_known", late)
    monkeypatch.setattr(OutboxRows, "delete", noting)
    monkeypatch.setattr(eda.projections.relay_stream, "INFO_S", 0.0)
    monkeypatch.setattr(eda.projections.relay_stream, "GRACE_S", 1.0)
    monkeypatch.setattr(eda.projections.relay_stream, "FLUSH_S", 5.0)
    await conn.streams.create(stream)
    await box.add(stream, *events(500))
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged + relay.stats().found == 500)
        assert relay.stats().found == 10
    assert await admin.ids(stream) == [f"e{n}" for n in range(500)]
    assert sequences[:2] == [None, None]  # the journal was written before anything was sent, and stays there
    assert (sequences[-1] or 0) >= 400


async def test_chunk_when_it_has_no_answer_in_time_is_not_overtaken_by_the_next_one(
    box: Box,
    conn: eda.Conn,
    connect: Connect,
    server: eda.EmbeddedServer,
    admin: Admin,
    stream: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The events of the first chunk may never have left this process, and their time is over first."""
    monkeypatch.setattr(eda.projections.relay, "CHUNK", N_LARGE)
    monkeypatch.setattr(eda.projections.relay_stream, "FULL", N_LARGE)
    await conn.streams.create(stream, eda.StreamOptions(dedup_window_s=0.4))  # an event fails after half of it
    await box.add(stream, *events(N_ALL, n_aggregates=3))
    async with FaultyProxy(server.port) as proxy:
        through = await connect(proxy.url(server.url))
        async with through.relay(box.outbox) as relay:
            await until(lambda: relay.stats().acknowledged > 100)
            while relay.stats().acknowledged + relay.stats().found < N_ALL:
                proxy.hold()
                await asyncio.sleep(0.25)
                proxy.release()
                await asyncio.sleep(0.12)
    stored = await admin.ids(stream)
    assert len(stored) == len(set(stored)) == N_ALL
    for number in range(3):
        of_aggregate = [f"e{n}" for n in range(number, N_ALL, 3)]
        assert [each for each in stored if int(each[1:]) % 3 == number] == of_aggregate
