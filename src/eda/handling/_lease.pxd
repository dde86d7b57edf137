from libc.stdint cimport int64_t, uint32_t, uint64_t

from eda.handling._ledger_ordered cimport OrderedLedger
from eda.handling._waiting cimport WaitingWorkers


cdef class Lease:
    cdef object host                # a DispatchHost; told when the position moves
    cdef OrderedLedger ordered      # None: shared
    cdef WaitingWorkers waiting
    cdef readonly uint64_t until_ns         # monotonic: no handler starts after it
    cdef bint is_strict             # each position is stored before the next event is handled
    cdef int64_t n_careful          # this many events are still handled as if strict: one may kill the process
    cdef bint one_by_one            # is_strict, or n_careful is not 0
    cdef bint is_confirming         # the position of the last event is not stored yet; no handler starts
    cdef bint is_closing            # nobody waits for a position: the last write will store it
    cdef bint tells_progress        # the host wants to hear when the position has moved
    cdef uint64_t told_position     # the position when the host asked for that: an event may be done without moving it
    cdef uint32_t told_idx

    cdef int be_careful(self, int64_t n) noexcept
    cdef int event_is_done(self) except -1
    cdef int position_moved(self) except -1
    cdef int forbid(self) noexcept
    cdef int close(self) noexcept
