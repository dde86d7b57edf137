from libc.stdint cimport int64_t, uint64_t

from eda._bytes cimport Writer
from eda._codec cimport Plan, Text
from eda._event cimport Event
from eda.publishing._pack_frame cimport SentPack
from eda.publishing._publisher_core cimport PublisherCore
from eda.publishing._stream_sender cimport Destination
from eda.publishing._window cimport Slot


cdef class PackingCore(PublisherCore):
    cdef uint64_t max_events            # of a pack
    cdef Py_ssize_t max_pack_bytes      # of a pack that is not compressed
    cdef object compress                # callable(bytes-like) > bytes; None: packs are not compressed
    cdef Py_ssize_t most_bytes          # what a pack may have so that the server takes it; at most max_pack_bytes

    # The open pack, which gets the next events. Its sequence in the window will be window.next_seq.
    cdef SentPack pack                  # None: none is open
    cdef bint is_whole                  # it takes no more events
    cdef Writer buffer                  # its payload; `pos` is 0 while none is open
    cdef Py_ssize_t envelope_start      # where the envelope of its first event begins in `buffer`
    cdef uint64_t opened_ns             # monotonic: when its first event was accepted
    # Type and aggregate of its first event, and what keeps their bytes alive. `data` is NULL once an event differs.
    cdef Text type
    cdef Text aggregate
    cdef object type_owner
    cdef object aggregate_owner

    cdef uint64_t n_in_turn             # events that accept_if_flowing() has taken since the event loop ran
    # The time of the event that is put into a pack. accept_if_flowing() reads it once for each turn and each tick of
    # the clock, and all other ways set it too, so that it does not go back within a turn.
    cdef int64_t time_ns
    cdef int64_t tick_ns                # 0 or, in this turn, the tick at which accept_if_flowing() has read the time
    cdef uint64_t receipt_seq           # where the event is that was last accepted with a receipt
    cdef uint64_t receipt_index

    cdef public bint linger_runs        # the host's timer runs, which closes the pack in time
    cdef readonly uint64_t n_packs      # messages: packs that were closed

    cdef str put_packed(self, Event event, object receipt)
    cdef int close_whole(self) except -1
    cdef bint check_odd(self, Event event, Plan* plan) except -1
    cdef int begin(self, Event event, Plan* plan) except -1
    cdef int close(self, bint write) except -1
    cdef void forget_pack(self) noexcept
    cdef void shrink(self, Writer* w) noexcept
    cdef const unsigned char* payload_of(self, Slot* slot) except NULL
    cdef int fit_into(self, Destination destination) except -1
