from libc.stdint cimport int64_t, uint64_t

from eda._acks cimport PublishWindow
from eda._bytes cimport Writer
from eda._codec cimport Plan, Text
from eda._event cimport Event
from eda._frame cimport Frame, Outbound, Sink


# Where events go: what does not change from one event of a stream to the next.
cdef class Target:
    cdef readonly str stream
    cdef bytes stream_utf8
    cdef readonly Py_ssize_t max_payload    # bytes of header and envelope that the server takes in one message


cdef class WindowSender(Sink):
    cdef readonly PublishWindow window
    cdef readonly Outbound out
    cdef readonly bytes inbox               # subject prefix of acknowledgements, with its last dot
    cdef str client                         # for events without one
    cdef object on_answer                   # callable(seq, status, payload): whatever is not a plain acknowledgement
    cdef readonly uint64_t n_acknowledged

    cdef int settle(self, uint64_t seq, uint64_t stream_seq) except -1
    cdef uint64_t put(self, Target target, Event event, str id, object waiter, uint64_t resend_ns,
                      uint64_t give_up_ns) except 0


cdef str id_of(Event event)
cdef int put_frame(Writer* w, Target target, Event event, Plan* plan, bytes inbox, uint64_t seq) except -1
