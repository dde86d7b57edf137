"""The workers of a subscription that wait, and who wakes them."""

cimport cython
from libc.stdint cimport int64_t, uint32_t

from eda.handling._ledger cimport Ledger

__all__ = ["WaitingWorkers"]


@cython.final
cdef class WaitingWorkers:
    """Futures of workers that wait for an event, for a full batch, or until handlers may start.

    A worker adds its future and awaits it. If the worker's task is cancelled, the future stays in its list.
    Such a future is done, so it is skipped when workers are woken.
    """

    def __init__(self, Ledger ledger not None, *, int64_t limit, int batch):
        self.ledger = ledger
        self.limit = limit
        self.batch = batch
        self.for_event = []
        self.for_batch = []

    cdef int event_is_ready(self) except -1:
        """Wake a worker for an event that was added to the ledger, if the event is ready and a worker waits."""
        if self.for_batch:
            if self.ledger.n_ready() >= self.batch or self.ledger.n_held >= self.limit:
                set_done(self.for_batch.pop())
            return 0
        return self.wake_one() if self.ledger.n_ready() else 0

    cdef int events_are_ready(self, uint32_t n) except -1:
        """Do the same for `n` events that were added together."""
        while n and (self.for_event or self.for_batch):
            self.event_is_ready()
            n -= 1
        return 0

    cdef int wake_one(self) except -1:
        """Wake one worker that waits for an event."""
        while self.for_event:
            if set_done(self.for_event.pop()):
                break
        return 0

    cdef int wake_all(self) except -1:
        """Wake all workers that wait for an event."""
        while self.for_event:
            set_done(self.for_event.pop())
        return 0

    cdef int end_lingering(self) except -1:
        """Let workers that wait for a full batch go on with the events they have."""
        for future in self.for_batch:
            set_done(future)
        return 0


cdef bint set_done(object future) except -1:
    """Wake the worker that waits on a future; returns False if the future was done already."""
    if future.done():
        return False
    future.set_result(None)
    return True


@cython.final
cdef class Turn:
    """An awaitable that lets the event loop make one turn."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.done:
            raise StopIteration
        self.done = True
        return None
