from libc.stdint cimport uint64_t

from eda._stamp cimport SameMeta, Stamp
from eda.middleware._observed cimport AttemptEnd, Observer
from eda.publishing._sending cimport Marker


cdef class Current:
    cdef object get_current
    cdef object attach_by
    cdef object detach_by
    cdef object var                 # the context variable; None: the functions must be used

    cpdef object get(self)
    cpdef object attach(self, context)
    cpdef object detach(self, token)


cdef class Marking(Marker):
    cdef Current current
    cdef object begin
    cdef object publisher           # None: none yet
    cdef object context             # in which its events are sent
    cdef Stamp stamp
    cdef uint64_t until_ns          # when `begin` must be called again
    cdef Py_ssize_t n               # events stamped since `use`


cdef class Within(AttemptEnd):
    cdef Current current
    cdef object context
    cdef object token


cdef class Entering(Observer):
    cdef Current current
    cdef object begin
    cdef SameMeta same              # the metadata of the events that have `context`
    cdef object context

    cpdef object enter(self, context)
