"""SQLite's thread goes from one transaction to the next by itself: failures, timeouts, waiters, other users."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import eda
from eda import sql
from helpers import Logged, until
from support.projections.read_model import ReadModel, publish_many

NO_TIME = eda.Retry(initial_s=0.01, max_attempts=3)


@pytest.fixture
def model(tmp_path: Path) -> ReadModel:
    return ReadModel(tmp_path / "read.db")


def slow(seconds: float, by_sequence: dict[int, float] | None = None) -> object:
    """Return what lets each event take this long, and some events another time when they are tried first."""

    def fails(event: eda.Event) -> None:
        time.sleep((by_sequence or {}).get(event.sequence, seconds) if event.attempt == 1 else seconds)

    return fails


def keep_busy(most_s: float, *, until: Callable[[], bool]) -> None:
    """Do not return to the event loop until something has happened."""
    began = time.monotonic()
    while not until():
        assert time.monotonic() - began < most_s
        time.sleep(0.01)


async def test_thread_when_the_event_loop_is_busy_goes_on_with_what_is_ready(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    has_begun, may_go_on = threading.Event(), threading.Event()

    def fails(event: eda.Event) -> None:
        if event.sequence == 1:
            has_begun.set()
            assert may_go_on.wait(10)

    model.fails = fails
    last = await publish_many(conn, stream, 1_000)
    async with conn.projection(stream, model.apply, into=model.sink(), name="orders", batch=20) as applying:
        await until(has_begun.is_set)
        reading = applying._runners[stream].reading
        assert reading is not None
        await until(lambda: reading.lanes[0].n_waiting >= 900)
        may_go_on.set()
        keep_busy(10, until=lambda: len(model.attempts) >= 40)
        await applying.wait_for(last, 20)
        stats = await applying.stats()
    assert model.sequences() == [*range(1, 1_001)]
    assert (stats.applied, stats.transactions) == (1_000, len(model.attempts))


@pytest.mark.parametrize("batch", [5, None])
async def test_events_when_one_fails_in_between_are_applied_once_and_in_order(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged, batch: int | None
) -> None:
    logged.expect("handler failed for event")

    def fails(event: eda.Event) -> None:
        if event.sequence in (57, 203) and event.attempt < 3:
            raise ValueError("not yet")

    model.fails = fails
    last = await publish_many(conn, stream, 300)
    apply = model.apply if batch else model.apply_one
    async with conn.projection(stream, apply, into=model.sink(), name="orders", batch=batch, retry=NO_TIME) as applying:
        await applying.wait_for(last, 20)
        stats = await applying.stats()
    assert model.sequences() == [*range(1, 301)]
    assert (stats.applied, stats.failed, stats.dead_lettered) == (300, 4, 0)


async def test_timeout_when_many_short_transactions_follow_each_other_is_for_each_of_them(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    model.fails = slow(0.005)  # type: ignore[assignment]
    last = await publish_many(conn, stream, 300)
    async with conn.projection(
        stream, model.apply, into=model.sink(), name="orders", batch=10, timeout_s=0.4
    ) as applying:
        await applying.wait_for(last, 20)
        assert (await applying.stats()).failed == 0
    assert model.sequences() == [*range(1, 301)]


async def test_timeout_when_a_later_transaction_takes_too_long_is_its_failure_alone(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.expect("handler failed for event .* sequence 150, attempt 1")
    model.fails = slow(0.001, {150: 0.9})  # type: ignore[assignment]
    last = await publish_many(conn, stream, 200)
    async with conn.projection(
        stream, model.apply_one, into=model.sink(), name="orders", batch=None, timeout_s=0.3, retry=NO_TIME
    ) as applying:
        await applying.wait_for(last, 20)
        stats = await applying.stats()
    assert model.sequences() == [*range(1, 201)]
    assert [each for each in model.attempts if each[0][1] > 1] == [[(150, 2)]]
    assert (stats.applied, stats.failed) == (200, 1)
    assert logged.find("is over: a function in a thread can't be cancelled") == []  # it has ended soon after its time


async def test_wait_for_when_the_thread_goes_on_returns_after_the_commit_of_its_event(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    model.fails = slow(0.01)  # type: ignore[assignment]
    await publish_many(conn, stream, 200)
    async with conn.projection(stream, model.apply, into=model.sink(), name="orders", batch=5) as applying:
        for sequence in (1, 33, 34, 90):
            await applying.wait_for((stream, sequence, 0), 20)
            # The thread may have begun the next list, and may have ended it while this task was woken up.
            assert sequence <= len(model.attempts) * 5 <= sequence + 3 * 5
            assert model.position(stream) >= sequence
        before = (await applying.stats()).applied
        await asyncio.sleep(0.2)
        assert (await applying.stats()).applied > before


async def test_wait_for_when_its_event_was_committed_a_moment_ago_does_not_wait_for_the_next_list(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    may_go_on = threading.Event()

    def fails(event: eda.Event) -> None:
        if event.sequence == 11:
            assert may_go_on.wait(20)

    model.fails = fails
    last = await publish_many(conn, stream, 100)
    async with conn.projection(stream, model.apply, into=model.sink(), name="orders", batch=10) as applying:
        await until(lambda: len(model.attempts) == 2)
        await applying.wait_for((stream, 10, 0), 5)
        assert (await applying.stats()).applied == 10
        may_go_on.set()
        await applying.wait_for(last, 20)


async def test_sink_when_two_projections_share_it_works_for_both(
    conn: eda.Conn, stream: str, model: ReadModel, tmp_path: Path
) -> None:
    """Each takes its turn, although either has always something to do."""
    sink = model.sink()
    order: list[str] = []

    def apply(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        order.append("a")
        time.sleep(0.002)

    def other(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        order.append("b")
        time.sleep(0.002)

    last = await publish_many(conn, stream, 500)
    async with (
        conn.projection(stream, apply, into=sink, name="a", batch=5) as first,
        conn.projection(stream, other, into=sink, name="b", batch=5) as second,
    ):
        await asyncio.gather(first.wait_for(last, 20), second.wait_for(last, 20))
    both = order[order.index("b") : len(order) - order[::-1].index("a")]
    n_changes = sum(one != next_one for one, next_one in itertools.pairwise(both))
    assert n_changes > len(both) / 2


async def test_events_when_their_transaction_waits_for_another_projection_are_not_passed_over(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged
) -> None:
    """The time of the transaction is over before it has begun. No event is to blame, so no attempt is counted."""
    sink, other = model.sink(), f"{stream}-other"
    is_blocking, may_go_on = threading.Event(), threading.Event()

    def blocks(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        is_blocking.set()
        assert may_go_on.wait(20)

    await conn.publish(stream)
    await conn.streams.create(other)
    once = eda.Retry(max_attempts=1)
    async with (
        conn.projection(other, blocks, into=sink, name="blocking"),
        conn.projection(stream, model.apply, into=sink, name="orders", batch=5, timeout_s=0.2, retry=once) as applying,
    ):
        await applying.wait_for((stream, 1, 0), 20)
        await conn.publish(other)
        await until(is_blocking.is_set)
        last = await publish_many(conn, stream, 20)
        await until(lambda: bool(logged.find("because of the database SQLite")))
        may_go_on.set()
        await applying.wait_for(last, 20)
        stats = await applying.stats()
    assert model.sequences(stream) == [*range(1, 22)]
    assert (stats.applied, stats.failed, stats.dead_lettered) == (21, 0, 0)


async def test_other_writer_when_the_thread_goes_on_gets_the_write_lock(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    """A web service may write into the same file. SQLite waits 5 s for the lock by default."""
    last = await publish_many(conn, stream, 20_000)
    took: list[float] = []

    def write() -> None:
        tx = sqlite3.connect(model.path, isolation_level=None)
        try:
            for n in range(20):
                began = time.monotonic()
                tx.execute("INSERT INTO applied VALUES ('other', ?, '')", (n,))
                took.append(time.monotonic() - began)
        finally:
            tx.close()

    async with conn.projection(stream, model.apply, into=model.sink(), name="orders", batch=100) as applying:
        await applying.wait_for((stream, 100, 0), 20)
        await asyncio.to_thread(write)
        await applying.wait_for(last, 20)
    assert len(took) == 20
    assert model.sequences(stream) == [*range(1, 20_001)]


async def test_apply_when_it_ends_the_transaction_in_between_ends_the_projection(
    conn: eda.Conn, stream: str, model: ReadModel, logged: Logged
) -> None:
    logged.expect("projection 'orders' version 1 ends: apply of projection 'orders' version 1 has committed")

    def apply(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        model.apply(events, tx)
        if events[-1].sequence == 60:
            tx.execute("COMMIT")

    last = await publish_many(conn, stream, 100)
    applying = await conn.projection(stream, apply, into=model.sink(), name="orders", batch=20)
    with pytest.raises(eda.TransactionEnded):
        await applying.wait_for(last, 20)
    assert model.position(stream) == 40


async def test_lane_when_it_holds_many_bytes_takes_no_more(
    conn: eda.Conn, stream: str, model: ReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eda.projections.lane.FULL_BYTES", 100_000)
    may_go_on = threading.Event()

    def fails(event: eda.Event) -> None:
        assert may_go_on.wait(20)

    model.fails = fails
    async with conn.publisher(stream) as publisher:
        for _ in range(500):
            await publisher.send(eda.Event(type="a", aggregate="k", data=eda.JSON("x" * 1_000)))
    async with conn.projection(stream, model.apply, into=model.sink(), name="orders", batch=10) as applying:
        await until(lambda: len(model.attempts) == 1)
        reading = applying._runners[stream].reading
        assert reading is not None
        lane = reading.lanes[0]
        await until(lambda: lane.n_bytes_waiting >= 100_000)
        await asyncio.sleep(0.1)
        assert lane.n_bytes_waiting < 100_000 + 10 * 1_200
        assert lane.n_bytes_waiting // lane.n_waiting in range(1_000, 1_200)
        may_go_on.set()
        await applying.wait_for((stream, 500, 0), 20)
        assert (lane.n_waiting, lane.n_bytes_waiting) == (0, 0)
    assert model.sequences() == [*range(1, 501)]


async def test_sink_when_a_user_brings_one_that_moves_on_is_asked_to(
    conn: eda.Conn, stream: str, model: ReadModel
) -> None:
    calls = 0

    class Counting(sql.SQLite):
        async def move_on(self, *given: object) -> None:
            nonlocal calls
            calls += 1
            await super().move_on(*given)  # type: ignore[arg-type]

    model.fails = slow(0.001)  # type: ignore[assignment]
    last = await publish_many(conn, stream, 200)
    sink = Counting(model.path, on_connect=lambda tx: tx.execute("CREATE TABLE IF NOT EXISTS applied (s, n, i)"))
    async with conn.projection(stream, model.apply, into=sink, name="orders", batch=5) as applying:
        await applying.wait_for(last, 20)
        assert (await applying.stats()).transactions == len(model.attempts)
    assert 0 < calls < len(model.attempts) / 2
