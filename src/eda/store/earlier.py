"""The sequences of an aggregate's earlier events, which the header `Eda-Earlier` of each message names.

With them a load asks for each event by its sequence. This costs the server a constant time. A search by subject goes
through all messages between two events that are in the same block of the stream's file.

The header's value has numbers separated by spaces. The first says how many events of the same append are stored
directly before this one. The others are the sequences of the events before that append, the latest first. The list may
end early, or be missing. `_tail_reading` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["EARLIER", "MOST", "value_of", "with_all"]

EARLIER = "Eda-Earlier"
MOST = 15  # sequences that a message names


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
