# Packs: many events in one stored message (docs/wire.md). Reading; the publisher writes them.

from libc.stdint cimport uint32_t

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


# The events of a pack, checked: `raw` has it from `start` to `end`, not compressed.
cdef class Pack:
    cdef bytes raw
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    cdef readonly uint32_t n_events
    cdef Cursor at                  # before the next event


# Return a pack whose `raw` begins with `n_before` bytes and ends with `n_after` bytes, which the caller fills. Raises
# DecodeError if the payload can't be read as a pack, and ConfigError if what decompresses it is not installed.
cdef Pack read_pack(const unsigned char* payload, Py_ssize_t n, Py_ssize_t n_before, Py_ssize_t n_after)

# Return where the next event's envelope begins in `raw`, and set its size. Call it n_events times.
cdef Py_ssize_t next_envelope(Pack pack, Py_ssize_t* n) noexcept
