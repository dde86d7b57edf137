from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint64_t

from eda._bytes cimport Writer
from eda._codec cimport Text
from eda._data cimport NIL, Data
from eda._event cimport F_CLIENT, Event
from eda.publishing._stream_sender cimport Destination, Reply


# The events of a message that is not settled, and the ids under which they are published. An event that can be read
# back from its frame is not kept: most events then are gone before the next one is made, which gets the same memory.
cdef class SentPack:
    cdef PyObject** kept                # event, id, event, id …; owned; NULL for an event that is not kept
    cdef uint64_t n                     # events
    cdef uint64_t capacity              # events for which `kept` has room; 0: no event is kept
    cdef str new_id                     # the id of its first event that had none of its own; None: each had one

    cdef int make_room(self) except -1
    cdef list ids(self)


cdef inline void keep_event(SentPack pack, Event event, str id) noexcept:
    """Keep the event that is added next. The caller has called make_room()."""
    Py_INCREF(event)
    pack.kept[2 * pack.n] = <PyObject*>event
    Py_INCREF(id)
    pack.kept[2 * pack.n + 1] = <PyObject*>id


cdef inline PyObject* kept_event(SentPack pack, uint64_t i) noexcept:
    """Return an event of the pack, borrowed; NULL if it is not kept."""
    return pack.kept[2 * i] if i < pack.capacity else NULL


cdef inline PyObject* kept_id(SentPack pack, uint64_t i) noexcept:
    """Return the id under which an event is published, borrowed; NULL if the event is not kept."""
    return pack.kept[2 * i + 1] if i < pack.capacity else NULL


cdef inline bint can_be_read_back(Event event) noexcept:
    """Return whether the envelope of an event that has no id tells all that the event has, and nothing more."""
    cdef Data data = event._data
    if event.raw is not None or event._stream is not None or event.time_ns_ or event.sequence_ or event.version_:
        return False
    if event.ack_time_ns_ or event.attempt_ or event.is_packed or event.texts[F_CLIENT] is not NULL:
        return False
    return data is NIL or (type(data._value) is bytes and data.type is BYTES) or (
        type(data._value) is str and data.type is STRING
    )


# The names of these encodings. A Data of another name that is equal to one of them is another object.
cdef str BYTES
cdef str STRING

# Return the events of a message: those that are kept, and the others read back from its payload.
cdef list events_of(SentPack pack, const unsigned char* payload, Py_ssize_t n)

# Return the header block of a message with these events; empty if it has none.
cdef bytes headers_of(SentPack pack, bint is_pack, bint dedup)

# Return a compressed pack, or None if that would have `most` bytes or more.
cdef bytes compressed_pack(object compress, const unsigned char* pack, Py_ssize_t n, Py_ssize_t most)

# Write the frame of a message: HPUB (or, without headers, PUB) and the payload. The writer grows. A type or aggregate
# whose `data` is NULL stands for several, and is written as %pack.
cdef int put_message(Writer* w, Destination destination, Text* type, Text* aggregate, Reply* reply, bytes headers,
                     const unsigned char* payload, Py_ssize_t n_payload) except -1
