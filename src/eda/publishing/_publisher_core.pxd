from cpython.pystate cimport PyThreadState
from libc.stdint cimport int64_t, uint64_t

from eda._bytes cimport Writer
from eda._event cimport Event
from eda.transport._frame cimport Frame
from eda.publishing._pending cimport Pending
from eda.publishing._stream_sender cimport Reply
from eda.publishing._window cimport Slot


cdef enum:
    MAX_AT_ONCE = 4096              # events of one accept_many(), which take a few milliseconds


cdef class PublisherCore(Pending):
    cdef object host                        # a CoreHost of _publisher_core.pyi
    cdef str client
    cdef bint dedup
    cdef bint wants_acks                          # the host wants a call for each acknowledgement
    cdef bytes inbox                        # prefix of the reply subjects, with its last dot
    cdef readonly uint64_t max_messages     # in how many messages `max_pending` events are, if each is full
    cdef readonly uint64_t max_bytes

    cdef readonly bint fast                 # fast mode, otherwise window mode
    cdef readonly bint writing              # events are written as soon as they are accepted
    # Fast mode: the current batch.
    cdef bytes reply                        # prefix of its reply subjects: <inbox><batch>.<flow>.fail.
    cdef bytes subject                      # of its first event; the empty commit message is published to it
    cdef readonly uint64_t n_in_batch          # events written into it
    cdef readonly uint64_t n_batch_settled        # events in it that acknowledgements have settled
    cdef bint batch_has_receipt                         # the batch has only one event, whose sender waits for a receipt
    cdef readonly uint64_t n_flow_acked         # with `settles_at_end`: events acknowledged within the batch

    cdef public bint timer_runs                # the host's timer runs, so it needs no call for each event

    cdef public bint is_overfull            # the host takes no event: too many failures are kept, or it has stopped

    # Calls that the host has asked for.
    cdef public bint room_wanted            # the host wants `on_room` when there is room
    cdef public uint64_t flush_to           # the host wants `on_flushed` when all before this sequence are settled

    cdef Writer scratch
    cdef readonly uint64_t n_accepted
    cdef readonly uint64_t n_acknowledged
    cdef readonly uint64_t n_resent
    cdef readonly uint64_t n_failed

    cdef uint64_t checked                   # `out.n_writes` when the running loop was last checked
    cdef PyThreadState* thread              # the thread that made this object

    cdef bint at_limit(self) noexcept
    cdef str take_if_flowing(self, object event)
    cdef uint64_t count_flow_only(self) noexcept
    cdef str put(self, Event event, uint64_t now, int64_t time_ns, bint at_once)
    cpdef int stop_writing(self) except -1
    cdef int write_waiting(self, uint64_t n, int operation) except -1
    cdef void fill_reply(self, Reply* reply, uint64_t seq, int operation) noexcept
    cdef int write_slot(self, uint64_t seq, int operation) except -1
    cdef uint64_t n_events_of(self, Slot* slot) noexcept
    cdef int after_answer(self) except -1
    cdef int settle_one(self, uint64_t seq, Slot* slot, int64_t stream_seq) except -1
    cdef int settle_batch(self, uint64_t n, int64_t stream_seq) except -1
    cdef bint has_next(self) noexcept
    cdef int tell_host(self) except -1
    cdef int take_window_answer(self, Frame* frame, uint64_t seq) except -1
    cdef int take_batch_answer(self, Frame* frame) except -1
