"""What the fault suite believes: lies are found out."""

from __future__ import annotations

from pathlib import Path

import pytest

import eda
from support.faults.evidence import (
    Journal,
    Line,
    Stored,
    assert_each_handled,
    assert_key_order,
    assert_no_repeat_without_fault,
    assert_sent_in_order,
    assert_serial_order,
    assert_stored,
    assert_stored_once,
    events_of,
    n_duplicates,
)
from support.packs import compressed, envelopes_of, pack_of

STORED = [Stored(1, "a", "x"), Stored(2, "b", "y"), Stored(3, "c", "x")]


def calls(*events: object, member: str = "m") -> list[Line]:
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


# --- packs -----------------------------------------------------------------------------------------------------------

EVENTS = [eda.Event(id=f"p{i}", type="t", aggregate=aggregate) for i, aggregate in enumerate("xyx")]
PACKED = [Stored(1, "a", "x"), *(Stored(2, each.id, each.aggregate, i, 2) for i, each in enumerate(EVENTS))]


def test_pack_when_read_has_each_event_at_its_place() -> None:
    pack = pack_of(EVENTS)
    for payload in (pack, compressed(pack)):
        assert events_of(2, "stream.t.%pack", {"Eda-Pack": "3"}, payload) == PACKED[1:]
    assert [each.place for each in PACKED] == [(1, 0), (2, 0), (2, 1), (2, 2)]


@pytest.mark.parametrize(
    ("subject", "headers", "payload"),
    [
        pytest.param("stream.t.x", {"Eda-Pack": "3"}, pack_of(EVENTS), id="subject"),
        pytest.param("stream.t.%pack", {"Eda-Pack": "3"}, pack_of(EVENTS[:1]), id="needless"),
        pytest.param("stream.t.%pack", {"Eda-Pack": "2"}, pack_of(EVENTS), id="count"),
        pytest.param("stream.t.x", {"Eda-Pack": "1"}, envelopes_of(EVENTS)[0], id="no-pack"),
    ],
)
def test_pack_when_its_subject_or_header_lies_is_refused(subject: str, headers: dict[str, str], payload: bytes) -> None:
    with pytest.raises(AssertionError):
        events_of(2, subject, headers, payload)


def test_pack_when_one_of_its_events_is_not_handled_or_out_of_order_is_refused() -> None:
    whole = calls("1", "2.0", "2.1", "2.2")
    assert_each_handled(whole, PACKED)
    assert_each_handled(calls("1", "2.0", "2.2"), PACKED, but=[(2, 1)])
    assert_serial_order(whole, PACKED)
    assert_serial_order(calls("1", "2.0", "2.2"), PACKED, but=[(2, 1)])
    assert_key_order(calls("2.1", "1", "2.0", "2.2"), PACKED)
    with pytest.raises(AssertionError):
        assert_each_handled(calls("1", "2.0", "2.2"), PACKED)
    for wrong in (calls("1", "2.1"), calls("2.0"), calls("1", "2.0", "2.2")):
        with pytest.raises(AssertionError):
            assert_serial_order(wrong, PACKED)
    with pytest.raises(AssertionError):
        assert_key_order(calls("1", "2.2"), PACKED)


def test_stored_when_twice_is_enough_for_those_who_ask_for_once_at_least() -> None:
    assert_stored(["a", "p1"], [*PACKED, *PACKED])
    with pytest.raises(AssertionError):
        assert_stored(["a", "p9"], PACKED)


def test_order_of_runs_when_each_stored_what_it_sent_is_believed() -> None:
    runs = ["abcdef", "cdefgh", "defghi"]
    for contents in ("abcdefghi", "abcdcdedefghi", "ab" + "cdefgh" + "ghi", "", "bdf"):
        assert_sent_in_order(map(list, runs), stored_as(contents))
    for contents in ("acb" + "a", "abz", "dcba", "ihg", "abcdabcd"):
        with pytest.raises(AssertionError):
            assert_sent_in_order(map(list, runs), stored_as(contents))


def stored_as(ids: str) -> list[Stored]:
    return [Stored(number, each, "") for number, each in enumerate(ids, 1)]
