"""The journal of the event store's fault tests: what each process asked of the store, and what the store said.

Each line is one write: {"at": ns of CLOCK_MONOTONIC, "member": ..., "what": ..., "attempt": the member's number, ...}.
A line "begin" is written before the store is asked and has the request; "end" has the outcome. Between them, the
outcome is not known, and stays unknown if the process is killed. "open", "closed" and "crashed" are about the process.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["UNKNOWN", "Attempt", "Journal", "Request"]

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Request:
    """What is asked. `how`: execute, append, load, history or forget. The rest as the command and its expectation."""

    how: str
    aggregate: str
    id: str = ""
    kind: str = "move"
    amount: int = 1
    n: int = 1
    expected: int | str = ""


@dataclass
class Attempt:
    """One call of the store.

    `outcome`: done, conflict, refused (by `decide`), config, unsupported, forgotten, incomplete, error, or UNKNOWN.
    `said`: what the store answered: "version", "ids", "sequences", "state", "actual", "events", ….
    """

    request: Request
    begin_ns: int
    member: str = ""
    end_ns: int = 0
    outcome: str = UNKNOWN
    said: dict[str, Any] = field(default_factory=dict)


class Journal:
    """A file that any number of processes may append to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lines: list[dict[str, Any]] = []
        self._n_read = 0

    def note(self, member: str, what: str, **more: Any) -> None:
        line = json.dumps({"at": time.monotonic_ns(), "member": member, "what": what} | more)
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)

    def lines(self) -> list[dict[str, Any]]:
        """Return what was noted so far."""
        with self.path.open("rb") as file:
            file.seek(self._n_read)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        self._n_read += len(new)
        self._lines += map(json.loads, new.splitlines())
        return self._lines

    def attempts(self) -> list[Attempt]:
        """Return all calls, in the order in which they were begun."""
        found: dict[tuple[str, int], Attempt] = {}
        for line in self.lines():
            place = line["member"], line.get("attempt", 0)
            if line["what"] == "begin":
                found[place] = Attempt(Request(**line["request"]), line["at"], line["member"])
            elif line["what"] == "end":
                found[place].end_ns, found[place].outcome, found[place].said = line["at"], line["outcome"], line["said"]
        return list(found.values())
