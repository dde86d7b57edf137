from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from eda._data cimport Data, Span


# TextField: the text fields of the envelope, in the order of their numbers.
cdef enum:
    F_ID = 0
    F_TYPE = 1
    F_SCHEMA = 2
    F_CAUSE = 3
    F_CLIENT = 4
    F_AGGREGATE = 5
    N_TEXT = 6
    # What else has a span.
    S_PAYLOAD = 6
    S_ENCODING = 7
    N_SPANS = 8


cdef class Event:
    # Text fields by TextField, owned str or NULL: not read yet, and then the span says where in `raw` the text is.
    # Plain pointers, since an event has many and most are never read.
    cdef PyObject* texts[N_TEXT]
    cdef tuple _meta            # key, value, key, value …; None: no entries, or not read yet (then it has a span)
    cdef Data _data             # None: not read yet
    cdef str _stream
    # Received events own one bytes object: acknowledgement subject, envelope, and of messages that others wrote the
    # headers and the subject. None for events made by the user; unpickled ones have the headers and the subject alone.
    cdef bytes raw
    # From here on: what forget_read() zeroes. The times come first, since they are near what a publish reads.
    cdef int64_t time_ns_
    cdef int64_t ack_time_ns_
    cdef Span spans[N_SPANS]
    cdef Span meta_span         # from the first meta field's tag to the end of the last; others may be between
    cdef Span reply             # acknowledgement subject
    cdef Span headers_span      # header block of a message that others wrote; empty for one of ours
    cdef Span subject_span      # subject of a message that is elsewhere than its type and aggregate say; else empty
    cdef int64_t version_       # in the aggregate; 0: not set
    cdef uint64_t sequence_
    cdef uint32_t attempt_
    cdef bint ascii             # all texts in `raw` are ASCII; else each may be either

    cdef int fill(self, PyObject** given) except -1
    cdef Data get_data(self)
    cdef tuple get_meta(self)
    cdef bytes kept(self, Span* span)
    cdef int keep(self, bytes raw, Py_ssize_t start, Py_ssize_t n_headers, Py_ssize_t n_subject) except -1
    cdef int take_id(self, str id) except -1
    cdef str get_text(self, int field)
    cdef str read_text(self, int field)
    cdef int set_text(self, int field, str text) except -1


# Zero what the codec and the dispatcher note.
cdef inline void forget_read(Event event) noexcept nogil:
    memset(&event.time_ns_, 0, <char*>(&event.ascii + 1) - <char*>&event.time_ns_)


# Where the envelope ends in `raw`.
cdef inline Py_ssize_t end_of_envelope(Event event) noexcept:
    if event.headers_span.n:
        return event.headers_span.start
    if event.subject_span.n:
        return event.subject_span.start
    return PyBytes_GET_SIZE(event.raw)


# A received event with every field empty, for the codec to fill: quicker than a call of the type across modules.
cdef Event new_event()
