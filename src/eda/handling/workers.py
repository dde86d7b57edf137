"""The tasks that run a subscription's handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar, copy_context

from eda.deadline import CANCELLED_WAIT_S, Deadline
from eda.handling._dispatch import Dispatcher

__all__ = ["Workers"]

# The tokens of the workers whose handlers have started the running code. Tasks and threads that a handler starts
# inherit this variable. It holds tokens and not workers, because such a task may outlive the subscription.
_RUN_IN: ContextVar[tuple[object, ...]] = ContextVar("eda_run_in", default=())


class Workers:
    """The tasks of a dispatcher's workers. `on_failed(worker)` is called when a task ends too early."""

    def __init__(self, dispatcher: Dispatcher, label: str, on_failed: Callable[[asyncio.Task[None]], None]) -> None:
        self._dispatcher = dispatcher
        self._label = label
        self._on_failed = on_failed
        self._tasks: list[asyncio.Task[None]] = []
        self._tokens: list[object] = []

    @property
    def are_started(self) -> bool:
        """Return whether the tasks were created, so handlers may run."""
        return bool(self._tasks)

    def start(self, n: int) -> None:
        """Create `n` tasks."""
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
        """Return whether the caller is a handler that one of these tasks runs, or was started by such a handler.

        Such a caller can't wait until the handler ends, because the handler may wait for the caller.
        """
        run_in = _RUN_IN.get()
        if not run_in:
            return False
        running = self._dispatcher.running_now()
        return any(token in run_in and running[index] is not None for index, token in enumerate(self._tokens))

    def cancel(self) -> None:
        """Cancel the handlers that run; their events are delivered again."""
        for worker in self._tasks:
            worker.cancel()

    async def end(self, deadline: Deadline, timeout_s: float, *, keeps_s: float) -> int:
        """Wait until the handlers that run are done; returns how many were cancelled because they took too long.

        They have `timeout_s`, or less: at least `keeps_s` of the deadline is left for the later steps.
        """
        late = await deadline.wait(self._tasks, timeout_s, keeps_s=keeps_s)
        for worker in late:
            worker.cancel()
        await deadline.wait(late, CANCELLED_WAIT_S, keeps_s=keeps_s / 2)
        return len(late)
