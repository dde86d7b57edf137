"""Instructions per event of this checkout beside those of another one: `python bench/against_before.py PATH`.

Both need their `.venv` with the extras `test` and `bench`, their built modules, and valgrind. The contenders are those
of the hot paths. With the option `--at-most 1.01` it ends with 1 if one of the ratios is larger.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
FIGURES = (
    *("handling.dispatch.eda_dispatch", "handling.packs.packed_shared", "handling.packs.packed_lists"),
    *("publishing.window.eda_window", "publishing.window.eda_send_many", "publishing.window.eda_send_many_packed"),
)
MEASURE = "import json, sys, gate_instructions as g; print(json.dumps(g.measure(sys.argv[1:])))"


def measured(checkout: Path) -> dict[str, float]:
    """Return the instructions per event in a checkout."""
    command = [checkout / ".venv" / "bin" / "python", "-c", MEASURE, *FIGURES]
    ended = subprocess.run(command, cwd=checkout / "bench", capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(ended.stdout)
    return found


def main() -> int:
    """Print a table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("--at-most", type=float)
    given = parser.parse_args()
    before, now = measured(given.before.resolve()), measured(HERE)
    worst = 0.0
    for name in FIGURES:
        ratio = now[name] / before[name]
        worst = max(worst, ratio)
        print(f"{name:45} {before[name]:10.1f} {now[name]:10.1f}  {ratio:.4f}")
    return int(given.at_most is not None and worst > given.at_most)


if __name__ == "__main__":
    sys.exit(main())
