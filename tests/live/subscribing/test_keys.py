"""key=…: events of one key in order and never two at once, others beside them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from typing import Any

import pytest

import eda
from helpers import Connect, Logged, until

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
QUICK = eda.Retry(initial_s=0.02, factor=1)


async def publish(conn: eda.Conn, stream: str, aggregates: list[str]) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event(aggregate=each) for each in aggregates])


class Lanes:
    """A handler that checks, by key, the order and that one is handled at a time."""

    def __init__(self, key_of: Any = lambda event: event.aggregate) -> None:
        self.key_of = key_of
        self.running: set[Any] = set()
        self.most = self.n_done = 0
        self.done: dict[Any, list[int]] = defaultdict(list)
        self.wrong: list[tuple[Any, int]] = []

    async def __call__(self, event: eda.Event) -> None:
        key = self.key_of(event)
        if key in self.running or self.done[key][-1:] >= [event.sequence]:
            self.wrong.append((key, event.sequence))
        self.running.add(key)
        self.most = max(self.most, len(self.running))
        try:
            await self.work(event)
        finally:
            self.running.discard(key)
        self.done[key].append(event.sequence)
        self.n_done += 1

    async def work(self, event: eda.Event) -> None:
        await asyncio.sleep(random.choice((0, 0, 0.001)))

    def assert_right(self, keys: list[Any]) -> None:
        """All events, whose keys these are in order, were handled as they should be."""
        assert not self.wrong
        wanted = defaultdict(list)
        for sequence, key in enumerate(keys, 1):
            wanted[key].append(sequence)
        assert {key: done for key, done in self.done.items() if done} == wanted


@pytest.mark.old_server
@pytest.mark.parametrize("options", [KEPT, {"backfill": True}], ids=["durable", "private"])
async def test_key_when_it_is_the_aggregate_keeps_its_order_and_runs_others_beside(
    conn: eda.Conn, stream: str, options: dict[str, Any]
) -> None:
    aggregates = [random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(1000)]
    await publish(conn, stream, aggregates)
    lanes = Lanes()
    async with conn.subscribe(stream, lanes, key="aggregate", concurrency=16, **options) as subscription:
        await until(lambda: lanes.n_done == 1000)
        assert subscription.stats().failed == 0
    lanes.assert_right(aggregates)
    assert lanes.most == 16


async def test_key_when_a_function_gives_it_is_that(conn: eda.Conn, stream: str) -> None:
    aggregates = [str(n) for n in range(500)]
    await publish(conn, stream, aggregates)
    key_of = lambda event: int(event.aggregate) % 7  # noqa: E731
    lanes = Lanes(key_of)
    async with conn.subscribe(stream, lanes, key=key_of, concurrency=16, **KEPT):
        await until(lambda: lanes.n_done == 500)
    lanes.assert_right([n % 7 for n in range(500)])
    assert lanes.most == 7


@pytest.mark.parametrize("raise_it", [lambda event: {}[event.aggregate], lambda event: [event]], ids=["raises", "list"])
async def test_key_when_its_function_fails_is_the_failure_of_that_event_alone(
    conn: eda.Conn, stream: str, raise_it: Any, logged: Logged
) -> None:
    logged.expect("is handled again", "for the last time")
    await publish(conn, stream, ["good", "bad", "good", "bad", "good"])
    key_of = lambda event: event.aggregate if event.aggregate == "good" else raise_it(event)  # noqa: E731
    seen: list[int] = []
    options: dict[str, Any] = {"retry": eda.Retry(initial_s=0.01, max_attempts=2), "dead_letter": None}
    handler = lambda event: seen.append(event.sequence)  # noqa: E731
    async with conn.subscribe(stream, handler, key=key_of, concurrency=4, **KEPT, **options) as subscription:
        await until(lambda: subscription.stats().passed_over == 2)
        await until(lambda: len(seen) == 3)
    assert seen == [1, 3, 5]
    async with conn.subscribe(stream, handler, exclusive=True, **KEPT):
        await conn.publish(stream)
        await until(lambda: seen == [1, 3, 5, 6])


async def test_key_when_its_event_fails_waits_for_the_retry_and_others_go_on(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    aggregates = [str(n % 10) for n in range(300)]
    await publish(conn, stream, aggregates)
    lanes = Lanes()
    failing = True

    async def handle(event: eda.Event) -> None:
        await lanes(event)

    async def work(event: eda.Event) -> None:
        await asyncio.sleep(0)
        if event.aggregate == "3" and failing:
            raise ValueError("not yet")

    lanes.work = work  # type: ignore[method-assign]
    async with conn.subscribe(stream, handle, key="aggregate", concurrency=16, retry=QUICK, **KEPT) as subscription:
        await until(lambda: lanes.n_done == 270)
        assert not lanes.done["3"]
        await until(lambda: subscription.stats().failed >= 3)
        assert subscription.stats().buffered + subscription.stats().in_flight == 30
        failing = False
        await until(lambda: lanes.n_done == 300)
    lanes.assert_right(aggregates)
    assert {record.args[3] for record in logged.find("handler failed", logging.ERROR)} == {"4"}  # type: ignore[index]


async def test_key_when_its_event_is_slow_holds_back_nothing_else_until_prefetch_are_held(
    conn: eda.Conn, stream: str
) -> None:
    aggregates = ["slow", *(str(n % 10) for n in range(300))]
    await publish(conn, stream, aggregates)
    lanes = Lanes()
    release = asyncio.Event()

    async def work(event: eda.Event) -> None:
        if event.aggregate == "slow":
            await release.wait()

    lanes.work = work  # type: ignore[method-assign]
    async with conn.subscribe(stream, lanes, key="aggregate", concurrency=4, prefetch=100, **KEPT):
        await until(lambda: lanes.n_done == 99)
        await asyncio.sleep(0.05)
        assert lanes.n_done == 99
        release.set()
        await until(lambda: lanes.n_done == 301)
    lanes.assert_right(aggregates)


async def test_key_when_there_are_ten_thousand_handles_each_in_order(conn: eda.Conn, stream: str) -> None:
    aggregates = [f"aggregate-{n % 10_000}" for n in range(30_000)]
    random.shuffle(aggregates)
    await publish(conn, stream, aggregates)
    lanes = Lanes()

    async def work(event: eda.Event) -> None:
        await asyncio.sleep(0)

    lanes.work = work  # type: ignore[method-assign]
    async with conn.subscribe(stream, lanes, key="aggregate", concurrency=16, **KEPT) as subscription:
        await until(lambda: lanes.n_done == 30_000, 20)
        assert subscription.stats().pending == 0
    lanes.assert_right(aggregates)


async def test_key_when_closed_and_opened_again_handles_all_and_keeps_the_order(
    connect: Connect, stream: str, logged: Logged
) -> None:
    """What was done beyond an event that had not been may come again, in order."""
    logged.allow("handler failed")
    conn = await connect()
    aggregates = [random.choice("abcdefgh") for _ in range(1000)]
    await publish(conn, stream, aggregates)
    done: dict[str, list[int]] = defaultdict(list)
    again: list[int] = []

    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(random.choice((0, 0.001)))
        if event.attempt == 1 and event.sequence % 40 == 0:
            raise ValueError("once")
        if event.sequence in done[event.aggregate]:
            again.append(event.sequence)
        else:
            done[event.aggregate].append(event.sequence)

    options: dict[str, Any] = {"key": "aggregate", "concurrency": 8, "prefetch": 50, "retry": QUICK}
    for n in (200, 500, 1000):
        async with conn.subscribe(stream, handle, **KEPT, **options):
            await until(lambda n=n: sum(map(len, done.values())) >= n)
    assert sorted(sequence for each in done.values() for sequence in each) == list(range(1, 1001))
    assert all(each == sorted(each) for each in done.values())
    assert len(again) < 100
