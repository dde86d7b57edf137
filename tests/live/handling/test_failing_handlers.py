"""Handlers that fail, hang, cancel and raise what they should not: the event comes again, the subscription goes on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import time
from collections import Counter
from typing import Any

import pytest

import eda
from helpers import Logged, until

QUICK = eda.Retry(initial_s=0.02, factor=1)


@pytest.mark.old_server
async def test_handler_when_it_fails_is_called_again_after_growing_delays(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    calls: list[tuple[int, float]] = []

    async def handle(event: eda.Event) -> None:
        calls.append((event.attempt, time.monotonic()))
        if event.attempt < 6:
            raise ValueError("not yet")

    sent = (await conn.publish(stream, eda.Event(type="order-placed"))).id
    retry = eda.Retry(initial_s=0.05, factor=2, max_s=0.2)
    async with conn.subscribe(stream, handle, backfill=True, name="me", retry=retry) as subscription:
        await until(lambda: subscription.stats().handled == 1)
        stats = subscription.stats()
    assert [attempt for attempt, _ in calls] == [1, 2, 3, 4, 5, 6]
    delays = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(calls)]
    for delay, wanted in zip(delays, (0.05, 0.1, 0.2, 0.2, 0.2), strict=True):
        assert wanted <= delay < wanted + 3
    assert (stats.failed, stats.handled, stats.redelivered) == (5, 1, 5)
    records = logged.find("handler failed", logging.ERROR)
    said = [re.findall(r"[\d.]+ s\b", each.getMessage())[-1] for each in records]
    assert said == ["0.05 s", "0.1 s", "0.2 s", "0.2 s", "0.2 s"]
    record = records[0]
    for part in (sent, "'order-placed'", stream, "sequence 1", "attempt 1", "0.05 s"):
        assert part in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


class Odd(BaseException):
    """An exception that `except Exception` does not catch."""


class OddGroup(BaseExceptionGroup[Odd]):
    pass


def raise_it(error: BaseException | type[BaseException]) -> None:
    raise error


async def raise_later(error: BaseException | type[BaseException]) -> None:
    await asyncio.sleep(0)
    raise error


async def raise_in_group(error: BaseException | type[BaseException]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(raise_later(error))
        await asyncio.sleep(0.02)
        raise ValueError("a child that is cancelled does not fail its group")


async def raise_at_the_end_of_a_group(error: BaseException | type[BaseException]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(raise_later(error))
    raise KeyError("a child that is cancelled does not fail its group")


async def time_out(error: BaseException | type[BaseException]) -> None:
    async with asyncio.timeout(0.001):
        await asyncio.sleep(60)


async def await_cancelled(error: BaseException | type[BaseException]) -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


ERRORS: list[BaseException | type[BaseException]] = [
    *(ValueError, ValueError("with text"), asyncio.CancelledError, asyncio.CancelledError("mine"), Odd, Odd("text")),
    *(StopIteration, StopAsyncIteration, TimeoutError, asyncio.QueueFull, MemoryError, RecursionError),
    *(eda.Timeout("mine", 5), eda.Closed("mine"), OddGroup("group", [Odd()]), ExceptionGroup("g", [KeyError()])),
]


@pytest.mark.parametrize(
    "raise_it", [raise_it, raise_later, raise_in_group, raise_at_the_end_of_a_group, time_out, await_cancelled]
)
async def test_handler_when_it_raises_anything_the_subscription_goes_on(
    conn: eda.Conn, stream: str, raise_it: Any, logged: Logged
) -> None:
    logged.expect("handler failed")

    def handle(event: eda.Event) -> Any:
        if event.attempt == 1:
            return raise_it(ERRORS[int(event.type)])
        return None

    for n in range(len(ERRORS)):
        await conn.publish(stream, eda.Event(type=str(n)))
    async with conn.subscribe(stream, handle, backfill=True, name="me", retry=QUICK, concurrency=3) as subscription:
        await until(lambda: subscription.stats().handled == len(ERRORS))
        assert subscription.stats().failed == len(ERRORS)
        await conn.publish(stream, eda.Event(type="0"))
        await until(lambda: subscription.stats().handled == len(ERRORS) + 1)


async def test_handler_when_it_raises_a_cancelled_error_in_serial_keeps_the_order(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    done: list[int] = []

    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(0)
        if event.attempt < 3:
            raise asyncio.CancelledError
        done.append(event.sequence)

    for _ in range(5):
        await conn.publish(stream)
    async with conn.subscribe(stream, handle, backfill=True, name="me", durable=True, serial=True, retry=QUICK):
        await until(lambda: len(done) == 5)
    assert done == [1, 2, 3, 4, 5]


async def test_event_when_its_handler_failed_can_be_decoded_later(conn: eda.Conn, stream: str, logged: Logged) -> None:
    logged.expect("handler failed")
    kept: list[eda.Event] = []

    def handle(event: eda.Event) -> None:
        kept.append(event)
        if event.attempt == 1:
            try:
                event.data.decode(int)
            except eda.DecodeError as error:  # as it is, it would make the event a dead letter
                raise RuntimeError("no number") from error

    sent = (await conn.publish(stream, eda.Event(data=eda.JSON("text")))).id
    async with conn.subscribe(stream, handle, backfill=True, name="me", retry=QUICK):
        await until(lambda: len(kept) == 2)
    assert [event.data.decode() for event in kept] == ["text", "text"]
    error = logged.find("handler failed")[0].exc_info[1].__cause__
    assert isinstance(error, eda.DecodeError)
    assert error.event_id == sent


# --- time-outs -------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_timeout_when_passed_cancels_the_handler_and_the_event_comes_again(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    ended: list[tuple[int, float]] = []

    async def handle(event: eda.Event) -> None:
        begin = time.monotonic()
        try:
            await asyncio.sleep(60 if event.attempt < 3 else 0)
        finally:
            ended.append((event.attempt, time.monotonic() - begin))

    sent = (await conn.publish(stream)).id
    options: dict[str, Any] = {"backfill": True, "name": "me", "retry": QUICK, "timeout_s": 0.2}
    async with conn.subscribe(stream, handle, **options) as subscription:
        await until(lambda: subscription.stats().handled == 1)
        assert subscription.stats().failed == 2
    assert [attempt for attempt, _ in ended] == [1, 2, 3]
    assert all(0.2 <= seconds < 4 for _, seconds in ended[:2])
    error = logged.find("handler failed")[0].exc_info[1]
    assert isinstance(error, eda.Timeout)
    assert (error.timeout_s, error.event_id) == (0.2, sent)


@pytest.mark.parametrize("ending", ["returns", "raises", "raises late", "cancels again"])
async def test_timeout_when_the_handler_resists_waits_for_its_end_and_counts_as_failed(
    conn: eda.Conn, stream: str, logged: Logged, ending: str
) -> None:
    logged.expect("handler failed")
    running = most = 0

    async def resist() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if ending == "raises":
                raise KeyError("mine") from None
            if ending == "raises late":
                await asyncio.sleep(0.2)
                raise
            if ending == "cancels again":
                await asyncio.sleep(0.2)

    async def handle(event: eda.Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            if event.attempt == 1:
                await resist()
        finally:
            running -= 1

    await conn.publish(stream)
    options: dict[str, Any] = {"backfill": True, "name": "me", "retry": QUICK, "timeout_s": 0.1}
    async with conn.subscribe(stream, handle, **options) as subscription:
        await until(lambda: subscription.stats().handled == 1)
        assert subscription.stats().failed == 1
    assert most == 1
    assert isinstance(logged.find("handler failed")[0].exc_info[1], eda.Timeout)


async def test_timeout_when_the_handler_has_its_own_leaves_that_alone(conn: eda.Conn, stream: str) -> None:
    caught: list[str] = []

    async def handle(event: eda.Event) -> None:
        try:
            async with asyncio.timeout(0.05):
                await asyncio.sleep(60)
        except TimeoutError:
            caught.append(event.id)

    ids = [(await conn.publish(stream)).id for _ in range(3)]
    async with conn.subscribe(stream, handle, backfill=True, name="me", timeout_s=1) as subscription:
        await until(lambda: subscription.stats().handled == 3)
    assert caught == ids


async def test_timeout_when_one_of_several_hangs_leaves_the_others_alone(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    logged.expect("handler failed")
    done: list[int] = []

    async def handle(event: eda.Event) -> None:
        if event.sequence == 1 and event.attempt == 1:
            await asyncio.sleep(60)
        await asyncio.sleep(0.02)
        done.append(event.sequence)

    for _ in range(30):
        await conn.publish(stream)
    options: dict[str, Any] = {"concurrency": 2, "timeout_s": 0.3, "retry": QUICK}
    async with conn.subscribe(stream, handle, backfill=True, name="me", **options) as subscription:
        await until(lambda: subscription.stats().handled == 30)
        assert subscription.stats().failed == 1
    assert sorted(done) == list(range(1, 31))
    assert len(logged.find("handler failed")) == 1


async def test_timeout_when_it_is_long_and_the_handler_quick_never_cancels(conn: eda.Conn, stream: str) -> None:
    """Handlers that end around the watch's tick are not mistaken for one that runs long."""

    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(0.004)

    await asyncio.gather(*(conn.publish(stream) for _ in range(300)))
    async with conn.subscribe(stream, handle, backfill=True, name="me", timeout_s=1.0) as subscription:
        await until(lambda: subscription.stats().handled == 300)
        assert subscription.stats().failed == 0


# --- the loop --------------------------------------------------------------------------------------------------------


async def test_loop_when_handlers_never_suspend_still_turns(conn: eda.Conn, stream: str) -> None:
    n_turns = 0
    handled_in: Counter[int] = Counter()  # how many events, by turn of the loop

    def handle(event: eda.Event) -> None:
        time.sleep(0.0005)
        handled_in[n_turns] += 1

    async def watch() -> None:
        nonlocal n_turns
        while True:
            await asyncio.sleep(0)
            n_turns += 1

    await asyncio.gather(*(conn.publish(stream) for _ in range(1000)))
    watching = asyncio.create_task(watch())
    async with conn.subscribe(stream, handle, backfill=True, name="me") as subscription:
        await until(lambda: subscription.stats().handled == 1000)
    watching.cancel()
    assert max(handled_in.values()) < 40  # 4 ms of them


async def test_handler_when_it_publishes_and_subscribes_works(conn: eda.Conn, stream: str) -> None:
    seen: list[str] = []

    async def handle(event: eda.Event) -> None:
        if event.type == "first":
            await conn.publish(stream, eda.Event(type="second", cause=event.id))
        else:
            seen.append(event.cause)

    async with conn.subscribe(stream, handle):
        ids = [(await conn.publish(stream, eda.Event(type="first"))).id for _ in range(20)]
        await until(lambda: seen == ids)


@pytest.mark.parametrize("serial", [False, True])
async def test_handler_when_it_catches_what_a_group_of_its_tasks_raises_has_succeeded(
    conn: eda.Conn, stream: str, serial: bool
) -> None:
    """Before Python 3.13 such a group leaves the handler's task as if somebody had cancelled it."""

    async def handle(event: eda.Event) -> None:
        with contextlib.suppress(ExceptionGroup):
            await raise_at_the_end_of_a_group(ValueError("mine"))
        with contextlib.suppress(ExceptionGroup):
            await raise_in_group(ValueError("mine"))

    async def limited(event: eda.Event) -> None:
        with contextlib.suppress(TimeoutError):
            await time_out(ValueError())
        await handle(event)

    for _ in range(5):
        await conn.publish(stream)
    for name, handler in {"handle": handle, "limited": limited}.items():
        async with conn.subscribe(
            stream, handler, backfill=True, name=name, durable=True, serial=serial
        ) as subscription:
            await until(lambda sub=subscription: sub.stats().handled == 5)
            assert subscription.stats().failed == 0
