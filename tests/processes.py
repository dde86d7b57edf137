"""Child processes that a test kills when it likes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["kill_at_random", "spawn"]


def spawn(script: Path, variable: str, orders: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
    """Run a script of the tests with its orders, as JSON, in an environment variable, and stderr in `log`."""
    environment = {**os.environ, variable: json.dumps(orders)}
    with log.open("wb") as stderr:
        command = [sys.executable, "-W", "error", str(script)]
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=stderr)


async def kill_at_random(process: subprocess.Popen[bytes], chance: random.Random, within_s: float) -> None:
    """SIGKILL it at a random moment from now on; it must have lived until then."""
    await asyncio.sleep(chance.random() * within_s)
    assert process.poll() is None, "it ended before it was killed"
    process.kill()
    process.wait()
