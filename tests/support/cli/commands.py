"""The `eda` command as its users run it: a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import eda
from support.cli.nursery import CommandNursery

DEADLINE_S = 60


# Set for the tests of a run, where processes can be forked.
nursery: CommandNursery | None = None


async def run_eda(
    *arguments: str, code: str | None = None, cwd: Path | None = None, columns: int = 100
) -> tuple[int | None, str, str]:
    """Run the command and give its exit code, what it printed, and what it printed to stderr."""
    variables = {**os.environ, "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"}
    if code is None and nursery is not None and nursery.can_run(variables):
        async with asyncio.timeout(DEADLINE_S):
            return await _run_forked(nursery, arguments, cwd, variables)
    how = ["-m", "eda.cli"] if code is None else ["-c", code]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *how,
        *arguments,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode(), err.decode()


async def _run_forked(
    nursery: CommandNursery, arguments: tuple[str, ...], cwd: Path | None, variables: dict[str, str]
) -> tuple[int, str, str]:
    out, stdout = os.pipe()
    err, stderr = os.pipe()
    reading = asyncio.gather(_all_of(out), _all_of(err))
    try:
        code = await nursery.run(arguments, cwd, variables, stdout, stderr)
    finally:
        # A pipe is at its end when nobody has the other end any more.
        os.close(stdout)
        os.close(stderr)
        printed, complained = await reading
    return code, printed.decode(), complained.decode()


async def _all_of(pipe: int) -> bytes:
    reader = asyncio.StreamReader()
    file = os.fdopen(pipe, "rb", 0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    try:
        return await reader.read()
    finally:
        transport.close()


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
