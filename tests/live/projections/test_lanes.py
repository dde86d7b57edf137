"""Lanes: each key's events in order and once, while the lanes work at the same time and keep positions of their own."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

import eda
from eda.projections.sink import ClaimLost, CommitUnknown
from helpers import Logged, until
from support.projections.memory_sink import MemorySink, Outage
from support.projections.read_model import publish_many

SOON = eda.Retry(initial_s=0.01, max_attempts=3)


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


async def apply(events: list[eda.Event], tx: list[Any]) -> None:
    for event in events:
        tx.append((event.aggregate, event.sequence))
    await asyncio.sleep(0)


def projection(conn: eda.Conn, stream: str, sink: MemorySink, function: Any = apply, **options: Any) -> eda.Projection:
    given: dict[str, Any] = {"into": sink, "name": "orders", "key": "aggregate", "lanes": 4, "retry": SOON} | options
    return conn.projection(stream, function, **given)


def assert_in_order(sink: MemorySink, n: int, left_out: tuple[int, ...] = ()) -> None:
    """Assert that each of `n` events was applied once, and in order within its aggregate."""
    counts = Counter(sequence for _, sequence in sink.applied)
    assert counts == Counter(each for each in range(1, n + 1) if each not in left_out)
    for aggregate in {each for each, _ in sink.applied}:
        sequences = [sequence for of, sequence in sink.applied if of == aggregate]
        assert sequences == sorted(sequences)


async def test_lanes_when_events_have_keys_apply_all_once_and_each_key_in_order(
    conn: eda.Conn, stream: str, sink: MemorySink
) -> None:
    last = await publish_many(conn, stream, 1_000, aggregates=37)
    async with projection(conn, stream, sink, batch=50) as applying:
        await applying.wait_for(last, 10)
        assert_in_order(sink, 1_000)
        last = await publish_many(conn, stream, 1_000, aggregates=37)
        await applying.wait_for(last, 10)
    assert_in_order(sink, 2_000)


async def test_lanes_when_one_is_slow_let_the_others_go_on_and_wait_for_waits_for_the_lowest(
    conn: eda.Conn, stream: str, sink: MemorySink
) -> None:
    gate = asyncio.Event()

    async def slow(events: list[eda.Event], tx: list[Any]) -> None:
        if any(event.aggregate == "slow" for event in events):
            await gate.wait()
        await apply(events, tx)

    await conn.publish(stream, eda.Event(type="a", aggregate="slow"))
    async with projection(conn, stream, sink, slow) as applying:
        last = await publish_many(conn, stream, 100, aggregates=37)
        await until(lambda: len(sink.applied) > 50)
        with pytest.raises(eda.Timeout):
            await applying.wait_for(last, 0.1)
        gate.set()
        await applying.wait_for(last, 10)
        assert_in_order(sink, 101)


async def test_lanes_when_opened_again_skip_what_each_has_applied(
    conn: eda.Conn, stream: str, sink: MemorySink
) -> None:
    """The lanes stop at different positions, and the next reader begins after the lowest."""
    seen = 0

    def stop(method: str) -> None:
        nonlocal seen
        if method == "commit":
            seen += 1
            if seen > 7:
                raise Outage

    await publish_many(conn, stream, 200, aggregates=37)
    sink.fails = stop
    applying = await projection(conn, stream, sink, batch=10)
    await until(lambda: seen > 10)
    await applying.close()
    rows = sink.stored["orders", 1, stream]
    assert 0 < len(sink.applied) < 200
    assert len({row.sequence for row in rows}) > 1
    sink.fails = lambda method: None
    async with projection(conn, stream, sink, batch=10) as applying:
        last = await publish_many(conn, stream, 10)
        await applying.wait_for(last, 10)
    assert_in_order(sink, 210)


async def test_event_when_it_fails_stops_its_lane_only(
    conn: eda.Conn, stream: str, sink: MemorySink, logged: Logged
) -> None:
    logged.expect("handler failed for event")

    async def failing(events: list[eda.Event], tx: list[Any]) -> None:
        await apply(events, tx)
        if any(event.sequence == 50 for event in events):
            raise ValueError("wrong")

    last = await publish_many(conn, stream, 200, aggregates=37)
    async with projection(conn, stream, sink, failing, batch=20) as applying:
        await applying.wait_for(last, 10)
    assert_in_order(sink, 200, left_out=(50,))


async def test_key_when_it_is_a_function_that_fails_for_an_event_makes_it_a_dead_letter(
    conn: eda.Conn, stream: str, sink: MemorySink, logged: Logged
) -> None:
    logged.expect("handler failed for event .* for the last time")

    def key(event: eda.Event) -> int:
        number: int = event.data.decode()
        return 1 // (number - 30) % 5

    last = await publish_many(conn, stream, 100)
    async with projection(conn, stream, sink, key=key) as applying:
        await applying.wait_for(last, 10)
        with pytest.raises(eda.NotApplied, match="ZeroDivisionError"):
            await applying.wait_for((stream, 30, 0), 1)
    assert Counter(sequence for _, sequence in sink.applied) == Counter(each for each in range(1, 101) if each != 30)


async def test_lanes_when_the_number_is_another_than_the_table_has_is_refused(
    conn: eda.Conn, stream: str, sink: MemorySink
) -> None:
    async with projection(conn, stream, sink):
        pass
    with pytest.raises(eda.ConfigError, match=r"has 4 lanes .*version=2"):
        await projection(conn, stream, sink, lanes=5)
    async with projection(conn, stream, sink, lanes=5, version=2):
        pass


# --- outages ---------------------------------------------------------------------------------------------------------


async def test_database_when_it_is_down_lets_no_event_count_as_failed(
    conn: eda.Conn, stream: str, sink: MemorySink, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eda.projections.lane.FULL", 100)
    is_down = True

    def fails(method: str) -> None:
        if is_down and method in ("move", "commit"):
            raise Outage("down")

    last = await publish_many(conn, stream, 3_000, aggregates=37)
    sink.fails = fails
    async with projection(conn, stream, sink, batch=50) as applying:
        await until(lambda: sink.calls.count("move") > 30)
        reading = applying._runners[stream].reading
        assert reading is not None
        assert sum(lane.n_waiting for lane in reading.lanes) <= 4 * (100 + 50)
        is_down = False
        await applying.wait_for(last, 20)
        stats = await applying.stats()
    assert_in_order(sink, 3_000)
    assert (stats.failed, stats.dead_lettered, stats.applied) == (0, 0, 3_000)
    assert len(logged.find("because of the database memory")) == 1


async def test_apply_when_it_raises_the_error_of_an_outage_counts_no_attempt(
    conn: eda.Conn, stream: str, sink: MemorySink
) -> None:
    attempts: list[int] = []

    async def failing(events: list[eda.Event], tx: list[Any]) -> None:
        attempts.extend(event.attempt for event in events)
        if len(attempts) < 20:
            raise eda.PartialFailure({events[0]: Outage("down")}) if len(attempts) % 2 else Outage("down")
        await apply(events, tx)

    retry = eda.Retry(initial_s=0.01, factor=1, max_attempts=3)
    async with projection(conn, stream, sink, failing, retry=retry) as applying:
        await applying.wait_for(await conn.publish(stream), 10)
    assert set(attempts) == {1}
    assert_in_order(sink, 1)


@pytest.mark.parametrize("lands", [True, False], ids=["landed", "not landed"])
async def test_commit_when_its_answer_is_lost_is_looked_up(
    conn: eda.Conn, stream: str, sink: MemorySink, lands: bool
) -> None:
    lost = 0

    def fails(method: str) -> None:
        nonlocal lost
        if method == ("committed" if lands else "commit") and lost < 5:
            lost += 1
            raise CommitUnknown from Outage("the connection was lost")
        if method == "find" and sink.calls.count("find") % 2:
            raise Outage("still down")

    sink.fails = fails
    last = await publish_many(conn, stream, 100, aggregates=37)
    async with projection(conn, stream, sink, batch=10) as applying:
        await applying.wait_for(last, 10)
        assert (await applying.stats()).failed == 0
    assert lost == 5
    assert_in_order(sink, 100)


async def test_claim_when_it_is_lost_in_a_transaction_makes_the_member_a_standby(
    conn: eda.Conn, stream: str, sink: MemorySink, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eda.projections.ownership.STALE_S", 0.5)
    monkeypatch.setattr("eda.projections.ownership.LOOK_S", 0.05)
    lost = 0

    def fails(method: str) -> None:
        nonlocal lost
        if method == "commit" and len(sink.applied) > 20 and not lost:
            lost += 1
            raise ClaimLost

    sink.fails = fails
    last = await publish_many(conn, stream, 100, aggregates=37)
    async with projection(conn, stream, sink, batch=10) as applying:
        await applying.wait_for(last, 20)
    assert logged.find("has lost stream .* to another member")
    assert_in_order(sink, 100)
