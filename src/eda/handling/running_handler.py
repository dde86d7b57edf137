"""Which event the calling handler handles.

A context variable would be wrong: tasks, threads and callbacks that a handler starts inherit it, and may outlive the
handler. So the caller is found by its task, which must be a worker's own task. This costs nothing for each event.
"""

from __future__ import annotations

import asyncio
from weakref import ref

from eda._event import Event
from eda.handling._dispatch import Dispatcher

__all__ = ["WORKERS", "handled_event", "is_overdue", "note_task"]

# For each worker's task that runs, its dispatcher and its index there. A plain dict, because most callers of
# `handled_event` are no handlers: a look into a WeakKeyDictionary would take half a microsecond of each command.
WORKERS: dict[asyncio.Task[None], tuple[ref[Dispatcher], int]] = {}


def note_task(task: asyncio.Task[None], dispatcher: Dispatcher, index: int) -> None:
    """Note that a task runs the handlers of a dispatcher's worker."""
    WORKERS[task] = ref(dispatcher), index
    task.add_done_callback(_forget)


def _forget(task: asyncio.Task[None]) -> None:
    WORKERS.pop(task, None)


def handled_event() -> Event | None:
    """Return the event that the calling handler handles.

    Return None outside of a handler, in a task, thread or callback that a handler has started, and in the handler of a
    batch of several events.
    """
    found = _caller()
    if found is None:
        return None
    running = found[0].running_of(found[1])
    if isinstance(running, tuple):
        return running[0] if len(running) == 1 else None
    return running


def is_overdue() -> bool:
    """Return whether the caller runs in a worker's task, and its handler was cancelled because it ran too long."""
    found = _caller()
    return found is not None and found[0].is_overdue(found[1])


def _caller() -> tuple[Dispatcher, int] | None:
    """Return the dispatcher and index of the worker whose task the caller runs in."""
    if not WORKERS:
        return None
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None
    found = None if task is None else WORKERS.get(task)
    dispatcher = None if found is None else found[0]()
    return None if found is None or dispatcher is None else (dispatcher, found[1])
