from libc.stdint cimport int64_t, uint64_t

from eda.transport._frame cimport Frame, Sink


# The headers that the server adds to a stored message in the answer to a direct get.
cdef struct Answer:
    const unsigned char* stream         # the stream that has answered: a mirror may answer for its origin
    Py_ssize_t n_stream
    const unsigned char* subject
    Py_ssize_t n_subject
    uint64_t sequence
    int64_t time_ns                     # when the stream stored the message

# Read these headers. Return False if the answer is not a stored message, or if a header is missing or malformed.
cdef bint read_answer(Frame* frame, Answer* answer) noexcept nogil


# A read that is under way: one request, or several that were written together.
cdef class PendingRead:
    cdef DirectReads reads              # None: its answers are not expected
    cdef readonly uint64_t number       # part of the subject to which the answers come
    cdef readonly Py_ssize_t n_answers  # in this attempt
    cdef readonly bint is_over
    cdef readonly object error          # why the attempt is over without an answer
    cdef public object waiter           # a Wait; None: nobody waits
    cdef public bint counts_all         # the timer looks at the answers to all reads
    cdef public Py_ssize_t n_seen       # the answers at the last look
    cdef public double look_at          # when the timer of the connection looks whether answers come
    cdef public double quiet_s
    cdef public double deadline

    cdef int take(self, Frame* frame, uint64_t index) except -1
    cdef int end(self, object error) except -1


cdef class DirectReads(Sink):
    cdef dict by_number
    cdef readonly bytes inbox           # ends with a dot
    cdef readonly bytes subject         # of a direct get
    cdef readonly object out            # the connection's Outbound
    cdef uint64_t last_number
    cdef readonly Py_ssize_t n_answers  # to all reads

    cdef int write(self, bytes frames) except -1
