from libc.stdint cimport int32_t, uint64_t

from eda.handling._credit cimport Credit
from eda.handling._gate cimport Gate
from eda.handling._intake cimport Intake
from eda.handling._ledger cimport Ledger, SharedLedger
from eda.handling._ledger_ordered cimport OrderedLedger
from eda.handling._lease cimport Lease
from eda.handling._outcome cimport Outcomes
from eda.handling._waiting cimport WaitingWorkers


# Why we have cancelled a worker's task.
cdef enum Cancelled:
    NOT_CANCELLED = 0
    OVERDUE = 1                     # its handler ran too long
    FENCED = 2                      # the lease is over: another member may handle its events


# How a handler call that did not simply succeed has ended.
cdef enum Ending:
    FAILED = 0
    TIMED_OUT = 1
    NOT_HANDLED = 2                 # the events did not fail: they are given back
    WORKER_ENDS = 3                 # the same, and the worker's task ends: somebody else has cancelled it


cdef class Worker:
    cdef int index
    cdef object host                # a DispatchHost
    cdef object handler
    cdef Ledger ledger
    cdef SharedLedger shared        # the ledger, or None: ordered
    cdef OrderedLedger ordered      # the ledger, or None: shared
    cdef WaitingWorkers waiting
    cdef Credit credit              # counts how long handlers take
    cdef Lease lease
    cdef Gate gate
    cdef Outcomes outcomes
    cdef Intake intake
    cdef int batch                  # 0: the handler takes one event at a time
    cdef bint in_order              # serial with batch: one list at a time, in order; there is only this worker
    cdef double linger_s
    cdef uint64_t timeout_ns

    cdef object task                # the task that runs work(); shows whether somebody else has cancelled it
    cdef int32_t* slots             # of the events of the batch that was taken last
    cdef Py_ssize_t n_room          # how many `slots` has room for
    cdef object running             # what the handler has: the Event, a tuple of them, or None
    cdef int cancelled              # a Cancelled
    cdef int n_by_groups            # how often TaskGroups of the handler have cancelled the task, and not taken it back

    cdef bint has_rest(self) noexcept
    cdef int32_t next_slot(self, uint64_t now) except -2
    cdef int32_t next_slot_alone(self) except -2
    cdef int32_t take_ready(self) except -2
    cdef Py_ssize_t take_batch(self, uint64_t now) except -1
    cdef Py_ssize_t take_list(self, uint64_t now, Py_ssize_t most) except -1
    cdef int make_room(self, Py_ssize_t n) except -1
    cdef Py_ssize_t most_in_batch(self) noexcept
    cdef bint should_linger(self, uint64_t now) except -1
    cdef bint is_suspect(self, int32_t slot) except -1
    cdef bint must_be_alone(self, int32_t slot) except -1
    cdef object verdict_on(self, int32_t slot)
    cdef object wait_for_event(self)
    cdef int note_work(self, Py_ssize_t n, uint64_t began, uint64_t now) noexcept
    cdef bint must_be_awaited(self, object result) except -1
    cdef uint64_t end_call(self, object first, uint64_t began, bint was_awaited) except 0
    cdef int ending_of(self, object error) except -1
    cdef int raise_if_cancelled(self) except -1
    cdef int forget_groups(self) except -1
    cdef int cancel(self, int why) except -1
