"""Positions in the middle of a pack: where another reader goes on, and what happens if the pack is gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import pytest

import eda
from eda.cli.view_lag import lag_of
from eda.projections.sink import ClaimLost, CommitUnknown, PositionRow, UpTo
from eda.projections.stream_check import StreamCheck, StreamNow
from helpers import Admin, Connect, Logged, until
from support.projections.memory_sink import MemorySink, Outage
from support.projections.packed import Packed, applied, apply

SOON = eda.Retry(initial_s=0.01, max_attempts=3)


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
async def packed(conn: eda.Conn, admin: Admin, stream: str) -> Packed:
    packed = Packed(conn, admin, stream)
    await packed.create()
    return packed


def projection(packed: Packed, sink: Any, function: Any = apply, **options: Any) -> eda.Projection:
    given: dict[str, Any] = {"into": sink, "name": "orders", "retry": SOON, "batch": 4} | options
    return packed.conn.projection(packed.stream, function, **given)


async def apply_one(event: eda.Event, tx: list[Any]) -> None:
    await apply([event], tx)


def stop_after(sink: MemorySink, n: int) -> None:
    """Let the database be down after `n` more transactions."""

    def fails(method: str) -> None:
        nonlocal n
        if method == "move":
            if n == 0:
                raise Outage("down")
            n -= 1

    sink.fails = fails


def go_on(sink: MemorySink) -> None:
    sink.fails = lambda method: None


async def applied_part(packed: Packed, sink: MemorySink, n: int = 1, **options: Any) -> UpTo:
    """Apply `n` transactions or all events, and close the projection. Return up to which event it is."""
    stop_after(sink, n)
    moves = sink.calls.count("move")
    applying = await projection(packed, sink, **options)
    await until(lambda: sink.calls.count("move") > moves + n or len(sink.applied) == len(packed.places))
    await applying.close()
    go_on(sink)
    return position(packed, sink)


def position(packed: Packed, sink: MemorySink) -> UpTo:
    (row,) = sink.stored["orders", 1, packed.stream]
    return row.up_to


# --- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 1, 4])
async def test_open_when_the_position_is_in_a_pack_goes_on_there(
    packed: Packed, sink: MemorySink, batch: int | None
) -> None:
    last = await packed.packs(9, 0, 3)
    while position_of_all(packed, sink) < (last.sequence, last.index):
        n = len(sink.applied)
        await applied_part(packed, sink, function=apply if batch else apply_one, batch=batch)
        assert n < len(sink.applied) <= n + (batch or 1)
        assert applied(sink) == packed.places[: len(sink.applied)]
        assert position_of_all(packed, sink) == packed.places[len(sink.applied) - 1]
    async with projection(packed, sink) as applying:
        await applying.wait_for(await packed.pack(2), 10)
    assert applied(sink) == packed.places


def position_of_all(packed: Packed, sink: MemorySink) -> tuple[int, int]:
    if ("orders", 1, packed.stream) not in sink.stored:
        return 0, 0
    up_to = position(packed, sink)
    return up_to.sequence, up_to.index


async def test_standby_when_the_owner_stops_in_a_pack_goes_on_there(
    connect: Connect, packed: Packed, sink: MemorySink, logged: Logged
) -> None:
    await packed.pack(40)
    stop_after(sink, 3)
    owner = await projection(packed, sink)
    other = await connect()
    standby = await other.projection(packed.stream, apply, into=sink, name="orders", batch=4)
    await until(lambda: len(sink.applied) == 12)
    assert position(packed, sink).place == (1, 11)
    waiting = asyncio.ensure_future(standby.wait_for((packed.stream, 1, 39), 20))
    await standby.wait_for((packed.stream, 1, 11), 10)
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await owner.close()
    go_on(sink)
    await waiting
    assert logged.find(f"orders-v1 applies stream {packed.stream} from sequence 1.12 onwards")
    await standby.close()
    assert applied(sink) == packed.places


async def test_owner_when_it_is_overtaken_in_a_pack_commits_nothing_more_of_it(
    packed: Packed, sink: MemorySink, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr("eda.projections.ownership.STALE_S", 0.5)
    monkeypatch.setattr("eda.projections.ownership.LOOK_S", 0.05)
    n_lost = 0

    def fails(method: str) -> None:
        nonlocal n_lost
        if method == "commit" and len(sink.applied) >= 8 and not n_lost:
            n_lost += 1
            raise ClaimLost

    sink.fails = fails
    async with projection(packed, sink) as applying:
        await applying.wait_for(await packed.pack(20), 20)
    assert logged.find("takes stream .* over at sequence 1.7: its last owner")
    assert (n_lost, applied(sink)) == (1, packed.places)


@pytest.mark.parametrize("lands", [True, False], ids=["landed", "not landed"])
async def test_commit_in_a_pack_when_its_answer_is_lost_is_looked_up(
    packed: Packed, sink: MemorySink, lands: bool
) -> None:
    n_lost = 0

    def fails(method: str) -> None:
        nonlocal n_lost
        if method == ("committed" if lands else "commit") and n_lost < 4:
            n_lost += 1
            raise CommitUnknown from Outage("the connection was lost")

    sink.fails = fails
    async with projection(packed, sink) as applying:
        await applying.wait_for(await packed.packs(30, 2), 10)
        stats = await applying.stats()
    assert (n_lost, stats.failed, stats.applied) == (4, 0, 32)
    assert applied(sink) == packed.places


@pytest.mark.parametrize("seed", range(4))
async def test_events_when_commits_fail_and_members_follow_each_other_at_random_are_applied_once_and_in_order(
    packed: Packed, sink: MemorySink, seed: int
) -> None:
    """Three lanes or one, all events or one type: each member has other lists, and ends after some transactions.

    Some lists are refused and halved, so that transactions end at any event.
    """
    chance = random.Random(seed)
    packed.aggregates = 11
    lanes: dict[str, Any] = {"key": "aggregate", "lanes": 3} if seed % 2 else {}
    types = ["a"] if seed >= 2 else None

    def fails(method: str) -> None:
        if method in ("move", "commit", "committed") and chance.random() < 0.1:
            raise CommitUnknown from Outage("lost") if method != "move" else Outage("down")

    async def halved(events: list[eda.Event], tx: list[Any]) -> None:
        if len(events) > 1 and chance.random() < 0.2:
            raise ValueError("one of these")
        await apply(events, tx)

    for _ in range(12):
        for _ in range(chance.randint(1, 4)):
            await packed.pack(chance.randint(1, 60), types=chance.choice((("a",), ("a", "b"), ("b", "a", "b"))))
        moves, sink.fails = sink.calls.count("move"), fails
        applying = await projection(packed, sink, halved, batch=chance.randint(1, 40), types=types, **lanes)
        n_moves = moves + chance.randint(1, 12)
        await until(lambda n_moves=n_moves: sink.calls.count("move") >= n_moves or is_at_end(packed, sink))
        await applying.close()
    go_on(sink)
    last = await packed.pack(2)
    async with projection(packed, sink, types=types, **lanes) as applying:
        await applying.wait_for(last, 20)
    assert sorted(applied(sink)) == packed.places_of(types)
    for aggregate in {each for each, _ in sink.applied} if lanes else {""}:
        places = [place for each, place in sink.applied if not aggregate or each == aggregate]
        assert places == sorted(places)


def is_at_end(packed: Packed, sink: MemorySink) -> bool:
    rows = sink.stored["orders", 1, packed.stream]
    return all(row.up_to.whole >= packed.places[-1][0] for row in rows)


async def test_lag_when_the_position_is_in_a_pack_counts_the_pack(packed: Packed, sink: MemorySink) -> None:
    await packed.packs(0, 10, 2)
    assert (await applied_part(packed, sink, n=2)).is_part
    await sink.promote("orders", 1)
    (version,) = await sink.versions("orders")
    (stream,) = (await lag_of(packed.conn, version)).streams
    assert (stream.position, stream.last, stream.lag, stream.problem) == (1, 3, 2, None)
    assert stream.lag_s is not None
    async with packed.conn.view("orders", into=sink) as view:
        (progress,) = (await view.stats()).streams
        assert (progress.position, progress.lag, progress.lanes) == (1, 2, (1,))
        with pytest.raises(eda.ConfigError, match="has not applied 2 events"):
            await refused_promotion(packed, sink)


async def refused_promotion(packed: Packed, sink: MemorySink) -> None:
    stop_after(sink, 0)
    async with projection(packed, sink) as applying:
        try:
            await applying.promote(max_lag=1)
        finally:
            go_on(sink)


# --- packs that are gone ---------------------------------------------------------------------------------------------


async def test_open_when_a_pack_is_purged_of_which_a_part_was_applied_is_refused(
    packed: Packed, sink: MemorySink
) -> None:
    await packed.packs(10, 2)
    assert (await applied_part(packed, sink)).place == (1, 3)
    await packed.admin.api(f"STREAM.PURGE.{packed.stream}", {"seq": 2})
    with pytest.raises(eda.PositionInvalid, match="event 1 is gone and not applied"):
        await projection(packed, sink)
    assert len(sink.applied) == 4


async def test_open_when_a_pack_is_deleted_of_which_a_part_was_applied_is_refused(
    packed: Packed, sink: MemorySink
) -> None:
    await packed.packs(0, 10, 2)
    assert (await applied_part(packed, sink, n=2)).is_part
    await packed.admin.js.delete_msg(packed.stream, 2)
    with pytest.raises(
        eda.PositionInvalid, match=r"the pack 2 is gone, and only its events up to index \d are applied"
    ):
        await projection(packed, sink)


async def test_open_when_a_pack_is_gone_that_was_wholly_applied_goes_on(packed: Packed, sink: MemorySink) -> None:
    await packed.packs(10, 8)
    up_to = await applied_part(packed, sink, n=5)
    assert (up_to.sequence, up_to.index, up_to.is_part) == (2, 7, False)
    await packed.conn.streams.purge(packed.stream)
    async with projection(packed, sink) as applying:
        await applying.wait_for(await packed.pack(3), 10)
    assert applied(sink) == packed.places


@pytest.mark.parametrize("has_later", [True, False], ids=["a later message", "no later message"])
async def test_pack_when_it_is_deleted_between_the_check_and_the_reading_ends_the_projection(
    packed: Packed, sink: MemorySink, monkeypatch: pytest.MonkeyPatch, logged: Logged, has_later: bool
) -> None:
    logged.allow("ends: ")
    await packed.pack(10)
    assert (await applied_part(packed, sink)).place == (1, 3)
    if has_later:
        await packed.pack(10)
    real = StreamCheck.check
    is_first = True

    async def check(self: StreamCheck, rows: Iterable[PositionRow], *, read_to: int = 0) -> StreamNow:
        nonlocal is_first
        now = await real(self, rows, read_to=read_to)
        if is_first:
            is_first = False
            await packed.admin.js.delete_msg(packed.stream, 1)
        return now

    monkeypatch.setattr(StreamCheck, "check", check)
    applying = await projection(packed, sink)
    with pytest.raises(eda.PositionInvalid, match=r"the pack 1 is gone|event 1 is gone"):
        await applying.wait()
    assert len(sink.applied) == 4
    assert position(packed, sink).place == (1, 3)


@pytest.mark.parametrize("has_later", [True, False], ids=["a later message", "no later message"])
async def test_open_when_the_filter_leaves_out_a_pack_of_which_a_part_was_applied_goes_on_after_it(
    packed: Packed, sink: MemorySink, logged: Logged, has_later: bool
) -> None:
    await packed.pack(10, subject="a.%pack")
    assert (await applied_part(packed, sink)).place == (1, 3)
    if has_later:
        await packed.pack(2, types=("b",))
    async with projection(packed, sink, types=["b"]) as applying:
        await applying.wait_for((packed.stream, 1, 9), 10)
        await applying.wait_for(await packed.single("b"), 10)
    assert logged.find("pack 1 of stream .* did not come, and only its events up to index 3 are applied")
    assert applied(sink)[4:] == ([(2, 0), (2, 1), (3, 0)] if has_later else [(2, 0)])
