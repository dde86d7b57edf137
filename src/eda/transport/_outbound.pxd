from eda._bytes cimport Writer


cdef enum:
    CHUNK_SIZE = 64 * 1024          # this many outgoing bytes are written before the end of the turn


# A run of outgoing publishes, kept while one of them may have to be sent again.
cdef class Chunk:
    cdef const char* data           # NULL: the bytes are not written yet, and are in Outbound.publishes
    cdef Py_ssize_t n
    cdef Py_ssize_t cap             # capacity of the buffer `data`; 0: `owner` owns the bytes
    cdef bytes owner

    cdef int keep(self, bytes data) except -1
    cdef void take(self, Writer* w) noexcept


# The outgoing bytes of one connection. After they are written, publishes are kept in chunks, so that a window can
# send them again without a copy. Commands (acknowledgements) and requests (pulls) are not kept after they are written.
cdef class Outbound:
    cdef Writer publishes
    cdef Writer commands
    cdef Writer requests
    cdef Chunk chunk                # the chunk that gets the bytes of `publishes`; None: there are no such bytes
    cdef object schedule            # callable: calls flush() before the end of this turn of the loop
    cdef object write               # callable(bytes or memoryview), or None while there is no connection
    cdef bint scheduled
    cdef public bint at_once        # write each added frame at once; the caller knows that no other frame follows
    cdef public bint closing        # the connection is being closed: nothing new may be sent
    cdef readonly bint paused       # the transport's buffer is full: callers should wait
    cdef readonly unsigned long long n_writes
    cdef readonly unsigned long long n_flushes      # also those that had nothing to write

    cdef Chunk current_chunk(self)
    cdef int write_or_schedule(self) except -1
    cpdef int flush(self) except -1


cdef inline int write_soon_at(Outbound out, Py_ssize_t size) except -1:
    """Write the frames that were just added: now if `size` bytes wait, or by the end of this turn of the loop.

    `size` is at least 64 KiB. If no write is scheduled yet, 64 KiB are written now in any case.
    """
    # The usual case under load comes first: a write is scheduled already, and the buffer is not full.
    if out.scheduled and not out.at_once and out.publishes.pos + out.commands.pos < size:
        return 0
    return out.write_or_schedule()


cdef inline int write_soon(Outbound out) except -1:
    """Write the frames that were just added, now or before the end of this turn of the loop."""
    return write_soon_at(out, CHUNK_SIZE)


cdef int put_publish(Outbound out, const unsigned char* subject, Py_ssize_t n_subject, const char* payload,
                     Py_ssize_t n_payload) except -1
