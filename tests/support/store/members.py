"""Starts, kills, freezes and ends the members of an event store's fault test (`process.py`)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers import until
from processes import environment
from support.store.attempts import Attempt, Journal
from support.store.evidence import unsettled

__all__ = ["KINDS", "Members"]

# How stores are opened, by turns: with and without snapshots and types, with a large, a small and no cache.
KINDS: list[dict[str, Any]] = [
    {},
    {"store": {"snapshot_every": 7, "cache": 5}},
    {"store": {"cache": 5}, "types": True},
    {"store": {"snapshot_every": 7, "cache": 0}},
]


class Members:
    """The members by name. `orders`: what all of them are told."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "journal")
        self.orders: dict[str, Any] = {"journal": str(self.journal.path)}
        self.pids: dict[str, int] = {}
        self._dead: set[str] = set()
        self._again: dict[tuple[str, str], str] = {}  # commands that are executed again, and by whom
        self._n_started = 0

    def __enter__(self) -> Members:
        self._nursery = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "support.store.process"],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._nursery.stdin
        assert self._nursery.stdout
        self._nursery.stdin.close()  # the nursery kills all members
        self._nursery.wait(20)
        self._nursery.stdout.close()
        self.journal.close()

    def start(self, name: str = "", **orders: Any) -> str:
        """Start a member; returns its name. It opens in its own time."""
        self._n_started += 1
        name = name or f"m{self._n_started}"
        given = KINDS[self._n_started % len(KINDS)] | self.orders | {"member": name, "seed": self._n_started} | orders
        assert self._nursery.stdin
        assert self._nursery.stdout
        self._nursery.stdin.write(json.dumps(given).encode() + b"\n")
        self._nursery.stdin.flush()
        self.pids[name] = int(self._nursery.stdout.readline())
        return name

    def alive(self) -> list[str]:
        return [name for name in self.pids if name not in self._dead]

    def send(self, name: str, number: signal.Signals) -> None:
        os.kill(self.pids[name], number)

    def kill(self, name: str) -> None:
        self.send(name, signal.SIGKILL)
        self._dead.add(name)

    def replace(self, name: str, **orders: Any) -> str:
        """Kill a member, and start another one, which first executes the commands that the dead left open."""
        self.kill(name)
        left = self.left_open()
        started = self.start(again=[asdict(request) for request in left], **orders)
        self._again |= {(each.id, each.aggregate): started for each in left}
        return started

    def left_open(self) -> list[Any]:
        """Return the requests whose outcome the dead did not learn, without those that others execute again already.

        None of them is far behind: after 256 further commands, a command of an aggregate is no longer recognized.
        """
        dead = [attempt for attempt in self.attempts() if attempt.member in self._dead]
        return [each for each in unsettled(dead) if self._again.get((each.id, each.aggregate)) not in self.alive()]

    def attempts(self) -> list[Attempt]:
        return self.journal.attempts()

    def check(self) -> None:
        """Assert that no member has ended by itself."""
        crashed = [line["text"] for line in self.journal.lines() if line["what"] == "crashed"]
        assert not crashed, crashed[0]

    async def until_open(self, timeout_s: float = 30.0) -> None:
        """Wait until all members that live have opened their store."""

        def are_open() -> bool:
            self.check()
            opened = {line["member"] for line in self.journal.lines() if line["what"] == "open"}
            return opened >= set(self.alive())

        await until(are_open, timeout_s)

    async def more(self, n: int, timeout_s: float = 60.0) -> None:
        """Wait until `n` more requests have been answered."""

        def answered() -> int:
            self.check()
            return sum(line["what"] == "end" and line["outcome"] != "unknown" for line in self.journal.lines())

        goal = answered() + n
        await until(lambda: answered() >= goal, timeout_s)

    def any(self, chance: random.Random) -> str:
        return chance.choice(self.alive())

    async def close(self, timeout_s: float = 60.0) -> None:
        """Have all members close. What nobody knows the outcome of is executed once more, by a new member."""
        await self.until_open(timeout_s)
        for name in self.alive():
            self.send(name, signal.SIGTERM)
        await self._until_closed(timeout_s)
        self._dead |= set(self.pids)
        for _ in range(3):  # several of one aggregate's commands may be among them, each deciding on the others
            left = unsettled(self.attempts())
            if left:
                self.start(again=[asdict(request) for request in left], only_again=True, manager="")
                await self._until_closed(timeout_s)
                self._dead |= set(self.pids)

    async def _until_closed(self, timeout_s: float) -> None:
        def are_closed() -> bool:
            self.check()
            closed = {line["member"] for line in self.journal.lines() if line["what"] == "closed"}
            return closed >= set(self.alive())

        await until(are_closed, timeout_s)
