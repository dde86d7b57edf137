from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from eda.publishing._window cimport PublishWindow
from eda._bytes cimport Writer, copy_bytes, copy_decimal, has_unprintable, likely, size_of_decimal
from eda._codec cimport Plan, Text
from eda._durations cimport Durations
from eda._event cimport Event
from eda.transport._frame cimport Frame, Sink
from eda.transport._outbound cimport Outbound


# A stream to which events are published. It holds the data that is the same for all its events.
cdef class Destination:
    cdef readonly str stream
    cdef readonly bytes domain              # of the stream; empty if the server has no domain
    cdef bytes head                         # the first bytes of each frame: HPUB <stream>.
    cdef str plain_type                     # the last type that needs no escaping in a subject; None: none yet
    cdef readonly Py_ssize_t limit          # the stream's max_msg_size; 0: none, or the server shall judge
    cdef readonly Py_ssize_t max_payload    # bytes of header and envelope that may be in one message
    cdef object check                       # callable(event) that raises for an event the stream does not take; or None


cdef class StreamSender(Sink):
    cdef readonly PublishWindow window
    cdef readonly Outbound out
    cdef readonly bytes inbox               # subject prefix of acknowledgements, with its last dot
    cdef str client                         # the client's name, for events that have none
    cdef readonly bytes domain              # of the destinations
    cdef object on_answer                   # callable(seq, status, payload), for all but plain acknowledgements
    cdef readonly uint64_t n_acknowledged
    cdef readonly uint64_t n_resent
    cdef readonly object errors             # the ErrorCounts of the publishes that have failed
    cdef readonly Durations durations       # of each acknowledged publish, from when it was first sent

    cdef int settle(self, uint64_t seq, int64_t stream_seq) except -1
    cdef uint64_t put(self, Destination destination, Event event, str id, object waiter, uint64_t resend_ns,
                      uint64_t give_up_ns) except 0
    cpdef str publish(self, Destination destination, Event event, object waiter, double resend_s, double give_up_s)


# The reply subject of a publish: prefix, number, suffix. Borrowed.
cdef struct Reply:
    const char* prefix
    Py_ssize_t n_prefix
    uint64_t number
    const char* suffix
    Py_ssize_t n_suffix


cdef inline Py_ssize_t size_of_reply(Reply* reply) noexcept:
    return reply.n_prefix + size_of_decimal(reply.number) + reply.n_suffix


cdef inline unsigned char* copy_reply(unsigned char* to, Reply* reply) noexcept:
    to = copy_bytes(to, <const unsigned char*>reply.prefix, reply.n_prefix)
    to = copy_decimal(to, reply.number)
    return copy_bytes(to, <const unsigned char*>reply.suffix, reply.n_suffix)


cdef inline void put_reply(Writer* w, Reply* reply) noexcept:
    w.pos = copy_reply(w.buf + w.pos, reply) - w.buf


cdef str id_of(Event event)

# Raise ConfigError unless events may be published under this id.
cdef int check_odd_id(const unsigned char* id, Py_ssize_t n) except -1

cdef enum:
    MAX_ID = 128


cdef inline int check_id(const unsigned char* id, Py_ssize_t n) except -1:
    cdef Py_ssize_t i = 0
    cdef uint64_t word, bad
    if likely(8 <= n <= MAX_ID):
        memcpy(&word, id + n - 8, 8)
        bad = has_unprintable(word)
        while i < n - 8:
            memcpy(&word, id + i, 8)
            bad |= has_unprintable(word)
            i += 8
        if likely(bad == 0):
            return 0
    return check_odd_id(id, n)


# Write the frame that publishes a planned event: HPUB (or, without deduplication, PUB) and the envelope. The writer
# grows. If the server would not accept the frame, raise ConfigError and write nothing.
cdef int put_frame(Writer* w, Destination destination, Event event, Plan* plan, Reply* reply, bint dedup) except -1

# Write a frame that put_frame() made, with another reply subject. `subject` and `n_subject` are set to its subject.
cdef int put_again(Writer* w, const char* frame, Py_ssize_t n, Reply* reply, const char** subject,
                   Py_ssize_t* n_subject) except -1

# A plain acknowledgement. Borrowed from its text.
cdef struct Ack:
    const unsigned char* stream
    Py_ssize_t n_stream
    const unsigned char* domain
    Py_ssize_t n_domain             # 0: the acknowledgement names no domain
    uint64_t seq
    bint duplicate                  # the stream has stored the event's id before


# Read {"stream":"S", ["domain":"D",] "seq":N …}. Return False for any other answer, also for a refusal.
cdef bint read_ack(const unsigned char* text, Py_ssize_t n, Ack* ack) noexcept nogil

# Read a flow acknowledgement of fast ingest, {"type":"ack","seq":N,"msgs":M}. Return False for any other answer.
cdef bint read_flow(const unsigned char* text, Py_ssize_t n, uint64_t* seq, uint64_t* messages) noexcept nogil

# Return whether an acknowledgement names `domain` and the stream to which the frame was published.
cdef bint is_from(Ack* ack, const unsigned char* frame, Py_ssize_t n, bytes domain) noexcept

# Write PUB <subject> <reply> without a payload; the writer grows.
cdef int put_empty(Writer* w, bytes subject, Reply* reply) except -1
