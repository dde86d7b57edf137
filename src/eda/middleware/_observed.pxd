cdef class Observed:
    cdef object observe             # the hook
    cdef object handler             # the user's handler, or a hook around it
    cdef public object subscription


cdef class Attempt:
    cdef object inner               # the handler's coroutine, or the iterator of its awaitable
    cdef object end                 # the hook's function for the end; None when it was called

    cdef int finish(self, object error) except -1
