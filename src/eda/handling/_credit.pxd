from libc.stdint cimport int64_t, uint64_t

from eda.handling._ledger cimport Ledger


cdef enum:
    MAX_PULLS = 64


# A pull under way: how many messages and bytes it may still bring. Both are estimates: a delivery does not name its
# pull.
cdef struct Pull:
    uint64_t number
    int64_t n                       # messages
    int64_t n_bytes


cdef class Credit:
    cdef Ledger ledger              # the held events count against `allowed` and `limit_bytes`
    cdef object source              # a DispatchSource; its `pull` is called
    cdef Pull[MAX_PULLS] pulls      # the oldest first
    cdef int n_pulls
    cdef int max_pulls              # at most MAX_PULLS
    cdef readonly int64_t n_messages    # that all pulls under way may still bring
    cdef bint has_packs             # messages may have many events
    cdef readonly int64_t per_message   # how many events a message is expected to have
    cdef int64_t n_counted          # recent messages, and how many events they had
    cdef int64_t n_in_counted
    cdef int64_t size               # of the delivery that was counted last
    cdef readonly double growth     # how many bytes a recent pack had for each byte that the server sent; at least 1
    cdef readonly int64_t limit
    cdef readonly int64_t limit_bytes
    cdef bint is_measured           # shared: `allowed` follows the speed of the handlers
    cdef readonly int64_t allowed   # events that may be held or under way; at most `limit`
    cdef int64_t least              # `allowed` is at least this, unless `is_restricted`
    cdef int64_t min_room           # pull again when this many of `allowed` are free
    cdef bint is_restricted         # `allowed` was set from outside, and does not follow the handlers
    cdef bint is_closed             # nothing more is pulled
    cdef int n_workers
    cdef uint64_t n_timed           # events that took `busy_ns` of the workers' time
    cdef uint64_t busy_ns

    cdef int note_delivery(self, int64_t size) noexcept
    cdef int note_pack(self, int64_t n, int64_t n_bytes) noexcept
    cdef int64_t sent_for(self, int64_t n_bytes) noexcept
    cdef int estimate(self) noexcept
    cdef int measure(self) noexcept
    cdef int allow(self, int64_t n) noexcept
    cdef int restrict(self, int64_t n) except -1
    cdef int lift(self) except -1
    cdef int close(self) noexcept
    cdef int forget_pull(self, int index) noexcept
    cpdef int refill(self) except -1
