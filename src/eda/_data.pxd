from cpython.object cimport PyObject
from libc.stdint cimport uint32_t


# A stretch of an event's bytes.
cdef struct Span:
    uint32_t start
    uint32_t n


cdef class Data:
    cdef readonly str type      # encoding name
    cdef object _value          # what the user passed; None for received data
    cdef bytes _encoded         # the encoded bytes, once they were asked for; None before
    cdef bytes _raw             # received data: owner of the bytes that the spans point into; else None
    cdef Span _span             # received data: the payload within _raw
    cdef Span _event_id         # received data: the event's id within _raw, for errors
    cdef str _event_id_text     # unpickled data: the event's id; else None

    cdef bytes encoded(self)


cdef Data NIL

cdef str encoding_name(const unsigned char* text, Py_ssize_t n)

# Tell the cycle collector that the object can't be part of a cycle: it refers to texts and bytes alone. Saves its
# passes over a full window or ring.
cdef void leave_to_refcount(object it) noexcept
cdef bint is_left_to_refcount(object it) noexcept
