"""Events that fail come again: after growing delays, in place or from the server."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from typing import Any

import pytest

import eda
from helpers import Connect, Logged, until

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "exclusive": {"exclusive": True, **KEPT},
    "serial": {"serial": True, **KEPT},
    "strict": {"serial": "strict", **KEPT},
    "key": {"key": "aggregate", **KEPT},
}


@pytest.mark.old_server
@pytest.mark.parametrize("kind", KINDS)
async def test_retry_when_given_has_the_event_come_again_after_growing_delays(
    conn: eda.Conn, stream: str, kind: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    calls: list[tuple[int, float]] = []

    async def handle(event: eda.Event) -> None:
        calls.append((event.attempt, time.monotonic()))
        if event.attempt < 5:
            raise ValueError("not yet")

    await conn.publish(stream)
    retry = eda.Retry(initial_s=0.04, factor=2, max_s=0.1)
    async with conn.subscribe(stream, handle, retry=retry, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().handled == 1)
        stats = subscription.stats()
    assert [attempt for attempt, _ in calls] == [1, 2, 3, 4, 5]
    delays = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(calls)]
    for delay, wanted in zip(delays, (0.04, 0.08, 0.1, 0.1), strict=True):
        assert wanted <= delay < wanted + 3
    said = [record.getMessage() for record in logged.find("handler failed")]
    assert [re.findall(r"[\d.]+ s\b", each)[-1] for each in said] == ["0.04 s", "0.08 s", "0.1 s", "0.1 s"]
    assert (stats.failed, stats.handled) == (4, 1)
    # In place: the server does not know of it.
    assert stats.redelivered == (4 if kind == "shared" else 0)


async def test_retry_when_many_wait_for_it_comes_to_each_in_its_time(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    """Later failures do not put off the earlier ones, nor the other way round."""
    logged.expect("handler failed")
    failed: dict[int, float] = {}
    waited: dict[int, float] = {}
    n_again: list[int] = []  # how many had come again when each one failed

    async def handle(event: eda.Event) -> None:
        if event.attempt == 1:
            await asyncio.sleep(0.02)
            failed[event.sequence] = time.monotonic()
            n_again.append(len(waited))
            raise ValueError("once")
        waited[event.sequence] = time.monotonic() - failed[event.sequence]

    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event(aggregate=str(n)) for n in range(100)])
    options: dict[str, Any] = {"retry": eda.Retry(initial_s=0.2), "concurrency": 4, **KINDS["key"]}
    async with conn.subscribe(stream, handle, **options):
        await until(lambda: len(waited) == 100)
    assert all(0.2 <= seconds < 3 for seconds in waited.values())
    assert n_again[-1] > 20, "the early ones waited until all had failed"


@pytest.mark.parametrize("kind", ["shared", "serial"])
async def test_retry_when_closed_meanwhile_gives_the_event_to_the_next_at_once(
    connect: Connect, stream: str, kind: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    conn, other = await connect(), await connect()

    async def fail(event: eda.Event) -> None:
        raise ValueError("never")

    for _ in range(3):
        await conn.publish(stream)
    # A shared one has told the server of the delay, and can't take that back.
    delay_s = 1.0 if kind == "shared" else 60.0
    slow = eda.Retry(initial_s=delay_s, max_s=delay_s)
    async with conn.subscribe(stream, fail, retry=slow, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().failed >= 1)
    seen: list[int] = []
    async with other.subscribe(stream, lambda event: seen.append(event.sequence), **KINDS[kind]):
        await until(lambda: len(seen) == 3)
    assert sorted(seen) == [1, 2, 3]


# --- time-outs -------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
@pytest.mark.parametrize("kind", KINDS)
async def test_timeout_when_passed_cancels_the_handler_and_the_event_comes_again_when_it_has_ended(
    conn: eda.Conn, stream: str, kind: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    running = most = 0
    told: list[tuple[str, int, int]] = []

    async def handle(event: eda.Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            if event.sequence == 2 and event.attempt == 1:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)  # it takes its time to end
            told.append(("cancelled", event.sequence, event.attempt))
            raise
        finally:
            running -= 1
        told.append(("end", event.sequence, event.attempt))

    for _ in range(3):
        await conn.publish(stream, eda.Event(aggregate="a"))
    options: dict[str, Any] = {"timeout_s": 0.2, "retry": eda.Retry(initial_s=0.01), **KINDS[kind]}
    async with conn.subscribe(stream, handle, **options) as subscription:
        await until(lambda: subscription.stats().handled == 3)
        assert subscription.stats().failed == 1
    assert most == 1
    assert told[:2] == [("end", 1, 1), ("cancelled", 2, 1)]
    rest = [("end", 2, 2), ("end", 3, 1)]
    assert told[2:] == rest if kind in ("serial", "strict", "key") else sorted(told[2:]) == rest
    assert isinstance(logged.find("handler failed")[0].exc_info[1], eda.Timeout)


@pytest.mark.parametrize("kind", ["shared", "serial", "key"])
async def test_timeout_when_the_handler_ignores_it_is_reported_and_not_handled_beside_itself(
    conn: eda.Conn, stream: str, kind: str, logged: Logged, short_lease: float
) -> None:
    logged.expect("ignores its cancellation.*sequence 1", "handler failed")
    running = most = 0
    attempts: list[int] = []

    async def handle(event: eda.Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        attempts.append(event.attempt)
        end = time.monotonic() + (1.8 if len(attempts) == 1 else 0)
        while time.monotonic() < end:
            try:
                await asyncio.sleep(end - time.monotonic())
            except asyncio.CancelledError:
                continue
        running -= 1

    await conn.publish(stream)
    options: dict[str, Any] = {"timeout_s": 0.2, "retry": eda.Retry(initial_s=0.01), **KINDS[kind]}
    if kind not in ("serial", "strict"):
        options["concurrency"] = 3
    async with conn.subscribe(stream, handle, **options) as subscription:
        await until(lambda: logged.find("ignores its cancellation"))
        assert subscription.stats().in_flight == 1
        await until(lambda: subscription.stats().handled == 1)
        assert subscription.stats().redelivered == (1 if kind == "shared" else 0)
    assert (most, attempts) == (1, [1, 2])
    assert len(logged.find("ignores its cancellation")) == 1


@pytest.mark.parametrize("batch", [None, 5])
async def test_timeout_when_a_plain_function_overruns_is_reported(
    conn: eda.Conn, stream: str, logged: Logged, batch: int | None
) -> None:
    sent = (await conn.publish(stream, eda.Event(type="slow-one"))).id
    options = KEPT | {"timeout_s": 0.1, "batch": batch}
    async with conn.subscribe(stream, lambda given: time.sleep(0.15), **options) as subscription:
        await until(lambda: subscription.stats().handled == 1)
        assert subscription.stats().failed == 0
    (record,) = logged.find("over timeout_s")
    for part in (stream, sent, "'slow-one'", "sequence 1", "0.15", "timeout_s=0.1", "eda.threaded"):
        assert part in record.getMessage()


@pytest.mark.parametrize("kind", ["shared", "key"])
async def test_threaded_when_functions_block_leaves_the_loop_alone_and_runs_several(
    conn: eda.Conn, stream: str, kind: str
) -> None:
    running: set[str] = set()
    most = n_turns = 0
    four = threading.Barrier(4)

    def handle(event: eda.Event) -> None:
        nonlocal most
        running.add(event.id)
        most = max(most, len(running))
        four.wait(5)
        n_before, deadline = n_turns, time.monotonic() + 5
        while n_turns == n_before:
            assert time.monotonic() < deadline, "the loop does not turn"
            time.sleep(0.01)
        running.discard(event.id)

    for n in range(20):
        await conn.publish(stream, eda.Event(aggregate=str(n)))

    async def watch() -> None:
        nonlocal n_turns
        while True:
            await asyncio.sleep(0.001)
            n_turns += 1

    watching = asyncio.create_task(watch())
    async with conn.subscribe(stream, eda.threaded(handle, workers=4), concurrency=4, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().handled == 20)
        assert subscription.stats().failed == 0
    watching.cancel()
    assert most == 4


async def test_threaded_when_it_fails_or_runs_late_is_tried_again(conn: eda.Conn, stream: str, logged: Logged) -> None:
    logged.expect("handler failed")
    calls: list[tuple[int, int, float]] = []

    def handle(event: eda.Event) -> None:
        if event.sequence == 1 and event.attempt == 1:
            raise ValueError("once")
        if event.sequence == 2 and event.attempt == 1:
            time.sleep(0.4)
        calls.append((event.sequence, event.attempt, time.monotonic()))

    for _ in range(3):
        await conn.publish(stream)
    options: dict[str, Any] = {"timeout_s": 0.2, "retry": eda.Retry(initial_s=0.01), **KINDS["serial"]}
    async with conn.subscribe(stream, eda.threaded(handle), **options) as subscription:
        await until(lambda: subscription.stats().handled == 3)
        assert subscription.stats().failed == 2
    # The thread can't be cancelled: its event waits until it has ended.
    assert [call[:2] for call in calls] == [(1, 2), (2, 1), (2, 2), (3, 1)]
