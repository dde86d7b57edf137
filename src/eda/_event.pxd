from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from eda._data cimport Data, Span, give_to_collector, is_left_to_refcount


cdef extern from *:
    """
    static inline void eda_set_vectorcall(PyTypeObject* type, void* call) {
        type->tp_vectorcall = (vectorcallfunc)call;
    }
    """
    void set_vectorcall "eda_set_vectorcall"(PyTypeObject* type, void* call) noexcept
    Py_ssize_t PyVectorcall_NARGS(size_t n_args) noexcept
    bint PyObject_GC_IsTracked(PyObject* it) noexcept


# TextField: an index for each text field of the envelope, in the order of the field numbers.
cdef enum:
    F_ID = 0
    F_TYPE = 1
    F_SCHEMA = 2
    F_CAUSE = 3
    F_CLIENT = 4
    F_AGGREGATE = 5
    N_TEXT = 6
    # The other fields with a span.
    S_PAYLOAD = 6
    S_ENCODING = 7
    N_SPANS = 8


# Indices of the arguments of Event; the TextFields are the first ones.
cdef enum:
    G_STREAM = N_TEXT
    N_GIVEN_TEXT
    G_DATA = N_GIVEN_TEXT
    G_TIME
    G_META
    N_GIVEN


cdef class Event:
    # The text fields, by TextField. Each is an owned str, or NULL if it was not read yet; then the span says where in
    # `raw` the text is. They are plain pointers, because an event has many of them and most are never read.
    cdef PyObject* texts[N_TEXT]
    cdef tuple _meta            # key, value, key, value …; None: no entries, or not read yet (then meta_span is set)
    cdef Data _data             # None: not read yet
    cdef str _stream
    # A received event owns one bytes object with the acknowledgement subject and the envelope; for a message of another
    # program also with its headers and subject. None for an event that the user made. An unpickled event has only the
    # headers and the subject. All events of a pack share one object, with the whole pack, its headers and its subject.
    cdef bytes raw
    # forget_read() zeroes all fields from here onwards. The times come first, near the other fields that a publish
    # reads.
    cdef int64_t time_ns_
    cdef int64_t ack_time_ns_
    cdef Span spans[N_SPANS]
    cdef Span meta_span         # from the first meta field's tag to the end of the last; other fields may be between
    cdef Span envelope          # the envelope; empty for an event that the user made or that was unpickled
    cdef Span reply             # acknowledgement subject
    cdef Span headers_span      # header block of another program's message; empty for an event of eda
    cdef Span subject_span      # the subject, if it does not follow from type and aggregate; else empty
    cdef int64_t version_       # the version in the aggregate; 0: not set
    cdef uint64_t sequence_
    cdef uint32_t attempt_
    cdef uint32_t index_        # its place in its pack, from 0
    cdef bint is_packed         # it came out of a pack
    cdef bint ascii             # all texts in `raw` are ASCII; if False, some may not be

    cdef int fill(self, PyObject** given) except -1
    cdef Data get_data(self)
    cdef tuple get_meta(self)
    cdef bytes kept(self, Span* span)
    cdef int keep(self, bytes raw, Py_ssize_t start, Py_ssize_t n_headers, Py_ssize_t n_subject) except -1
    cdef int take_id(self, str id) except -1
    cdef str get_text(self, int field)
    cdef tuple all_texts(self)
    cpdef payload(self)
    cdef Event copied(self)
    cdef str read_text(self, int field)
    cdef int set_text(self, int field, str text) except -1


# Zero the fields that the codec and the dispatcher set.
cdef inline void forget_read(Event event) noexcept nogil:
    memset(&event.time_ns_, 0, <char*>(&event.ascii + 1) - <char*>&event.time_ns_)


# Set the data of an event. The garbage collector must know the event if its data may refer to it.
cdef inline void use_data(Event event, Data data) noexcept:
    event._data = data
    if not is_left_to_refcount(data):
        give_to_collector(event)


# Return how many bytes of memory a received event keeps. All events of a pack keep the same bytes.
cdef inline uint64_t size_held(Event event) noexcept:
    return <uint64_t>PyBytes_GET_SIZE(event.raw) if event.raw is not None else 0


# Return an event with empty fields, for the codec to fill. Quicker than a call of the type from another module.
cdef Event new_event()
