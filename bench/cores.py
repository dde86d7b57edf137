"""Gives the server one core and the client another, so that neither takes time from the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import eda

__all__ = ["apart", "can_be_apart"]


def can_be_apart() -> bool:
    """Return whether this process may choose its cores, and has two."""
    return hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1


@contextmanager
def apart(server: eda.EmbeddedServer) -> Iterator[None]:
    """Within the context, the server runs on one core and this process on another."""
    assert server.pid is not None
    cores = os.sched_getaffinity(0)
    client, other = sorted(cores)[:2]
    _run_on(server.pid, {other})
    _run_on(os.getpid(), {client})
    try:
        yield
    finally:
        _run_on(server.pid, cores)
        _run_on(os.getpid(), cores)


def _run_on(pid: int, cores: set[int]) -> None:
    """Let all threads of a process run on these cores. Threads that are made later inherit them."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(ProcessLookupError):  # a thread that has ended
            os.sched_setaffinity(int(thread), cores)
