# The envelope's fields (docs/wire.md), and quick reading of fields in their usual form. Inline.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp

from eda._bytes cimport WIRE_BYTES, nine_bytes
from eda._data cimport Span


# Field numbers.
cdef enum:
    N_ID = 1
    N_TIME = 2
    N_TYPE = 3
    N_SCHEMA = 4
    N_CAUSE = 5
    N_CLIENT = 6
    N_DATA = 7
    N_ENCODING = 8
    N_META = 10
    N_ACK_TIME = 11
    N_AGGREGATE = 12
    N_VERSION = 13              # written only by encode_event() with a version, for an event store
    # 15 and 17 to 19 mark a pack of events.
    N_PACK = 15
    N_PACK_FROM = 17
    N_PACK_TO = 19
    # Tags within an entry of meta.
    META_KEY = 1 << 3 | WIRE_BYTES
    META_VALUE = 2 << 3 | WIRE_BYTES


# Each take_*() reads the next field, if it is there and in its usual form, and returns the position after it. Otherwise
# it returns the same position. A call at `end` reads one or two bytes after the envelope. These bytes exist, because a
# zero, which is not a tag, follows every bytes object. They are never taken for a field: it would not fit before `end`.


cdef inline const unsigned char* take_text(Span* span, unsigned char tag, const unsigned char* base,
                                           const unsigned char* pos, const unsigned char* end) noexcept nogil:
    cdef Py_ssize_t n
    if pos[0] != tag:
        return pos
    n = pos[1]
    if n >= 0x80 or end - pos - 2 < n:
        return pos
    span.start = <uint32_t>(pos + 2 - base)
    span.n = <uint32_t>n
    return pos + 2 + n


cdef inline const unsigned char* take_time(int64_t* time_ns, unsigned char tag, const unsigned char* pos,
                                           const unsigned char* end) noexcept nogil:
    """Read a number of nine bytes, the size of all times from 1972 to 2262."""
    cdef uint64_t number
    if pos[0] != tag or end - pos < 10 or not nine_bytes(pos + 1, &number):
        return pos
    time_ns[0] = <int64_t>number
    return pos + 10


cdef inline const unsigned char* take_payload(Span* span, const unsigned char* base, const unsigned char* pos,
                                              const unsigned char* end) noexcept nogil:
    cdef Py_ssize_t n
    cdef const unsigned char* data
    if pos[0] != (N_DATA << 3 | WIRE_BYTES):
        return pos
    n = pos[1]
    data = pos + 2
    if n >= 0x80:
        if data > end or data[0] >= 0x80:
            return pos
        n = n - 0x80 + (<Py_ssize_t>data[0] << 7)
        data += 1
    if end - data < n:
        return pos
    span.start = <uint32_t>(data - base)
    span.n = <uint32_t>n
    return data + n


cdef inline const unsigned char* take_meta(const unsigned char* pos, const unsigned char* end) noexcept nogil:
    """Read a meta entry: a key and a value."""
    cdef Py_ssize_t n, n_key
    if pos[0] != (N_META << 3 | WIRE_BYTES) or end - pos < 6:
        return pos
    n = pos[1]
    if n < 4 or n >= 0x80 or end - pos - 2 < n or pos[2] != META_KEY:
        return pos
    n_key = pos[3]
    if n_key > n - 4 or pos[4 + n_key] != META_VALUE or pos[5 + n_key] != n - 4 - n_key:
        return pos
    return pos + 2 + n


cdef inline bint is_plain_subject(
    const unsigned char* subject, Py_ssize_t n, const unsigned char* stream, Py_ssize_t n_stream,
    const unsigned char* type, Py_ssize_t n_type, const unsigned char* aggregate, Py_ssize_t n_aggregate
) noexcept nogil:
    """Return whether a subject is `<stream>.<type>.<aggregate>` without escapes."""
    return (
        n_type > 0 and n_aggregate > 0 and n == n_stream + 2 + n_type + n_aggregate
        and memcmp(subject, stream, n_stream) == 0 and subject[n_stream] == 46        # .
        and memcmp(subject + n_stream + 1, type, n_type) == 0 and subject[n_stream + 1 + n_type] == 46
        and memcmp(subject + n_stream + 2 + n_type, aggregate, n_aggregate) == 0
    )
