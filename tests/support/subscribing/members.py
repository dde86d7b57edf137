"""Members of a subscription in processes of their own (`process.py`), and what their common journal proves."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import eda.cursors.entry
import eda.cursors.held_cursor
import eda.cursors.liveness
from helpers import until
from processes import spawn
from support.faults.evidence import Growing, Line, Place, place_of_text

__all__ = ["QUICK", "QUICK_LEASES", "Call", "Members", "Note"]

PROCESS = "support.subscribing.process"

# A cursor's times, a quarter of the real ones: a takeover after 1.25 s.
QUICK: dict[str, Any] = {
    f"{module.__name__}.{name}": getattr(module, name) * 0.25
    for module, names in {
        eda.cursors.held_cursor: ("LEASE_S", "SIGN_OF_LIFE_S", "ANSWER_S", "RETRY_S"),
        eda.cursors.entry: ("ANSWER_S", "RETRY_S"),
        eda.cursors.liveness: ("TAKEOVER_S",),
    }.items()
    for name in names
}

# The lease of a shared subscription's events is 1 s rather than 30.
QUICK_LEASES: dict[str, Any] = {
    "eda.options.DEFAULT_LEASE_S": 1.0,
    "eda.subscribing.monitor.TICK_MAX_S": 0.2,
}


class Note(NamedTuple):
    """A line of the journal. `index`: the event's place in its pack."""

    member: str
    what: str
    sequence: int
    index: int
    attempt: int
    ns: int


@dataclass
class Call:
    """A handler call of some member. `outcome`: end, failed, cancelled; killed, where its process died in it."""

    member: str
    sequence: int
    attempt: int
    begin_ns: int
    end_ns: int = 0
    outcome: str = ""
    index: int = 0

    @property
    def place(self) -> Place:
        return self.sequence, self.index


class Members:
    """Starts, freezes, kills and ends members, and reads their journal."""

    def __init__(self, journal: Path, url: str, stream: str) -> None:
        self.journal = journal
        self.url = url
        self.stream = stream
        self.killed_ns: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._reading = Growing(journal)
        self._notes: list[Note] = []

    # --- processes ---------------------------------------------------------------------------------------------------

    async def start(self, *names: str, **orders: Any) -> None:
        """Start members of these names, one after the other: the first one is active."""
        for name in names:
            given = {"url": self.url, "stream": self.stream, "journal": str(self.journal), "member": name} | orders
            self._processes[name] = spawn(PROCESS, "EDA_TEST_MEMBER", given, self.journal.parent / f"{name}.log")
            await until(lambda name=name: self.times(name, "open") or self.has_died(name), 20)
            assert self.times(name, "open"), self.log(name)

    def process(self, name: str) -> subprocess.Popen[bytes]:
        return self._processes[name]

    def log(self, name: str) -> str:
        """Return what a member has logged."""
        return (self.journal.parent / f"{name}.log").read_text()

    def has_died(self, name: str) -> bool:
        process = self._processes[name]
        if process.poll() is None:
            return False
        self.killed_ns.setdefault(name, time.monotonic_ns())
        return True

    def send(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)

    async def kill(self, name: str) -> int:
        """Kill a member; returns when."""
        self.send(name, signal.SIGKILL)
        self._processes[name].wait()
        self.killed_ns[name] = time.monotonic_ns()
        return self.killed_ns[name]

    async def close(self, name: str) -> int:
        """Have a member close; returns when it had closed."""
        self.send(name, signal.SIGTERM)
        await until(lambda: self._processes[name].poll() is not None, 20)
        assert self._processes[name].returncode == 0, self.log(name)
        (closed,) = self.times(name, "closed")
        return closed

    def end(self) -> None:
        """End all that are left."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
        for process in self._processes.values():
            process.wait()

    # --- the journal -------------------------------------------------------------------------------------------------

    def lines(self) -> list[Note]:
        rows = (line.split() for line in self._reading.new_lines())
        self._notes += [Note(row[0], row[1], *place_of_text(row[2]), int(row[3]), int(row[4])) for row in rows]
        return list(self._notes)

    def evidence(self) -> list[Line]:
        """Return what happened to events, as the fault suite's evidence has it."""
        return [
            Line(each.member, each.what, f"{each.sequence}.{each.index}", each.ns)
            for each in self.lines()
            if each.sequence
        ]

    def times(self, member: str, what: str) -> list[int]:
        """Return when that happened to the member."""
        return [each.ns for each in self.lines() if (each.member, each.what) == (member, what)]

    def calls(self) -> list[Call]:
        """Return all handler calls, by when they began. A member is to have run one at a time."""
        open_calls: dict[str, Call] = {}
        calls: list[Call] = []
        for member, what, sequence, index, attempt, ns in sorted(self.lines(), key=lambda line: line.ns):
            if what == "begin":
                assert member not in open_calls, f"{member} handles two at once"
                open_calls[member] = Call(member, sequence, attempt, ns, index=index)
                calls.append(open_calls[member])
            elif sequence and what != "storing":  # a dead letter, which no call need have led to
                call = open_calls.pop(member)
                assert (call.place, call.attempt) == ((sequence, index), attempt)
                call.end_ns, call.outcome = ns, what
        for member, call in open_calls.items():
            call.outcome = "killed"
            call.end_ns = self.killed_ns.get(member, time.monotonic_ns())
        return calls

    def handled(self) -> list[int]:
        """Return the sequences in the order in which they were handled."""
        return [sequence for sequence, _ in self.handled_places()]

    def handled_places(self) -> list[Place]:
        """Return the places of the events in the order in which they were handled."""
        ends = sorted((line for line in self.lines() if line.what == "end"), key=lambda line: line.ns)
        return [(line.sequence, line.index) for line in ends]

    def is_handled(self, sequence: int) -> bool:
        return sequence in self.handled()

    async def until_handled(self, n: int, timeout_s: float = 20.0) -> None:
        """Wait until `n` different events have been handled."""
        deadline = time.monotonic() + timeout_s
        while len(set(self.handled_places())) < n:
            assert time.monotonic() < deadline, (len(set(self.handled_places())), self.lines()[-10:])
            await asyncio.sleep(0.02)

    def first_call_after(self, ns: int, *, not_by: str = "") -> int | None:
        """Return when the first call after that began."""
        return next((call.begin_ns for call in self.calls() if call.begin_ns > ns and call.member != not_by), None)

    # --- what is proven ----------------------------------------------------------------------------------------------

    def assert_serial(self, *, but: tuple[str, int] | None = None, gone: set[int] | None = None) -> None:
        """No two calls overlap, and none sees an event before all earlier ones were handled.

        `but`: a member and the sequence that it may have finished after it was frozen; `gone`: what was purged.
        """
        calls = [call for call in self.calls() if but is None or (call.member, call.sequence) != but]
        for one, next_one in itertools.pairwise(calls):
            assert one.end_ns <= next_one.begin_ns, (one, next_one)
        self.assert_prefix(gone=gone)

    def assert_prefix(self, *, window: int = 1, gone: set[int] | None = None) -> None:
        """No call sees an event while one that is `window` or more before it was not handled yet."""
        done = set(gone or ())
        floor = 0
        lines = sorted(self.lines(), key=lambda line: line.ns)
        for _, what, sequence, _, _, _ in lines:
            if what == "begin":
                while floor + 1 in done:
                    floor += 1
                assert sequence <= floor + window, f"{sequence} began when only {floor} was done"
            elif what == "end":
                done.add(sequence)

    def again_after(self, ns: int) -> list[int]:
        """Return the sequences that had been handled by then and were handled again after it."""
        return [sequence for sequence, _ in self.places_again_after(ns)]

    def places_again_after(self, ns: int) -> list[Place]:
        """Return the places of the events that had been handled by then and were handled again after it."""
        lines = self.lines()
        before = {(line.sequence, line.index) for line in lines if line.what == "end" and line.ns <= ns}
        after = {(line.sequence, line.index) for line in lines if line.what == "begin" and line.ns > ns}
        return sorted(before & after)
