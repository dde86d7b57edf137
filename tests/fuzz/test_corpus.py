"""Every input that the fuzz targets keep, seeds and findings, still passes: the fuzzer's memory, without the fuzzer."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"
TARGETS = sorted({file.parent.relative_to(CORPUS).as_posix() for file in CORPUS.rglob("*") if file.is_file()})
MAX_FILES = 300
MAX_BYTES = 2048


@pytest.mark.parametrize("target", TARGETS)
def test_target_when_given_its_corpus_finds_nothing(target: str) -> None:
    check = importlib.import_module(f"fuzz.{target.replace('/', '.')}").check
    files = sorted((CORPUS / target).iterdir())
    assert 5 < len(files) <= MAX_FILES
    for file in files:
        data = file.read_bytes()
        assert len(data) <= 2 * MAX_BYTES
        try:
            check(data)
        except Exception as error:
            error.add_note(f"{target}: {file.name}")
            raise


def test_targets_when_listed_all_have_a_corpus() -> None:
    folder = CORPUS.parent
    modules = {
        file.relative_to(folder).with_suffix("").as_posix()
        for file in folder.rglob("*.py")
        if "\ndef check(" in file.read_text()
    }
    assert modules == set(TARGETS)
