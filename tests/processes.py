"""Child processes that a test freezes or kills."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["environment", "kill_at_random", "spawn"]

TESTS = Path(__file__).parent


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with these variables, in which a child finds the modules of the tests."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(paths)}


def spawn(module: str, variable: str, orders: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
    """Run a module of the tests with its orders, as JSON, in an environment variable, and stderr in `log`."""
    with log.open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", module],
            env=environment(**{variable: json.dumps(orders)}),
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )


async def kill_at_random(process: subprocess.Popen[bytes], chance: random.Random, within_s: float) -> None:
    """SIGKILL it at a random moment from now on; it must have lived until then."""
    await asyncio.sleep(chance.random() * within_s)
    assert process.poll() is None, "it ended before it was killed"
    process.kill()
    process.wait()
