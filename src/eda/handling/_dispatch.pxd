from libc.stdint cimport int32_t, uint64_t

from eda._event cimport Event
from eda.handling._outcome cimport Outcomes


# Why a worker's task was cancelled by us.
cdef enum Cancelled:
    NOT_CANCELLED = 0
    OVERDUE = 1                     # its handler ran too long
    FENCED = 2                      # the lease is over: others may handle its events


cdef class Dispatcher(Outcomes):
    cdef object handler
    cdef double linger_s
    cdef uint64_t timeout_ns

    # Workers, by index.
    cdef list tasks                 # theirs, to tell a cancellation of ours from the handler's own
    cdef list running               # what they run: the Event, the list of them, or None
    cdef list cancelled             # a Cancelled
    cdef uint64_t slice_ns          # monotonic: when the loop was last given back

    cdef object ask_again(self, int32_t slot, Event event)
    cdef int check_task(self, int index) except -1
    cdef int32_t next_slot(self, int index, uint64_t now) except -2
    cdef int32_t next_alone(self, int index) except -2
    cdef bint is_suspect(self, int32_t slot) except -1
