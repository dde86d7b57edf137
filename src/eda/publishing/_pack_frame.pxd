from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint64_t

from eda._bytes cimport Writer
from eda._codec cimport Text
from eda.publishing._stream_sender cimport Destination, Reply


# The events of a message that is not settled, and the ids under which they are published.
cdef class SentPack:
    cdef PyObject** items               # event, id, event, id …; owned
    cdef uint64_t n                     # events
    cdef uint64_t capacity              # events

    cdef int grow(self) except -1
    cdef list ids(self)


cdef inline void add_event(SentPack pack, object event, str id) noexcept:
    """Add an event; the caller has called grow() if `n` was `capacity`."""
    Py_INCREF(event)
    pack.items[2 * pack.n] = <PyObject*>event
    Py_INCREF(id)
    pack.items[2 * pack.n + 1] = <PyObject*>id
    pack.n += 1


# Return the header block of a message with these events; empty if it has none.
cdef bytes headers_of(SentPack pack, bint is_pack, bint dedup)

# Return a compressed pack, or None if that would have `most` bytes or more.
cdef bytes compressed_pack(object compress, const unsigned char* pack, Py_ssize_t n, Py_ssize_t most)

# Write the frame of a message: HPUB (or, without headers, PUB) and the payload. The writer grows. A type or aggregate
# whose `data` is NULL stands for several, and is written as %pack.
cdef int put_message(Writer* w, Destination destination, Text* type, Text* aggregate, Reply* reply, bytes headers,
                     const unsigned char* payload, Py_ssize_t n_payload) except -1
