from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t, uint64_t


# The entry of one publish that is not settled.
cdef struct Slot:
    PyObject* waiter            # owned; NULL if the slot is free
    PyObject* chunk             # owned; holds the frame that was written
    uint32_t start              # the frame is the `n` bytes of the chunk from here
    uint32_t n
    uint64_t sent_ns            # monotonic, of the latest try
    uint64_t resend_ns          # monotonic: write again if not answered by then
    uint64_t give_up_ns         # monotonic: fail if not answered by then
    uint32_t n_tries
    uint32_t n_envelope         # length of the envelope, which ends two bytes before the frame's end
    uint64_t batch_seq          # PublisherCore: its number in its latest batch, or 0. StreamSender: see `resend`


# Publishes in the order of their sequences, beginning with the oldest unsettled one.
cdef class PublishWindow:
    cdef Slot* slots          # ring; the slot of `seq` is at seq & mask
    cdef uint64_t mask
    cdef uint64_t base          # the oldest sequence that may be unsettled
    cdef uint64_t next_seq      # the sequence that the next publish gets; begins at 1
    cdef readonly uint64_t limit        # the most sequences between base and next_seq
    cdef readonly uint64_t n_pending    # unsettled publishes
    cdef readonly uint64_t n_bytes      # of the frames of unsettled publishes

    cdef bint is_full(self) noexcept
    cdef int grow(self) except -1           # call when has_slot() is False
    cdef uint64_t open(self, object waiter, object chunk, Py_ssize_t start, Py_ssize_t n, uint64_t now_ns,
                       uint64_t resend_ns, uint64_t give_up_ns) except 0
    cdef Slot* find(self, uint64_t seq) noexcept
    cdef object settle(self, uint64_t seq)


# Inline, because a publisher calls them for each event. grow() moves the slots, so no pointer to a slot outlives it.

cdef inline bint has_slot(PublishWindow window) noexcept:
    """Return whether the next publish has a slot without grow()."""
    return window.next_seq - window.base <= window.mask


cdef inline Slot* fill_slot(PublishWindow window, object waiter, object chunk, Py_ssize_t start, Py_ssize_t n,
                            uint64_t now_ns, uint64_t resend_ns, uint64_t give_up_ns) noexcept:
    """Fill the slot of the next sequence; the caller has checked has_slot()."""
    cdef Slot* slot = &window.slots[window.next_seq & window.mask]
    Py_INCREF(waiter)
    slot.waiter = <PyObject*>waiter
    Py_INCREF(chunk)
    slot.chunk = <PyObject*>chunk
    slot.start = <uint32_t>start
    slot.n = <uint32_t>n
    slot.sent_ns = now_ns
    slot.resend_ns = resend_ns
    slot.give_up_ns = give_up_ns
    slot.n_tries = 1
    slot.n_envelope = 0
    slot.batch_seq = 0
    window.next_seq += 1
    window.n_pending += 1
    window.n_bytes += <uint64_t>n
    return slot


cdef inline void free_slot(PublishWindow window, Slot* slot) noexcept:
    """Free a slot. The caller takes over the slot's references."""
    slot.waiter = NULL
    slot.chunk = NULL
    window.n_pending -= 1
    window.n_bytes -= slot.n
    while window.base < window.next_seq and window.slots[window.base & window.mask].waiter is NULL:
        window.base += 1
