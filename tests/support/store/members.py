"""Starts, kills, freezes and ends the members of an event store's fault test (`process.py`)."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers import until
from support.faults.nursery import Nursery
from support.store.attempts import UNKNOWN, Attempt, Journal
from support.store.evidence import WRITES, unsettled

__all__ = ["KINDS", "Members"]

# How stores are opened, by turns: with and without snapshots and types, with a large, a small and no cache.
KINDS: list[dict[str, Any]] = [
    {},
    {"store": {"snapshot_every": 7, "cache": 5}},
    {"store": {"cache": 5}, "types": True},
    {"store": {"snapshot_every": 7, "cache": 0}},
]


CHANGES = (*WRITES, "forget")


class Members:
    """The members of one test by name. `orders`: what all of them are told."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self.journal = Journal(folder / "journal")
        self.orders: dict[str, Any] = {"journal": str(self.journal.path)}
        self.pids: dict[str, int] = {}
        self._nursery = nursery
        self._dead: set[str] = set()
        self._again: dict[tuple[str, str], str] = {}  # commands that are executed again, and by whom
        self._n_started = 0
        self._n_looked_at = 0  # lines of the journal
        self._n_answered = 0
        self._under_way: set[tuple[str, int]] = set()  # requests to change something, also of the dead
        self._faults: list[tuple[str, int, str]] = []
        self._killed_ns: dict[str, int] = {}

    def __enter__(self) -> Members:
        return self

    def __exit__(self, *_: object) -> None:
        self._nursery.end_all()
        self.journal.close()

    def start(self, name: str = "", **orders: Any) -> str:
        """Start a member; returns its name. It opens in its own time."""
        self._n_started += 1
        name = name or f"m{self._n_started}"
        given = KINDS[self._n_started % len(KINDS)] | self.orders | {"member": name, "seed": self._n_started} | orders
        self.pids[name] = self._nursery.start(given)
        return name

    def alive(self) -> list[str]:
        return [name for name in self.pids if name not in self._dead]

    def send(self, name: str, number: signal.Signals) -> None:
        os.kill(self.pids[name], number)

    def kill(self, name: str) -> None:
        self.send(name, signal.SIGKILL)
        self.harm("kill", name)
        self._dead.add(name)
        self._killed_ns[name] = time.monotonic_ns()

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
        lines = self.journal.lines()
        for line in lines[self._n_looked_at :]:
            assert line["what"] != "crashed", line["text"]
            request = line["member"], line.get("attempt", 0)
            if line["what"] == "begin" and line["request"]["how"] in CHANGES:
                self._under_way.add(request)
            elif line["what"] == "end":
                self._under_way.discard(request)
                self._n_answered += line["outcome"] != UNKNOWN
        self._n_looked_at = len(lines)

    # --- faults ------------------------------------------------------------------------------------------------------

    def harm(self, kind: str, member: str = "") -> None:
        """Note that a fault strikes now: all members, or this one."""
        self._faults.append((kind, time.monotonic_ns(), member))

    def n_struck(self, kind: str) -> int:
        """Return how many requests to change something were under way when a fault of this kind struck."""
        writes = [attempt for attempt in self.attempts() if attempt.request.how in CHANGES]
        return sum(
            each.begin_ns < at_ns
            and not 0 < each.end_ns < at_ns
            and member in ("", each.member)
            and self._killed_ns.get(each.member, at_ns) >= at_ns
            for fault, at_ns, member in self._faults
            if fault == kind
            for each in writes
        )

    def busy(self) -> set[str]:
        """Return the members that have a request to change something under way."""
        self.check()
        return {member for member, _ in self._under_way} - self._dead

    def has_begun(self, name: str) -> bool:
        """Return whether the member has begun a request."""
        return any(line["member"] == name and line["what"] == "begin" for line in self.journal.lines())

    def any(self, chance: random.Random, besides: Collection[str] = ()) -> str:
        """Return a member that lives: a busy one, if there is one."""
        alive = [name for name in self.alive() if name not in besides]
        busy = self.busy()
        return chance.choice([name for name in alive if name in busy] or alive)

    # --- waiting -----------------------------------------------------------------------------------------------------

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
            return self._n_answered

        goal = answered() + n
        await until(lambda: answered() >= goal, timeout_s)

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
