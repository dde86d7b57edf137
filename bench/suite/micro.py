"""The micro benchmarks of bench/micro, as pytest-benchmark times them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["run_micro"]

BENCH = Path(__file__).parents[1]
TIMEOUT_S = 240


def run_micro() -> tuple[list[dict[str, Any]], str]:
    """Time each of them; returns their figures, and what went wrong, if anything did."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "micro.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            str(BENCH / "micro"),
            "-q",
            "-p",
            "no:cacheprovider",
            f"--benchmark-json={out}",
        ]
        command += ["--benchmark-max-time=0.2", "--benchmark-min-rounds=3", "--benchmark-warmup=on"]
        try:
            done = subprocess.run(command, cwd=BENCH.parent, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return [], f"the micro benchmarks were not done after {TIMEOUT_S} s"
        figures = json.loads(out.read_text())["benchmarks"] if out.exists() and out.stat().st_size else []
    failure = "" if done.returncode == 0 else f"micro benchmarks failed: {done.stdout.strip().splitlines()[-1]}"
    rows = [
        {
            "group": each["group"] or "",
            "name": each["name"],
            "ns": {key: round(each["stats"][key] * 1e9, 1) for key in ("median", "min", "iqr")},
        }
        for each in figures
    ]
    return rows, failure
