from libc.stdint cimport int32_t, int64_t, uint64_t

from eda._event cimport Event
from eda._intake cimport Intake


cdef class Outcomes(Intake):
    cdef int batch                  # 0: one event at a time
    cdef bint is_strict             # the offset is stored before the next event
    cdef list idle                  # futures of workers that wait for an event, or for the lease
    cdef list lingering             # futures of workers that wait for a full batch

    cdef readonly uint64_t lease_until_ns   # monotonic: no handler starts after it
    cdef bint confirming            # strict or careful: the offset of the last event is not stored yet
    cdef uint64_t n_careful         # so many more events are taken one by one, as if strict: one of them may kill us
    cdef bint tell                  # the host wants to hear of the next progress
    cdef Event acknowledged         # shared: the latest one

    cdef readonly uint64_t n_handled
    cdef readonly uint64_t n_failed
    cdef readonly uint64_t n_dead
    cdef readonly uint64_t last_seq         # the highest stream sequence handled

    cdef int answer(self, Event event, int32_t slot, const char* payload, Py_ssize_t n) except -1
    cdef int succeed(self, int32_t slot) except -1
    cdef int settle(self, int32_t slot, object verdict) except -1
    cdef int try_again(self, int32_t slot, int64_t delay_ns) except -1
    cdef int give_back_one(self, int32_t slot) except -1
    cdef int give_back_all(self, list slots) except -1
    cdef int wake(self) except -1
    cdef int wake_all(self) except -1
