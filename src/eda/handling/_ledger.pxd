from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from eda._event cimport Event
from eda.handling._held_packs cimport HeldPacks


cdef enum HeldState:
    FREE = 0
    WAITING = 1                 # for a handler, or behind an event of the same key
    RUNNING = 2                 # a handler has it
    RETRYING = 3                # is ready again at `due_ns`; events that must not overtake it wait
    DONE = 4                    # ordered: done, while an earlier event is not
    # Ordered: its handler still runs, though the ledger was dropped. The outcome does not matter, but until then other
    # events of its key wait.
    ORPHAN = 5


# One event that is held.
cdef struct Held:
    uint64_t seq                # stream sequence of its message
    int64_t stored_ns           # ordered: when the stream stored it, nanoseconds since 1970; 0: not known
    uint64_t lease_ns           # monotonic: when it was received; shared: when its lease began last
    uint64_t due_ns             # monotonic, RETRYING: when it is ready again
    PyObject* event             # owned; NULL when DONE
    PyObject* renewed           # owned bytes, shared: the acknowledgement subject of a later delivery, or NULL
    PyObject* lane              # owned Lane, ordered: of its key; NULL: it waits for no other event
    bint is_last                # ordered: the events of its message end with it
    int32_t next                # the next free slot, or the next slot in the lane; -1: there is none
    uint32_t state              # a HeldState
    uint32_t index              # its place in its pack, from 0; 0: its message has no other event
    int32_t pack                # shared: the entry of its pack in HeldPacks; -1: its message is no pack
    int32_t bytes_of            # ordered: the entry in HeldPacks that counts the bytes of its pack; -1: it has its own
    bint is_judged              # the ledger has a verdict on it: no handler may have it, or only alone
    bint is_dead                # the verdict was reported; its dead letter is still to be stored


# Return whether an event comes before another one in the stream.
cdef inline bint is_before(Held* first, Held* second) noexcept:
    return first.seq < second.seq or (first.seq == second.seq and first.index < second.index)


# The base of both kinds of ledger: the slots, the queue of the ready ones, and those that wait for a retry.
cdef class Ledger:
    cdef Held* held             # n_slots of them. add() may move them, so no pointer is kept beyond it
    cdef int32_t n_slots
    cdef int32_t free_list      # the first free slot; -1: none is free
    cdef int32_t* ready         # ring of the slots whose events may be handled, in this order
    cdef uint64_t ready_head
    cdef uint64_t ready_tail
    # By slot. Not in `Held`: the garbage collector must see them, because a traceback may refer to this ledger.
    cdef dict verdicts
    cdef uint64_t next_due_ns   # the earliest `due_ns`; 0: no event waits for a retry
    cdef readonly Py_ssize_t n_held
    cdef readonly Py_ssize_t n_waiting
    cdef readonly Py_ssize_t n_running
    cdef readonly Py_ssize_t n_retrying
    cdef readonly uint64_t n_bytes      # that the held events keep. Those of a pack count until all its events are done
    cdef readonly HeldPacks packs

    cdef int grow(self) except -1
    cdef int make_room(self, int32_t n) except -1
    cdef int32_t take_slot(self, Event event, uint64_t seq, uint64_t now_ns) except -2
    cdef int32_t hold(self, Event event, uint64_t seq, uint64_t now_ns) except -2
    cdef int free_slot(self, int32_t slot) except -1
    cdef int drop_event(self, int32_t slot) except -1
    cdef int release_bytes(self, int32_t pack) except -1

    # Free a slot that holds no event and no verdict.
    cdef inline void free_empty_slot(self, int32_t slot) noexcept:
        self.n_held -= 1
        self.held[slot].state = FREE
        self.held[slot].next = self.free_list
        self.free_list = slot

    cdef void put_ready(self, int32_t slot) noexcept
    cdef void put_first(self, int32_t slot) noexcept
    cpdef Py_ssize_t n_ready(self)
    cpdef int32_t take_ready(self)
    cpdef int put_back(self, int32_t slot) except -1
    cpdef int retry(self, int32_t slot, uint64_t due_ns, Event event, object verdict) except -1
    cdef int replace(self, int32_t slot, Event event) except -1
    cpdef int take_due(self, uint64_t now_ns) except -1
    cpdef int finish(self, int32_t slot) except -1
    cdef int set_verdict(self, int32_t slot, object verdict) except -1
    cdef object verdict_of(self, int32_t slot)


# Finds a delivery by its stream sequence. Sequences are sparse and in no order: events may be redelivered late.
cdef class SharedLedger(Ledger):
    # Open addressing: from sequence to slot + 1, or for a pack to -1 - its entry; 0: empty.
    cdef int32_t* table
    cdef uint64_t table_mask

    cdef uint64_t seq_of(self, int32_t code) noexcept
    cdef int enter(self, uint64_t seq, int32_t code) noexcept
    cdef int leave(self, uint64_t seq, int32_t code) noexcept
    cdef int32_t find(self, uint64_t seq) noexcept
    cpdef int32_t lookup(self, uint64_t seq)
    cpdef int32_t lookup_pack(self, uint64_t seq)
    cpdef int32_t add(self, Event event, uint64_t seq, uint64_t now_ns) except -2
    cpdef int32_t add_pack(self, uint64_t seq, bytes reply, uint32_t n_delivered, uint64_t size,
                           uint64_t now_ns) except -2
    cpdef int32_t add_of_pack(self, int32_t pack, Event event, uint64_t now_ns) except -2
    cpdef bint let_go(self, int32_t pack) except -1
    cpdef int forget_pack(self, int32_t pack) except -1
    cpdef int mark_given_back(self, int32_t pack) except -1
    cpdef int drop_waiting(self) except -1
    cpdef bint renew(self, uint64_t seq, bytes reply, uint64_t now_ns) except -1
    cdef bytes reply_of(self, int32_t slot)
