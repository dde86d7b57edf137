"""The `eda` command in a terminal, as its users see it: a pseudo-terminal, whose output draws a screen.

shown = await run_in_terminal("streams", "ls", "--addr", server.url, columns=200)
assert shown.code == 0
assert "orders" in shown.text

shown = await run_in_terminal("top", "--addr", server.url, until="orders")   # then Ctrl-C
assert shown.code == 130

async with Terminal("streams", "rm", "orders", "--addr", server.url) as terminal:
    await terminal.shows("Delete")
    terminal.type("y\\n")
    assert await terminal.ended() == 0
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyte

__all__ = ["CTRL_C", "CTRL_D", "Shown", "Terminal", "run_in_terminal"]

DEADLINE_S = 60.0
CTRL_C = "\x03"
CTRL_D = "\x04"  # the end of the input
# Lines that have scrolled off the screen and are still part of the text.
HISTORY = 10_000

# A process becomes the leader of its terminal by asking for it; then a typed Ctrl-C is a SIGINT, as in a user's shell.
_IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

# These would override the size of the terminal, or its colours.
_NOT_INHERITED = frozenset({"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "EDA_URL"})


@dataclass(frozen=True)
class Shown:
    """What a command showed: its exit code, and the lines of the terminal."""

    code: int
    # All lines, also those that scrolled away: when the terminal showed `until`, else at the end of the command.
    text: str
    # The same at the end of the command.
    end: str
    # All bytes that the command wrote, with the escape sequences.
    raw: bytes


class Terminal:
    """A command that runs in a terminal of its own. Leaving the block kills it if it still runs.

    `code`: Python code to run in place of the command. `env`: variables to set; with the value None, to remove.
    """

    def __init__(
        self,
        *arguments: str,
        columns: int = 80,
        rows: int = 40,
        code: str | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        how = ["-m", "eda.cli"] if code is None else ["-c", code]
        self._command = [sys.executable, "-I", "-S", "-c", _IN_TERMINAL, sys.executable, *how, *arguments]
        self._size = (columns, rows)
        self._cwd = cwd
        variables = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        changed: dict[str, str | None] = {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **(env or {})}
        self._env = {name: value for name, value in {**variables, **changed}.items() if value is not None}
        self._screen = pyte.HistoryScreen(columns, rows, history=HISTORY)
        self._stream = pyte.ByteStream(self._screen)
        self._deadline = time.monotonic() + deadline_s
        self._changed = asyncio.Event()
        self._over = False
        self._process: subprocess.Popen[bytes] | None = None
        self._terminal = -1
        self.raw = bytearray()

    async def __aenter__(self) -> Self:
        self._start()
        self._screen.write_process_input = self.type  # how a terminal answers questions about itself
        asyncio.get_running_loop().add_reader(self._terminal, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._terminal)
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        await asyncio.to_thread(self._process.wait)
        os.close(self._terminal)

    @property
    def pid(self) -> int:
        """The process id of the command."""
        assert self._process is not None
        return self._process.pid

    @property
    def screen(self) -> str:
        """The lines that are on the screen now, without blanks at their ends."""
        return _joined(line.rstrip() for line in self._screen.display)

    @property
    def text(self) -> str:
        """The lines that have scrolled away, and those that are on the screen now."""
        columns = range(self._screen.columns)
        gone = ["".join(line[at].data for at in columns).rstrip() for line in self._screen.history.top]
        return _joined([*gone, *(line.rstrip() for line in self._screen.display)])

    def type(self, keys: str) -> None:
        """Type these characters. Ctrl-C is `CTRL_C`."""
        os.write(self._terminal, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal; the command gets a SIGWINCH."""
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen.resize(rows, columns)

    async def shows(self, what: str | Callable[[str], bool]) -> str:
        """Return the text as soon as it contains `what`, or as soon as `what(text)` is true.

        Raises AssertionError if the command ends before, or if the deadline passes.
        """
        is_there: Callable[[str], bool] = (lambda text: what in text) if isinstance(what, str) else what
        while not is_there(text := self.text):
            assert not self._over, f"the command ended and did not show {what!r}:\n{text}"
            await self._wait(f"show {what!r}")
        return text

    async def ended(self) -> int:
        """Return the exit code when the command has ended and all that it wrote was read."""
        while not self._over:
            await self._wait("end")
        assert self._process is not None
        while (code := self._process.poll()) is None:
            assert time.monotonic() < self._deadline, f"the command closed its terminal, but did not end:\n{self.text}"
            await asyncio.sleep(0.005)
        return code

    def _start(self) -> None:
        self._terminal, theirs = os.openpty()
        try:
            self.resize(*self._size)
            self._process = subprocess.Popen(
                self._command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                cwd=self._cwd,
                env=self._env,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._terminal)
            raise
        finally:
            os.close(theirs)
        os.set_blocking(self._terminal, False)

    async def _wait(self, what: str) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(max(self._deadline - time.monotonic(), 0)):
                await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"the command did not {what} in time:\n{self.text}") from None

    def _read(self) -> None:
        try:
            data = os.read(self._terminal, 65536)
        except BlockingIOError:
            return
        except OSError:  # Linux: nobody has the terminal open any more
            data = b""
        if data:
            self.raw += data
            self._stream.feed(data)
        else:
            self._over = True
            asyncio.get_running_loop().remove_reader(self._terminal)
        self._changed.set()


async def run_in_terminal(
    *arguments: str,
    columns: int = 80,
    rows: int = 40,
    keys: Sequence[tuple[str, str]] = (),
    until: str | Callable[[str], bool] | None = None,
    code: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    deadline_s: float = DEADLINE_S,
) -> Shown:
    """Run the command in a terminal of this size, and return what it showed.

    `keys`: pairs of a text to wait for, and of what to type when the terminal shows it. `until`: a text, or a condition
    on all text; when the terminal shows it, Ctrl-C is typed. None: the command ends by itself.
    """
    how = {"columns": columns, "rows": rows, "code": code, "cwd": cwd, "env": env, "deadline_s": deadline_s}
    async with Terminal(*arguments, **how) as terminal:  # type: ignore[arg-type]
        for awaited, typed in keys:
            await terminal.shows(awaited)
            terminal.type(typed)
        text = None
        if until is not None:
            text = await terminal.shows(until)
            terminal.type(CTRL_C)
        exit_code = await terminal.ended()
        return Shown(exit_code, terminal.text if text is None else text, terminal.text, bytes(terminal.raw))


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(lines).rstrip("\n")
