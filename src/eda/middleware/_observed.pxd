cdef class Observer:
    cdef object enter_attempt(self, object given, object subscription, bint is_outermost)


cdef class AttemptEnd:
    cdef int end_attempt(self, object error) except -1


cdef class Observed:
    cdef object observe             # the hook
    cdef Observer observer          # the hook, if it is compiled
    cdef object handler             # the user's handler, or a hook around it
    cdef public object subscription
    cdef public bint is_outermost   # whether the worker calls it, and no other hook is around it


cdef class Attempt:
    cdef object inner               # the handler's coroutine, or the iterator of its awaitable
    cdef object end                 # the hook's function for the end; None when it was called

    cdef int finish(self, object error) except -1
