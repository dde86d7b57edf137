"""The tests that cibuildwheel runs: the settings in pyproject.toml give them every file that they read."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_unit_tests_that_read_files_when_only_the_test_sources_are_there_pass(tmp_path: Path) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]
    for name in settings["test-sources"]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    reading = [
        path.relative_to(tmp_path)
        for path in sorted((tmp_path / "tests" / "unit").rglob("test_*.py"))
        if "__file__" in path.read_text(encoding="utf-8") and path.name != Path(__file__).name
    ]
    assert len(reading) >= 3
    assert "python -m pytest -q tests/unit" in settings["test-command"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, reading)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stdout + run.stderr
