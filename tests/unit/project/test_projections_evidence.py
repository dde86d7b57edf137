"""What the fault tests of read models believe: lies are found out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.faults.evidence import Place, Stored
from support.faults.nursery import Nursery
from support.projections.evidence import Applied, assert_applied_once, faults_of
from support.projections.members import ProjectionMembers

# Message 4 is a pack of two events.
STORED = {
    "orders": [Stored(1, "a", "x"), Stored(2, "b", "y"), Stored(4, "c", "x", 0, 1), Stored(4, "d", "y", 1, 1)],
    "payments": [Stored(1, "p", "x")],
}
WHOLE = [("orders", (1, 0)), ("orders", (2, 0)), ("payments", (1, 0)), ("orders", (4, 0)), ("orders", (4, 1))]


def table(*events: tuple[str, Place]) -> list[Applied]:
    """Return rows for these events in this order."""
    known = {(stream, each.place): each for stream, contents in STORED.items() for each in contents}
    return [
        Applied(n, stream, place[0], known[stream, place].id, known[stream, place].aggregate, "m", place[1])
        for n, (stream, place) in enumerate(events, 1)
    ]


@pytest.mark.parametrize("by_key", [False, True])
def test_table_when_it_has_each_event_once_and_in_order_is_believed(by_key: bool) -> None:
    assert_applied_once(table(*WHOLE), STORED, by_key=by_key)
    assert_applied_once(table(*WHOLE)[::-1], STORED, by_key=by_key)  # as the database returned them


@pytest.mark.parametrize("by_key", [False, True])
@pytest.mark.parametrize("at", range(len(WHOLE)))
def test_table_when_an_event_is_lost_is_refused(at: int, by_key: bool) -> None:
    (fault,) = faults_of(table(*WHOLE[:at], *WHOLE[at + 1 :]), STORED, by_key=by_key)
    assert fault == f"lost: {WHOLE[at]}"


@pytest.mark.parametrize("by_key", [False, True])
@pytest.mark.parametrize("at", range(len(WHOLE)))
def test_table_when_an_event_is_doubled_is_refused(at: int, by_key: bool) -> None:
    """At once, and at the end, where the order is wrong as well."""
    assert faults_of(table(*WHOLE[:at], WHOLE[at], *WHOLE[at:]), STORED, by_key=by_key) == [
        f"applied 2 times: {WHOLE[at]}"
    ]
    assert f"applied 2 times: {WHOLE[at]}" in faults_of(table(*WHOLE, WHOLE[at]), STORED, by_key=by_key)


def test_table_when_events_are_swapped_is_refused() -> None:
    """With keys, events of other aggregates may be swapped."""
    other_keys = table(WHOLE[1], WHOLE[0], *WHOLE[2:])
    (fault,) = faults_of(other_keys, STORED)
    assert fault.startswith("applied after a later event")
    assert_applied_once(other_keys, STORED, by_key=True)
    one_key = table(WHOLE[3], WHOLE[1], WHOLE[2], WHOLE[0], WHOLE[4])
    (fault,) = faults_of(one_key, STORED, by_key=True)
    assert fault.startswith("applied after a later event")
    in_a_pack = table(*WHOLE[:3], WHOLE[4], WHOLE[3])
    (fault,) = faults_of(in_a_pack, STORED)
    assert fault.startswith("applied after a later event")


def test_table_when_a_row_is_another_event_is_refused() -> None:
    rows = table(*WHOLE)
    for wrong in (rows[0]._replace(id="b"), rows[0]._replace(aggregate="y")):
        assert any("applied as another event" in fault for fault in faults_of([wrong, *rows[1:]], STORED))
    for wrong in (rows[0]._replace(sequence=3), rows[0]._replace(idx=1), rows[0]._replace(stream="returns")):
        assert any("not an event to be applied" in fault for fault in faults_of([wrong, *rows], STORED))


def test_table_when_an_event_that_was_to_be_left_out_is_there_is_refused() -> None:
    assert_applied_once(table(*WHOLE[1:]), STORED, left_out={("orders", 1)})
    with pytest.raises(AssertionError, match="not an event to be applied"):
        assert_applied_once(table(*WHOLE), STORED, left_out={("orders", 1)})


# --- which transactions a fault has struck ---------------------------------------------------------------------------


@pytest.fixture
def members(tmp_path: Path) -> Iterator[ProjectionMembers]:
    members = ProjectionMembers(Nursery("none"), tmp_path, "none")
    yield members
    members.journal.close()


def test_transactions_when_under_way_at_a_fault_are_struck(members: ProjectionMembers) -> None:
    note = members.journal.note
    note("m1", "begin", "orders:1-2")
    members.harm("early")
    note("m1", "end", "orders:1-2")
    members.harm("between")
    note("m1", "begin", "orders:3-4")
    note("m2", "begin", "orders:3-4")
    members.harm("both")
    members.harm("one", "m1")
    note("m1", "failed", "orders:3-4")
    members.died("m2")  # it never says how its transaction ended
    members.harm("late")
    assert {kind: members.n_struck(kind) for kind in ("early", "between", "both", "one", "late", "other")} == {
        "early": 1, "between": 0, "both": 2, "one": 1, "late": 0, "other": 0,
    }  # fmt: skip


def test_member_when_a_transaction_is_under_way_is_busy(members: ProjectionMembers) -> None:
    assert not members.is_busy("m1")
    members.journal.note("m1", "begin", "orders:1-2")
    assert members.is_busy("m1")
    assert not members.is_busy("m2")
    members.journal.note("m1", "failed", "orders:1-2")
    assert not members.is_busy("m1")
