from eda.publishing._stream_sender cimport Destination, StreamSender


cdef class LastSender:
    cdef MessageSender sender               # None: nothing was sent yet


cdef class MessageSender(StreamSender):
    cdef LastSender last

    cdef bint shares_no_write(self) except -1
    cpdef int send_message(self, Destination destination, bytes subject, bytes headers, bytes envelope, object waiter,
                           double resend_s, double give_up_s) except -1
    cpdef int publish_message(self, Destination destination, bytes subject, bytes headers, bytes envelope,
                              object waiter, double resend_s, double give_up_s) except -1
