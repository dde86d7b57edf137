from cpython.object cimport PyObject


cdef class Observed:
    cdef object observe             # the hook
    cdef object handler             # the user's handler, or a hook around it
    cdef public object subscription


cdef class Attempt:
    cdef object inner               # the handler's coroutine, or the iterator of its awaitable
    cdef object end                 # the hook's function for the end; None when it was called

    cdef PyObject* yielded          # owned, between `step` and `take_yielded`; else NULL

    cdef bint step(self, object value) except -1
    cdef object take_yielded(self)
    cdef int finish(self, object error) except -1
