from libc.stdint cimport uint64_t

from eda._durations cimport Durations
from eda.publishing._window cimport Slot, PublishWindow
from eda.transport._frame cimport Sink
from eda.transport._outbound cimport Outbound
from eda.publishing._stream_sender cimport Destination


cdef enum:
    MIN_WINDOW = 256


# The events of one publisher that are not settled.
cdef class Pending(Sink):
    cdef readonly PublishWindow window      # a slot's waiter is its Event; its resend_ns is when the event was accepted
    cdef Outbound out
    cdef Destination destination
    # Whether the server has a domain. If so, only a batch's final acknowledgement says which stream has stored the
    # events, so the acknowledgements within the batch settle no events.
    cdef readonly bint settles_at_end
    cdef uint64_t give_up_ns                # an event fails this many nanoseconds after it was accepted
    cdef uint64_t next_unwritten                    # the first sequence that is not written; never below window.base

    cdef readonly uint64_t max_pending      # events
    cdef readonly uint64_t limit            # how many events may be unanswered
    # Window mode: the number of acknowledgements since `limit` was last adapted, and the sum of their times.
    cdef uint64_t n_timed
    cdef uint64_t sum_ns

    cdef uint64_t now_ns                    # monotonic: when the acknowledgement came that is being read
    cdef readonly Durations durations       # of each stored event, from its acceptance to its acknowledgement

    cdef readonly dict receipts             # sequence > receipt, which the host gets back when the event is stored
    # Only callers in this loop and thread are allowed: `running_loop()` must return `loop`. In tests both are None.
    cdef object loop
    cdef object running_loop

    cdef int check_caller(self) except -1
    cdef int adapt_limit(self) noexcept
    cpdef double oldest_age_s(self)
    cdef object take_out(self, uint64_t seq)
    cdef const char* written_at(self, Slot* slot) except NULL
    cdef bytes frame_at(self, uint64_t seq)


cdef inline void note_answer_time(Pending pending, uint64_t took_ns) noexcept:
    """Note how long an acknowledgement took in window mode, and now and then adapt the limit to it."""
    pending.n_timed += 1
    pending.sum_ns += took_ns
    if pending.n_timed >= pending.limit // 2:
        pending.adapt_limit()
