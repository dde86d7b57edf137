"""What is not settled yet: the publish window (sequence > outcome) and the delivery ledger (delivery > done)."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc

from eda._event cimport Event

__all__ = ["Ledger", "PublishWindow"]

cdef enum:
    FIRST_PLACES = 256
    FIRST_SLOTS = 256


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


@cython.final
cdef class Ledger:
    """The deliveries that a shared subscription holds: waiting for a handler, or running.

    Keyed by stream sequence in a hash table, since sequences are sparse and lower ones legitimately come back. A
    redelivery of what is held renews its lease and acknowledgement subject, and is not handed out again.
    """

    def __cinit__(self):
        self.free_list = -1
        self.held = NULL
        self.table = NULL
        self.ready = NULL
        self.grow()

    def __dealloc__(self):
        cdef int32_t i
        if self.held is not NULL:
            for i in range(self.n_slots):
                if self.held[i].state != FREE:
                    Py_XDECREF(self.held[i].event)
                    Py_XDECREF(self.held[i].renewed)
        free(self.held)
        free(self.table)
        free(self.ready)

    cdef int grow(self) except -1:
        """Double the slots; the table has four places for each, so a search is short."""
        cdef int32_t n = FIRST_SLOTS if self.n_slots == 0 else self.n_slots * 2
        cdef uint64_t mask = <uint64_t>n * 4 - 1
        cdef Held* held
        cdef int32_t* table
        cdef int32_t* ready
        cdef uint64_t i, at
        cdef int32_t slot
        table = <int32_t*>calloc(mask + 1, sizeof(int32_t))
        ready = <int32_t*>malloc(n * sizeof(int32_t))
        held = <Held*>realloc(self.held, n * sizeof(Held)) if table is not NULL and ready is not NULL else NULL
        if held is NULL:
            free(table)
            free(ready)
            raise MemoryError
        self.held = held
        for i in range(self.ready_tail - self.ready_head):
            ready[i] = self.ready[(self.ready_head + i) & <uint64_t>(self.n_slots - 1)]
        self.ready_tail -= self.ready_head
        self.ready_head = 0
        free(self.ready)
        self.ready = ready
        for slot in range(n - 1, self.n_slots - 1, -1):
            held[slot].state = FREE
            held[slot].next_free = self.free_list
            self.free_list = slot
        for slot in range(self.n_slots):
            if held[slot].state != FREE:
                at = (held[slot].seq * 0x9E3779B97F4A7C15ULL >> 20) & mask
                while table[at]:
                    at = (at + 1) & mask
                table[at] = slot + 1
        free(self.table)
        self.table = table
        self.table_mask = mask
        self.n_slots = n
        return 0

    cdef int32_t lookup(self, uint64_t seq) noexcept:
        """The slot that holds this sequence, or -1."""
        cdef uint64_t at = (seq * 0x9E3779B97F4A7C15ULL >> 20) & self.table_mask
        cdef int32_t slot
        while self.table[at]:
            slot = self.table[at] - 1
            if self.held[slot].seq == seq:
                return slot
            at = (at + 1) & self.table_mask
        return -1

    cdef int32_t add(self, Event event, uint64_t seq, uint64_t now_ns) except -2:
        """Hold a delivery that is not held yet, waiting; returns its slot."""
        cdef int32_t slot
        cdef uint64_t at
        cdef Held* entry
        if self.free_list < 0:
            self.grow()
        slot = self.free_list
        entry = &self.held[slot]
        self.free_list = entry.next_free
        entry.seq = seq
        entry.lease_ns = now_ns
        Py_INCREF(event)
        entry.event = <PyObject*>event
        entry.renewed = NULL
        entry.n_left = 1
        entry.state = WAITING
        at = (seq * 0x9E3779B97F4A7C15ULL >> 20) & self.table_mask
        while self.table[at]:
            at = (at + 1) & self.table_mask
        self.table[at] = slot + 1
        self.ready[self.ready_tail & <uint64_t>(self.n_slots - 1)] = slot
        self.ready_tail += 1
        self.n_held += 1
        self.n_waiting += 1
        self.n_bytes += <uint64_t>PyBytes_GET_SIZE(event.raw) if event.raw is not None else 0
        return slot

    cdef int32_t renew(self, uint64_t seq, bytes reply, uint64_t now_ns) except -2:
        """Note a redelivery of what is held; returns its slot, or -1 when it is not held."""
        cdef int32_t slot = self.lookup(seq)
        cdef Held* entry
        if slot < 0:
            return -1
        entry = &self.held[slot]
        Py_XDECREF(entry.renewed)
        Py_INCREF(reply)
        entry.renewed = <PyObject*>reply
        entry.lease_ns = now_ns
        return slot

    cdef int32_t take_ready(self) noexcept:
        """Hand out the delivery that has waited longest; returns its slot, or -1."""
        cdef int32_t slot
        if self.ready_head == self.ready_tail:
            return -1
        slot = self.ready[self.ready_head & <uint64_t>(self.n_slots - 1)]
        self.ready_head += 1
        self.held[slot].state = RUNNING
        self.n_waiting -= 1
        self.n_running += 1
        return slot

    cdef bytes reply_of(self, int32_t slot):
        """The acknowledgement subject of the latest delivery."""
        cdef Held* entry = &self.held[slot]
        cdef Event event
        if entry.renewed is not NULL:
            return <bytes>entry.renewed
        event = <Event>entry.event
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(event.raw) + event.reply.start, event.reply.n)

    cdef int finish(self, int32_t slot) except -1:
        """Forget a running delivery."""
        cdef Held* entry = &self.held[slot]
        cdef Event event = <Event>entry.event
        cdef uint64_t at, ideal, hole
        at = (entry.seq * 0x9E3779B97F4A7C15ULL >> 20) & self.table_mask
        while self.table[at] != slot + 1:
            at = (at + 1) & self.table_mask
        # Close the gap: move back what could not be found across an empty place.
        hole = at
        self.table[hole] = 0
        while True:
            at = (at + 1) & self.table_mask
            if self.table[at] == 0:
                break
            ideal = (self.held[self.table[at] - 1].seq * 0x9E3779B97F4A7C15ULL >> 20) & self.table_mask
            if ((at - ideal) & self.table_mask) >= ((at - hole) & self.table_mask):
                self.table[hole] = self.table[at]
                self.table[at] = 0
                hole = at
        self.n_held -= 1
        self.n_running -= 1
        self.n_bytes -= <uint64_t>PyBytes_GET_SIZE(event.raw) if event.raw is not None else 0
        entry.state = FREE
        entry.next_free = self.free_list
        self.free_list = slot
        Py_XDECREF(entry.renewed)
        Py_XDECREF(entry.event)
        entry.event = NULL
        entry.renewed = NULL
        return 0
