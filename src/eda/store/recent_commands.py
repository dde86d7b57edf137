"""The latest commands of an aggregate, and where their events are stored.

A command that is executed again is found here, so that it is not decided again. The cache has such a list for each
aggregate, and each snapshot has one. So a list is small: all but the last few commands are one text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from eda._event import Event
from eda.store.command_ids import MAX_COMMAND_ID, command_in, infix_of

__all__ = ["MOST", "RecentCommands"]

MOST = 256  # commands that are found again

_MOST_NEW = 32  # commands in the dict; with more, they are written to the text

# An entry of the text. Neither ids nor numbers have spaces, so two spaces always begin an entry.
_ENTRY = rf"  [!-~]{{1,{MAX_COMMAND_ID}}} [1-9]\d{{0,18}},[1-9]\d{{0,18}},[1-9]\d{{0,3}}"
_TEXT = re.compile(rf"(?:{_ENTRY})*", re.ASCII)

Entry = tuple[int, int, int]


class RecentCommands:
    """The last 256 commands of one aggregate: the version and sequence of their first event, and how many events.

    A command is added in about 0.3 µs, whatever the number of commands. Commands that were added one after the other
    must have rising versions. `copy()` returns a list that later additions do not change.
    """

    __slots__ = ("_n_old", "_new", "_old")

    def __init__(self) -> None:
        self._old = ""  # the entries that are not in `_new`, oldest first; may have more than are still found
        self._n_old = 0
        self._new: dict[str, Entry] = {}

    def find(self, command_id: str) -> Entry | None:
        """Return a command's first version, first sequence, and number of events; None if it is not among the last."""
        found = self._new.get(command_id)
        if found is not None or not self._n_old:
            return found
        at = self._old.rfind(f"  {command_id} ")
        if at < 0 or self._old.count("  ", at) + len(self._new) > MOST:
            return None
        return _entry(self._old[at + 2 :].split(" ", 2)[1])

    def add(self, command_id: str, version: int, sequence: int, n: int) -> None:
        """Add a command whose `n` events are stored, the first at this version and sequence.

        Commands are added in the order of their versions. One whose version is not beyond the last command's is there
        already, and is ignored.
        """
        if version <= self._last_version():
            return
        if len(self._new) >= _MOST_NEW:
            self._write_old()
        # A command that was executed again after it was forgotten here must become the last in the dict's order.
        self._new.pop(command_id, None)
        self._new[command_id] = (version, sequence, n)

    def note(self, events: Iterable[Event], aggregate: str) -> None:
        """Add the commands that have stored these events of the aggregate. The events are in the order of versions."""
        infix = infix_of(aggregate)
        for event in events:
            found = command_in(event.id, infix)
            if found is None:
                continue
            command_id, number = found
            if number == 1:
                self.add(command_id, event.version, event.sequence, 1)
                continue
            # A command's events are stored at once, one after the other, so its entry is the last one.
            version, sequence, n = self._new.get(command_id, (0, 0, 0))
            if version and number == n + 1 and event.version == version + n:
                self._new[command_id] = (version, sequence, number)

    def copy(self) -> RecentCommands:
        """Return a copy of its own."""
        copied = RecentCommands()
        copied._old, copied._n_old, copied._new = self._old, self._n_old, self._new.copy()
        return copied

    def to_text(self) -> str:
        """Return the commands as a text of printable ASCII characters, for a snapshot."""
        entries = (self._old + self._written()).split("  ")[1:]
        return "  ".join(entries[-MOST:])

    @classmethod
    def from_text(cls, text: str) -> RecentCommands:
        """Return the commands that `to_text` has written. Raises ValueError for any other text."""
        old = f"  {text}" if text else ""
        if not _TEXT.fullmatch(old):
            raise ValueError("recent commands: not a list of command ids and numbers")
        entries = [_entry(entry.rpartition(" ")[2]) for entry in old.split("  ")[1:]]
        if len(entries) > MOST:
            raise ValueError(f"recent commands: {len(entries)} commands, and {MOST} are allowed")
        end_version = end_sequence = 1
        for version, sequence, n in entries:
            if version < end_version or sequence < end_sequence or max(version, sequence) > _MAX - n:
                raise ValueError("recent commands: their versions and sequences do not rise")
            end_version, end_sequence = version + n, sequence + n
        read = cls()
        read._old, read._n_old = old, len(entries)
        return read

    def __len__(self) -> int:
        return min(self._n_old + len(self._new), MOST)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecentCommands) and self.to_text() == other.to_text()

    def __repr__(self) -> str:
        return f"<RecentCommands {len(self)}>"

    def _last_version(self) -> int:
        """Return the version of the last command's first event; 0 if there is no command."""
        if self._new:
            return self._new[next(reversed(self._new))][0]
        return _entry(self._old.rpartition(" ")[2])[0] if self._old else 0

    def _written(self) -> str:
        return "".join([f"  {name} {version},{at},{n}" for name, (version, at, n) in self._new.items()])

    def _write_old(self) -> None:
        """Move the commands of the dict to the text, and drop the oldest commands."""
        text = self._old + self._written()
        self._n_old += len(self._new)
        at = 0
        while self._n_old > MOST:
            at = text.index("  ", at + 2)
            self._n_old -= 1
        self._old = text[at:]
        self._new = {}


_MAX = 2**63 - 1


def _entry(text: str) -> Entry:
    version, sequence, n = text.split(",")
    return int(version), int(sequence), int(n)
