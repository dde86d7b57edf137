"""The order of an outbox in PostgreSQL: transactions that commit late, and what they hold back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Any

import psycopg
import pytest

import eda
import eda.projections.relay
import eda.sql
from helpers import Admin, Logged, until


@pytest.fixture
def url(postgres_server: Any) -> Iterator[str]:
    with postgres_server.database() as url:
        yield url


@pytest.fixture
async def outbox(url: str) -> eda.sql.Outbox:
    outbox = eda.sql.Outbox(eda.sql.Asyncpg(url))
    await outbox.create()
    return outbox


def add(outbox: eda.sql.Outbox, tx: psycopg.Connection[Any], stream: str, event_id: str) -> None:
    outbox.add(tx, stream, eda.Event(id=event_id, type="t", aggregate=event_id[0]))


async def test_order_when_a_transaction_commits_late_is_that_of_the_serials(
    outbox: eda.sql.Outbox, url: str, conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await conn.streams.create(stream)
    with psycopg.connect(url) as late, psycopg.connect(url) as early:
        async with conn.relay(outbox) as relay:
            add(outbox, early, stream, "a1")
            early.commit()
            await until(lambda: relay.stats().acknowledged == 1)
            add(outbox, late, stream, "b1")
            add(outbox, early, stream, "c1")
            add(outbox, early, stream, "c2")
            early.commit()
            await asyncio.sleep(0.2)
            assert relay.stats().acknowledged == 1
            late.commit()
            await until(lambda: relay.stats().acknowledged == 4)
    assert await admin.ids(stream) == ["a1", "b1", "c1", "c2"]


async def test_order_when_a_lower_transaction_adds_to_the_same_aggregate_later_waits_for_the_earlier_row(
    outbox: eda.sql.Outbox, url: str, conn: eda.Conn, admin: Admin, stream: str
) -> None:
    """The transaction ids and the locks of an aggregate may have different orders."""
    await conn.streams.create(stream)
    with psycopg.connect(url) as second, psycopg.connect(url) as open_one, psycopg.connect(url) as first:
        second.execute("SELECT pg_current_xact_id()")
        open_one.execute("SELECT pg_current_xact_id()")
        async with conn.relay(outbox) as relay:
            add(outbox, first, stream, "a1")
            first.commit()  # its id is above that of the open one
            add(outbox, second, stream, "a2")
            second.commit()  # its id is below that of the open one
            await asyncio.sleep(0.2)
            assert relay.stats().acknowledged == 0
            open_one.rollback()
            await until(lambda: relay.stats().acknowledged == 2)
    assert await admin.ids(stream) == ["a1", "a2"]


async def test_relay_when_a_transaction_holds_it_up_names_it(
    outbox: eda.sql.Outbox,
    url: str,
    conn: eda.Conn,
    stream: str,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eda.projections.relay, "STALL_S", 0.1)
    await conn.streams.create(stream)
    with psycopg.connect(url, application_name="the nightly report") as long, psycopg.connect(url) as tx:
        long.execute("SELECT pg_current_xact_id()")
        add(outbox, tx, stream, "a1")
        tx.commit()
        async with conn.relay(outbox) as relay:
            await until(lambda: logged.find("the nightly report"))
            (record,) = logged.find("rows can't be published")
            assert (
                f"process {long.info.backend_pid}, application 'the nightly report', state idle in"
                in record.getMessage()
            )
            long.rollback()
            await until(lambda: relay.stats().acknowledged == 1)


async def test_relay_when_the_connection_that_holds_the_lock_is_ended_goes_on(
    outbox: eda.sql.Outbox, url: str, conn: eda.Conn, admin: Admin, stream: str, logged: Logged
) -> None:
    await conn.streams.create(stream)
    with psycopg.connect(url, autocommit=True) as other:
        async with conn.relay(outbox) as relay:
            await until(lambda: relay.stats().active)
            for number in range(3):
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                with other.transaction():
                    add(outbox, other, stream, f"a{number}")
                await until(lambda number=number: relay.stats().acknowledged == number + 1)
    assert await admin.ids(stream) == ["a0", "a1", "a2"]
    assert logged.find("the relay tries again")


async def test_row_when_its_transaction_ends_after_later_rows_were_published_is_published(
    outbox: eda.sql.Outbox, url: str, conn: eda.Conn, admin: Admin, stream: str
) -> None:
    """Rows before the last one that was read are not looked at again, except those of transactions that were open."""
    await conn.streams.create(stream)
    with psycopg.connect(url) as early, psycopg.connect(url) as late, psycopg.connect(url) as other:
        async with conn.relay(outbox) as relay:
            early.execute("SELECT pg_current_xact_id()")
            add(outbox, late, stream, "a1")
            add(outbox, late, stream, "b1")
            add(outbox, early, stream, "c1")  # a later row of an earlier transaction: it is ready
            early.commit()
            await until(lambda: relay.stats().acknowledged == 1)
            assert relay._host.cursor.serial == 3
            late.commit()
            await until(lambda: relay.stats().acknowledged == 3)
            add(outbox, other, stream, "d1")
            other.commit()
            await until(lambda: relay.stats().acknowledged == 4)
    assert await admin.ids(stream) == ["c1", "a1", "b1", "d1"]


async def test_rows_when_their_transactions_overlap_at_random_are_published_once_and_in_the_order_of_their_aggregate(
    outbox: eda.sql.Outbox, url: str, conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await conn.streams.create(stream)
    n_writers, n_each = 6, 40

    async def write(writer: int) -> None:
        random = Random(writer)
        async with await psycopg.AsyncConnection.connect(url) as tx:
            for number in range(n_each):
                if random.random() < 0.3:
                    await tx.execute("SELECT pg_current_xact_id()")
                    await asyncio.sleep(random.random() * 0.01)
                aggregate = random.choice("xyz")
                await tx.execute("SELECT pg_advisory_xact_lock(ascii(%s))", (aggregate,))
                event = eda.Event(id=f"{writer}-{number}", type="t", aggregate=aggregate)
                await outbox.add(tx, stream, event)
                await tx.execute("INSERT INTO noted (aggregate, id) VALUES (%s, %s)", (aggregate, event.id))
                await asyncio.sleep(random.random() * 0.01)
                await (tx.rollback() if random.random() < 0.1 else tx.commit())

    with psycopg.connect(url, autocommit=True) as plain:
        plain.execute("CREATE TABLE noted (number bigserial, aggregate text, id text)")
        async with conn.relay(outbox) as relay:
            await asyncio.gather(*(write(writer) for writer in range(n_writers)))
            noted = plain.execute("SELECT aggregate, id FROM noted ORDER BY number").fetchall()
            await until(lambda: relay.stats().acknowledged == len(noted))
    stored = await admin.ids(stream)
    assert sorted(stored) == sorted(event_id for _, event_id in noted)
    for aggregate in "xyz":
        of_aggregate = [event_id for of, event_id in noted if of == aggregate]
        assert [each for each in stored if each in of_aggregate] == of_aggregate
