from libc.stdint cimport int32_t, int64_t, uint64_t

from eda._event cimport Event
from eda.handling._intake cimport Intake


# Why no handler may start: bits of `barred`.
cdef enum Barred:
    BY_SUSPECT = 1                  # a suspect is at work, and nothing beside it
    BY_PAUSE = 2                    # the user's
    BY_CIRCUIT = 4                  # it is open, or the event that is to close it is being tried


# After so many failures in a row it is not the events' fault.
cdef enum Circuit:
    CLOSED = 0
    OPEN = 1                        # no handler starts
    HALF_OPEN = 2                   # one event is tried: its success closes the circuit, its failure opens it


cdef class Outcomes(Intake):
    cdef int batch                  # 0: one event at a time
    cdef bint is_strict             # the offset is stored before the next event
    cdef list idle                  # futures of workers that wait for an event, or for the lease
    cdef list lingering             # futures of workers that wait for a full batch

    cdef readonly uint64_t lease_until_ns   # monotonic: no handler starts after it
    cdef bint confirming            # strict or careful: the offset of the last event is not stored yet
    cdef uint64_t n_careful         # so many more events are taken one by one, as if strict: one of them may kill us
    cdef bint tell                  # the host wants to hear of the next progress

    cdef int barred                 # bits of Barred; 0: handlers may start
    cdef bint one_by_one            # strict or careful, or the circuit is half open
    cdef int circuit                # 0: none; else the events that must fail in a row to open it
    cdef int circuit_state          # a Circuit
    cdef set failed_in_row          # sequences, while the circuit is closed; at most `circuit` of them
    cdef bint failing               # failed_in_row is not empty, or the circuit is not closed
    cdef int n_openings             # in a row, without a success between them
    cdef int trying                 # half open: the index of the worker that tries an event; -1: none
    cdef uint64_t opened_ns         # monotonic: when the circuit was closed last
    cdef bint gave_back             # shared: what was held when the circuit opened
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
    cdef int note_failure(self, int index, uint64_t seq) except -1
    cdef int open_circuit(self) except -1
    cdef int note_success(self) except -1
    cdef int end_trial(self, int index) except -1
    cdef int adjust(self) except -1
    cdef int wake(self) except -1
    cdef int wake_all(self) except -1
