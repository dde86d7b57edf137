from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from eda._event cimport Event


cdef enum HeldState:
    FREE = 0
    WAITING = 1                 # for a handler, or behind an event of the same key
    RUNNING = 2                 # a handler has it
    RETRYING = 3                # comes again at `due_ns`, and keeps what must not overtake it waiting
    DONE = 4                    # ordered: handled, but one before it is not
    # Ordered: still running, though the ledger was dropped. Its outcome does not matter; its key is busy until then.
    ORPHAN = 5


# One delivery that is held. It has one event today; a delivery of several is done when `n_left` is 0.
cdef struct Held:
    uint64_t seq                # stream sequence
    int64_t stored_ns           # ordered: when the stream stored it, nanoseconds since 1970; 0: not known
    uint64_t lease_ns           # monotonic: when it was received; shared: when its lease last began
    uint64_t due_ns             # monotonic, RETRYING: when it comes again
    PyObject* event             # owned; NULL when DONE
    PyObject* renewed           # owned bytes, shared: the acknowledgement subject of a later delivery, or NULL
    PyObject* lane              # owned Lane, ordered: of its key, or NULL: it need not wait for others
    int32_t next                # slot: the next free one, or the next one in the lane; -1: none
    uint32_t n_left
    uint32_t state              # a HeldState
    bint is_judged              # not to be handled: there is a verdict on it
    bint is_dead                # the verdict is final, and was told; what is left is to store its dead letter


# What both kinds share: slots, the queue of those ready to be handed out, retries.
cdef class Ledger:
    cdef Held* held             # n_slots of them; growing moves them, so no pointer is kept over add()
    cdef int32_t n_slots
    cdef int32_t free_list      # -1: none
    cdef int32_t* ready         # ring of the slots that may be handed out, the oldest first
    cdef uint64_t ready_head
    cdef uint64_t ready_tail
    # By slot; here, where the garbage collector sees them: an error's traceback may lead back to us.
    cdef dict verdicts
    cdef uint64_t next_due_ns   # of the slots that retry, the earliest time; 0: none
    cdef readonly Py_ssize_t n_held
    cdef readonly Py_ssize_t n_waiting
    cdef readonly Py_ssize_t n_running
    cdef readonly Py_ssize_t n_retrying
    cdef readonly uint64_t n_bytes      # of the held events

    cdef int grow(self) except -1
    cdef int make_room(self, int32_t n) except -1
    cdef int32_t hold(self, Event event, uint64_t seq, uint64_t now_ns) except -2
    cdef int let_go(self, int32_t slot) except -1
    cdef int drop_event(self, int32_t slot) except -1
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


# Keyed by stream sequence, which are sparse here; lower ones legitimately come back.
cdef class SharedLedger(Ledger):
    cdef int32_t* table         # open addressing, seq > slot + 1; 0 is empty
    cdef uint64_t table_mask

    cpdef int32_t lookup(self, uint64_t seq)
    cpdef int32_t add(self, Event event, uint64_t seq, uint64_t now_ns) except -2
    cpdef int32_t renew(self, uint64_t seq, bytes reply, uint64_t now_ns) except -2
    cdef bytes reply_of(self, int32_t slot)
