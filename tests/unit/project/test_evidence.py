"""What the fault suite believes: lies are found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.faults.evidence import (
    Journal,
    Line,
    Stored,
    assert_each_handled,
    assert_key_order,
    assert_no_repeat_without_fault,
    assert_serial_order,
    assert_stored_once,
    n_duplicates,
)

STORED = [Stored(1, "a", "x"), Stored(2, "b", "y"), Stored(3, "c", "x")]


def calls(*events: int, member: str = "m") -> list[Line]:
    """Return the lines of handler calls one after the other, a second apart."""
    lines = []
    for at, event in enumerate(events):
        ns = at * 10**9
        lines += [Line(member, "begin", str(event), ns), Line(member, "end", str(event), ns + 10**6)]
    return lines


def test_journal_when_read_gives_what_was_noted(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.note("m", "begin", 7)
    journal.note("m", "end", 7)
    journal.close()
    assert [line[:3] for line in journal.lines()] == [("m", "begin", "7"), ("m", "end", "7")]
    assert journal.events("end") == ["7"]


def test_stored_when_whole_is_believed() -> None:
    assert_stored_once(["a", "b"], STORED)


@pytest.mark.parametrize(
    ("acknowledged", "stored"), [(["a", "d"], STORED), (["a"], [*STORED, Stored(4, "a", "x")])], ids=["lost", "twice"]
)
def test_stored_when_lost_or_twice_is_refused(acknowledged: list[str], stored: list[Stored]) -> None:
    with pytest.raises(AssertionError):
        assert_stored_once(acknowledged, stored)


def test_handled_when_one_is_missing_or_was_only_begun_is_refused() -> None:
    assert_each_handled(calls(1, 2, 3), STORED)
    for lines in (calls(1, 3), [*calls(1, 3), Line("m", "begin", "2", 9)]):
        with pytest.raises(AssertionError):
            assert_each_handled(lines, STORED)


def test_order_when_one_begins_too_early_is_refused() -> None:
    assert_serial_order(calls(1, 2, 1, 2, 3), STORED)
    assert_key_order(calls(2, 1, 3), STORED)
    with pytest.raises(AssertionError):
        assert_serial_order(calls(2, 1, 3), STORED)
    with pytest.raises(AssertionError):
        assert_key_order(calls(2, 3, 1), STORED)


def test_repeat_when_in_one_process_needs_a_fault_after_its_end() -> None:
    again = calls(1, 2, 1)
    assert n_duplicates(again) == 1
    assert_no_repeat_without_fault(calls(1, 2) + calls(1, member="other"))
    assert_no_repeat_without_fault(again, [10**9])
    for faults in ([], [-(2 * 10**9)], [5 * 10**9]):
        with pytest.raises(AssertionError):
            assert_no_repeat_without_fault(again, faults)
