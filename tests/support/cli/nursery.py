"""A nursery of commands: a process that has imported what commands need, and forks a process for each command.

A command takes three times as much processor time for its start and its imports as for its work, and the tests run more
than a thousand. In all else a forked command is as any other: it has its own arguments, variables, folder and standard
streams, ends as the interpreter ends, and its parent waits for it. How commands start, and what they import, is tested
in `tests/unit/cli/test_start.py`; signals in tests that start a new interpreter.

For each command the nursery gets its standard output, its standard error and a socket. On this socket it reads a line
of JSON, and writes the process id, and then the exit code. The standard input is empty.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

__all__ = ["CommandNursery"]

# What commands import when they run.
MODULES = (
    "asyncio",
    "rich.console",
    "rich.live",
    "rich.progress",
    "rich.table",
    "eda.conn",
    "eda.publishing.publisher",
)


class CommandNursery:
    """The nursery as tests see it. It lives until the block ends, and commands that run then go on."""

    def __enter__(self) -> Self:
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONIOENCODING": "utf-8"},
                pass_fds=[theirs.fileno()],
            )
        self._variables = interpreter_variables(os.environ)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.close()
        self._process.wait(20)

    def can_run(self, variables: Mapping[str, str]) -> bool:
        """Whether the interpreter of a command with these variables would be as the nursery is."""
        return interpreter_variables(variables) == self._variables

    async def run(
        self, arguments: tuple[str, ...], folder: Path | None, variables: Mapping[str, str], stdout: int, stderr: int
    ) -> int:
        """Run a command without input, and return its exit code. If the call is cancelled, the command is killed.

        The caller closes `stdout` and `stderr`, which the command has open until it ends.
        """
        talk, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._ours, [b"."], [stdout, stderr, theirs.fileno()])
        reader, writer = await asyncio.open_connection(sock=talk)
        pid = 0
        try:
            orders = {"arguments": arguments, "folder": str(folder or Path.cwd()), "variables": dict(variables)}
            writer.write(json.dumps(orders).encode() + b"\n")
            pid = int(await reader.readline())
            code = int(await reader.readline())
            pid = 0
            return code
        finally:
            if pid:
                os.kill(pid, signal.SIGKILL)  # the nursery has not said that it has ended, so the id is still its own
            writer.close()


def interpreter_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that only a new interpreter looks at."""
    return {
        name: value for name, value in variables.items() if name.startswith("PYTHON") and name != "PYTHONIOENCODING"
    }


# --- the process -----------------------------------------------------------------------------------------------------


def nurse(control: socket.socket) -> None:
    """Fork a process for each command, until nobody has the other end of `control` open."""
    for name in MODULES:
        import_module(name)
    import eda.cli

    for module in pkgutil.iter_modules(eda.cli.__path__, "eda.cli."):
        if not module.name.endswith(".__main__"):
            import_module(module.name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who watch
    while True:
        byte, streams, _, _ = socket.recv_fds(control, 1, 3)
        if not byte:
            return
        if os.fork() == 0:
            control.close()
            watch(*streams)
        for each in streams:
            os.close(each)


def watch(stdout: int, stderr: int, talk: int) -> NoReturn:
    """Fork the command, and tell its process id and its exit code. In the new process the command begins."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=talk) as told:
        with told.makefile("rb") as lines:
            orders = json.loads(lines.readline())
        pid = os.fork()
        if pid:
            for each in (stdout, stderr):
                os.close(each)
            told.sendall(b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            told.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
    for number, each in ((1, stdout), (2, stderr)):
        os.dup2(each, number)
        os.close(each)
    begin(**orders)
    sys.exit()


def begin(arguments: list[str], folder: str, variables: dict[str, str]) -> Any:
    """Be `python -m eda.cli` with these arguments."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[0] = folder
    sys.argv = ["eda", *arguments]
    runpy.run_module("eda.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    nurse(socket.socket(fileno=int(sys.argv[1])))
