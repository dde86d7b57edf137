"""A thread for a plain connection: transactions run in it one after the other, each with one hop there and back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from eda.projections.sql_steps import Unreachable

__all__ = ["DatabaseThread", "Job"]

T = TypeVar("T")


class Job(Generic[T]):
    """One call in the thread. `is_cancelled`: whether its caller was cancelled; a job that waits should give up.

    `is_running`: between its begin and its end. A thread's lock is held while these two are read together or changed.
    """

    __slots__ = ("_has_ended", "_loop", "_waiter", "_work", "error", "is_cancelled", "is_running", "value")

    def __init__(self, work: Callable[[Job[T]], T]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._has_ended = False  # as the event loop sees it
        self.is_running: bool = False
        self.is_cancelled: bool = False
        self.value: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do the work in this thread."""
        try:
            self.value = self._work(self)
        except BaseException as error:
            self.error = error

    def wake(self) -> None:
        """Tell the caller that the job has ended."""
        with contextlib.suppress(RuntimeError):  # the event loop was closed while the job ran: nobody waits
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._has_ended = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def ended(self) -> None:
        """Wait until the job has ended. One caller at a time may wait, and may wait again after a cancellation."""
        if not self._has_ended:
            # A bare future: asyncio.wait costs as much as two statements of SQLite.
            self._waiter = self._loop.create_future()
            await self._waiter


class DatabaseThread:
    """A thread that does jobs, one after the other, until it is closed.

    It is a daemon: a function of the user that never returns must not keep the process alive.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._lock = threading.Lock()  # between a caller that is cancelled and the thread that begins its job
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def has_jobs(self) -> bool:
        """Return whether jobs wait for the one that runs."""
        return not self._jobs.empty()

    async def call(self, work: Callable[[Job[T]], T], interrupt: Callable[[], object]) -> T:
        """Do the work in the thread. Raise what it raises.

        If the caller is cancelled before the work has begun, it never begins, and the cancellation names the thread's
        other work as its cause. If it has begun, `interrupt` is called once while it runs, and the cancellation is
        raised when the work has ended, or when the caller is cancelled for a second time.
        """
        job = Job(work)
        self._jobs.put(job)
        try:
            await job.ended()
        except asyncio.CancelledError as error:
            with self._lock:
                job.is_cancelled = True
                is_running = job.is_running
                if is_running:  # under the lock, so that it can't hit the next job
                    interrupt()
            if is_running:
                await job.ended()
            else:
                error.__cause__ = error.__cause__ or Unreachable("the transaction waited for others of the same thread")
            raise
        if job.error is not None:
            try:
                raise job.error
            finally:
                del job  # otherwise the traceback of the error holds the job, and the job the error
        return job.value  # type: ignore[return-value]

    async def close(self, last: Callable[[], object]) -> None:
        """Do `last` in the thread after all jobs, and end the thread. Raises what `last` raises.

        If the caller is cancelled, the cancellation is raised when the thread has ended, or when the caller is
        cancelled for a second time.
        """

        def work(_: Job[None]) -> None:
            last()

        job = Job(work)
        self._jobs.put(job)
        self._jobs.put(None)
        try:
            await job.ended()
        except asyncio.CancelledError:
            await job.ended()
            self._thread.join()  # it only has to return
            raise
        self._thread.join()
        if job.error is not None:
            raise job.error

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._lock:
                job.is_running = not job.is_cancelled
            if job.is_running:
                job.run()
                with self._lock:
                    job.is_running = False
                job.wake()
            del job  # while the thread waits, it must not hold the events of the last job
