"""handled_event() in the handlers of every kind of subscription."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from eda.handling.running_handler import handled_event
from helpers import Connect, until

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "concurrent": {"concurrency": 4, **KEPT},
    "serial": {"serial": True, **KEPT},
    "strict": {"serial": "strict", **KEPT},
    "key": {"key": "aggregate", "concurrency": 4, **KEPT},
    "exclusive": {"exclusive": True, **KEPT},
    "private": {"backfill": True},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


class Quiet(eda.Middleware):
    """A layer that does something before and after each handler."""

    async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
        await asyncio.sleep(0)
        await call_next(event)


def handled_id() -> str | None:
    event = handled_event()
    return None if event is None else event.id


@each_kind
@pytest.mark.parametrize("middleware", [[], [Quiet()]], ids=["plain", "middleware"])
async def test_handled_event_when_a_handler_asks_is_its_event(
    connect: Connect, stream: str, kind: str, middleware: list[eda.Middleware]
) -> None:
    conn = await connect(middleware=middleware)
    for number in range(12):
        await conn.publish(stream, eda.Event(type="t", id=f"e{number}", aggregate=str(number % 3)))
    got: list[tuple[str, str | None]] = []
    elsewhere: list[str | None] = []

    async def other() -> None:
        elsewhere.append(handled_id())

    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(0.001)
        await asyncio.gather(other())
        elsewhere.append(await asyncio.to_thread(handled_id))
        got.append((event.id, handled_id()))

    async with conn.subscribe(stream, handle, **KINDS[kind]):
        await until(lambda: len(got) == 12)
        assert handled_event() is None
    assert sorted(got) == sorted((f"e{number}", f"e{number}") for number in range(12))
    assert set(elsewhere) == {None}


@pytest.mark.parametrize("kind", ["shared", "exclusive", "private"])
async def test_handled_event_when_a_batch_is_handled_is_that_of_a_batch_of_one(
    conn: eda.Conn, stream: str, kind: str
) -> None:
    got: list[tuple[int, str | None]] = []

    async def handle(events: list[eda.Event]) -> None:
        await asyncio.sleep(0)
        got.append((len(events), handled_id()))

    async with conn.subscribe(stream, handle, batch=10, **KINDS[kind]) as subscription:
        await conn.publish(stream, eda.Event(type="t", id="alone"))
        await until(lambda: subscription.stats().handled == 1)
        assert got == [(1, "alone")]
        await conn.publish_batch(stream, [eda.Event(type="t") for _ in range(5)])
        await until(lambda: subscription.stats().handled == 6)
    assert {found for n, found in got if n > 1} <= {None}
    assert sum(n for n, _ in got) == 6


async def test_handled_event_when_an_event_is_iterated_over_is_none(conn: eda.Conn, stream: str) -> None:
    await conn.publish(stream, eda.Event(type="t"))
    async with conn.events(stream, backfill=True) as events:
        async for _ in events:
            assert handled_event() is None
            break


async def test_handled_event_when_a_router_calls_the_handler_is_its_event(conn: eda.Conn, stream: str) -> None:
    router = eda.Router(unknown="raw")
    got: list[str | None] = []

    @router.otherwise
    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(0)
        got.append(handled_id())

    await conn.publish(stream, eda.Event(type="t", id="e1"))
    async with conn.subscribe(stream, router, backfill=True):
        await until(lambda: got)
    assert got == ["e1"]
