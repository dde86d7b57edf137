"""The packs of which events are held: what is needed once for each message. Shared: those that are not answered."""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

__all__ = ["HeldPacks"]

cdef enum:
    FIRST_ENTRIES = 32


@cython.final
cdef class HeldPacks:
    """Entries of received packs. The ledger has a slot for each event, and finds the entry by the message's sequence.

    It grows as needed. The credit that a subscription gives the server bounds it.
    """

    def __cinit__(self):
        self.free_list = -1
        self.entries = NULL

    def __dealloc__(self):
        cdef int32_t i
        for i in range(self.n_entries):
            Py_XDECREF(self.entries[i].reply)
        free(self.entries)

    cdef int grow(self) except -1:
        cdef int32_t n = self.n_entries * 2 if self.n_entries else FIRST_ENTRIES
        cdef HeldPack* entries = <HeldPack*>realloc(self.entries, n * sizeof(HeldPack))
        cdef int32_t pack
        if entries is NULL:
            raise MemoryError
        self.entries = entries
        for pack in range(n - 1, self.n_entries - 1, -1):
            entries[pack].reply = NULL
            entries[pack].next = self.free_list
            self.free_list = pack
        self.n_entries = n
        return 0

    cdef int32_t take(self, uint64_t seq, bytes reply, uint32_t n_delivered, uint64_t size, uint64_t now_ns) except -2:
        """Take an entry for a pack that has no events yet; returns its index."""
        cdef HeldPack* entry
        cdef int32_t pack
        if self.free_list < 0:
            self.grow()
        pack = self.free_list
        entry = &self.entries[pack]
        self.free_list = entry.next
        entry.seq = seq
        entry.since_ns = entry.lease_ns = now_ns
        Py_INCREF(reply)
        entry.reply = <PyObject*>reply
        entry.size = size
        entry.n_delivered = n_delivered
        entry.n_events = 0
        entry.n_left = 1
        entry.is_given_back = entry.is_asked_for = entry.has_records = False
        self.n_held += 1
        return pack

    cdef int renew(self, int32_t pack, bytes reply, uint64_t now_ns) except -1:
        """Note that a pack was redelivered."""
        cdef PyObject* old = self.entries[pack].reply
        Py_INCREF(reply)
        self.entries[pack].reply = <PyObject*>reply
        self.entries[pack].lease_ns = now_ns
        Py_XDECREF(old)
        return 0

    cdef int free_entry(self, int32_t pack) except -1:
        """Free the entry of a pack that is answered."""
        cdef PyObject* old = self.entries[pack].reply
        self.entries[pack].reply = NULL
        self.entries[pack].next = self.free_list
        self.free_list = pack
        self.n_held -= 1
        Py_XDECREF(old)
        return 0

    cdef uint64_t oldest_ns(self) noexcept:
        """Return when the pack that is held longest was received; 0 if none is held."""
        cdef int32_t pack
        cdef uint64_t oldest = 0
        for pack in range(self.n_entries):
            if self.entries[pack].reply is not NULL and (oldest == 0 or self.entries[pack].since_ns < oldest):
                oldest = self.entries[pack].since_ns
        return oldest
