"""The `eda` command as its users run it: a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import eda

DEADLINE_S = 60


async def run_eda(
    *arguments: str, code: str | None = None, cwd: Path | None = None, columns: int = 100
) -> tuple[int | None, str, str]:
    """Run the command and give its exit code, what it printed, and what it printed to stderr."""
    how = ["-m", "eda.cli"] if code is None else ["-c", code]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *how,
        *arguments,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"},
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode(), err.decode()


async def published(conn: eda.Conn) -> None:
    """Return when some stream has an event."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if any(info.events for info in await conn.streams.list()):
                return
            await asyncio.sleep(0.02)


async def run_interrupted(
    conn: eda.Conn, *arguments: str, by: signal.Signals = signal.SIGINT
) -> tuple[int | None, str, str]:
    """Run the command and send it a signal when some stream has an event; gives what `run_eda` does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eda.cli", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        await published(conn)
        async with asyncio.timeout(DEADLINE_S):
            process.send_signal(by)
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode(), err.decode()
