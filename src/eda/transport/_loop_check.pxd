cdef class LoopCheck:
    cdef object loop
    cdef object running_loop
    cdef object seen                # the object that stood for the running loop when it was `loop`; None: not yet
    cdef long n_forks               # of the process that has seen it

    cpdef bint passes(self) except -1
