from libc.stdint cimport uint64_t


cdef class Message:
    cdef readonly str stream
    cdef readonly str aggregate
    cdef readonly str type
    cdef readonly str id
    cdef readonly bytes subject
    cdef readonly bytes headers
    cdef readonly bytes envelope
    cdef readonly uint64_t sequence         # that the server must find; 0: the aggregate must be new

    cdef int write(self, str stream, str aggregate, uint64_t sequence, str earlier) except -1
