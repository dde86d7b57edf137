"""The lease of an ordered subscription: until when handlers may start, and when they wait for a stored position."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from eda._clock cimport monotonic_ns
from eda.handling._ledger_ordered cimport OrderedLedger
from eda.handling._waiting cimport WaitingWorkers

__all__ = ["Lease"]

cdef uint64_t FOR_EVER = 0xFFFFFFFFFFFFFFFFULL


@cython.final
cdef class Lease:
    """The right to handle the events after a position. It ends unless the owner of the position extends it.

    A subscription that stores no position, such as every shared one, has this right for ever.
    """

    def __init__(self, object host, OrderedLedger ordered, WaitingWorkers waiting not None, *, bint is_strict):
        self.host = host
        self.ordered = ordered
        self.waiting = waiting
        self.is_strict = self.one_by_one = is_strict
        self.until_ns = FOR_EVER

    def extend(self, uint64_t until_ns):
        """Let handlers start until `until_ns` (monotonic nanoseconds); 0: let none start."""
        cdef bint was_over = self.until_ns <= monotonic_ns()
        self.until_ns = until_ns
        if was_over and until_ns:
            self.waiting.wake_all()

    cdef int forbid(self) noexcept:
        """Let no handler start until `extend`."""
        self.until_ns = 0
        return 0

    cdef int be_careful(self, int64_t n) noexcept:
        """Handle the next `n` events one by one, and store the position after each before the next one begins."""
        self.n_careful = n
        self.one_by_one = self.is_strict or n > 0
        return 0

    cdef int event_is_done(self) except -1:
        """Note that an event is done, so the position may have moved."""
        if self.one_by_one:
            self.is_confirming = self.until_ns != FOR_EVER and not self.is_closing
            if self.n_careful:
                self.n_careful -= 1
                self.one_by_one = self.is_strict or self.n_careful > 0
        # The worker that has handled the event calls confirm(), which has the position stored.
        return 0 if self.is_confirming else self.position_moved()

    cdef int position_moved(self) except -1:
        """Tell the host that the position has moved, if it has moved since the host asked for that."""
        if self.tells_progress and (
            self.ordered.position != self.told_position or self.ordered.idx != self.told_idx
        ):
            self.tells_progress = False
            self.host.on_progress()
        return 0

    def tell_progress(self):
        """Call `on_progress` of the host once, when the position moves next."""
        self.tells_progress = True
        self.told_position = self.ordered.position
        self.told_idx = self.ordered.idx

    async def confirm(self):
        """Wait until the position is stored or the caller is cancelled, then let handlers start again."""
        try:
            await self.host.confirmed(self.ordered.position, self.ordered.idx)
        finally:
            self.is_confirming = False
            self.waiting.wake_all()

    cdef int close(self) noexcept:
        """Make no handler wait for a stored position any more: the last write of all stores it."""
        self.is_closing = True
        return 0
