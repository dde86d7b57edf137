"""A measurement in a fresh process, and what its memory was along the way."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from suite.work import LATE_S, Result, Task

__all__ = ["ChildFailed", "measure"]

BENCH = Path(__file__).parents[1]
SAMPLE_S = 0.05
START_S = 45.0


class ChildFailed(Exception):
    """A contender did not get through; the text says why."""


async def measure(adapter: str, task: Task) -> tuple[Result, list[tuple[float, float]]]:
    """Run the adapter; returns its result, and (seconds, resident MB) while it ran. ChildFailed: no result."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"suite.adapters.{adapter}",
        cwd=BENCH, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    memory: list[tuple[float, float]] = []
    sampling = asyncio.ensure_future(sample(process.pid, memory))
    try:
        async with asyncio.timeout(task.seconds + LATE_S * 2 + START_S):
            out, err = await process.communicate(json.dumps(dataclasses.asdict(task)).encode())
    except TimeoutError:
        raise ChildFailed(f"no result after {task.seconds + LATE_S * 2 + START_S:.0f} s") from None
    finally:
        sampling.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = err.decode(errors="replace").strip().splitlines()
        raise ChildFailed(lines[-1] if lines else f"it ended with {process.returncode}")
    return Result(**json.loads(out)), memory


async def sample(pid: int, memory: list[tuple[float, float]]) -> None:
    began = time.monotonic()
    statm = Path(f"/proc/{pid}/statm")
    while (pages := resident_pages(statm)) is not None:
        memory.append((round(time.monotonic() - began, 2), round(pages * resource.getpagesize() / 1e6, 1)))
        await asyncio.sleep(SAMPLE_S)


def resident_pages(statm: Path) -> int | None:
    try:
        return int(statm.read_text().split()[1])
    except (OSError, IndexError):  # it has ended, or this is no Linux
        return None
