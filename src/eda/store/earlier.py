"""The sequences of an aggregate's earlier events, which the header `Eda-Earlier` of each message names.

With them a load asks for each event by its sequence. This costs the server a constant time. A search by subject goes
through all messages between two events that are in the same block of the stream's file.

The header's value has numbers separated by spaces. The first says how many events of the same append are stored
directly before this one. The others are the sequences of the events before that append, the latest first. The list may
end early, or be missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["EARLIER", "MOST", "earlier_in", "value_of", "with_all"]

EARLIER = "Eda-Earlier"
MOST = 15  # sequences that a message names

_VALUE = re.compile(rb"\r\nEda-Earlier: (\d{1,4})((?: [1-9]\d{0,18}){0,15})\r\n")


def with_all(earlier: str, sequences: Sequence[int]) -> str:
    """Return the list of sequences with those of further events. It has at most 15, the latest first."""
    for sequence in sequences[-MOST:]:
        if earlier.count(" ") >= MOST - 1:
            earlier = earlier.rpartition(" ")[0]
        earlier = f"{sequence} {earlier}" if earlier else str(sequence)
    return earlier


def value_of(earlier: str, n_before: int = 0) -> str:
    """Return the header's value. `n_before`: how many events of the same append are stored directly before this one."""
    return f"{n_before} {earlier}" if earlier else str(n_before)


def earlier_in(headers: bytes, sequence: int) -> list[int]:
    """Return the sequences that the message at `sequence` names, the latest first; [] if it names none."""
    found = _VALUE.search(headers)
    if found is None:
        return []
    n_before = int(found[1])
    named = [*range(sequence - 1, sequence - 1 - min(n_before, MOST), -1), *map(int, found[2].split())]
    # They are only a hint, so those that can't be right are left out.
    return [each for each in named if 0 < each < sequence]
