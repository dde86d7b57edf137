from cpython.pystate cimport PyThreadState
from libc.stdint cimport int64_t, uint64_t

from eda._bytes cimport Writer
from eda._event cimport Event
from eda.transport._frame cimport Frame
from eda.publishing._pending cimport Pending
from eda.publishing._stream_sender cimport Reply


cdef class PublisherCore(Pending):
    cdef object host                        # CoreHost in _publish.pyi
    cdef str client
    cdef bint dedup
    cdef bint wants_acks                          # the host wants every acknowledgement
    cdef bytes inbox                        # subject prefix of all answers, with its last dot
    cdef readonly uint64_t max_pending
    cdef readonly uint64_t max_bytes

    cdef readonly bint fast                 # fast ingest, else the window
    cdef readonly bint writing              # events may be written as they are accepted
    cdef readonly uint64_t limit            # the most events that may be unanswered
    # Fast ingest: the batch that events go into.
    cdef bytes reply                        # its reply subjects up to the sequence: <inbox><batch>.<flow>.fail.
    cdef bytes subject                      # of its first event: one that this stream listens to and we may publish to
    cdef readonly uint64_t n_in_batch          # events written into it
    cdef readonly uint64_t n_batch_settled        # of them, settled by acknowledgements
    cdef bint batch_has_receipt                         # it is that of an event which wants a receipt
    cdef readonly dict receipts             # sequence > what the host waits with for where the event is stored
    cdef readonly uint64_t n_flow_acked         # with `settles_at_end`: events of the batch that are acknowledged in the flow

    cdef public bint timer_runs                # the host's timer runs: it need not hear of what is written at once

    # What somebody waits for.
    cdef public bint room_wanted            # the host wants to hear of room
    cdef public uint64_t flush_to           # the host wants to hear when everything before this is settled; 0: nothing

    # The window's own size, from how long acknowledgements take.
    cdef uint64_t n_timed
    cdef uint64_t sum_ns

    cdef Writer scratch
    cdef readonly uint64_t n_accepted
    cdef readonly uint64_t n_acknowledged
    cdef readonly uint64_t n_resent
    cdef readonly uint64_t n_failed

    # Who may call: `running_loop()` has to be `loop`. None in tests.
    cdef object loop
    cdef object running_loop
    cdef uint64_t checked                   # the writes of `out` when the running loop was last asked for
    cdef PyThreadState* thread              # the one that made this

    cdef bint at_limit(self) noexcept
    cdef int check_caller(self) except -1
    cdef uint64_t count_flow_only(self) noexcept
    cdef str put(self, Event event, uint64_t now, int64_t time_ns, bint at_once)
    cpdef int stop_writing(self) except -1
    cdef int write_waiting(self, uint64_t n, int operation) except -1
    cdef void fill_reply(self, Reply* reply, uint64_t seq, int operation) noexcept
    cdef int write_slot(self, uint64_t seq, int operation) except -1
    cdef int after_answer(self) except -1
    cdef Event take_out(self, uint64_t seq)
    cpdef int settle(self, uint64_t seq, int64_t stream_seq) except -1
    cdef int settle_batch(self, uint64_t n, int64_t stream_seq) except -1
    cdef bint next_has_receipt(self) except -1
    cdef int tell_host(self) except -1
    cdef int adapt_limit(self, uint64_t took_ns) except -1
    cdef int take_window_answer(self, Frame* frame, uint64_t seq) except -1
    cdef int take_batch_answer(self, Frame* frame) except -1
