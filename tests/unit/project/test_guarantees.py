"""docs/guarantees.md: each test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[2]
GUARANTEES = TESTS.parent / "docs" / "guarantees.md"


def test_guarantees_when_they_name_tests_those_exist() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    there = set(re.findall(r"^(?:async )?def (test_\w+)\(", text, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", GUARANTEES.read_text(encoding="utf-8")))
    assert len(named) > 20
    assert named <= there, named - there


def test_guarantees_when_a_row_says_what_holds_it_names_a_test() -> None:
    sections = re.split(r"^## ", GUARANTEES.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for section in sections:
        if section.startswith(("Publishing", "Handling", "Event store", "Read models", "When somebody")):
            rows = [line for line in section.splitlines() if line.startswith("| ") and "| shown by |" not in line]
            assert rows
            assert [row for row in rows if "`test_" not in row and "`tests/" not in row] == []
