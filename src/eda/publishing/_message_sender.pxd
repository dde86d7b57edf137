from eda.publishing._stream_sender cimport Destination, StreamSender
from eda.transport._waits cimport Waits


cdef class LastSender:
    cdef MessageSender sender               # None: nothing was sent yet


cdef class MessageSender(StreamSender):
    cdef LastSender last
    cdef Waits waits
    cdef object arm
    cdef double resend_s
    cdef public bint is_closed              # the connection was closed, perhaps by the server
    cdef public bint timer_runs             # the host checks the window, at the latest when the next try is due

    cdef bint takes_more(self) noexcept
    cdef bint shares_no_write(self) except -1
    cpdef object send_message(self, Destination destination, bytes subject, bytes headers, bytes envelope,
                              double give_up_s)
    cdef int after_send(self, double give_up_s) except -1
    cpdef int publish_message(self, Destination destination, bytes subject, bytes headers, bytes envelope,
                              object waiter, double resend_s, double give_up_s) except -1
