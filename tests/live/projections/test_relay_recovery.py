"""A relay after a crash or an outage that was longer than the duplicate window: each event is stored once."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

import eda
import eda.projections.relay_stream
import eda.sql
from eda.projections.outbox_cursor import OutboxRow
from eda.projections.outbox_rows import OutboxRows
from helpers import Admin, Logged, until
from support.packs import publish_pack
from support.projections.outboxes import Box

WINDOW_S = 0.3
AFTER_S = 0.5  # by then, the stream has forgotten the ids


def numbered(n: int) -> list[eda.Event]:
    return [eda.Event(id=f"n{number:05}", type="t", aggregate=f"a{number % 5}") for number in range(n)]


async def note(box: Box, conn: eda.Conn, stream: str, *, created: str = "") -> None:
    """Write the journal as a relay does before it sends rows."""
    info = await conn.streams.info(stream)
    await box.rows(
        "INSERT INTO eda_outbox_relay (stream, created, sequence) "
        f"VALUES ('{stream}', '{created or info.created.isoformat()}', {info.last_sequence})"
    )


async def publish(conn: eda.Conn, stream: str, events: list[eda.Event]) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_many(events)


@pytest.mark.parametrize("allow_direct", [True, False])
async def test_relay_when_any_part_of_a_chunk_was_stored_long_ago_stores_the_rest(
    box: Box, conn: eda.Conn, admin: Admin, stream: str, allow_direct: bool
) -> None:
    n = 2500 if allow_direct else 200
    await conn.streams.create(stream, eda.StreamOptions(dedup_window_s=WINDOW_S))
    if not allow_direct:
        info = await admin.js.stream_info(stream)
        await admin.js.update_stream(info.config.evolve(allow_direct=False))
    rows = numbered(n)
    await box.add(stream, *rows)
    await publish(conn, stream, [eda.Event(type="earlier") for _ in range(5)])
    await note(box, conn, stream)
    chance = random.Random(7)
    stored = [each for each in rows[: n // 2] if chance.random() < 0.5]
    mixed = [each for one in stored for each in (one, eda.Event(type="of another"))]
    await publish(conn, stream, mixed)
    await asyncio.sleep(AFTER_S)
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == n - len(stored))
        assert relay.stats().found == len(stored)
    given = {row.id for row in rows}
    own = [each for each in await admin.ids(stream) if each in given]
    assert own == [each.id for each in stored] + [each.id for each in rows if each not in stored]
    assert await box.ids() == []


async def test_relay_when_the_stream_is_packed_stores_ordinary_messages_and_searches_between_packs(
    box: Box, conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(dedup_window_s=WINDOW_S, packed=True))
    rows = numbered(20)
    await box.add(stream, *rows)
    await note(box, conn, stream)
    for row in rows[:10]:
        await publish_pack(admin.js, stream, [eda.Event(type="of another"), eda.Event(type="of another")])
        await publish(conn, stream, [row])
    await asyncio.sleep(AFTER_S)
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == 10)
        assert relay.stats().found == 10
    assert [each for each in await admin.ids(stream) if each] == [row.id for row in rows]
    message = await admin.js.get_msg(stream, await admin.last_seq(stream))
    assert message.subject == f"{stream}.t.a4"
    assert "Eda-Pack" not in (message.headers or {})


@pytest.mark.parametrize("reason", ["made again", "restored"])
async def test_relay_when_the_stream_is_another_one_searches_all_of_it(
    box: Box, conn: eda.Conn, admin: Admin, stream: str, reason: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(dedup_window_s=WINDOW_S))
    rows = numbered(20)
    await box.add(stream, *rows)
    await publish(conn, stream, rows[:10])
    if reason == "made again":
        await note(box, conn, stream, created="2020-01-01T00:00:00+00:00")
    else:
        created = (await conn.streams.info(stream)).created.isoformat()
        await box.rows(f"INSERT INTO eda_outbox_relay VALUES ('{stream}', '{created}', 1000)")
    await asyncio.sleep(AFTER_S)
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == 10)
    assert await admin.ids(stream) == [row.id for row in rows]


async def test_relay_when_the_stream_has_removed_what_was_sent_warns(
    box: Box, conn: eda.Conn, admin: Admin, stream: str, logged: Logged
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(dedup_window_s=WINDOW_S))
    rows = numbered(20)
    await box.add(stream, *rows)
    await note(box, conn, stream)
    await publish(conn, stream, rows[:10])
    await admin.js.purge_stream(stream, seq=6)
    await asyncio.sleep(AFTER_S)
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == 15)
    assert logged.find("may be published twice")


async def test_relay_when_rows_are_large_reads_few_at_a_time(
    box: Box, conn: eda.Conn, admin: Admin, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = OutboxRows.read
    sizes: list[int] = []

    async def noting(self: OutboxRows, *args: Any, **kwargs: Any) -> list[OutboxRow]:
        rows = await read(self, *args, **kwargs)
        sizes.append(sum(len(row.envelope) for row in rows))
        return rows

    monkeypatch.setattr(OutboxRows, "read", noting)
    await conn.streams.create(stream)
    rows = [each.replace(data=eda.Bytes(bytes(900_000))) for each in numbered(25)]
    await box.add(stream, *rows)
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == len(rows), timeout_s=4.0)  # and no poll is waited for
    assert 8 * 2**20 <= max(sizes) < 10 * 2**20
    assert await admin.ids(stream) == [row.id for row in rows]


async def test_relay_when_it_ends_in_order_leaves_nothing_to_search(box: Box, conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream)
    await box.add(stream, *numbered(20))
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == 20)
    assert await box.rows("SELECT * FROM eda_outbox_relay") == []


async def test_relay_when_it_is_idle_leaves_nothing_to_search(
    box: Box, conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.projections.relay_stream, "IDLE_S", 0.05)
    await conn.streams.create(stream)
    await box.add(stream, *numbered(20))
    async with conn.relay(box.outbox) as relay:
        await until(lambda: relay.stats().acknowledged == 20)

        async def is_empty() -> bool:
            return await box.rows("SELECT * FROM eda_outbox_relay") == []

        await until(is_empty)
        await box.add(stream, eda.Event(id="later"))
        await until(lambda: relay.stats().acknowledged == 21)


async def test_relay_when_the_server_is_away_for_longer_than_the_duplicate_window_stores_each_event_once(
    box: Box, own_server: eda.EmbeddedServer, logged: Logged
) -> None:
    rows = numbered(20_000)
    async with eda.connect(own_server.url) as conn:
        await conn.streams.create("orders", eda.StreamOptions(dedup_window_s=WINDOW_S))
        await box.add("orders", *rows)
        async with conn.relay(box.outbox) as relay:
            for least in (1, 5_000):
                await until(lambda least=least: relay.stats().acknowledged >= least)
                await own_server.kill()
                await asyncio.sleep(AFTER_S)
                await own_server.start()
            await until(lambda: relay.stats().acknowledged + relay.stats().found == len(rows), 30)
        import nats

        client = await nats.connect(own_server.url)
        ids = await Admin(client).ids("orders")
        await client.close()
    assert sorted(ids) == [row.id for row in rows]
    assert await box.ids() == []
