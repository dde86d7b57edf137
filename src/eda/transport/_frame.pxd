from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from eda._bytes cimport ONES, Writer, has_unprintable, has_zero


# Python reads these as attributes of the module.
cpdef enum:
    MAX_CONTROL_LINE = 4096         # bytes: the server's default max_control_line, which it does not announce


# One received message. All pointers lead into the parser's buffer, and are valid only during take_frame().
cdef struct Frame:
    const unsigned char* subject
    Py_ssize_t n_subject
    const unsigned char* reply
    Py_ssize_t n_reply
    const unsigned char* headers    # header block with its version line; n_headers is 0 without one
    Py_ssize_t n_headers
    const unsigned char* payload
    Py_ssize_t n_payload


# Receives the frames of one subscription id. An exception of take_frame() cuts the connection, so it must not raise for
# anything that a peer can send.
cdef class Sink:
    cdef int take_frame(self, Frame* frame) except -1


cdef class Parser:
    cdef object buffer              # bytearray for reads; replaced, never resized, because a read may hold it
    cdef Py_ssize_t head            # first byte not parsed yet
    cdef Py_ssize_t tail            # one past the last byte read
    cdef list sinks                 # by subscription id; None for ids of nats-py
    cdef uint64_t n_resets          # number of reset() calls; parse() sees by it that a sink called reset()
    cdef Py_ssize_t resume          # where the search for a line end continues, in bytes after head
    cdef readonly unsigned long long n_frames   # frames handed to sinks

    cdef Py_ssize_t parse_one(self, const unsigned char* pos, const unsigned char* end, list others) except -1
    cdef Py_ssize_t parse_message(
        self, const unsigned char* pos, const unsigned char* line_end, const unsigned char* end, bint has_headers,
        list others
    ) except -1
    cdef list parse(self)


# The parts of the reply subject of a JetStream delivery.
cdef struct Delivery:
    const unsigned char* stream
    Py_ssize_t n_stream
    const unsigned char* consumer
    Py_ssize_t n_consumer
    uint64_t n_delivered            # deliveries of this message so far, this one included
    uint64_t stream_seq
    uint64_t consumer_seq
    int64_t time_ns                 # when the stream stored the message
    uint64_t n_pending              # messages after this one that the consumer has not delivered
    const unsigned char* end        # where these parts end in the subject


cdef bint read_delivery(const unsigned char* reply, Py_ssize_t n, Delivery* delivery) noexcept nogil

# Return the status in the first line of a message's headers (100 to 999), 0 without one.
cdef int status_of(Frame* frame) noexcept nogil


cdef inline uint64_t may_escape(uint64_t word) noexcept nogil:
    """Return 0 only if none of the eight bytes must be escaped in a token.

    The test is coarse: with a colon or a non-ASCII byte the result is not 0, although these need no escape.
    """
    # The bytes . * > : are equal in six bits, so one test finds all four.
    return has_unprintable(word) | has_zero((word & ONES * 0xEB) ^ ONES * 0x2A) | has_zero(word ^ ONES * 37)


# Return the size in bytes of a text that is written as a subject token (docs/wire.md). If the result is `n`, the text
# needs no escapes.
cdef inline Py_ssize_t size_of_token(const unsigned char* text, Py_ssize_t n) noexcept nogil:
    cdef uint64_t word, found
    cdef Py_ssize_t i = 0
    if n >= 8:
        # The loop tests eight bytes at a time; the last eight may overlap the ones before. Few texts need escapes, so
        # this test is usually all that runs.
        memcpy(&word, text + n - 8, 8)
        found = may_escape(word)
        while i < n - 8:
            memcpy(&word, text + i, 8)
            found |= may_escape(word)
            i += 8
        if found == 0:
            return n
    return count_token(text, n)

cdef Py_ssize_t count_token(const unsigned char* text, Py_ssize_t n) noexcept nogil

# Write the token of a text that needs escapes. The caller has reserved size_of_token() bytes.
cdef unsigned char* copy_token(unsigned char* to, const unsigned char* text, Py_ssize_t n) noexcept nogil
