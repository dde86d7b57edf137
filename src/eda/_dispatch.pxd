from libc.stdint cimport int32_t, int64_t, uint64_t

from eda._acks cimport Ledger
from eda._event cimport Event
from eda._frame cimport Delivery, Frame, Outbound, Sink


cdef class Dispatcher(Sink):
    cdef readonly Ledger ledger
    cdef Outbound out
    cdef object handler
    cdef object host                # DispatchHost in _dispatch.pyi
    cdef object source              # DispatchSource
    cdef str stream
    cdef bytes stream_utf8
    cdef bytes consumer_utf8
    cdef bytes inbox                # subject prefix of statuses, with its last dot
    cdef frozenset types            # None: all
    cdef str aggregate              # None: all

    # Credit: what the server may still send. held + credit <= limit, but for redeliveries of lost credit.
    cdef readonly int64_t limit
    cdef readonly int64_t limit_bytes
    cdef readonly int64_t credit
    cdef readonly int64_t credit_bytes
    cdef int64_t min_pull           # ask again when this much of the limit is free

    # Workers, by index.
    cdef list idle                  # futures of those that wait for an event
    cdef list tasks                 # theirs, to tell a cancellation of ours from the handler's own
    cdef list running               # what they run: the Event, or None
    cdef list overdue               # set by the time-out watch: the handler was cancelled for running too long
    cdef uint64_t slice_ns          # monotonic: when the loop was last given back
    cdef readonly bint closing
    cdef Event acknowledged         # the latest one

    cdef readonly uint64_t clock_ns         # monotonic, coarse: as of the latest tick
    cdef readonly uint64_t n_received       # frames of any kind: the sign of life
    cdef readonly uint64_t n_handled
    cdef readonly uint64_t n_failed
    cdef readonly uint64_t n_redelivered
    cdef readonly uint64_t n_passed_over    # filtered out by the client
    cdef readonly uint64_t n_undecodable
    cdef readonly uint64_t n_foreign        # deliveries that name another stream or consumer: not ours to acknowledge
    cdef readonly uint64_t last_seq         # the highest stream sequence handled
    cdef readonly uint64_t n_pending        # events in the stream not delivered yet, as of the latest delivery

    cdef int take_delivery(self, Frame* frame, Delivery* delivery) except -1
    cdef int respond(self, int32_t slot, const char* payload, Py_ssize_t n) except -1
    cdef int finish(self, int32_t slot) except -1
    cdef int wake(self) except -1
    cpdef int refill(self) except -1
