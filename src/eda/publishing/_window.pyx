"""The publish window: sequence > outcome."""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_XDECREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from eda._bytes cimport monotonic_ns

__all__ = ["PublishWindow"]

cdef enum:
    FIRST_PLACES = 256


@cython.final
cdef class PublishWindow:
    """Places for publishes that wait for their acknowledgement; each is settled exactly once.

    A place keeps its frame (as a stretch of a written chunk), so that it can be sent again byte for byte, and its
    waiter, which `settle` hands back. Grows from 256 places up to `limit` sequences between the oldest unsettled
    publish and the next one.
    """

    def __cinit__(self, uint64_t limit):
        if limit < 1:
            raise ValueError("limit must be at least 1")
        self.limit = limit
        self.places = <Place*>calloc(FIRST_PLACES, sizeof(Place))
        if self.places is NULL:
            raise MemoryError
        self.mask = FIRST_PLACES - 1
        self.base = self.next_seq = 1

    def __dealloc__(self):
        cdef uint64_t i
        if self.places is not NULL:
            for i in range(self.mask + 1):
                Py_XDECREF(self.places[i].waiter)
                Py_XDECREF(self.places[i].chunk)
            free(self.places)

    cdef bint is_full(self) noexcept:
        return self.next_seq - self.base >= self.limit

    cdef int grow(self) except -1:
        cdef uint64_t mask = self.mask * 2 + 1
        cdef Place* places = <Place*>calloc(mask + 1, sizeof(Place))
        cdef uint64_t seq
        if places is NULL:
            raise MemoryError
        for seq in range(self.base, self.next_seq):
            places[seq & mask] = self.places[seq & self.mask]
        free(self.places)
        self.places = places
        self.mask = mask
        return 0

    cdef uint64_t open(self, object waiter, object chunk, Py_ssize_t start, Py_ssize_t n, uint64_t now_ns,
                       uint64_t resend_ns, uint64_t give_up_ns) except 0:
        """Take the next sequence; the caller has asked is_full()."""
        cdef uint64_t seq = self.next_seq
        if not has_place(self):
            self.grow()
        open_place(self, waiter, chunk, start, n, now_ns, resend_ns, give_up_ns)
        return seq

    cdef Place* find(self, uint64_t seq) noexcept:
        """The place of an unsettled publish, or NULL. Valid until the next open()."""
        cdef Place* place
        if seq < self.base or seq >= self.next_seq:
            return NULL
        place = &self.places[seq & self.mask]
        return place if place.waiter is not NULL else NULL

    cdef object settle(self, uint64_t seq):
        """Free the place and return its waiter; None when it was settled before or never opened."""
        cdef Place* place = self.find(seq)
        cdef PyObject* chunk
        cdef object waiter
        if place is NULL:
            return None
        waiter = <object>place.waiter
        chunk = place.chunk
        Py_DECREF(waiter)               # the place's own reference
        close_place(self, place)
        Py_XDECREF(chunk)
        return waiter

    def pending(self):
        """Return the unsettled sequences in order."""
        cdef uint64_t seq
        return [seq for seq in range(self.base, self.next_seq) if self.places[seq & self.mask].waiter is not NULL]

    def overdue(self):
        """Return the unsettled sequences that are past their time; they were opened in the order of it."""
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t seq
        cdef list result = []
        for seq in range(self.base, self.next_seq):
            place = self.find(seq)
            if place is not NULL:
                if now < place.give_up_ns:
                    break
                result.append(seq)
        return result
