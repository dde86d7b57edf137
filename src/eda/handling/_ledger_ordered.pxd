from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from eda._event cimport Event
from eda.handling._ledger cimport Held, Ledger


# The held events of one key. The first is ready, running or waits for a retry; the others wait for it.
cdef class Lane:
    cdef object key
    cdef int32_t head           # slot; -1: none
    cdef int32_t tail


# A ring that begins with the first event that is not done.
cdef class OrderedLedger(Ledger):
    cdef int32_t* order         # ring of slots in stream order
    cdef uint64_t order_head
    cdef uint64_t order_tail
    cdef dict lanes             # by key
    cdef Lane only              # serial: the one lane of all events; else None
    cdef int32_t open_pack      # the entry in `packs` of the pack whose events are added now; -1: none are
    # The last event that take_next() has taken: its sequence (0: none), and its place in its pack.
    cdef uint64_t list_end
    cdef uint32_t list_end_index
    cdef readonly uint64_t position     # all messages up to this sequence are wholly done
    cdef readonly uint32_t idx          # how many events of the pack `part`, the next message, are done
    cdef readonly uint64_t part         # 0 if `idx` is 0
    cdef readonly uint64_t highest      # the last sequence received; reading continues after it
    # When the stream stored these two, nanoseconds since 1970; 0: not known. A sequence alone does not identify an
    # event: a stream that has lost its end gives the same sequence to another event.
    cdef readonly int64_t position_ns
    cdef readonly int64_t part_ns
    cdef public int64_t highest_ns      # set it before an event is added: the event takes its time from here

    cpdef int32_t add(self, Event event, uint64_t seq, uint64_t now_ns, bint is_last=*) except -2
    cpdef int32_t add_keyed(self, Event event, uint64_t seq, uint64_t now_ns, object key, bint is_last=*) except -2
    cpdef int begin_pack(self, uint64_t seq, uint64_t n_bytes) except -1
    cpdef int end_pack(self) except -1
    cpdef bint awaits_rest(self) except -1
    cdef Py_ssize_t take_next(self, int32_t* slots, Py_ssize_t most) except -1
    cpdef bint admit(self, int32_t slot, object key) except -1
    cpdef int pass_over(self, uint64_t seq, uint32_t index=*, bint is_last=*) except -1
    cdef int32_t done_before(self, uint64_t n) noexcept
    cdef bint is_of_list(self, Held* entry) noexcept
    cdef int move_to(self, Held* entry) noexcept
    cdef Lane lane_of(self, object key)
    cdef bint enter_lane(self, Lane lane, int32_t slot) noexcept
    cdef Held* first_ready(self) noexcept
    cdef int sort_rest(self) except -1
    cdef int append(self, int32_t slot, bint is_last) except -1
    cdef int advance(self) except -1
    cdef int leave_lane(self, int32_t slot) except -1
    cdef bint clear_lane(self, Lane lane) noexcept
    cpdef list stored_times(self, list events)
    cpdef bint ends_message(self, Event event) except -1
    cpdef uint64_t size_of(self, list events)
    cdef int forget_part(self) noexcept
    cpdef int drop(
        self, uint64_t position, int64_t stored_ns=*, uint32_t idx=*, uint64_t part=*, int64_t part_ns=*
    ) except -1
