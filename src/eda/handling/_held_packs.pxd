from cpython.object cimport PyObject
from libc.stdint cimport int32_t, uint32_t, uint64_t


# A received pack that is not answered yet.
cdef struct HeldPack:
    uint64_t seq                # stream sequence of its message
    uint64_t since_ns           # monotonic: when it was received first
    uint64_t lease_ns           # monotonic: when its lease began last
    PyObject* reply             # owned bytes: acknowledgement subject of its latest delivery; NULL: the entry is free
    uint64_t size               # bytes that its events share
    uint32_t n_delivered        # how often the server had delivered it when it was received first
    int32_t n_events            # that the ledger got
    # Its events that are not done. 1 more while the intake adds events, or while it is not known whether other members
    # want the pack.
    int32_t n_left
    bint is_given_back          # it is given back to the server, once no handler has an event of it
    bint has_records            # events of it are, or were, on record
    bint is_asked_for           # the source finds out whether other members want it
    int32_t next                # the next free entry; -1: there is none


cdef class HeldPacks:
    cdef HeldPack* entries      # n_entries of them. take() may move them, so no pointer is kept beyond it
    cdef int32_t n_entries
    cdef int32_t free_list      # the first free entry; -1: none is free
    cdef readonly Py_ssize_t n_held

    cdef int grow(self) except -1
    cdef int32_t take(self, uint64_t seq, bytes reply, uint32_t n_delivered, uint64_t size, uint64_t now_ns) except -2
    cdef int renew(self, int32_t pack, bytes reply, uint64_t now_ns) except -1
    cdef int free_entry(self, int32_t pack) except -1
    cdef uint64_t oldest_ns(self) noexcept
