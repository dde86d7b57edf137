"""Tests, benchmarks and fuzz targets have the folders of the wings; a file that a text names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import eda

ROOT = Path(__file__).resolve().parents[3]
WINGS = {path.parent.name for path in Path(eda.__file__).parent.glob("*/__init__.py")}

# What is not about a wing: the tests of the project itself, the fault suite's helpers, and the inputs of fuzz targets.
OTHERS = {
    "tests/unit": {"project"},
    "tests/live": {"project"},
    "tests/support": {"faults"},
    "tests/fuzz": {"corpus"},
    "tests/fuzz/corpus": {"envelope", "headers", "pack"},
    "bench/micro": set(),
    "bench/macro": set(),
}

TEXTS = [
    "Makefile",
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")),
]


@pytest.mark.parametrize("folder", OTHERS)
def test_folders_when_compared_with_the_wings_have_their_names(folder: str) -> None:
    found = {path.name for path in (ROOT / folder).iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert found - OTHERS[folder] <= WINGS


def test_helpers_when_compared_with_their_list_are_all_in_it() -> None:
    support = ROOT / "tests" / "support"
    files = {path.relative_to(support).with_suffix("").as_posix() for path in support.rglob("*.py")} - {"__init__"}
    text = (support / "__init__.py").read_text(encoding="utf-8")
    assert set(re.findall(r"^    ([a-z_/]+) ", text, re.MULTILINE)) == files


@pytest.mark.parametrize("text", TEXTS)
def test_paths_when_a_text_names_them_exist(text: str) -> None:
    if not (ROOT / text).exists():
        pytest.skip("tests of the wheel don't have it")
    named = re.findall(r"\b(?:tests|bench)/[\w/]+\.(?:py|toml)", (ROOT / text).read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []
