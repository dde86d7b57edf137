"""Whether memory grows."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["MAX_BLOCKS", "MAX_RSS", "growth", "resident"]

# What the interpreter itself may come to hold meanwhile (caches, counters); one leaked object each would be 100,000.
MAX_BLOCKS = 2_000
MAX_RSS = 8 * 2**20


def resident() -> int:
    """Return the bytes of memory that the process has in use; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def growth(path: Callable[[], Any], n: int, *, n_before: int = 2_000) -> tuple[int, int, int]:
    """Run the path n times, after n_before times; return by how much blocks, tracked objects and bytes grew."""
    for _ in range(n_before):
        path()
    gc.collect()
    blocks, tracked, size = sys.getallocatedblocks(), len(gc.get_objects()), resident()
    for _ in range(n):
        path()
    gc.collect()
    return sys.getallocatedblocks() - blocks, len(gc.get_objects()) - tracked, resident() - size
