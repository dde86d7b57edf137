"""Subscriptions with a filter get the tombstones of an event store's aggregates, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import eda
from helpers import Admin, until
from support.store.snapshotting import Side

TOMBSTONE = "eda.forgotten"

KINDS: dict[str, dict[str, Any]] = {
    "shared": {"name": "reader", "durable": True},
    "serial": {"name": "reader", "durable": True, "serial": True},
    "private": {},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
async def test_subscription_to_types_when_an_aggregate_is_forgotten_gets_its_tombstone(
    conn: eda.Conn, stream: str, options: dict[str, Any]
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(store=True))
    side = Side(conn, stream)
    got: list[tuple[str, str]] = []
    async with conn.subscribe(
        stream, lambda event: got.append((event.type, event.aggregate)), backfill=True, types=["paid"], **options
    ):
        await side.append("4711", 1, "paid")
        await side.append("4711", 2, "sent")
        await side.append("4711", 3, TOMBSTONE)
        await side.append("4712", 1, "paid")
        await until(lambda: len(got) == 3)
    assert got == [("paid", "4711"), (TOMBSTONE, "4711"), ("paid", "4712")]


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
async def test_subscription_to_an_aggregate_gets_its_tombstone_and_no_other(
    conn: eda.Conn, stream: str, options: dict[str, Any]
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(store=True))
    side = Side(conn, stream)
    got: list[tuple[str, str]] = []
    async with conn.subscribe(
        stream,
        lambda event: got.append((event.type, event.aggregate)),
        backfill=True,
        types=["paid"],
        aggregate="4711",
        **options,
    ):
        await side.append("4712", 1, TOMBSTONE)
        await side.append("4711", 1, "sent")
        await side.append("4711", 2, TOMBSTONE)
        await until(lambda: got)
    assert got == [(TOMBSTONE, "4711")]


@pytest.mark.parametrize("kind", ["shared", "serial"])
async def test_durable_subscription_that_is_older_than_the_mark_goes_on_and_gets_tombstones(
    conn: eda.Conn, stream: str, admin: Admin, kind: str
) -> None:
    await conn.streams.create(stream)
    side = Side(conn, stream)
    got: list[int] = []
    options = {"backfill": True, "types": ["paid"], **KINDS[kind]}
    async with conn.subscribe(stream, lambda event: got.append(event.sequence), **options):
        await side.append("4711", 1, "paid")
        await until(lambda: got == [1])
    await conn.streams.update(stream, store=True)
    async with conn.subscribe(stream, lambda event: got.append(event.sequence), **options):
        await side.append("4711", 2, TOMBSTONE)
        await side.append("4712", 1, "paid")
        await until(lambda: len(got) == 3)
    assert got == [1, 2, 3]


async def test_subscription_to_a_stream_that_is_no_event_store_asks_for_no_tombstones(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await conn.streams.create(stream)
    async with conn.subscribe(stream, lambda _: None, types=["paid"], name="reader", durable=True):
        info = await admin.js.consumer_info(stream, "reader")
    assert info.config.filter_subjects == [stream, f"{stream}.paid.*"]


@pytest.mark.parametrize("unknown", [None, "skip", "raise"])
async def test_router_without_a_handler_for_tombstones_passes_them_over(
    conn: eda.Conn, stream: str, unknown: Any
) -> None:
    @eda.payload("paid")
    @dataclass
    class Paid:
        amount: int

    got: list[int] = []
    router = eda.Router(unknown=unknown)

    @router.on(Paid)
    def paid(payload: Paid) -> None:
        got.append(payload.amount)

    await conn.streams.create(stream, eda.StreamOptions(store=True))
    side = Side(conn, stream)
    async with conn.subscribe(stream, router, backfill=True, name="reader", durable=True) as sub:
        await side.append("4711", 1, TOMBSTONE)
        await side.append("4712", 1, "paid", data=eda.JSON({"amount": 3}))
        await until(lambda: got)
        await until(lambda: sub.stats().handled == 2)
    assert got == [3]
    assert sub.stats().dead_lettered == 0


async def test_router_with_a_handler_for_the_rest_gives_it_tombstones(conn: eda.Conn, stream: str) -> None:
    got: list[str] = []
    router = eda.Router(unknown="raw")

    @router.otherwise
    def rest(event: eda.Event) -> None:
        got.append(event.type)

    await conn.streams.create(stream, eda.StreamOptions(store=True))
    async with conn.subscribe(stream, router, backfill=True):
        await Side(conn, stream).append("4711", 1, TOMBSTONE)
        await until(lambda: got)
    assert got == [TOMBSTONE]
