"""The tasks that run a subscription's handlers."""

from __future__ import annotations

import asyncio
import asyncio.taskgroups
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from eda.deadline import CANCELLED_WAIT_S, Deadline
from eda.handling._dispatch import Dispatcher
from eda.handling.running_handler import note_task
from eda.run_in import RUN_IN

__all__ = ["Workers"]

# Before Python 3.13, a TaskGroup whose task fails at the end of its block cancels the task that it is in, and does not
# take this back with `uncancel`. The task looks cancelled from then on, as if the program wanted it to end.
GROUPS_LEAVE_CANCELLATIONS = sys.version_info < (3, 13)


class _Task(asyncio.Task[None]):
    """A task that calls `note(1)` if a TaskGroup cancels it, and `note(-1)` if the TaskGroup takes this back."""

    def __init__(
        self,
        work: Coroutine[Any, Any, None],
        loop: asyncio.AbstractEventLoop,
        name: str,
        context: Context,
        note: Callable[[int], None],
    ) -> None:
        super().__init__(work, loop=loop, name=name, context=context)
        self._note = note

    def cancel(self, msg: Any | None = None) -> bool:
        is_cancelled = super().cancel(msg)
        if is_cancelled and sys._getframe(1).f_globals is _GROUPS:
            self._note(1)
        return is_cancelled

    def uncancel(self) -> int:
        if sys._getframe(1).f_globals is _GROUPS:
            self._note(-1)
        return super().uncancel()


_GROUPS = vars(asyncio.taskgroups)


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
            # A token and not the worker, because a task that a handler starts may outlive the subscription.
            token, context = object(), copy_context()
            context.run(RUN_IN.set, (*RUN_IN.get(), token))
            worker = self._create_task(index, loop, f"eda {self._label} worker {index}", context)
            worker.add_done_callback(self._on_done)
            self._tokens.append(token)
            self._dispatcher.set_task(index, worker)
            note_task(worker, self._dispatcher, index)
            self._tasks.append(worker)

    def _create_task(
        self, index: int, loop: asyncio.AbstractEventLoop, name: str, context: Context
    ) -> asyncio.Task[None]:
        work = self._dispatcher.work(index)
        if GROUPS_LEAVE_CANCELLATIONS and loop.get_task_factory() is None:
            return _Task(work, loop, name, context, partial(self._dispatcher.note_group, index))
        return loop.create_task(work, name=name, context=context)

    def _on_done(self, worker: asyncio.Task[None]) -> None:
        if not self._dispatcher.gate.is_closing:
            self._on_failed(worker)

    def run_caller(self) -> bool:
        """Return whether the caller is a handler that one of these tasks runs, or was started by such a handler.

        Such a caller can't wait until the handler ends, because the handler may wait for the caller.
        """
        run_in = RUN_IN.get()
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
        if late:
            self._dispatcher.gate.end()  # workers that wait for the retry of an event of a pack end
            await asyncio.sleep(0)
            late = {worker for worker in late if not worker.done()}
        for worker in late:
            worker.cancel()
        await deadline.wait(late, CANCELLED_WAIT_S, keeps_s=keeps_s / 2)
        return len(late)
