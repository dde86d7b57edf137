"""`.ci/check_types.py`, which `make lint` runs: what it expects of a type checker, and how it tells the difference."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def loaded() -> Any:
    spec = importlib.util.spec_from_file_location("check_types", ROOT / ".ci" / "check_types.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_types = loaded()


def test_expected_errors_when_a_line_is_marked_are_its_words() -> None:
    source = 'a = 1\nb: str = 2  # error: has type "int"\nc = "# error: no mark"\n'
    assert check_types.expected_in(source) == {2: 'has type "int"'}


def test_uses_when_read_have_wrong_ones_of_every_kind() -> None:
    expected = check_types.expected_in(check_types.USES.read_text(encoding="utf-8"))
    assert len(expected) > 80
    assert all(expected.values())


def test_differences_when_the_errors_are_the_expected_ones_are_none() -> None:
    found = {2: ["another one", "Incompatible types: int"]}
    assert check_types.differences("mypy", {2: "types: int"}, found, says_words=True) == []
    assert check_types.differences("pyright", {2: "words of mypy"}, found, says_words=False) == []


def test_differences_when_an_error_is_missing_or_unexpected_or_another_one_name_the_line() -> None:
    found = {1: ["unexpected"], 3: ["another one"]}
    assert check_types.differences("mypy", {2: "missing", 3: "this one"}, found, says_words=True) == [
        "mypy: line 1 of uses.py should have no error: unexpected",
        "mypy: line 2 of uses.py should have an error: missing",
        "mypy: line 3 of uses.py should have an error with 'this one', not another one",
    ]
