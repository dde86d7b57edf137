"""The message of a publisher's pack: its message id, headers, subject and frame. This is work for each pack, not event.

A message with a single event that is not compressed is an ordinary message, with the event's own id. So a stream with
few events looks as it would without packs, and an event that is larger than any pack may be can still be published.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from eda._bytes cimport Writer, copy_byte, copy_bytes, copy_decimal, copy_varint, reserve
from eda._codec cimport Refusal, Text, read_envelope, refusal_error
from eda._data cimport Data
from eda._event cimport Event, new_event
from eda._pack cimport Pack, is_pack as is_pack_payload, next_envelope, read_pack
from eda.publishing._stream_sender cimport Destination, Reply, copy_reply
from eda.transport._frame cimport copy_token, size_of_token

from hashlib import blake2b

from eda._data import Bytes, String
from eda.headers import MSG_ID, PACK

__all__: list = []

BYTES = (<Data>Bytes(b"")).type
STRING = (<Data>String("")).type

cdef enum:
    FIRST_EVENTS = 16               # that a pack has room for at first
    ID_SIZE = 16                    # bytes of the digest; the id has two characters for each

cdef bytes ID_LINE = b"NATS/1.0\r\n%b: " % MSG_ID.encode()
cdef bytes PACK_LINE = b"%b: " % PACK.encode()

# The tags of the fields of a compressed pack: its codec (17), its data (18), its size when it is not compressed (19).
cdef bytes CODEC = b"\x8a\x01\x04zstd\x92\x01"
cdef bytes SIZE = b"\x98\x01"


@cython.final
cdef class SentPack:
    """The events of a message that is not settled."""

    def __dealloc__(self):
        cdef uint64_t i
        for i in range(2 * self.capacity):
            Py_XDECREF(self.kept[i])
        free(self.kept)

    cdef int make_room(self) except -1:
        """Make room to keep the event that is added next."""
        cdef uint64_t capacity = max(FIRST_EVENTS, 2 * self.n)
        cdef PyObject** kept
        if self.n < self.capacity:
            return 0
        kept = <PyObject**>realloc(self.kept, 2 * capacity * sizeof(PyObject*))
        if kept is NULL:
            raise MemoryError
        memset(kept + 2 * self.capacity, 0, 2 * (capacity - self.capacity) * sizeof(PyObject*))
        self.kept = kept
        self.capacity = capacity
        return 0

    cdef list ids(self):
        cdef uint64_t i
        return [<str>kept_id(self, i) for i in range(self.n)]


cdef bytes headers_of(SentPack pack, bint is_pack, bint dedup):
    cdef bytes count = b"%b%d\r\n" % (PACK_LINE, pack.n) if is_pack else b""
    cdef str id
    if not dedup:
        return b"NATS/1.0\r\n%b\r\n" % count if is_pack else b""
    if is_pack and pack.new_id is not None:
        id = pack.new_id + ".pack"      # no other message has it, because this event is in no other pack
    elif is_pack:
        # No id has a line break, so two different lists of ids never make the same text.
        id = blake2b("\n".join(pack.ids()).encode("ascii"), digest_size=ID_SIZE).hexdigest()
    else:
        id = pack.new_id if pack.new_id is not None else <str>kept_id(pack, 0)
    return b"%b%b\r\n%b\r\n" % (ID_LINE, id.encode("ascii"), count)


cdef list events_of(SentPack pack, const unsigned char* payload, Py_ssize_t n):
    cdef list events = []
    cdef Pack read = None
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t n_envelope = n
    cdef bytes raw
    cdef uint64_t i
    if is_pack_payload(payload, n):
        read = read_pack(payload, n, NULL, 0, NULL, 0)
        raw = read.raw
    else:
        raw = PyBytes_FromStringAndSize(<const char*>payload, n)
    for i in range(pack.n):
        if read is not None:
            start = next_envelope(read, &n_envelope)
        events.append(
            <Event>kept_event(pack, i) if kept_event(pack, i) is not NULL else read_back(raw, start, start + n_envelope)
        )
    return events


cdef Event read_back(bytes raw, Py_ssize_t start, Py_ssize_t end):
    """Return an event as the user gave it, but with the id under which it was published."""
    cdef Event event = new_event()
    cdef Refusal refusal
    if read_envelope(event, raw, start, end, &refusal) < 0:
        raise refusal_error(&refusal)
    return event.replace(time=None, client="")


cdef bytes compressed_pack(object compress, const unsigned char* pack, Py_ssize_t n, Py_ssize_t most):
    cdef bytes data = compress(PyMemoryView_FromMemory(<char*>pack, n, PyBUF_READ))
    cdef unsigned char[10] number
    cdef Py_ssize_t n_data = copy_varint(number, <uint64_t>len(data)) - number
    cdef bytes head = CODEC + number[:n_data]
    cdef Py_ssize_t n_size = copy_varint(number, <uint64_t>n) - number
    cdef bytes message = b"%b%b%b%b" % (head, data, SIZE, number[:n_size])
    return message if len(message) < most else None


cdef inline Py_ssize_t size_of_part(Text* text) noexcept:
    return size_of_token(text.data, text.n) if text.data is not NULL else 5


cdef inline unsigned char* copy_part(unsigned char* to, Text* text, Py_ssize_t n) noexcept:
    if text.data is NULL:
        return copy_bytes(to, b"%pack", 5)
    return copy_bytes(to, text.data, n) if n == text.n else copy_token(to, text.data, text.n)


cdef int put_message(Writer* w, Destination destination, Text* type, Text* aggregate, Reply* reply, bytes headers,
                     const unsigned char* payload, Py_ssize_t n_payload) except -1:
    cdef Py_ssize_t n_headers = PyBytes_GET_SIZE(headers)
    cdef Py_ssize_t n_total = n_headers + n_payload
    cdef Py_ssize_t n_type = size_of_part(type)
    cdef Py_ssize_t n_aggregate = size_of_part(aggregate)
    cdef Py_ssize_t n_head = PyBytes_GET_SIZE(destination.head)
    cdef const unsigned char* head = <const unsigned char*>PyBytes_AS_STRING(destination.head)
    cdef unsigned char* to
    # The line HPUB <subject> <reply> <header bytes> <total bytes>, which has at most this length, and two line ends.
    cdef Py_ssize_t n_line = n_head + n_type + 1 + n_aggregate + 1 + reply.n_prefix + 20 + reply.n_suffix + 42 + 4
    if reserve(w, n_line + n_total) < 0:
        raise MemoryError
    to = w.buf + w.pos
    to = copy_bytes(to, head, n_head) if n_headers else copy_bytes(to, head + 1, n_head - 1)
    to = copy_part(to, type, n_type)
    to = copy_byte(to, 46)
    to = copy_part(to, aggregate, n_aggregate)
    to = copy_byte(to, 32)
    to = copy_reply(to, reply)
    to = copy_byte(to, 32)
    if n_headers:
        to = copy_decimal(to, <uint64_t>n_headers)
        to = copy_byte(to, 32)
    to = copy_decimal(to, <uint64_t>n_total)
    to = copy_bytes(to, b"\r\n", 2)
    to = copy_bytes(to, <const unsigned char*>PyBytes_AS_STRING(headers), n_headers)
    to = copy_bytes(to, payload, n_payload)
    to = copy_bytes(to, b"\r\n", 2)
    w.pos = to - w.buf
    return 0
