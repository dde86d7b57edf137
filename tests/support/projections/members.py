"""Starts, kills, freezes and ends the members of a read model's fault test, and examines the table in the end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import eda
from helpers import until
from support.faults.evidence import Journal, Line, Stored, read_stream
from support.faults.nursery import Nursery
from support.projections.evidence import assert_applied_once
from support.projections.tables import make_table, query, read_rows

__all__ = ["ProjectionMembers"]

# A standby takes over from an owner that it has not seen for this long.
QUICK: dict[str, float] = {
    "eda.projections.ownership.TOUCH_S": 0.3,
    "eda.projections.ownership.LOOK_S": 0.1,
    "eda.projections.ownership.STALE_S": 1.0,
}


class ProjectionMembers:
    """The members of one test by name.

    `orders`: what all projecting members are told. `streams`: which streams are filled and projected.
    """

    def __init__(self, nursery: Nursery, folder: Path, address: str) -> None:
        self.journal = Journal(folder / "journal")
        self.orders: dict[str, Any] = {}
        self.streams = ["orders"]
        self.url = ""
        self.address = address
        self.pids: dict[str, int] = {}
        self._nursery = nursery
        self._dead: set[str] = set()
        self._n_started = 0
        self._faults: list[tuple[str, int, str]] = []
        self._killed_ns: dict[str, int] = {}
        self._publishing: set[str] = set()

    def __enter__(self) -> ProjectionMembers:
        return self

    def __exit__(self, *_: object) -> None:
        self._nursery.end_all()
        self.journal.close()

    async def begin(
        self, url: str, driver: str, *, streams: int = 1, start: bool = True, pack: int = 0, **orders: Any
    ) -> str:
        """Make the streams and the table, and start a publisher. With `start`, start a member, and return its name.

        With `pack`, the streams are packed, and the publisher publishes packs of up to so many events.
        """
        self.url = url
        self.streams = ["orders", "payments", "returns"][:streams]
        async with eda.connect(url) as conn:
            for stream in self.streams:
                await conn.streams.create(stream, eda.StreamOptions(packed=pack > 0))
        make_table(self.address)
        self.orders |= {"driver": driver, "address": self.address, "constants": dict(QUICK), **orders}
        self.publish(pack=pack)
        name = self.start() if start else ""
        await self.until_open()
        return name

    # --- members -----------------------------------------------------------------------------------------------------

    def publish(self, **orders: Any) -> str:
        """Start a publisher; returns its name.

        Short lists of packs take longer than lists of messages. The projection can just keep up with the publisher;
        otherwise the test would end with the work of half a minute that is left.
        """
        name = self._start({"delay_s": 0.03 if orders.get("pack") else 0.01}, **orders)
        self._publishing.add(name)
        return name

    def start(self, **orders: Any) -> str:
        """Start a projecting member; returns its name. It opens in its own time."""
        return self._start(self.orders, **orders)

    def _start(self, given: Mapping[str, Any], **orders: Any) -> str:
        self._n_started += 1
        name = f"m{self._n_started}"
        common = {"url": self.url, "member": name, "journal": str(self.journal.path), "streams": self.streams}
        self.pids[name] = self._nursery.start({**common, **given, **orders})
        return name

    def alive(self) -> list[str]:
        return [name for name in self.pids if name not in self._dead]

    def publishers(self) -> list[str]:
        """Return the publishers that live."""
        return [name for name in self.alive() if name in self._publishing]

    def readers(self) -> list[str]:
        """Return the projecting members that live."""
        return [name for name in self.alive() if name not in self._publishing]

    def owner(self) -> str:
        """Return the member that has begun the last transaction."""
        return [line.member for line in self.lines("begin") if line.member in self.readers()][-1]

    def any_busy(self, chance: random.Random) -> str:
        """Return a projecting member that lives: a busy one, if there is one."""
        readers = self.readers()
        return chance.choice([name for name in readers if self.is_busy(name)] or readers)

    def send(self, name: str, number: signal.Signals) -> None:
        os.kill(self.pids[name], number)

    def kill(self, name: str) -> None:
        self.harm("kill", name)
        self.send(name, signal.SIGKILL)
        self.died(name)

    def died(self, name: str) -> None:
        """Note that a member is dead, by the test's hand or its own."""
        self._dead.add(name)
        self._killed_ns[name] = time.monotonic_ns()

    def log(self, name: str) -> str:
        """Return what a member has logged."""
        return Path(f"{self.journal.path}-{name}.log").read_text()

    def lines(self, *what: str, member: str = "") -> list[Line]:
        return [line for line in self.journal.lines() if line.what in what and member in ("", line.member)]

    def ended(self, member: str) -> str:
        """Return the error with which a member's projection ended; empty: it goes on."""
        return "".join(unquote(line.event) for line in self.lines("ended", member=member))

    def check(self) -> None:
        """Assert that no member has ended by itself."""
        for line in self.lines("crashed", "ended"):
            raise AssertionError(f"{line.member} {line.what}: {unquote(line.event)}")

    # --- faults ------------------------------------------------------------------------------------------------------

    def harm(self, kind: str, member: str = "") -> None:
        """Note that a fault strikes now: all members, or this one."""
        self._faults.append((kind, time.monotonic_ns(), member))

    def n_struck(self, kind: str) -> int:
        """Return how many transactions were under way when a fault of this kind struck."""
        return sum(
            begin_ns < at_ns < end_ns and member in ("", name)
            for fault, at_ns, member in self._faults
            if fault == kind
            for name, begin_ns, end_ns in self.transactions()
        )

    def transactions(self) -> list[tuple[str, int, int]]:
        """Return each attempt at a transaction: the member, its begin and its end, which the dead did not reach."""
        found = []
        open_ones: dict[tuple[str, str], int] = {}
        for line in self.journal.lines():
            place = (line.member, line.event)
            if line.what == "begin":
                open_ones[place] = line.ns
            elif line.what in ("end", "failed"):
                found.append((line.member, open_ones.pop(place), line.ns))
        for (member, _), begin_ns in open_ones.items():
            found.append((member, begin_ns, self._killed_ns.get(member, time.monotonic_ns())))
        return found

    async def until_busy(self, timeout_s: float = 30.0) -> None:
        """Wait until a transaction is under way."""
        await until(lambda: any(map(self.is_busy, self.readers())), timeout_s)

    def is_busy(self, name: str) -> bool:
        """Return whether the member has a transaction under way."""
        lines = self.lines("begin", "end", "failed", member=name)
        return bool(lines) and sum(1 if line.what == "begin" else -1 for line in lines) > 0

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def until_open(self, timeout_s: float = 30.0) -> None:
        """Wait until all members that live are open."""

        def are_open() -> bool:
            self.check()
            return {line.member for line in self.lines("open")} >= set(self.alive())

        await until(are_open, timeout_s)

    async def more(self, n: int, timeout_s: float = 60.0) -> None:
        """Wait until `n` more transactions have been committed."""

        def n_committed() -> int:
            self.check()
            return len(self.lines("end"))

        goal = n_committed() + n
        await until(lambda: n_committed() >= goal, timeout_s)

    async def close(self, *names: str, timeout_s: float = 60.0) -> None:
        """Have these members close, or all that live."""
        leaving = set(names or self.alive())
        for name in leaving:
            self.send(name, signal.SIGTERM)
        await until(lambda: {line.member for line in self.lines("closed", "crashed")} >= leaving, timeout_s)
        self._dead |= leaving

    async def end(self, *, by_key: bool = False, timeout_s: float = 60.0, **least: int) -> dict[str, int]:
        """Let the publishers end and the projection reach the streams' end; assert that each event is there once.

        `least`: for each kind of fault, how many transactions must have been under way when such faults struck.
        """
        if publishers := self.publishers():
            await self.close(*publishers)
        stored = {stream: await read_stream(self.url, stream) for stream in self.streams}
        n = sum(map(len, stored.values()))
        await until(lambda: self._n_rows() >= n, timeout_s)
        await self.close()
        self.check()
        self.examine(stored, by_key=by_key)
        async with eda.connect(self.url) as conn:
            dead = [name for name in await stream_names(conn) if name.endswith("-dead")]
        assert not dead, f"an event was dead-lettered: {dead}"
        struck = {kind: self.n_struck(kind) for kind in least}
        assert all(struck[kind] >= n for kind, n in least.items()), f"struck {struck}, at least {least}"
        counts = {"events": n, "transactions": len(self.lines("end"))}
        return counts | {f"struck by {kind}": n for kind, n in struck.items()}

    def examine(self, stored: Mapping[str, list[Stored]], *, by_key: bool = False) -> None:
        assert_applied_once(read_rows(self.address), stored, by_key=by_key)

    def _n_rows(self) -> int:
        self.check()
        return int(query(self.address, "SELECT count(*) FROM applied")[0][0])


async def stream_names(conn: eda.Conn) -> list[str]:
    return [each.name for each in await conn.streams.list()]
