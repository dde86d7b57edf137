from libc.stdint cimport int32_t, int64_t, uint64_t

from eda._event cimport Event
from eda.transport._frame cimport Delivery, Frame, Sink
from eda.transport._outbound cimport Outbound
from eda.handling._ledger cimport Ledger, SharedLedger
from eda.handling._ledger_ordered cimport OrderedLedger


cdef enum:
    MAX_PULLS = 64


# A pull that is under way, as far as the deliveries seen tell.
cdef struct Pull:
    uint64_t number
    int64_t n                       # events it may still bring
    int64_t n_bytes                 # bytes it may still bring


cdef class Intake(Sink):
    # One of the two is None, and `ledger` is the other.
    cdef readonly Ledger ledger
    cdef SharedLedger shared
    cdef OrderedLedger ordered
    cdef Outbound out
    cdef object host                # DispatchHost in _dispatch.pyi
    cdef object source              # DispatchSource
    cdef str stream
    cdef bytes stream_utf8
    cdef bytes consumer_utf8        # empty: no delivery is ours
    cdef bytes name_utf8            # of the subscription
    cdef bytes inbox                # subject prefix of statuses, with its last dot
    cdef frozenset types            # None: all
    cdef str aggregate              # None: all
    cdef bint doubts                # shared: what the filter does not want may be another member's
    cdef object key_of              # None, or a function of the event
    cdef bint by_aggregate          # the key is the aggregate
    cdef uint64_t max_attempts      # 0: without end
    cdef uint64_t suspect_from      # shared: the delivery from which on an event is suspect; 0: never
    cdef readonly uint64_t first_attempt    # ordered: of the next event; more than 1 where it was tried before

    # Credit: what the server may still send. held + credit <= allowed, but for redeliveries of lost credit.
    cdef Pull[MAX_PULLS] pulls      # the oldest first
    cdef int n_pulls
    cdef int max_pulls              # at most MAX_PULLS
    cdef readonly int64_t limit
    cdef readonly int64_t limit_bytes
    cdef readonly int64_t allowed   # shared: about a second's work, at most `limit`
    cdef int64_t least              # allowed is never less
    cdef int64_t min_room           # ask again when so much of `allowed` is free
    cdef bint withheld              # paused, or the circuit is not closed: `allowed` is not what was measured
    cdef readonly int64_t credit
    cdef uint64_t n_timed           # events handled in `busy_ns` of the workers' time, for `allowed`
    cdef uint64_t busy_ns
    cdef int n_workers
    cdef readonly bint closing
    cdef frozenset empty            # sequences of messages that look stripped and are known to have no body
    cdef object verdict             # of the event that was read last

    # To notice what is missing: the highest stream and consumer sequences of first deliveries.
    cdef bint sees_all              # nothing is filtered out: a gap in stream sequences is events that are gone
    cdef uint64_t stream_seq
    cdef uint64_t consumer_seq

    cdef readonly uint64_t clock_ns         # monotonic, coarse: as of the latest tick or handler
    cdef readonly uint64_t n_received       # frames of any kind: the sign of life
    cdef readonly uint64_t n_redelivered
    cdef readonly uint64_t n_passed_over    # filtered out by the client, or replayed for somebody else
    cdef readonly uint64_t n_undecodable
    cdef readonly uint64_t n_foreign        # deliveries that name another stream or consumer: not ours to acknowledge
    cdef readonly uint64_t n_skipped        # gone from the stream before they were delivered
    cdef readonly uint64_t n_pending        # events in the stream not delivered yet, as of the latest delivery

    cdef int take_delivery(self, Frame* frame, Delivery* delivery) except -1
    cdef int take_shared(self, Frame* frame, Delivery* delivery) except -1
    cdef int take_ordered(self, Frame* frame, Delivery* delivery) except -1
    cdef Event read(self, Frame* frame, Delivery* delivery, Py_ssize_t n_reply)
    cdef bint is_aside(self, Frame* frame) except -1
    cdef int keep_rest(self, Event event, bytes raw, Frame* frame) except -1
    cdef bint wants(self, Event event) except -1
    cdef int hold_ordered(self, Event event, uint64_t seq, object verdict) except -1
    cdef int spend(self, int64_t size) noexcept
    cdef int adapt(self) noexcept
    cdef int withhold(self, bint withheld, int64_t allowed) except -1
    cdef int arrived(self) except -1
    cdef int progressed(self) except -1
    cpdef int refill(self) except -1
