"""The tasks that run a subscription's handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar, copy_context

from eda.deadline import CANCELLED_WAIT_S, Deadline
from eda.handling._dispatch import Dispatcher

__all__ = ["Workers"]

# In whose handlers the caller runs: tasks and threads that a handler starts inherit it. Tokens rather than the workers
# themselves, because such a task may outlive the subscription.
_RUN_IN: ContextVar[tuple[object, ...]] = ContextVar("eda_run_in", default=())


class Workers:
    """Runs a dispatcher's workers as tasks; `on_failed(worker)` is called when one ends before it should."""

    def __init__(self, dispatcher: Dispatcher, label: str, on_failed: Callable[[asyncio.Task[None]], None]) -> None:
        self._dispatcher = dispatcher
        self._label = label
        self._on_failed = on_failed
        self._tasks: list[asyncio.Task[None]] = []
        self._tokens: list[object] = []

    @property
    def are_started(self) -> bool:
        """Whether the tasks were made, and so handlers may run."""
        return bool(self._tasks)

    def start(self, n: int) -> None:
        """Make `n` tasks."""
        loop = asyncio.get_running_loop()
        for index in range(n):
            token, context = object(), copy_context()
            context.run(_RUN_IN.set, (*_RUN_IN.get(), token))
            worker = loop.create_task(
                self._dispatcher.work(index), name=f"eda {self._label} worker {index}", context=context
            )
            worker.add_done_callback(self._on_done)
            self._tokens.append(token)
            self._dispatcher.set_task(index, worker)
            self._tasks.append(worker)

    def _on_done(self, worker: asyncio.Task[None]) -> None:
        if not self._dispatcher.gate.is_closing:
            self._on_failed(worker)

    def run_caller(self) -> bool:
        """Whether the caller is a handler that one of these tasks runs, or was started by a handler that still runs.

        Such a caller can't wait for the handler to end: the handler may be waiting for the caller.
        """
        run_in = _RUN_IN.get()
        if not run_in:
            return False
        running = self._dispatcher.running_now()
        return any(token in run_in and running[index] is not None for index, token in enumerate(self._tokens))

    def cancel(self) -> None:
        """Cancel the handlers that run; their events come again."""
        for worker in self._tasks:
            worker.cancel()

    async def end(self, deadline: Deadline, timeout_s: float, *, keeps_s: float) -> int:
        """Wait until the handlers that run are done; returns how many were cancelled because they were not in time.

        They have `timeout_s`, and no more than leaves `keeps_s` before the deadline for what comes after them.
        """
        late = await deadline.wait(self._tasks, timeout_s, keeps_s=keeps_s)
        for worker in late:
            worker.cancel()
        await deadline.wait(late, CANCELLED_WAIT_S, keeps_s=keeps_s / 2)
        return len(late)
