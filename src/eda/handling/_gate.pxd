from libc.stdint cimport uint32_t, uint64_t

from eda.handling._credit cimport Credit
from eda.handling._ledger cimport Ledger
from eda.handling._waiting cimport WaitingWorkers


# Why no handler may start: bits of `barred`.
cdef enum Barred:
    BY_SUSPECT = 1                  # a suspect is being handled, and must be alone
    BY_PAUSE = 2                    # the user has called pause()
    BY_CIRCUIT = 4                  # the circuit is open, or one event is being tried
    BY_CLOSING = 8                  # the subscription closes, and does not finish packs (yet)


cdef enum CircuitState:
    CLOSED = 0
    OPEN = 1                        # no handler starts
    HALF_OPEN = 2                   # one event is tried: its success closes the circuit, its failure opens it again


cdef class Gate:
    cdef object host                # a DispatchHost; told when the circuit opens or closes
    cdef Ledger ledger
    cdef Credit credit              # restricted while paused, or while the circuit is not closed
    cdef WaitingWorkers waiting
    cdef readonly bint is_closing   # no handler starts any more, except for events of packs that are partly done
    cdef bint is_over               # closing: no handler starts for these events either
    cdef uint64_t finish_until_ns   # closing: handlers start for these events until then (monotonic)
    cdef int barred                 # bits of Barred; 0: handlers may start

    cdef int max_failures           # this many failed events in a row open the circuit; 0: there is no circuit
    cdef int state                  # a CircuitState
    cdef set failed_in_row          # (sequence, index), while the circuit is closed; at most `max_failures` of them
    cdef bint sees_failures         # failed_in_row is not empty, or the circuit is not closed
    cdef int n_openings             # how often the circuit has opened since the last success
    cdef int trying                 # half open: the index of the worker that tries an event; -1: none
    cdef uint64_t opened_ns         # monotonic: when the circuit opened after it was closed
    cdef bint gave_back             # shared: waiting events were given back since the circuit opened

    cdef int begin_suspect(self) noexcept
    cdef int end_suspect(self, int index) except -1
    cdef bint is_shut_for(self, int index) noexcept
    cdef int begin_trial(self, int index) noexcept
    cdef int end_trial(self, int index) except -1
    cdef int note_failure(self, int index, uint64_t seq, uint32_t place) except -1
    cdef int note_success(self) except -1
    cdef bint should_give_back(self, uint64_t now_ns) noexcept
    cdef int open_circuit(self) except -1
    cdef int apply(self) except -1
    cdef int close(self) except -1
    cdef int finish_until(self, uint64_t until_ns) except -1
    cpdef int end(self) except -1
