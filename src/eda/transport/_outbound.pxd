from eda._bytes cimport Writer


cdef enum:
    CHUNK_SIZE = 64 * 1024          # outgoing bytes that are written without waiting for the end of the turn


# A stretch of outgoing publishes, kept while one of them may have to be sent again.
cdef class Chunk:
    cdef const char* data           # NULL: not taken for writing yet
    cdef Py_ssize_t n
    cdef Py_ssize_t cap             # of the buffer that `data` is; 0: it belongs to `owner`
    cdef bytes owner

    cdef int keep(self, bytes data) except -1


# Outgoing bytes of one connection. Publishes are kept in chunks, so that a window can send them again without a copy
# of its own; commands (acknowledgements) and requests (pulls) are not.
cdef class Outbound:
    cdef Writer publishes
    cdef Writer commands
    cdef Writer requests
    cdef Chunk chunk                # of `publishes`; None while that is empty
    cdef object schedule            # callable: flush() soon, at the latest at the end of this turn of the loop
    cdef object write               # callable(bytes or memoryview), or None while there is no connection
    cdef bint scheduled
    cdef public bint at_once        # write what comes now: there is nobody to share the write with
    cdef readonly bint paused       # the transport's buffer is full: callers should wait
    cdef readonly unsigned long long n_writes

    cdef Chunk current_chunk(self)
    cdef int write_or_schedule(self) except -1
    cpdef int flush(self) except -1


cdef inline int write_soon(Outbound out) except -1:
    """Something was added: see that it gets written."""
    # What happens for most events of many comes first: there will be a write, and it is not due.
    if out.scheduled and not out.at_once and out.publishes.pos + out.commands.pos < CHUNK_SIZE:
        return 0
    return out.write_or_schedule()


cdef int put_publish(Outbound out, const unsigned char* subject, Py_ssize_t n_subject, const char* payload,
                     Py_ssize_t n_payload) except -1
