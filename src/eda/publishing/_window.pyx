"""The publish window: a slot for each publish that is not settled."""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_XDECREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from eda._clock cimport monotonic_ns

__all__ = ["PublishWindow"]

cdef enum:
    FIRST_SLOTS = 256


@cython.final
cdef class PublishWindow:
    """Slots for publishes that wait for their acknowledgement; each publish is settled exactly once.

    A slot refers to the publish's frame within a written chunk, so that the frame can be written again byte for byte,
    and to its waiter, which `settle` returns. The window grows from 256 slots up to `limit` sequences, counted from the
    oldest unsettled publish to the next one.
    """

    def __cinit__(self, uint64_t limit):
        if limit < 1:
            raise ValueError("limit must be at least 1")
        self.limit = limit
        self.slots = <Slot*>calloc(FIRST_SLOTS, sizeof(Slot))
        if self.slots is NULL:
            raise MemoryError
        self.mask = FIRST_SLOTS - 1
        self.base = self.next_seq = 1

    def __dealloc__(self):
        cdef uint64_t i
        if self.slots is not NULL:
            for i in range(self.mask + 1):
                Py_XDECREF(self.slots[i].waiter)
                Py_XDECREF(self.slots[i].chunk)
            free(self.slots)

    cdef bint is_full(self) noexcept:
        return self.next_seq - self.base >= self.limit

    cdef int grow(self) except -1:
        cdef uint64_t mask = self.mask * 2 + 1
        cdef Slot* slots = <Slot*>calloc(mask + 1, sizeof(Slot))
        cdef uint64_t seq
        if slots is NULL:
            raise MemoryError
        for seq in range(self.base, self.next_seq):
            slots[seq & mask] = self.slots[seq & self.mask]
        free(self.slots)
        self.slots = slots
        self.mask = mask
        return 0

    cdef uint64_t open(self, object waiter, object chunk, Py_ssize_t start, Py_ssize_t n, uint64_t now_ns,
                       uint64_t resend_ns, uint64_t give_up_ns) except 0:
        """Fill the slot of the next sequence and return the sequence; the caller has checked is_full()."""
        cdef uint64_t seq = self.next_seq
        if not has_slot(self):
            self.grow()
        fill_slot(self, waiter, chunk, start, n, now_ns, resend_ns, give_up_ns)
        return seq

    cdef Slot* find(self, uint64_t seq) noexcept:
        """Return the slot of an unsettled publish, or NULL. Valid until the next open()."""
        cdef Slot* slot
        if seq < self.base or seq >= self.next_seq:
            return NULL
        slot = &self.slots[seq & self.mask]
        return slot if slot.waiter is not NULL else NULL

    cdef object settle(self, uint64_t seq):
        """Free the slot of a publish, and return its waiter; None if the publish is settled or unknown."""
        cdef Slot* slot = self.find(seq)
        cdef PyObject* chunk
        cdef object waiter
        if slot is NULL:
            return None
        waiter = <object>slot.waiter
        chunk = slot.chunk
        Py_DECREF(waiter)               # the slot's reference
        free_slot(self, slot)
        Py_XDECREF(chunk)
        return waiter

    def pending(self):
        """Return the unsettled sequences in order."""
        cdef uint64_t seq
        return [seq for seq in range(self.base, self.next_seq) if self.slots[seq & self.mask].waiter is not NULL]

    def overdue(self):
        """Return the unsettled sequences that are past their time-out. Time-outs must ascend with the sequences."""
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t seq
        cdef list result = []
        for seq in range(self.base, self.next_seq):
            slot = self.find(seq)
            if slot is not NULL:
                if now < slot.give_up_ns:
                    break
                result.append(seq)
        return result
