"""batch=…: handlers of lists of events."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, until
from support.cursors.member import Keys

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "exclusive": {"exclusive": True, **KEPT},
    "private": {"backfill": True},
}
QUICK = eda.Retry(initial_s=0.02, factor=1)

pytestmark = pytest.mark.parametrize("kind", KINDS)


async def publish(conn: eda.Conn, stream: str, n: int) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event(type=str(i + 1)) for i in range(n)])


class Batches:
    """A handler that keeps the sequences of each call, and raises what `fail` gives."""

    def __init__(self, fail: Any = lambda events: None) -> None:
        self.calls: list[list[int]] = []
        self.done: list[int] = []
        self.fail = fail

    async def __call__(self, events: list[eda.Event]) -> None:
        assert type(events) is list
        await asyncio.sleep(0)
        self.calls.append([event.sequence for event in events])
        error = self.fail(events)
        failed = set(error.failures) if isinstance(error, eda.PartialFailure) else set(events) if error else set()
        self.done += [event.sequence for event in events if event not in failed]
        if error is not None:
            raise error


async def assert_kept(admin: Admin, stream: str, kind: str, seq: int) -> None:
    """Check that the position on the server is `seq`, and that no event is in flight."""
    if kind == "shared":
        info = await admin.consumer(stream, "me")
        assert (info["ack_floor"]["stream_seq"], info["num_ack_pending"]) == (seq, 0)
    elif kind == "exclusive":
        value = await Keys(admin, stream, "me").get()
        assert value is not None
        assert value["seq"] == seq


@pytest.mark.old_server
async def test_batch_when_events_are_there_gives_full_lists_in_order(
    conn: eda.Conn, stream: str, admin: Admin, kind: str
) -> None:
    await publish(conn, stream, 1000)
    batches = Batches()
    async with conn.subscribe(stream, batches, batch=100, **KINDS[kind]) as subscription:
        await until(lambda: len(batches.done) == 1000)
        assert subscription.stats().handled == 1000
    assert batches.done == list(range(1, 1001))
    assert max(map(len, batches.calls)) == 100
    assert len(batches.calls) <= 20
    await assert_kept(admin, stream, kind, 1000)


async def test_batch_when_fewer_come_waits_for_them_no_longer_than_linger(
    conn: eda.Conn, stream: str, kind: str
) -> None:
    batches = Batches()
    async with conn.subscribe(stream, batches, batch=50, linger_s=0.5, **KINDS[kind]):
        for _ in range(2):
            batches.calls.clear()
            begin = time.monotonic()
            await publish(conn, stream, 10)
            await until(lambda: batches.calls)
            assert 0.45 < time.monotonic() - begin < 4
            assert [len(each) for each in batches.calls] == [10]


async def test_batch_when_full_does_not_wait_for_linger(conn: eda.Conn, stream: str, kind: str) -> None:
    batches = Batches()
    async with conn.subscribe(stream, batches, batch=50, linger_s=20, **KINDS[kind]):
        await publish(conn, stream, 50)
        await until(lambda: batches.calls, 8)
        assert [len(each) for each in batches.calls] == [50]


async def test_batch_when_linger_is_nothing_takes_what_is_there(conn: eda.Conn, stream: str, kind: str) -> None:
    batches = Batches()
    async with conn.subscribe(stream, batches, batch=50, linger_s=0, **KINDS[kind]):
        begin = time.monotonic()
        await conn.publish(stream)
        await until(lambda: batches.calls)
        assert time.monotonic() - begin < 3


async def test_batch_when_concurrent_runs_several(conn: eda.Conn, stream: str, kind: str) -> None:
    await publish(conn, stream, 400)
    running = most = 0
    done: list[int] = []

    async def handle(events: list[eda.Event]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        done.extend(event.sequence for event in events)

    async with conn.subscribe(stream, handle, batch=20, concurrency=3, **KINDS[kind]):
        await until(lambda: len(done) == 400)
    assert most == 3
    assert sorted(done) == list(range(1, 401))


@pytest.mark.old_server
async def test_batch_when_it_fails_in_part_retries_only_those(
    conn: eda.Conn, stream: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("handler failed")

    def fail(events: list[eda.Event]) -> Exception | None:
        failed = {event: ValueError(event.type) for event in events if event.sequence % 10 == 0 and event.attempt < 3}
        return eda.PartialFailure(failed) if failed else None

    await publish(conn, stream, 100)
    batches = Batches(fail)
    async with conn.subscribe(stream, batches, batch=25, retry=QUICK, **KINDS[kind]) as subscription:
        await until(lambda: len(batches.done) == 100)
        await until(lambda: subscription.stats().handled == 100)
        assert subscription.stats().failed == 20
    assert sorted(batches.done) == list(range(1, 101))
    calls = [sequence for call in batches.calls for sequence in call]
    assert {sequence for sequence in calls if calls.count(sequence) == 3} == set(range(10, 101, 10))
    assert len(calls) == 120
    await assert_kept(admin, stream, kind, 100)


async def test_batch_when_it_fails_otherwise_retries_all_of_it(
    conn: eda.Conn, stream: str, kind: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    await publish(conn, stream, 50)
    batches = Batches(lambda events: ValueError("all") if events[0].sequence == 1 and events[0].attempt == 1 else None)
    async with conn.subscribe(stream, batches, batch=10, retry=QUICK, **KINDS[kind]) as subscription:
        await until(lambda: len(batches.done) == 50)
        assert subscription.stats().failed == len(batches.calls[0]) > 0
    assert batches.calls[0][0] == 1
    assert sorted(batches.done) == list(range(1, 51))


async def test_batch_when_the_failure_names_none_of_its_events_is_an_error_of_all(
    conn: eda.Conn, stream: str, kind: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    stranger = eda.Event(id="stranger")
    await publish(conn, stream, 10)
    batches = Batches(
        lambda events: eda.PartialFailure({stranger: ValueError("x")}) if events[0].attempt == 1 else None
    )
    async with conn.subscribe(stream, batches, batch=10, retry=QUICK, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().handled == 10)
        assert subscription.stats().failed == 10
    assert isinstance(logged.find("handler failed")[0].exc_info[1], eda.ConfigError)


async def test_batch_when_events_in_it_are_rejected_or_exhausted_buries_only_those(
    conn: eda.Conn, stream: str, admin: Admin, kind: str, logged: Logged
) -> None:
    logged.expect("rejected", "for the last time")
    logged.allow("handler failed")

    def fail(events: list[eda.Event]) -> Exception | None:
        failed: dict[eda.Event, BaseException] = {}
        for event in events:
            if event.sequence == 5:
                failed[event] = eda.Reject("no good")
            if event.sequence == 7:
                failed[event] = ValueError("never")
        return eda.PartialFailure(failed) if failed else None

    await publish(conn, stream, 20)
    batches = Batches(fail)
    retry = eda.Retry(initial_s=0.01, max_attempts=2)
    async with conn.subscribe(stream, batches, batch=10, retry=retry, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 2)
        await until(lambda: subscription.stats().handled == 18)
    assert sorted(batches.done) == sorted(set(range(1, 21)) - {5, 7})
    await assert_kept(admin, stream, kind, 20)
    assert (await conn.streams.info(f"{stream}-dead")).events == 2
    await admin.js.delete_stream(f"{stream}-dead")


async def test_batch_when_closed_in_the_middle_lets_it_end_and_gives_back_the_rest(
    connect: Connect, stream: str, admin: Admin, kind: str
) -> None:
    conn, other = await connect(), await connect()
    await publish(conn, stream, 100)
    running, release = asyncio.Event(), asyncio.Event()
    first: list[int] = []

    async def handle(events: list[eda.Event]) -> None:
        running.set()
        await release.wait()
        first.extend(event.sequence for event in events)

    subscription = await conn.subscribe(stream, handle, batch=10, **KINDS[kind])
    await running.wait()
    closing = asyncio.create_task(subscription.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    release.set()
    await asyncio.wait_for(closing, 5)
    assert 0 < len(first) <= 10
    assert subscription.stats().handled == len(first)
    await assert_kept(admin, stream, kind, len(first))
    if kind == "private":
        return
    second = Batches()
    async with other.subscribe(stream, second, batch=10, **KINDS[kind]):
        await until(lambda: len(second.done) == 100 - len(first))
    assert sorted(first + second.done) == list(range(1, 101))


async def test_batch_when_its_handler_runs_late_is_cancelled_and_comes_again(
    conn: eda.Conn, stream: str, kind: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    await publish(conn, stream, 5)
    calls: list[int] = []

    async def handle(events: list[eda.Event]) -> None:
        calls.append(len(events))
        if events[0].attempt == 1:
            await asyncio.sleep(60)

    async with conn.subscribe(stream, handle, batch=5, retry=QUICK, timeout_s=0.2, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().handled == 5)
        assert subscription.stats().failed == 5
    assert isinstance(logged.find("handler failed")[0].exc_info[1], eda.Timeout)
