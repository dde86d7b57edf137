"""Whether memory grows."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from eda._data import Bytes, Data
from eda._event import Event

__all__ = ["MAX_BLOCKS", "MAX_RSS", "References", "growth", "resident"]

# What the interpreter itself may come to hold meanwhile (caches, counters); one leaked object each would be 100,000.
MAX_BLOCKS = 2_000
MAX_RSS = 8 * 2**20

# More than events and Data are kept to be taken up again (4,096 each): some paths use these up, some fill them.
N_BEFORE = 5_000


def resident() -> int:
    """Return the bytes of memory that the process has in use; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


# What compiled code refers to all the time. To refer once more to what is there already costs nothing, so only
# its count shows that. (From Python 3.12 on, the first few have none.)
_EVERYWHERE = (None, True, False, "", b"", (), 0, 1, Event, Data, Bytes, ValueError, type(None), str, bytes, dict)


class References:
    """Counts the references to objects that outlive a path."""

    def __init__(self, *shared: object) -> None:
        self._shared = (*_EVERYWHERE, *shared)
        self._before = self._count()

    def _count(self) -> list[int]:
        return [sys.getrefcount(each) for each in self._shared]

    def check(self) -> None:
        """Raise AssertionError where there are many more, or many less, than at first."""
        for each, before, after in zip(self._shared, self._before, self._count(), strict=True):
            assert abs(after - before) < MAX_BLOCKS, f"{after - before:+} references to {each!r:.80}"


def growth(
    path: Callable[[], Any], n: int, *, n_before: int = N_BEFORE, shared: Iterable[object] = ()
) -> tuple[int, int, int]:
    """Run the path n times, after n_before times; return by how much blocks, tracked objects and bytes grew.

    AssertionError where the references to what is `shared` by all times, or by everybody, are not as many as before.
    """
    for _ in range(n_before):
        path()
    gc.collect()
    references = References(*shared)
    blocks, tracked, size = sys.getallocatedblocks(), len(gc.get_objects()), resident()
    for _ in range(n):
        path()
    gc.collect()
    references.check()
    return sys.getallocatedblocks() - blocks, len(gc.get_objects()) - tracked, resident() - size
