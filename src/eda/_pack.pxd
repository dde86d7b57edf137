# Packs: many events in one stored message (docs/wire.md). Reading; the publisher writes them.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from eda._bytes cimport WIRE_BYTES, Cursor
from eda._envelope cimport N_PACK, N_PACK_FROM
from eda._event cimport Event


cdef enum:
    MAX_EVENTS = 65_536             # of a pack
    MAX_UNPACKED = 16 * 1024 * 1024     # bytes of a pack that is not compressed
    TAG_OF_EVENT = N_PACK << 3 | WIRE_BYTES         # 0x7A
    TAG_OF_CODEC = N_PACK_FROM << 3 | WIRE_BYTES    # 138, two bytes as a varint: 0x8A 0x01


# Return whether a payload is a pack: its first field is 15 or 17.
cdef inline bint is_pack(const unsigned char* payload, Py_ssize_t n) noexcept nogil:
    if n == 0:
        return False
    return payload[0] == TAG_OF_EVENT or (n > 1 and payload[0] == (TAG_OF_CODEC & 0x7F | 0x80) and payload[1] == 1)


# The events of a pack, checked: `raw` begins with it, not compressed, up to `end`.
cdef class Pack:
    cdef bytes raw
    cdef Py_ssize_t end
    cdef readonly uint32_t n_events
    cdef Py_ssize_t n_headers       # which follow `end`; the subject follows them
    cdef Py_ssize_t n_subject
    cdef Cursor at                  # before the next event


# Return a pack whose `raw` ends with the message's headers and subject. Raises DecodeError if the payload can't be read
# as a pack, and ConfigError if what decompresses it is not installed.
cdef Pack read_pack(const unsigned char* payload, Py_ssize_t n, const unsigned char* headers, Py_ssize_t n_headers,
                    const unsigned char* subject, Py_ssize_t n_subject)

# Return where the next event's envelope begins in `raw`, and set its size. Call it n_events times.
cdef Py_ssize_t next_envelope(Pack pack, Py_ssize_t* n) noexcept

# Note where an event is that was read from `pack.raw`, or that could not be read: in its stream, and in its pack.
cdef inline void place_event(Event event, Pack pack, uint32_t index, str stream, uint64_t sequence,
                             int64_t time_ns) noexcept:
    event.headers_span.start = <uint32_t>pack.end
    event.headers_span.n = <uint32_t>pack.n_headers
    event.subject_span.start = <uint32_t>(pack.end + pack.n_headers)
    event.subject_span.n = <uint32_t>pack.n_subject
    event._stream = stream
    event.sequence_ = sequence
    event.index_ = index
    event.is_packed = True
    if event.ack_time_ns_ == 0:
        event.ack_time_ns_ = time_ns
