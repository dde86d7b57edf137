"""Read models over a packed stream: each event of a pack once and in order, however lists and lanes cut the packs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from eda.projections.sink import UpTo
from helpers import Admin, Logged, until
from support.packs import envelopes_of, pack_of
from support.projections.memory_sink import MemorySink, Outage
from support.projections.packed import Packed, applied, apply, place_of
from support.projections.sinks import Place as Database
from support.reference import bytes_field

SOON = eda.Retry(initial_s=0.01, max_attempts=3)
SIZES = (3, 0, 20, 1, 0, 7, 64)  # 0: an ordinary message
FAILED = "handler failed for event"


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
async def packed(conn: eda.Conn, admin: Admin, stream: str) -> Packed:
    packed = Packed(conn, admin, stream)
    await packed.create()
    return packed


def projection(packed: Packed, sink: Any, function: Any = apply, **options: Any) -> eda.Projection:
    given: dict[str, Any] = {"into": sink, "name": "orders", "retry": SOON} | options
    return packed.conn.projection(packed.stream, function, **given)


def assert_in_order(packed: Packed, sink: MemorySink, left_out: tuple[tuple[int, int], ...] = ()) -> None:
    """Assert that each event was applied once, and in order within its aggregate."""
    assert sorted(applied(sink)) == [each for each in packed.places if each not in left_out]
    for aggregate in {each for each, _ in sink.applied}:
        places = [each for of, each in sink.applied if of == aggregate]
        assert places == sorted(places)


# --- every kind of database ------------------------------------------------------------------------------------------


def inserting(database: Database, is_single: bool = False) -> Any:
    """Return an apply that inserts the place of each event as one number."""

    def work(given: Any) -> Any:
        events = [given] if is_single else given
        return database.work(
            *(f"INSERT INTO applied VALUES ({each.sequence * 1000 + each.index})" for each in events)
        )  # fmt: skip

    if not database.kind.is_async:
        return lambda given, tx: work(given)(tx)

    async def apply_async(given: Any, tx: Any) -> None:
        await work(given)(tx)

    return apply_async


@pytest.mark.parametrize("batch", [7, 500, None])
async def test_events_when_a_database_of_any_kind_has_them_are_there_once_and_the_position_is_the_last_one(
    packed: Packed, place: Database, batch: int | None
) -> None:
    sink = place.sink()
    await sink.open()
    await place.make_table()
    last = await packed.packs(*SIZES)
    for sizes in ((), (5, 0)):
        last = await packed.packs(*sizes) if sizes else last
        async with projection(packed, sink, inserting(place, batch is None), batch=batch) as applying:
            await applying.wait_for(last, 20)
            stats = await applying.stats()
        (row,) = await sink.rows("orders", 1, packed.stream)
        assert (row.sequence, row.index, row.up_to.is_part) == (last.sequence, last.index, False)
        assert (stats.lag, stats.streams[0].position) == (0, last.sequence)
    assert await place.applied() == [sequence * 1000 + index for sequence, index in packed.places]


async def test_wait_for_when_the_receipt_is_of_a_publisher_with_packs_waits_for_its_event(
    packed: Packed, sink: MemorySink
) -> None:
    async with (
        projection(packed, sink, batch=7) as applying,
        packed.conn.publisher(packed.stream, pack=eda.Pack(max_events=50)) as publisher,
    ):
        for n in 1, 49, 120, 20:
            await publisher.send_many([eda.Event(type="a") for _ in range(n)])
            receipt = await publisher.send_and_wait(eda.Event(type="last"))
            await applying.wait_for(receipt, 10)
            assert (receipt.sequence, receipt.index) in applied(sink)
        await publisher.flush()
        stats = await until_all_applied(applying, 194)
    assert applied(sink) == sorted(set(applied(sink)))
    assert (stats.applied, stats.lag) == (194, 0)


async def until_all_applied(applying: eda.Projection, n: int) -> eda.ProjectionStats:
    async def has_all() -> eda.ProjectionStats | None:
        stats = await applying.stats()
        return stats if stats.applied == n and stats.lag == 0 else None

    stats = await until(has_all)
    assert isinstance(stats, eda.ProjectionStats)
    return stats


# --- cuts ------------------------------------------------------------------------------------------------------------


async def test_wait_for_when_a_pack_is_cut_returns_when_its_event_is_committed_and_not_before(
    packed: Packed, sink: MemorySink
) -> None:
    gate = asyncio.Semaphore(0)

    async def gated(events: list[eda.Event], tx: list[Any]) -> None:
        await gate.acquire()
        await apply(events, tx)

    last = await packed.pack(20)
    async with projection(packed, sink, gated, batch=4) as applying:
        view = await packed.conn.view("orders", into=sink)
        for n_done in range(4, 21, 4):
            gate.release()
            await applying.wait_for((packed.stream, 1, n_done - 1), 10)
            await view.wait_for((packed.stream, 1, n_done - 1), 10)
            assert len(sink.applied) == n_done
            (row,) = sink.stored["orders", 1, packed.stream]
            assert (row.sequence, row.index, row.up_to.is_part) == (1, n_done - 1, n_done < 20)
            if n_done < 20:
                for waiting in applying, view:
                    with pytest.raises(eda.Timeout):
                        await waiting.wait_for((packed.stream, 1, n_done), 0.02)
                stats = await applying.stats()
                assert (stats.streams[0].position, stats.streams[0].lanes, stats.lag) == (0, (0,), 1)
        await applying.wait_for(last, 1)
        await view.close()


@pytest.mark.parametrize("batch", [1, 3, 16, 500])
async def test_lanes_when_packs_hold_events_of_all_of_them_apply_each_once_and_in_order(
    packed: Packed, sink: MemorySink, batch: int
) -> None:
    packed.aggregates = 37
    await packed.packs(*SIZES, *SIZES, 1, 1, 0)
    async with projection(packed, sink, key="aggregate", lanes=4, batch=batch) as applying:
        await applying.wait_for(await packed.pack(100), 20)
        assert_in_order(packed, sink)
        await applying.wait_for(await packed.pack(3), 20)
        rows = sink.stored["orders", 1, packed.stream]
        await until(lambda: {(row.sequence, row.up_to.is_part) for row in rows} == {(packed.places[-1][0], False)})
    assert_in_order(packed, sink)


async def test_lanes_when_opened_again_go_on_where_each_of_them_was_in_its_pack(
    packed: Packed, sink: MemorySink
) -> None:
    seen = 0

    def stop(method: str) -> None:
        nonlocal seen
        if method == "commit":
            seen += 1
            if seen > 9:
                raise Outage

    packed.aggregates = 37
    await packed.packs(150, 40)
    sink.fails = stop
    applying = await projection(packed, sink, key="aggregate", lanes=4, batch=10)
    await until(lambda: seen > 12)
    await applying.close()
    rows = sink.stored["orders", 1, packed.stream]
    assert 0 < len(sink.applied) < 150
    assert any(row.up_to.is_part for row in rows)
    assert len({row.index for row in rows}) > 1
    sink.fails = lambda method: None
    async with projection(packed, sink, key="aggregate", lanes=4, batch=10) as applying:
        await applying.wait_for(await packed.pack(10), 10)
    assert_in_order(packed, sink)


# --- filters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [{}, {"key": "aggregate", "lanes": 3}], ids=["one", "three"])
async def test_filter_when_it_leaves_out_the_end_of_a_pack_moves_over_it(
    packed: Packed, sink: MemorySink, lanes: dict[str, Any]
) -> None:
    await packed.pack(6, types=("wanted", "other", "other"))
    last = await packed.pack(3, types=("other",))
    async with projection(packed, sink, types=["wanted"], **lanes) as applying:
        for waited in (packed.stream, 1, 4), (packed.stream, 1, 5), last:
            await applying.wait_for(waited, 10)
        assert sorted(applied(sink)) == [(1, 0), (1, 3)]

        def places() -> set[tuple[int, bool]]:
            return {(row.sequence, row.up_to.is_part) for row in sink.stored["orders", 1, packed.stream]}

        await until(lambda: places() == {(2, False)})
        await packed.single("other")
        await applying.wait_for(await packed.pack(2, types=("other", "wanted")), 10)
    assert sorted(applied(sink)) == [(1, 0), (1, 3), (4, 1)]


async def test_filter_when_it_has_an_aggregate_reads_the_packs_with_others(packed: Packed, sink: MemorySink) -> None:
    await packed.pack(12)
    async with projection(packed, sink, aggregate="k2") as applying:
        await applying.wait_for(await packed.pack(3), 10)
    assert applied(sink) == [(1, 2), (1, 7), (2, 0)]
    assert {aggregate for aggregate, _ in sink.applied} == {"k2"}


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [{}, {"key": "aggregate", "lanes": 3}], ids=["one", "three"])
async def test_event_of_a_pack_when_it_always_fails_is_the_only_one_that_is_not_applied(
    packed: Packed, sink: MemorySink, logged: Logged, lanes: dict[str, Any]
) -> None:
    logged.expect(FAILED)
    attempts: list[int] = []

    async def failing(events: list[eda.Event], tx: list[Any]) -> None:
        if len(events) == 1 and place_of(events[0]) == (2, 17):
            attempts.append(events[0].attempt)
        if any(place_of(event) == (2, 17) for event in events):
            raise ValueError("event 17 is wrong")
        await apply(events, tx)

    await packed.packs(5, 40)
    async with projection(packed, sink, failing, **lanes) as applying:
        await applying.wait_for(await packed.pack(2), 10)
        with pytest.raises(eda.NotApplied, match=r"at sequence 2, index 17, .*event 17 is wrong"):
            await applying.wait_for((packed.stream, 2, 17), 1)
        for index in 16, 18:
            await applying.wait_for((packed.stream, 2, index), 1)
        stats = await applying.stats()
    assert attempts == [1, 2, 3]
    assert_in_order(packed, sink, left_out=((2, 17),))
    assert (stats.applied, stats.failed, stats.dead_lettered) == (46, 3, 1)
    (letter,) = await letters(packed)
    assert (letter["Nats-Msg-Id"], letter["Eda-Dead-Sequence"], letter["Eda-Dead-Index"]) == (
        "dead:orders-v1:2.17",
        "2",
        "17",
    )


async def letters(packed: Packed) -> list[dict[str, str]]:
    """Return the headers of the dead letters."""
    into = f"{packed.stream}-dead"
    found = [await packed.admin.js.get_msg(into, n + 1) for n in range(await packed.admin.last_seq(into))]
    return [dict(message.headers or {}) for message in found]


async def test_event_of_a_pack_when_its_letter_is_replayed_is_applied_as_a_message_of_its_own(
    packed: Packed, sink: MemorySink, logged: Logged
) -> None:
    logged.expect("handler rejected event")
    is_wrong = True

    async def failing(events: list[eda.Event], tx: list[Any]) -> None:
        if is_wrong and any(event.id == "e3" for event in events):
            raise eda.Reject("no") if len(events) == 1 else ValueError("one of them")
        await apply(events, tx)

    async with projection(packed, sink, failing) as applying:
        await applying.wait_for((packed.stream, (await packed.pack(6)).sequence, 4), 10)
        is_wrong = False
        assert await packed.conn.replay_dead(packed.stream, "orders-v1") == 1
        await applying.wait_for(await packed.pack(2), 10)
    assert applied(sink) == [(1, 0), (1, 1), (1, 2), (1, 4), (1, 5), (2, 0), (3, 0), (3, 1)]


async def test_key_when_it_fails_for_an_event_of_a_pack_gives_up_this_event_alone(
    packed: Packed, sink: MemorySink, logged: Logged
) -> None:
    logged.expect(f"{FAILED} .* for the last time")

    def key(event: eda.Event) -> int:
        return 1 // (event.index - 7) % 5

    async with projection(packed, sink, key=key, lanes=3) as applying:
        await applying.wait_for(await packed.pack(20), 10)
        with pytest.raises(eda.NotApplied, match="ZeroDivisionError"):
            await applying.wait_for((packed.stream, 1, 7), 1)
    assert sorted(applied(sink)) == [(1, index) for index in range(20) if index != 7]


async def test_batch_when_its_failure_names_events_of_a_pack_fails_them_alone(
    packed: Packed, sink: MemorySink, logged: Logged
) -> None:
    logged.expect("handler rejected event")

    async def failing(events: list[eda.Event], tx: list[Any]) -> None:
        wrong: dict[eda.Event, BaseException] = {event: eda.Reject("no") for event in events if event.index % 4 == 1}
        if wrong:
            raise eda.PartialFailure(wrong)
        await apply(events, tx)

    async with projection(packed, sink, failing) as applying:
        await applying.wait_for(await packed.packs(7, 7), 10)
    assert applied(sink) == [(pack, index) for pack in (1, 2) for index in (0, 2, 3, 4, 6)]


@pytest.mark.parametrize("wrong", [0, 2, 4])
async def test_pack_when_one_envelope_in_it_can_not_be_read_has_its_other_events_applied(
    packed: Packed, sink: MemorySink, logged: Logged, wrong: int
) -> None:
    logged.expect("not an event")
    envelopes = envelopes_of(eda.Event(type="a") for _ in range(5))
    envelopes[wrong] = b"\xff\xff\xff"
    payload = b"".join(bytes_field(15, envelope) for envelope in envelopes)
    last = await packed.pack(5, payload=payload)
    async with projection(packed, sink, batch=2) as applying:
        await applying.wait_for(last, 10)
        await until(lambda: sink.stored["orders", 1, packed.stream][0].up_to.place >= UpTo(1, 0, 0).place)
        await applying.wait_for(await packed.single(), 10)
    assert applied(sink) == [(1, index) for index in range(5) if index != wrong] + [(2, 0)]


async def test_pack_when_it_can_not_be_read_at_all_is_passed(packed: Packed, sink: MemorySink, logged: Logged) -> None:
    logged.expect("not an event")
    await packed.pack(3, payload=pack_of([eda.Event(type="a")])[:-1])
    async with projection(packed, sink) as applying:
        await applying.wait_for(await packed.pack(2), 10)
    assert applied(sink) == [(2, 0), (2, 1)]
