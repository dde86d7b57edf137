"""The programs in `examples`: each one's own tests pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.mark.parametrize("example", sorted(path.parent.name for path in EXAMPLES.glob("*/__main__.py")))
def test_example_when_its_own_tests_run_passes_them(example: str) -> None:
    """Run them in a process of their own, because a type of events is declared once in a process."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"examples/{example}"],
        cwd=EXAMPLES.parent,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "EDA_"))},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
