from libc.stdint cimport int64_t, uint32_t, uint64_t

from eda.handling._ledger cimport Ledger


cdef class WaitingWorkers:
    cdef Ledger ledger
    cdef int64_t limit              # at most this many events are held; then no batch can get fuller
    cdef int batch                  # events in a full batch; 0: handlers take one event at a time
    cdef list for_event             # futures of workers that wait for an event, or until handlers may start
    cdef list for_batch             # futures of workers that have some events, and wait for a full batch
    cdef uint64_t slice_ns          # monotonic: when the workers last let other tasks run

    cdef int event_is_ready(self) except -1
    cdef int events_are_ready(self, uint32_t n) except -1
    cdef int wake_one(self) except -1
    cdef int wake_all(self) except -1
    cdef int end_lingering(self) except -1


# An awaitable that lets the event loop make one turn.
cdef class Turn:
    cdef bint done
