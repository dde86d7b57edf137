"""What proves that a projection applied each event once and in order: its table against the streams' own contents.

The table only grows, numbers its rows in the order of the inserts, and has no unique constraint. So an event that was
applied twice has two rows, and no database refuses the second one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from support.faults.evidence import Place, Stored

__all__ = ["Applied", "assert_applied_once", "faults_of"]


class Applied(NamedTuple):
    """A row of the table. `n`: its number; `member`: who inserted it; `idx`: the event's place in its pack."""

    n: int
    stream: str
    sequence: int
    id: str
    aggregate: str
    member: str = ""
    idx: int = 0

    @property
    def place(self) -> Place:
        return self.sequence, self.idx


def assert_applied_once(
    rows: Sequence[Applied],
    stored: Mapping[str, Sequence[Stored]],
    *,
    by_key: bool = False,
    left_out: Collection[tuple[str, int]] = (),
) -> None:
    """Assert that the table has each event of the streams once, in the order of its stream.

    `by_key`: in the order of its stream and aggregate. `left_out`: events, as stream and sequence, that must not be
    there.
    """
    faults = faults_of(rows, stored, by_key=by_key, left_out=left_out)
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:20])


def faults_of(
    rows: Sequence[Applied],
    stored: Mapping[str, Sequence[Stored]],
    *,
    by_key: bool = False,
    left_out: Collection[tuple[str, int]] = (),
) -> list[str]:
    """Return what is wrong with the table, one text for each fault."""
    faults = []
    events = {
        (stream, each.place): each
        for stream, contents in stored.items()
        for each in contents
        if (stream, each.sequence) not in left_out
    }
    counts = Counter((row.stream, row.place) for row in rows)
    faults += [f"lost: {event}" for event in events if event not in counts]
    faults += [f"applied {n} times: {event}" for event, n in counts.items() if n > 1]
    last: dict[tuple[str, str], Applied] = {}
    for row in sorted(rows):
        event = events.get((row.stream, row.place))
        if event is None:
            faults.append(f"not an event to be applied: {row}")
            continue
        if (row.id, row.aggregate) != (event.id, event.aggregate):
            faults.append(f"applied as another event: {row}, not {event}")
        key = (row.stream, row.aggregate if by_key else "")
        before = last.get(key)
        if before is not None and before.place > row.place:
            faults.append(f"applied after a later event: {row}, after {before}")
        last[key] = row
    return faults
