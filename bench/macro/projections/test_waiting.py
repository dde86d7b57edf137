"""How long after the commit `wait_for` returns, in the process that projects and in another one.

The clock starts when `apply` ends, so the figures include the commit, which does not wait for the disk here.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import eda
from macro import delete
from macro.projections.sales import apply_sqlite, emptied, make_event

N_WAITS = 300
BENCH = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join([str(BENCH), str(BENCH.parent / "tests")])
_numbers = itertools.count()


def quick(driver: sqlite3.Connection) -> None:
    driver.execute("PRAGMA synchronous = OFF")


def waits_us(server: eda.EmbeddedServer, path: str, *, elsewhere: bool) -> float:
    """Publish events one by one, and wait for each; return the median microseconds from apply's end."""
    stream = f"waiting-{next(_numbers)}"
    applied_ns: dict[int, int] = {}

    def apply(events: list[eda.Event], tx: sqlite3.Connection) -> None:
        apply_sqlite(events, tx)
        applied_ns[events[-1].sequence] = time.perf_counter_ns()

    async def run() -> float:
        took = []
        async with eda.connect(server.url, client="bench") as conn:
            await conn.streams.create(stream)
            sink = eda.sql.SQLite(path, on_connect=quick)
            async with conn.projection([stream], apply, into=sink, name="bench", linger_s=0.001) as projection:
                viewer = await start_viewer() if elsewhere else None
                for number in range(N_WAITS):
                    receipt = await conn.publish(stream, make_event(number))
                    if viewer is None:
                        await projection.wait_for(receipt, timeout_s=10)
                        returned_ns = time.perf_counter_ns()
                    else:
                        assert viewer.stdin
                        assert viewer.stdout
                        viewer.stdin.write(b"%d\n" % receipt.sequence)
                        returned_ns = int(await viewer.stdout.readline())
                    took.append(returned_ns - applied_ns[receipt.sequence])
                if viewer is not None:
                    assert viewer.stdin
                    viewer.stdin.close()
                    await viewer.wait()
        return statistics.median(took) / 1000

    async def start_viewer() -> asyncio.subprocess.Process:
        viewer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "macro.projections.viewer", server.url, path, "bench", stream),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
        )
        assert viewer.stdout
        assert await viewer.stdout.readline() == b"open\n"
        return viewer

    took_us = asyncio.run(run())
    delete(server, stream)
    return took_us


def test_wait_for(
    server: eda.EmbeddedServer, duel: Callable[..., None], note: Callable[[str, float], None], tmp_path: Path
) -> None:
    path = str(tmp_path / "read.db")
    note("a millisecond us", 1000)
    duel(
        ("wait_for us", lambda: waits_us(server, emptied(path), elsewhere=False)),
        ("wait_for elsewhere us", lambda: waits_us(server, emptied(path), elsewhere=True)),
        rounds=3,
    )
