"""One suite over every sink: positions, claims, fences, failures of apply, and versions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from eda.projections.sink import ClaimLost, PositionRow, UpTo
from eda.projections.sql_sink import SqlSink
from support.projections.sinks import KINDS, Kind, Place

NAME, STREAM, CREATED = "order-list", "orders", "2026-01-02T03:04:05.678901234Z"


class Refused(Exception):
    """What apply raises."""


@pytest.fixture
async def sink(place: Place) -> SqlSink:
    sink = place.sink()
    await sink.open()
    await place.make_table()
    return sink


async def claimed(sink: SqlSink, lanes: int = 1, version: int = 1) -> list[PositionRow]:
    seen = await sink.rows(NAME, version, STREAM)
    rows = await sink.claim(NAME, version, STREAM, seen=seen, created=CREATED, lanes=lanes)
    assert rows is not None
    return rows


async def moved(sink: SqlSink, row: PositionRow, to: int, work: Any = None) -> PositionRow:
    return await sink.move(NAME, 1, row, sequence=to, index=to + 1, time=to * 10, work=work, timeout_s=20.0)


# --- positions -------------------------------------------------------------------------------------------------------


async def test_rows_when_a_projection_never_ran_are_none(sink: SqlSink) -> None:
    assert await sink.rows(NAME, 1, STREAM) == []
    assert await sink.versions() == []
    assert await sink.current(NAME) is None


async def test_open_when_many_members_open_at_once_makes_the_tables_once(place: Place) -> None:
    sinks = [place.sink() for _ in range(5)]
    await asyncio.gather(*(sink.open() for sink in sinks))
    await asyncio.gather(*(sink.open() for sink in sinks))
    assert await sinks[0].rows(NAME, 1, STREAM) == []


async def test_open_when_no_tables_are_wanted_reads_nothing_until_another_member_makes_them(place: Place) -> None:
    view, owner = place.sink(), place.sink()
    await view.open(creates_tables=False)
    assert await view.rows(NAME, 1, STREAM) == []
    assert await view.versions() == []
    assert await view.current(NAME) is None
    await owner.open()
    rows = await claimed(owner)
    await owner.promote(NAME, 1)
    assert await view.rows(NAME, 1, STREAM) == rows
    assert await view.current(NAME) == 1


async def test_sink_when_closed_can_be_used_again(sink: SqlSink) -> None:
    rows = await claimed(sink)
    await sink.close()
    await sink.close()
    assert await sink.rows(NAME, 1, STREAM) == rows
    await sink.open()
    assert (await moved(sink, rows[0], 3)).sequence == 3


async def test_claim_when_rows_are_new_makes_one_for_each_lane(sink: SqlSink) -> None:
    rows = await claimed(sink, lanes=3)
    assert [(row.stream, row.lane, row.created, row.sequence, row.owner_epoch) for row in rows] == [
        (STREAM, lane, CREATED, 0, 1) for lane in range(3)
    ]
    assert await sink.rows(NAME, 1, STREAM) == rows


async def test_claim_when_rows_exist_keeps_their_positions_and_counts_the_owner(sink: SqlSink) -> None:
    (row,) = await claimed(sink)
    row = await moved(sink, row, 7)
    (taken,) = await claimed(sink)
    assert (taken.sequence, taken.index, taken.time, taken.owner_epoch) == (7, 8, 70, 2)
    assert taken.updated >= row.updated
    assert await sink.rows(NAME, 1, STREAM) == [taken]


@pytest.mark.parametrize("are_new", [True, False])
async def test_claim_when_members_claim_at_once_lets_one_win(place: Place, sink: SqlSink, are_new: bool) -> None:
    if not are_new:
        await claimed(sink, lanes=2)
    seen = await sink.rows(NAME, 1, STREAM)
    members = [sink, *(place.sink() for _ in range(3))]
    answers = await asyncio.gather(
        *(member.claim(NAME, 1, STREAM, seen=seen, created=CREATED, lanes=2) for member in members)
    )
    (won,) = [rows for rows in answers if rows is not None]
    assert await sink.rows(NAME, 1, STREAM) == won
    assert {row.owner_epoch for row in won} == {1 if are_new else 2}


async def test_claim_when_one_lane_has_moved_changes_no_lane(sink: SqlSink) -> None:
    first, second = await claimed(sink, lanes=2)
    seen = await sink.rows(NAME, 1, STREAM)
    second = await moved(sink, second, 4)
    assert await sink.claim(NAME, 1, STREAM, seen=seen, created=CREATED, lanes=2) is None
    assert await sink.rows(NAME, 1, STREAM) == [first, second]


async def test_claim_when_the_owner_has_given_a_sign_of_life_is_refused(sink: SqlSink) -> None:
    rows = await claimed(sink)
    await sink.touch(NAME, 1, rows)
    assert await sink.claim(NAME, 1, STREAM, seen=rows, created=CREATED, lanes=1) is None


async def test_release_when_done_lets_the_next_member_see_it(sink: SqlSink) -> None:
    rows = await claimed(sink, lanes=2)
    await sink.release(NAME, 1, rows)
    assert [row.updated for row in await sink.rows(NAME, 1, STREAM)] == [0.0, 0.0]
    assert {row.owner_epoch for row in await claimed(sink)} == {2}


async def test_release_when_another_member_has_taken_over_changes_nothing(sink: SqlSink) -> None:
    old = await claimed(sink)
    new = await claimed(sink)
    await sink.release(NAME, 1, old)
    assert await sink.rows(NAME, 1, STREAM) == new


# --- transactions ----------------------------------------------------------------------------------------------------


async def test_move_when_the_work_is_done_stores_rows_and_position(place: Place, sink: SqlSink) -> None:
    (row,) = await claimed(sink)
    new = await moved(sink, row, 5, place.work("INSERT INTO applied VALUES (1)", "INSERT INTO applied VALUES (2)"))
    assert (new.sequence, new.index, new.time, new.owner_epoch) == (5, 6, 50, row.owner_epoch)
    assert await sink.rows(NAME, 1, STREAM) == [new]
    assert await sink.find(NAME, 1, row) == new
    assert await place.applied() == [1, 2]


async def test_move_when_it_ends_in_the_middle_of_a_pack_stores_how_far_it_is(place: Place, sink: SqlSink) -> None:
    """A negative time says that events of the message are left, and each move is fenced by the whole position."""
    (row,) = await claimed(sink)
    for index, time in ((2, -50), (17, -50), (17, 50)):
        before = row
        row = await sink.move(NAME, 1, row, sequence=5, index=index, time=time, work=place.work())
        assert row.up_to == UpTo(5, index, time)
        assert await sink.rows(NAME, 1, STREAM) == [row]
        with pytest.raises(ClaimLost):
            await sink.move(NAME, 1, before, sequence=5, index=index, time=time, work=place.work())
    (version,) = await sink.versions(NAME)
    assert version.rows == (row,)


async def test_move_when_the_row_was_taken_over_stores_nothing(place: Place, sink: SqlSink) -> None:
    (row,) = await claimed(sink)
    other = place.sink()
    new = await claimed(other)
    with pytest.raises(ClaimLost):
        await moved(sink, row, 5, place.work("INSERT INTO applied VALUES (1)"))
    with pytest.raises(ClaimLost):
        await moved(sink, row, 5)
    with pytest.raises(ClaimLost):
        await sink.touch(NAME, 1, [row])
    assert await place.applied() == []
    assert await sink.rows(NAME, 1, STREAM) == new


async def test_move_when_done_twice_from_the_same_row_lands_once(place: Place, sink: SqlSink) -> None:
    (row,) = await claimed(sink)
    other = place.sink()
    answers = await asyncio.gather(
        moved(sink, row, 5, place.work("INSERT INTO applied VALUES (1)")),
        moved(other, row, 5, place.work("INSERT INTO applied VALUES (2)")),
        return_exceptions=True,
    )
    (won,) = [number for number, answer in enumerate(answers, 1) if isinstance(answer, PositionRow)]
    (lost,) = [answer for answer in answers if not isinstance(answer, PositionRow)]
    # With the default isolation of PostgreSQL the second update finds no row.
    assert isinstance(lost, ClaimLost)
    assert await place.applied() == [won]


# A transaction of SQLite keeps all others from writing.
@pytest.mark.parametrize("kind", [each for each in KINDS if each.is_postgres], ids=lambda kind: kind.name)
async def test_move_when_another_member_takes_over_while_apply_works_stores_one(place: Place, sink: SqlSink) -> None:
    (row,) = await claimed(sink)
    other = place.sink()
    loop, claims = asyncio.get_running_loop(), []

    async def claim() -> None:
        claims.append(await claimed(other))

    if place.kind.is_async:
        work = place.work("INSERT INTO applied VALUES (1)", lambda tx: claim())
    else:
        work = place.work(
            "INSERT INTO applied VALUES (1)", lambda tx: asyncio.run_coroutine_threadsafe(claim(), loop).result(20)
        )
    with pytest.raises(ClaimLost):
        await moved(sink, row, 5, work)
    assert await place.applied() == []
    assert [await sink.rows(NAME, 1, STREAM)] == claims


async def test_move_when_apply_raises_stores_nothing_and_raises_the_same(place: Place, sink: SqlSink) -> None:
    (row,) = await claimed(sink)
    refused = Refused("no")

    def fail(tx: Any) -> None:
        raise refused

    with pytest.raises(Refused) as raised:
        await moved(sink, row, 5, place.work("INSERT INTO applied VALUES (1)", fail))
    assert raised.value is refused
    assert refused.__cause__ is None
    assert not sink.is_outage(refused)
    assert await place.applied() == []
    assert await sink.rows(NAME, 1, STREAM) == [row]
    assert (await moved(sink, row, 5, place.work("INSERT INTO applied VALUES (1)"))).sequence == 5


@pytest.mark.parametrize("text", ["INSERT INTO applied VALUES (1)", "INSERT INTO missing VALUES (1)", "no SQL"])
async def test_move_when_a_statement_fails_is_no_outage(place: Place, sink: SqlSink, text: str) -> None:
    (row,) = await claimed(sink)
    row = await moved(sink, row, 5, place.work("INSERT INTO applied VALUES (1)"))
    with pytest.raises(Exception, match=r"(?i)unique|missing|syntax") as raised:
        await moved(sink, row, 6, place.work("INSERT INTO applied VALUES (2)", text))
    assert not sink.is_outage(raised.value)
    assert await place.applied() == [1]
    assert (await moved(sink, row, 6, place.work("INSERT INTO applied VALUES (2)"))).sequence == 6


async def test_move_when_apply_goes_on_after_an_error_of_its_own_savepoint_commits(place: Place, sink: SqlSink) -> None:
    (row,) = await claimed(sink)
    work = place.work(
        *("INSERT INTO applied VALUES (1)", "SAVEPOINT mine", "INSERT INTO applied VALUES (2)"),
        *("ROLLBACK TO SAVEPOINT mine", "RELEASE SAVEPOINT mine", "INSERT INTO applied VALUES (3)"),
    )
    await moved(sink, row, 5, work)
    assert await place.applied() == [1, 3]


@pytest.mark.parametrize("ends", ["commit", "rollback", "commit and write", "commit and fail", "text", "close"])
async def test_move_when_apply_ends_the_transaction_raises_transaction_ended(
    place: Place, sink: SqlSink, ends: str
) -> None:
    (row,) = await claimed(sink)
    kind = place.kind

    def fail(tx: Any) -> None:
        raise Refused

    steps: dict[str, list[Any]] = {
        "commit": [kind.commit],
        "rollback": [kind.rollback],
        "commit and write": [kind.commit, "INSERT INTO applied VALUES (2)"],
        "commit and fail": [kind.commit, fail],
        "text": ["COMMIT"],
        "close": [lambda tx: tx.close()],
    }
    with pytest.raises(eda.TransactionEnded, match=r"order-list.* has committed or rolled back") as raised:
        await moved(sink, row, 5, place.work("INSERT INTO applied VALUES (1)", *steps[ends]))
    assert (raised.value.projection, raised.value.version) == (NAME, 1)
    assert not sink.is_outage(raised.value)
    assert await sink.rows(NAME, 1, STREAM) == [row]
    # After a commit, statements on SQLite are committed one by one.
    was_committed = ends.startswith("commit") or ends == "text"
    assert (await place.applied())[:1] == ([1] if was_committed else [])
    assert (await moved(sink, row, 5, place.work("INSERT INTO applied VALUES (9)"))).sequence == 5


# A plain function can't be cancelled: see the tests of the threads.
@pytest.mark.parametrize("kind", [each for each in KINDS if each.is_async], ids=lambda kind: kind.name)
async def test_move_when_cancelled_in_apply_leaves_no_transaction(place: Place, sink: SqlSink) -> None:
    (row,) = await claimed(sink)
    has_begun = asyncio.Event()

    async def wait(tx: Any) -> None:
        has_begun.set()
        await asyncio.sleep(60)

    moving = asyncio.create_task(moved(sink, row, 5, place.work("INSERT INTO applied VALUES (1)", wait)))
    await has_begun.wait()
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert await sink.find(NAME, 1, row) == row
    assert await place.applied() == []
    assert (await moved(sink, row, 5, place.work("INSERT INTO applied VALUES (1)"))).sequence == 5


async def test_find_when_the_row_is_gone_is_none(sink: SqlSink) -> None:
    (row,) = await claimed(sink)
    await sink.discard(NAME, 1)
    assert await sink.find(NAME, 1, row) is None
    with pytest.raises(ClaimLost):
        await moved(sink, row, 5)


async def test_lanes_when_they_move_at_the_same_time_each_move_their_row(place: Place, sink: SqlSink) -> None:
    lanes = 1 if sink.max_lanes == 1 else 4
    rows = await claimed(sink, lanes=lanes)

    async def lane(row: PositionRow) -> PositionRow:
        for n in range(1, 11):
            row = await moved(sink, row, n, place.work(f"INSERT INTO applied VALUES ({100 * row.lane + n})"))
        return row

    moved_rows = await asyncio.gather(*map(lane, rows))
    assert await sink.rows(NAME, 1, STREAM) == list(moved_rows)
    assert len(await place.applied()) == 10 * lanes


async def test_names_when_they_look_like_sql_are_only_text(sink: SqlSink) -> None:
    name, stream = "a'; DROP TABLE eda_views; -- ? $1 %s", "Ωμέγα \" ' ; %"
    rows = await sink.claim(name, 2, stream, seen=[], created=CREATED, lanes=1)
    assert rows is not None
    assert await sink.rows(name, 2, stream) == rows
    assert await sink.promote(name, 2)
    assert await sink.current(name) == 2


async def test_numbers_when_as_large_as_the_server_makes_them_come_back(sink: SqlSink) -> None:
    (row,) = await claimed(sink)
    large = 2**63 - 1
    new = await sink.move(NAME, 1, row, sequence=large, index=large, time=large, work=None)
    assert await sink.rows(NAME, 1, STREAM) == [new]


# --- apply -----------------------------------------------------------------------------------------------------------


async def test_check_apply_when_the_function_is_of_the_wrong_kind_names_a_sink_for_it(
    kind: Kind, sink: SqlSink
) -> None:
    sink.check_apply(is_async=kind.is_async)
    with pytest.raises(eda.ConfigError, match=r"eda\.sql\.(SQLAlchemy|SQLite|Psycopg)") as raised:
        sink.check_apply(is_async=not kind.is_async)
    assert raised.value.argument == "apply"


async def test_label_when_shown_has_no_password(kind: Kind, address: str, sink: SqlSink) -> None:
    assert sink.label in repr(sink)
    if kind.is_postgres:
        password = address.split(":")[2].split("@")[0]
        assert password not in repr(sink)
        assert "127.0.0.1" in sink.label


# --- versions --------------------------------------------------------------------------------------------------------


async def test_promote_when_done_switches_the_version_that_views_read(place: Place, sink: SqlSink) -> None:
    first, second = await claimed(sink, version=1), await claimed(sink, version=2)
    assert await sink.promote(NAME, 1)
    assert not await sink.promote(NAME, 1)
    assert await sink.promote(NAME, 2)
    assert await place.sink().current(NAME) == 2
    versions = await sink.versions(NAME)
    assert [(each.name, each.version, each.is_current, each.rows) for each in versions] == [
        (NAME, 1, False, tuple(first)),
        (NAME, 2, True, tuple(second)),
    ]


async def test_promote_when_only_the_first_may_set_it_changes_it_once(place: Place, sink: SqlSink) -> None:
    members = [sink, *(place.sink() for _ in range(3))]
    answers = await asyncio.gather(
        *(each.promote(NAME, version, only_first=True) for version, each in enumerate(members, 1))
    )
    assert sorted(answers) == [False, False, False, True]
    assert await sink.current(NAME) == answers.index(True) + 1
    assert not await sink.promote(NAME, 9, only_first=True)


async def test_versions_when_several_projections_exist_are_ordered_and_filtered(sink: SqlSink) -> None:
    for name, version, stream in (("b", 2, "s"), ("b", 10, "s"), ("a", 1, "t"), ("a", 1, "s")):
        assert await sink.claim(name, version, stream, seen=[], created=CREATED, lanes=2)
    await sink.promote("b", 10)
    found = [
        (each.name, each.version, each.is_current, [(row.stream, row.lane) for row in each.rows])
        for each in await sink.versions()
    ]
    two = [("s", 0), ("s", 1)]
    assert found == [
        ("a", 1, False, [*two, ("t", 0), ("t", 1)]),
        ("b", 2, False, two),
        ("b", 10, True, two),
    ]
    assert [each.name for each in await sink.versions("b")] == ["b", "b"]
    assert await sink.versions("c") == []


async def test_discard_when_done_removes_one_version(sink: SqlSink) -> None:
    await claimed(sink, version=1)
    kept = await claimed(sink, version=2)
    await sink.discard(NAME, 1)
    await sink.discard(NAME, 1)
    assert await sink.rows(NAME, 1, STREAM) == []
    assert await sink.rows(NAME, 2, STREAM) == kept
