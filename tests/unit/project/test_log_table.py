"""docs/logging.md has a row for each log call in the sources, with its level and its fields."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.log_calls import LogCall, calls_in
from support.log_table import TABLE, read_rows

SOURCE = Path(__file__).resolve().parents[3] / "src" / "eda"

pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason="tests of the wheel have no sources")

# What a text is about, and the field that a record with this text must have.
NEEDED = {
    r"\bsubscription %s (to|of)": {"eda_stream", "eda_subscription"},
    r"\bsubscription %s\b": {"eda_subscription"},
    r"\bstreams? %[sr]": {"eda_stream"},
    r"\bpublisher to %s": {"eda_stream"},
    r"\bappend to %s": {"eda_stream"},
    r"\bprojection %s": {"eda_projection"},
    r"\boutbox %s": {"eda_outbox"},
}


CALLS = [call for call in calls_in(SOURCE) if not (call.path == "handling/failure_log.py" and call.text is None)]
ROWS = read_rows()


def shown(call: LogCall) -> str:
    return f"{call.path}:{call.line}"


@pytest.mark.parametrize("call", CALLS, ids=lambda call: re.sub(r"\W+", "-", call.text or shown(call))[:60])
def test_call_when_looked_up_has_a_row_with_its_level_and_fields(call: LogCall) -> None:
    assert call.text is not None, f"{shown(call)}: give the text as a constant"
    row = ROWS.get(call.text)
    assert row is not None, f"{shown(call)}: docs/logging.md has no row for {call.text!r}"
    if call.level is None:
        assert len(row.levels) == 2, f"{shown(call)}: its level varies"
    else:
        assert call.level in row.levels, f"{shown(call)}: docs/logging.md has other levels"
    of_file = {field for field in row.fields if field not in call.fields}
    assert not of_file - DYNAMIC, f"{shown(call)} has no fields {of_file}"
    for pattern, needed in NEEDED.items():
        if re.search(pattern, call.text) and call.path not in PASSED_ON:
            assert needed <= call.fields, f"{shown(call)}: a record with this text needs the fields {needed}"
            assert needed <= row.fields, f"docs/logging.md: the row for {call.text!r} lacks {needed}"


# Fields that a call merges from a function or property, which tests/live/test_log_lines.py sees.
DYNAMIC = {"eda_left_out", "eda_server", "eda_server_version"}
# Lines about several kinds of things: the file that makes the logger gives it the fields.
PASSED_ON = {"life.py", "projections/side.py"}


def test_rows_when_compared_with_the_calls_have_no_row_too_many() -> None:
    assert sorted(set(ROWS) - {call.text for call in CALLS}) == []


def test_rows_when_read_say_what_a_line_means_and_what_to_do() -> None:
    assert len(ROWS) > 100
    for text, row in ROWS.items():
        assert row.meaning.strip().endswith("."), text
        assert row.what_to_do.strip().endswith("."), text


def test_fields_when_compared_with_the_list_are_all_explained() -> None:
    text = TABLE.read_text(encoding="utf-8")
    listed = set(re.findall(r"`(eda_\w+)`", text.partition("## Fields")[2].partition("\n## ")[0]))
    used = {field for call in CALLS for field in call.fields}
    assert used <= listed
