"""Figures of the micro gates: instructions per event, counted by valgrind; what else the machine does is no matter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from micro import maker_of

__all__ = ["MISSING", "is_known", "measure"]

BENCH = Path(__file__).resolve().parent
TIMEOUT_S = 240.0

MISSING = (
    "the micro gates count instructions with valgrind, and it is not installed: apt-get install valgrind (Debian, "
    "Ubuntu), dnf install valgrind (Fedora), apk add valgrind (Alpine). Where there is none (macOS, Windows), "
    "make bench-micro ARGS=--benchmark-enable times the same work"
)


def is_known(figure: str) -> bool:
    """Whether there is such a contender."""
    try:
        maker_of(figure)
    except KeyError:
        return False
    return True


def measure(figures: Iterable[str]) -> dict[str, float]:
    """Return the instructions per event of each contender `area.name`; one that can't be counted is missing.

    Raises RuntimeError when there is no valgrind.
    """
    if shutil.which("valgrind") is None:
        raise RuntimeError(MISSING)
    # The same hashes, hence the same collisions, in every run.
    environment = {**os.environ, "PYTHONPATH": f"{BENCH}{os.pathsep}{BENCH.parent / 'tests'}", "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "-q", f"--callgrind-out-file={folder}/%p"]
        command += [sys.executable, "-m", "micro.count", *figures]
        try:
            ended = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"valgrind: not done within {TIMEOUT_S:g} s", file=sys.stderr)
            return {}
        if ended.stderr:
            print(ended.stderr, file=sys.stderr)
        return _read(ended.stdout, Path(folder))


def _read(said: str, folder: Path) -> dict[str, float]:
    """Return the instructions per event from what micro.count said and callgrind wrote."""
    found = {}
    for line in map(json.loads, said.splitlines()):
        if "error" in line:
            print(f"{line['name']}: {line['error']}", file=sys.stderr)
            continue
        few, many, again = (_total(folder / str(pid)) for pid in line["pids"])
        # Their parent went on between the forks; where it stood for `many` is half-way between the other two.
        found[line["name"]] = (many - (few + again) / 2) / line["events"]
    return found


def _total(path: Path) -> int:
    """Return the instructions that callgrind counted for a process."""
    for line in path.read_text().splitlines():
        if line.startswith("totals: "):
            return int(line.split()[1])
    raise ValueError(f"{path} has no total")
