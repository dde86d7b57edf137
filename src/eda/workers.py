"""The tasks that run a subscription's handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from eda._dispatch import Dispatcher

__all__ = ["Workers"]

CANCELLED_WAIT_S = 1.0


class Workers:
    """Runs a dispatcher's workers as tasks; `on_failed(worker)` is called when one ends before it should."""

    def __init__(self, dispatcher: Dispatcher, label: str, on_failed: Callable[[asyncio.Task[None]], None]) -> None:
        self._dispatcher = dispatcher
        self._label = label
        self._on_failed = on_failed
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def are_started(self) -> bool:
        """Whether the tasks were made, and so handlers may run."""
        return bool(self._tasks)

    def start(self, n: int) -> None:
        """Make `n` tasks."""
        loop = asyncio.get_running_loop()
        for index in range(n):
            worker = loop.create_task(self._dispatcher.work(index), name=f"eda {self._label} worker {index}")
            worker.add_done_callback(self._on_done)
            self._dispatcher.set_task(index, worker)
            self._tasks.append(worker)

    def _on_done(self, worker: asyncio.Task[None]) -> None:
        if not self._dispatcher.closing:
            self._on_failed(worker)

    def run(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether the task is one of these, and so calls from within a handler."""
        return task in self._tasks

    def cancel(self) -> None:
        """Cancel the handlers that run; their events come again."""
        for worker in self._tasks:
            worker.cancel()

    async def end(self, timeout_s: float) -> int:
        """Wait until the handlers that run are done; returns how many were cancelled after `timeout_s`."""
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
        for worker in late:
            worker.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCELLED_WAIT_S)
        return len(late)
