"""Every input that the fuzz targets keep, seeds and findings, still passes: the fuzzer's memory, without the fuzzer."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"
TARGETS = sorted(folder.name for folder in CORPUS.iterdir() if folder.is_dir())
MAX_FILES = 300
MAX_BYTES = 2048


@pytest.mark.parametrize("target", TARGETS)
def test_target_when_given_its_corpus_finds_nothing(target: str) -> None:
    check = importlib.import_module(f"fuzz.{target}").check
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
    modules = {file.stem for file in CORPUS.parent.glob("*.py") if "\ndef check(" in file.read_text()}
    assert modules == set(TARGETS)
