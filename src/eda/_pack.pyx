"""Reads packs: many events in one stored message (docs/wire.md).

A pack is checked before anything is allocated for its events: how many there are, and that each lies within the pack.
All its events then share one bytes object. Each envelope is read by the codec, as that of an ordinary message.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from eda._bytes cimport (
    READ_OK, WIRE_BYTES, WIRE_VARINT, Cursor, ReadError, is_utf8, skip_field, take_bytes, take_tag, take_varint,
)
from eda._codec cimport Refusal, read_envelope, refusal_error
from eda._envelope cimport N_PACK, N_PACK_TO
from eda._event cimport Event, new_event

from eda.compression import decompress
from eda.errors import DecodeError

__all__ = [
    "MAX_EVENTS_OF_PACK", "MAX_SIZE_OF_PACK", "count_in_pack", "envelope_in_pack", "index_in_pack", "is_pack_payload",
    "place_of", "stored_events", "with_index",
]

MAX_EVENTS_OF_PACK = MAX_EVENTS
MAX_SIZE_OF_PACK = MAX_UNPACKED

cdef enum:
    N_CODEC = 17
    N_COMPRESSED = 18
    N_SIZE = 19
    MAX_CODEC = 64                  # bytes of the codec's name


@cython.final
cdef class Pack:
    """The events of a pack: how many there are, and where each envelope is in `raw`."""


cdef Pack read_pack(const unsigned char* payload, Py_ssize_t n, const unsigned char* headers, Py_ssize_t n_headers,
                    const unsigned char* subject, Py_ssize_t n_subject):
    cdef char* to
    cdef bytes unpacked
    cdef Fields fields
    cdef Pack pack = Pack.__new__(Pack)
    if payload[0] != TAG_OF_EVENT:
        unpacked = unpack(payload, n)
        payload = <const unsigned char*>PyBytes_AS_STRING(unpacked)
        n = PyBytes_GET_SIZE(unpacked)
    elif n > MAX_UNPACKED:
        raise DecodeError("pack", f"it has {n} bytes, more than {MAX_UNPACKED}", offset=0)
    read_fields(payload, n, False, &fields)
    if fields.n_events == 0:
        raise DecodeError("pack", "it has no event", offset=0)
    pack.n_events = fields.n_events
    pack.raw = PyBytes_FromStringAndSize(NULL, n + n_headers + n_subject)
    to = PyBytes_AS_STRING(pack.raw)
    memcpy(to, payload, n)
    if n_headers:
        memcpy(to + n, headers, n_headers)
    if n_subject:
        memcpy(to + n + n_headers, subject, n_subject)
    pack.end = n
    pack.n_headers = n_headers
    pack.n_subject = n_subject
    pack.at.pos = <const unsigned char*>to
    pack.at.end = pack.at.pos + n
    return pack


cdef struct Fields:
    uint32_t n_events
    # Of a compressed pack. Borrowed.
    const unsigned char* codec
    Py_ssize_t n_codec
    const unsigned char* data
    Py_ssize_t n_data
    uint64_t size                   # before its compression


cdef int read_fields(const unsigned char* payload, Py_ssize_t n, bint is_compressed, Fields* fields) except -1:
    """Read the fields of a pack. Raises DecodeError unless all of it is in order."""
    cdef Cursor c
    cdef const unsigned char* begin
    cdef const unsigned char* data
    cdef Py_ssize_t n_data
    cdef uint32_t field, wire_type
    cdef ReadError error
    fields.n_events = 0
    fields.codec = fields.data = NULL
    fields.n_codec = fields.n_data = 0
    fields.size = 0
    c.pos = payload
    c.end = payload + n
    while c.pos < c.end:
        begin = c.pos
        field = wire_type = 0
        error = take_tag(&c, &field, &wire_type)
        if error == READ_OK:
            if field == N_PACK and wire_type == WIRE_BYTES and not is_compressed:
                fields.n_events += 1
                error = take_bytes(&c, &data, &n_data)
            elif field == N_CODEC and wire_type == WIRE_BYTES and is_compressed:
                error = take_bytes(&c, &fields.codec, &fields.n_codec)
            elif field == N_COMPRESSED and wire_type == WIRE_BYTES and is_compressed:
                error = take_bytes(&c, &fields.data, &fields.n_data)
            elif field == N_SIZE and wire_type == WIRE_VARINT and is_compressed:
                error = take_varint(&c, &fields.size)
            elif field <= N_PACK_TO:
                kind = "compressed pack" if is_compressed else "pack"
                raise DecodeError("pack", f"field {field} does not belong into a {kind}", offset=begin - payload)
            else:
                error = skip_field(&c, field, wire_type)
        if error != READ_OK:
            raise_refusal(error, begin - payload, field)
        if fields.n_events > MAX_EVENTS:
            raise DecodeError("pack", f"it has more than {MAX_EVENTS} events", offset=begin - payload)
    return 0


cdef int raise_refusal(ReadError error, Py_ssize_t offset, uint32_t field) except -1:
    cdef Refusal refusal
    refusal.error = error
    refusal.offset = offset
    refusal.field = field
    reason = refusal_error(&refusal).reason
    raise DecodeError("pack", reason, offset=offset)


cdef bytes unpack(const unsigned char* payload, Py_ssize_t n):
    """Return a compressed pack as it was before its compression. Raises DecodeError, ConfigError."""
    cdef Fields fields
    cdef bytes unpacked
    read_fields(payload, n, True, &fields)
    if fields.data is NULL or fields.size == 0:
        raise DecodeError("pack", "it is compressed, but its data or its size is missing", offset=0)
    if fields.size > MAX_UNPACKED:
        raise DecodeError("pack", f"it unpacks to {fields.size} bytes, more than {MAX_UNPACKED}", offset=0)
    if fields.n_codec > MAX_CODEC or not is_utf8(fields.codec, fields.n_codec):
        raise DecodeError("pack", "the name of its compression can't be read", offset=0)
    unpacked = decompress(fields.codec[:fields.n_codec].decode(), fields.data[:fields.n_data], fields.size)
    if unpacked[0] != TAG_OF_EVENT:
        raise DecodeError("pack", "what was compressed is not a pack", offset=0)
    return unpacked


cdef Py_ssize_t next_envelope(Pack pack, Py_ssize_t* n) noexcept:
    cdef const unsigned char* data = NULL
    cdef uint32_t field = 0, wire_type = 0
    while True:
        # read_pack() has checked all of it, so nothing can be wrong here.
        if pack.at.pos[0] == TAG_OF_EVENT:
            pack.at.pos += 1
            take_bytes(&pack.at, &data, n)
            return data - <const unsigned char*>PyBytes_AS_STRING(pack.raw)
        take_tag(&pack.at, &field, &wire_type)
        if field == N_PACK:             # its tag has more bytes than it needs
            take_bytes(&pack.at, &data, n)
            return data - <const unsigned char*>PyBytes_AS_STRING(pack.raw)
        skip_field(&pack.at, field, wire_type)


def is_pack_payload(bytes payload not None, /):
    """Return whether the payload of a message is a pack, which has events, and not the envelope of one event."""
    return is_pack(<const unsigned char*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))


def stored_events(bytes payload not None, str stream not None, uint64_t sequence, int64_t time_ns,
                  bytes subject not None=b""):
    """Return the events of a pack that was read from a stream and was not delivered: their `attempt` is 0.

    An event that can't be read is None. `time_ns`, when the stream stored the pack, becomes the `ack_time` of events
    whose envelope has none. Raises DecodeError if the pack itself can't be read, and ConfigError if the package that
    decompresses it is not installed.
    """
    cdef Py_ssize_t n = 0
    cdef Pack pack = open_pack(payload, subject)
    cdef Event event
    cdef list events = []
    cdef uint32_t index
    cdef Py_ssize_t start
    cdef Refusal refusal
    for index in range(pack.n_events):
        start = next_envelope(pack, &n)
        event = new_event()
        if read_envelope(event, pack.raw, start, start + n, &refusal) < 0:
            events.append(None)
            continue
        place_event(event, pack, index, stream, sequence, time_ns)
        events.append(event)
    return events


def count_in_pack(bytes payload not None, /):
    """Return how many events a pack has. Raises DecodeError and ConfigError, as `stored_events` does."""
    return open_pack(payload, b"").n_events


def envelope_in_pack(bytes payload not None, uint64_t index):
    """Return the envelope of one event of a pack, as it is; None if the pack has no event with that index.

    The envelope may be one that can't be read. Raises DecodeError and ConfigError, as `stored_events` does.
    """
    cdef Pack pack = open_pack(payload, b"")
    cdef Py_ssize_t n = 0
    cdef Py_ssize_t start = 0
    cdef uint64_t _
    if index >= pack.n_events:
        return None
    for _ in range(index + 1):
        start = next_envelope(pack, &n)
    return pack.raw[start:start + n]


cdef Pack open_pack(bytes payload, bytes subject):
    cdef const unsigned char* data = <const unsigned char*>PyBytes_AS_STRING(payload)
    cdef const unsigned char* its_subject = <const unsigned char*>PyBytes_AS_STRING(subject)
    if not is_pack(data, PyBytes_GET_SIZE(payload)):
        raise DecodeError("pack", "it does not begin as a pack does", offset=0)
    return read_pack(data, PyBytes_GET_SIZE(payload), NULL, 0, its_subject, PyBytes_GET_SIZE(subject))


def index_in_pack(Event event not None, /):
    """Return the index of an event that came out of a pack; None if its message has only this event."""
    return event.index_ if event.is_packed else None


def place_of(Event event not None, /):
    """Return where a received event is in its stream, as text: `7`, or `7.0` for the first event of a pack."""
    return f"{event.sequence_}.{event.index_}" if event.is_packed else f"{event.sequence_}"


def with_index(Event event not None, uint32_t index):
    """Return the event itself, after a note in it that it was at this index of a pack. Only its reader may do that."""
    event.index_, event.is_packed = index, True
    return event
