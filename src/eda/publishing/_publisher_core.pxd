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
    cdef bint wants_acks                          # the host wants to be told of each acknowledgement
    cdef bytes inbox                        # prefix of the reply subjects, with its last dot
    cdef readonly uint64_t max_pending
    cdef readonly uint64_t max_bytes

    cdef readonly bint fast                 # fast mode, otherwise window mode
    cdef readonly bint writing              # events are written as they are accepted
    cdef readonly uint64_t limit            # how many events may be unanswered
    # Fast mode: the current batch.
    cdef bytes reply                        # prefix of its reply subjects: <inbox><batch>.<flow>.fail.
    cdef bytes subject                      # of its first event: the stream listens to it, and we may publish to it
    cdef readonly uint64_t n_in_batch          # events written into it
    cdef readonly uint64_t n_batch_settled        # events in it that acknowledgements have settled
    cdef bint batch_has_receipt                         # it has one event, whose sender wants a receipt
    cdef readonly dict receipts             # sequence > the object that the host gets back when the event is stored
    cdef readonly uint64_t n_flow_acked         # with `settles_at_end`: events acknowledged within the batch

    cdef public bint timer_runs                # the host's timer runs, so that the host need not be told of each event

    # What callers wait for.
    cdef public bint room_wanted            # the host wants to be told when there is room
    cdef public uint64_t flush_to           # the host wants to be told when all before this sequence is settled

    # Window mode: how many acknowledgements were timed since `limit` was last changed, and how long they took in sum.
    cdef uint64_t n_timed
    cdef uint64_t sum_ns

    cdef Writer scratch
    cdef readonly uint64_t n_accepted
    cdef readonly uint64_t n_acknowledged
    cdef readonly uint64_t n_resent
    cdef readonly uint64_t n_failed

    # Only callers in this loop and thread are allowed: `running_loop()` must return `loop`. None in tests.
    cdef object loop
    cdef object running_loop
    cdef uint64_t checked                   # `out.n_writes` when the running loop was last checked
    cdef PyThreadState* thread              # the thread that made this object

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
