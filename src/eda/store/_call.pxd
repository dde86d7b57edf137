from eda.store._single cimport Single, Singles
from eda.transport._waits cimport Wait


cdef enum State:
    NEW                             # nobody has awaited it yet
    RUNNING                         # its code runs now
    WAITING                         # the event was sent, and its outcome is awaited
    LEFT                            # `rest` does what is left
    ENDED


cdef class StoreCalls:
    cdef public Singles _singles


cdef class Call:
    cdef StoreCalls store
    cdef object aggregate
    cdef object given               # the command, or the events
    cdef object expected            # of `append`
    cdef object command_id
    cdef object handled
    cdef bint is_append
    cdef State state
    cdef Singles singles
    cdef Single single              # the event that was sent
    cdef Wait wait                  # for its outcome
    cdef object rest                # a coroutine: the unusual part of the call

    cdef int begin(self) except -1
    cdef int leave(self) except -1
    cdef object go_on(self)
    cdef int give_up(self) except -1
