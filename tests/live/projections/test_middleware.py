"""Middleware around each attempt of a projection: one transaction with its commit."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

import eda
from helpers import Connect, Logged, until
from support.projections.memory_sink import MemorySink, Outage
from support.projections.read_model import publish_many

SOON = eda.Retry(initial_s=0.01, max_attempts=2)


async def apply(events: list[eda.Event], tx: list[Any]) -> None:
    for event in events:
        tx.append(event.data.decode())
        if event.data.decode() == 666:
            raise ValueError("wrong")


async def apply_one(event: eda.Event, tx: list[Any]) -> None:
    await apply([event], tx)


class Noting(eda.Middleware):
    """Notes each attempt, with how many events were committed after it."""

    def __init__(self, sink: MemorySink) -> None:
        self.sink = sink
        self.seen: list[tuple[str, int, int, str]] = []

    async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
        await self.handle_batch([event], lambda events: call_next(events[0]), call_next.subscription.name)  # type: ignore[arg-type]

    async def handle_batch(self, events: list[eda.Event], call_next: Any, name: str = "") -> None:
        name = name or call_next.subscription.name
        try:
            await call_next(events)
        except Exception as error:
            self.seen.append((name, len(events), len(self.sink.applied), type(error).__name__))
            raise
        self.seen.append((name, len(events), len(self.sink.applied), ""))


async def test_hook_when_a_batch_is_applied_sees_the_attempt_with_its_commit(connect: Connect, stream: str) -> None:
    sink = MemorySink()
    noting = Noting(sink)
    conn = await connect(middleware=[noting])
    last = await publish_many(conn, stream, 30)
    async with conn.projection(stream, apply, into=sink, name="orders", batch=10) as applying:
        await applying.wait_for(last, 10)
    assert noting.seen == [("orders-v1", 10, 10, ""), ("orders-v1", 10, 20, ""), ("orders-v1", 10, 30, "")]


async def test_hook_when_events_are_applied_one_by_one_sees_each_attempt(
    connect: Connect, stream: str, logged: Logged
) -> None:
    logged.expect("handler failed for event")
    sink = MemorySink()
    noting = Noting(sink)
    conn = await connect(middleware=[noting])
    await conn.publish(stream, eda.Event(data=eda.JSON(1)))
    last = await conn.publish(stream, eda.Event(data=eda.JSON(666)))
    async with conn.projection(stream, apply_one, into=sink, name="orders", batch=None, retry=SOON) as applying:
        with pytest.raises(eda.NotApplied, match="ValueError: wrong"):
            await applying.wait_for(last, 10)
    assert noting.seen == [
        ("orders-v1", 1, 1, ""),
        ("orders-v1", 1, 1, "ValueError"),
        ("orders-v1", 1, 1, "ValueError"),
    ]


async def test_hook_when_it_changes_and_leaves_out_events_apply_gets_the_others_and_all_are_passed(
    connect: Connect, stream: str
) -> None:
    class Changing(eda.Middleware):
        async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
            await call_next([each.replace(data=eda.JSON(-each.sequence)) for each in events if each.sequence % 2])

    sink = MemorySink()
    conn = await connect(middleware=[Changing()])
    last = await publish_many(conn, stream, 10)
    async with conn.projection(stream, apply, into=sink, name="orders") as applying:
        await applying.wait_for(last, 10)
    assert sink.applied == [-1, -3, -5, -7, -9]


@pytest.mark.parametrize("calls", [True, False], ids=["swallows the error", "calls nothing"])
async def test_hook_when_it_returns_without_a_commit_lets_the_events_be_passed(
    connect: Connect, stream: str, calls: bool
) -> None:
    class Swallowing(eda.Middleware):
        async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
            if calls:
                with contextlib.suppress(ValueError):
                    await call_next(events)

    sink = MemorySink()
    conn = await connect(middleware=[Swallowing()])
    last = await conn.publish(stream, eda.Event(data=eda.JSON(666)))
    async with conn.projection(stream, apply, into=sink, name="orders") as applying:
        await applying.wait_for(last, 10)
        await until(lambda: sink.stored["orders", 1, stream][0].sequence == 1)
    assert sink.applied == []


async def test_hook_when_it_fails_after_the_commit_has_its_error_logged_and_nothing_is_applied_again(
    connect: Connect, stream: str, logged: Logged
) -> None:
    class Failing(eda.Middleware):
        async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
            await call_next(events)
            raise RuntimeError("too late")

    logged.expect("middleware failed for events that are applied and committed")
    sink = MemorySink()
    conn = await connect(middleware=[Failing()])
    last = await publish_many(conn, stream, 10)
    async with conn.projection(stream, apply, into=sink, name="orders") as applying:
        await applying.wait_for(last, 10)
        assert (await applying.stats()).failed == 0
    assert sink.applied == [*range(1, 11)]


async def test_hook_when_it_hides_an_outage_can_not_lose_events(connect: Connect, stream: str) -> None:
    class Hiding(eda.Middleware):
        async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
            with contextlib.suppress(Exception):
                await call_next(events)

    sink = MemorySink()
    downs = 5

    def fails(method: str) -> None:
        nonlocal downs
        if method == "commit" and downs:
            downs -= 1
            raise Outage

    sink.fails = fails
    conn = await connect(middleware=[Hiding()])
    last = await publish_many(conn, stream, 10)
    async with conn.projection(stream, apply, into=sink, name="orders", retry=SOON) as applying:
        await applying.wait_for(last, 10)
    assert sink.applied == [*range(1, 11)]


async def test_middleware_when_it_would_not_see_the_events_is_refused(connect: Connect, stream: str) -> None:
    class Single(eda.Middleware):
        async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
            await call_next(event)

    conn = await connect(middleware=[Single()])
    with pytest.raises(eda.ConfigError, match="a projection with batch would bypass it"):
        conn.projection(stream, apply, into=MemorySink(), name="orders")
    conn.projection(stream, apply_one, into=MemorySink(), name="orders", batch=None)
