"""A nursery: a process that imports eda once, and forks the members of fault tests.

A fork takes milliseconds where a new interpreter takes a second. For each line on its stdin, the orders of a member as
JSON, the nursery forks that member and prints its process id. At an empty line and when stdin ends, it kills the
members that are left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from processes import environment

__all__ = ["Nursery", "nurse"]


class Nursery:
    """The nursery as a test sees it. `module` calls `nurse` when it is run. Several tests, in turn, may use it."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", self._module],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()  # the nursery kills all members
        self._process.wait(20)
        self._process.stdout.close()

    def start(self, orders: dict[str, Any]) -> int:
        """Start a member; returns its process id. No other process gets this id before `end_all`."""
        return self._ask(json.dumps(orders))

    def end_all(self) -> None:
        """Kill all members."""
        self._ask("")

    def _ask(self, line: str) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def nurse(run: Callable[[dict[str, Any]], None]) -> None:
    """Fork a member for each line of stdin. `run` gets the orders in the new process, and must not return."""
    members: list[int] = []
    for line in sys.stdin:
        if not line.strip():
            _end_all(members)
            print(0, flush=True)
            continue
        orders = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(orders)
        members.append(pid)
        print(pid, flush=True)
    _end_all(members)


def _end_all(members: list[int]) -> None:
    while members:  # not reaped before, so that no other process can have the id
        pid = members.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
