"""The `eda` command with a standard input, or in the background while a test looks at its output."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from types import TracebackType
from typing import Self

from support.cli.commands import DEADLINE_S

__all__ = ["RunningEda", "run_eda_with"]


async def run_eda_with(given: bytes, *arguments: str) -> tuple[int | None, bytes, str]:
    """Run the command with this standard input; give its exit code, what it printed, and what it printed to stderr."""
    async with RunningEda(*arguments) as running:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await running.process.communicate(given)
        return running.process.returncode, out, err.decode()


class RunningEda:
    """The command as a process whose input and output are pipes. It is killed when the block ends."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "eda.cli", *self._arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=1 << 24,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
        if self.process.stdin is not None:
            self.process.stdin.close()
        await self.process.wait()

    async def line(self) -> bytes:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.stdout.readline()

    def give(self, data: bytes) -> None:
        """Write to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    async def ended(self, by: signal.Signals | None = None) -> tuple[int | None, bytes, str]:
        """Send it a signal, if one is given, and wait for its end; return what `run_eda_with` does."""
        if by is not None:
            self.process.send_signal(by)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with asyncio.timeout(DEADLINE_S):
            out, err = await asyncio.gather(self.process.stdout.read(), self.process.stderr.read())
            return await self.process.wait(), out, err.decode()
