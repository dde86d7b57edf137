"""Lanes in PostgreSQL: transactions that run at the same time, each with the position of its lane."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
import pytest

import eda
from eda import sql
from helpers import Connect
from support.projections.read_model import publish_many

N = 1_500


def apply_with_psycopg(events: list[eda.Event], tx: psycopg.Connection[Any]) -> None:
    rows = [(event.sequence, event.aggregate) for event in events]
    with tx.cursor() as cursor:
        cursor.executemany("INSERT INTO applied (sequence, aggregate) VALUES (%s, %s)", rows)


async def apply_with_asyncpg(events: list[eda.Event], tx: Any) -> None:
    rows = [(event.sequence, event.aggregate) for event in events]
    await tx.executemany("INSERT INTO applied (sequence, aggregate) VALUES ($1, $2)", rows)


@pytest.mark.parametrize("kind", ["psycopg", "asyncpg"])
async def test_lanes_when_their_transactions_overlap_apply_each_event_once_and_each_key_in_order(
    connect: Connect, stream: str, postgres: str, kind: str
) -> None:
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("CREATE TABLE applied (n BIGSERIAL, sequence BIGINT, aggregate TEXT)")
        first, second = await connect(), await connect()
        last = await publish_many(first, stream, N, aggregates=50)
        apply: Any = apply_with_psycopg if kind == "psycopg" else apply_with_asyncpg

        def sink() -> Any:
            return sql.Psycopg(postgres) if kind == "psycopg" else sql.Asyncpg(postgres)

        given: dict[str, Any] = {"name": "orders", "key": "aggregate", "lanes": 4, "batch": 50}
        owner = await first.projection(stream, apply, into=sink(), **given)
        standby = await second.projection(stream, apply, into=sink(), **given)
        await owner.wait_for((stream, N // 2, 0), 20)
        await owner.close()  # in the middle: the lanes are at different positions
        await standby.wait_for(last, 20)
        await standby.close()
        rows = admin.execute("SELECT sequence, aggregate FROM applied ORDER BY n").fetchall()
        lanes = admin.execute("SELECT count(*) FROM eda_positions WHERE updated = 0").fetchone()
    assert Counter(sequence for sequence, _ in rows) == Counter(range(1, N + 1))
    for aggregate in {each for _, each in rows}:
        sequences = [sequence for sequence, of in rows if of == aggregate]
        assert sequences == sorted(sequences)
    assert lanes == (4,)
