"""Event <> envelope: the protobuf message of docs/wire.md, written and read by hand.

Writing: `plan_envelope` sizes, `copy_envelope` writes straight behind the frame. Reading: `read_envelope` checks every
byte and notes where each field is; `Event` makes Python values of them when they are first read.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from eda._bytes cimport (
    READ_FIELD_ZERO, READ_GROUP, READ_LENGTH, READ_OK, READ_TRUNCATED, READ_UTF8, READ_VARINT, READ_WIRE_TYPE,
    WIRE_BYTES, WIRE_VARINT, Cursor, ReadError, Writer, copy_bytes, copy_varint, is_ascii, is_utf8, nine_bytes,
    release, reserve, size_of_varint, skip_field, take_bytes, take_tag, take_varint,
)
from eda._data cimport Data
from eda._event cimport (
    F_AGGREGATE, F_CAUSE, F_CLIENT, F_ID, F_SCHEMA, F_TYPE, N_SPANS, S_ENCODING, S_PAYLOAD, Event, Span, forget_read,
    new_event,
)

from eda.errors import DecodeError, EncodeError

__all__ = ["decode_event", "encode_event"]

# Field numbers of the envelope (docs/wire.md).
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

cdef const char** FIELD_NAMES = [
    "", "id", "time", "type", "schema", "cause", "client", "data", "encoding", "", "meta", "ack_time", "aggregate",
]


cdef extern from "Python.h":
    # Declared without `except NULL`: the caller looks at the result, which is cheaper than a try.
    const char* as_utf8 "PyUnicode_AsUTF8AndSize"(PyObject* text, Py_ssize_t* n)
    bint is_compact_ascii "PyUnicode_IS_COMPACT_ASCII"(PyObject* text)
    Py_ssize_t length_of "PyUnicode_GET_LENGTH"(PyObject* text)
    void* data_of "PyUnicode_DATA"(PyObject* text)


cdef inline int utf8_of(PyObject* text, str field, Text* part) except -1:
    """Borrow the text's UTF-8 form, which the str keeps."""
    if is_compact_ascii(text):
        part.data = <const unsigned char*>data_of(text)
        part.n = length_of(text)
        return 0
    part.data = <const unsigned char*>as_utf8(text, &part.n)
    if part.data is NULL:
        refuse_text(field)
    return 0


cdef int refuse_text(str field) except -1:
    PyErr_Clear()
    raise EncodeError("envelope", "str", f"{field} can't be written as UTF-8: it has lone surrogates")


cdef inline Py_ssize_t size_of_text(Py_ssize_t n) noexcept:
    if n < 0x80:
        return n + 2 if n else 0
    return 1 + size_of_varint(<uint64_t>n) + n


cdef inline int plan_text(Event event, int index, PyObject* default, str name, Plan* plan) except -1:
    """Plan one text field; `default` (a str, or NULL) stands in where it is empty."""
    cdef Text* part = &plan.text[index]
    if event.texts[index] is NULL:
        part.n = event.spans[index].n
        if part.n:
            part.data = <const unsigned char*>PyBytes_AS_STRING(event.raw) + event.spans[index].start
    else:
        utf8_of(event.texts[index], name, part)
    if part.n == 0 and default is not NULL:
        utf8_of(default, name, part)
    plan.size += size_of_text(part.n)
    return 0


cdef int plan_meta(dict meta, Plan* plan) except -1:
    cdef Text* entry
    cdef Text spare[2]
    cdef PyObject* key
    cdef PyObject* value
    cdef Py_ssize_t cursor = 0
    while PyDict_Next(meta, &cursor, &key, &value):
        entry = &plan.meta[2 * plan.n_meta] if plan.n_meta < MAX_PLANNED else &spare[0]
        plan.n_meta += 1
        utf8_of(key, "meta", &entry[0])
        utf8_of(value, "meta", &entry[1])
        plan.size += size_of_meta(&entry[0])
    return 0


cdef inline Py_ssize_t size_of_meta(Text* entry) noexcept:
    cdef Py_ssize_t n = size_of_text(entry[0].n) + size_of_text(entry[1].n)
    return 1 + size_of_varint(<uint64_t>n) + n


cdef int plan_envelope(Event event, str id, str client, int64_t now_ns, Plan* plan) except -1:
    # First of all, since encoding may run code of the user: what is borrowed after it stays.
    cdef Data data = event.get_data() if event._data is None else event._data
    cdef bytes payload = data.encoded() if data._encoded is None else data._encoded
    cdef dict meta = event.get_meta() if event._meta is None else event._meta
    plan.size = 0
    plan_text(event, F_ID, <PyObject*>id, "id", plan)
    plan_text(event, F_TYPE, NULL, "type", plan)
    plan_text(event, F_SCHEMA, NULL, "schema", plan)
    plan_text(event, F_CAUSE, NULL, "cause", plan)
    plan_text(event, F_CLIENT, <PyObject*>client, "client", plan)
    plan_text(event, F_AGGREGATE, NULL, "aggregate", plan)
    plan.time_ns = event.time_ns_ if event.time_ns_ != 0 else now_ns
    plan.ack_time_ns = event.ack_time_ns_
    if plan.time_ns != 0:
        plan.size += 1 + size_of_varint(<uint64_t>plan.time_ns)
    if plan.ack_time_ns != 0:
        plan.size += 1 + size_of_varint(<uint64_t>plan.ack_time_ns)
    plan.payload.data = <const unsigned char*>PyBytes_AS_STRING(payload)
    plan.payload.n = PyBytes_GET_SIZE(payload)
    utf8_of(<PyObject*>data.type, "encoding", &plan.encoding)
    plan.size += size_of_text(plan.payload.n) + size_of_text(plan.encoding.n)
    plan.n_meta = 0
    if meta is not None:
        plan_meta(meta, plan)
    return 0


cdef inline unsigned char* copy_text(unsigned char* to, unsigned int field, Text* part) noexcept:
    if part.n == 0:
        return to
    to[0] = <unsigned char>(field << 3 | WIRE_BYTES)
    to = copy_varint(to + 1, <uint64_t>part.n)
    return copy_bytes(to, part.data, part.n)


cdef inline unsigned char* copy_number(unsigned char* to, unsigned int field, int64_t value) noexcept:
    if value == 0:
        return to
    to[0] = <unsigned char>(field << 3 | WIRE_VARINT)
    return copy_varint(to + 1, <uint64_t>value)


cdef unsigned char* copy_meta(unsigned char* to, Text* entry) noexcept:
    to[0] = N_META << 3 | WIRE_BYTES
    to = copy_varint(to + 1, <uint64_t>(size_of_text(entry[0].n) + size_of_text(entry[1].n)))
    to = copy_text(to, 1, &entry[0])
    return copy_text(to, 2, &entry[1])


cdef unsigned char* copy_envelope(unsigned char* to, Event event, Plan* plan) except NULL:
    cdef Text entry[2]
    cdef PyObject* key
    cdef PyObject* value
    cdef Py_ssize_t cursor = 0, i
    to = copy_text(to, N_ID, &plan.text[F_ID])
    to = copy_number(to, N_TIME, plan.time_ns)
    to = copy_text(to, N_TYPE, &plan.text[F_TYPE])
    to = copy_text(to, N_SCHEMA, &plan.text[F_SCHEMA])
    to = copy_text(to, N_CAUSE, &plan.text[F_CAUSE])
    to = copy_text(to, N_CLIENT, &plan.text[F_CLIENT])
    to = copy_text(to, N_DATA, &plan.payload)
    to = copy_text(to, N_ENCODING, &plan.encoding)
    if plan.n_meta <= MAX_PLANNED:
        for i in range(plan.n_meta):
            to = copy_meta(to, &plan.meta[2 * i])
    else:
        while PyDict_Next(event._meta, &cursor, &key, &value):
            utf8_of(key, "meta", &entry[0])
            utf8_of(value, "meta", &entry[1])
            to = copy_meta(to, entry)
    to = copy_number(to, N_ACK_TIME, plan.ack_time_ns)
    return copy_text(to, N_AGGREGATE, &plan.text[F_AGGREGATE])


cdef ReadError check_meta_entry(const unsigned char* data, Py_ssize_t n) noexcept nogil:
    cdef Cursor c
    cdef uint32_t field, wire_type
    cdef const unsigned char* text
    cdef Py_ssize_t n_text
    cdef ReadError error
    c.pos = data
    c.end = data + n
    while c.pos < c.end:
        error = take_tag(&c, &field, &wire_type)
        if error != READ_OK:
            return error
        if field > 2:
            error = skip_field(&c, field, wire_type)
        elif wire_type != WIRE_BYTES:
            return READ_WIRE_TYPE
        else:
            error = take_bytes(&c, &text, &n_text)
            if error == READ_OK and not is_utf8(text, n_text):
                return READ_UTF8
        if error != READ_OK:
            return error
    return READ_OK


# By tag byte: one more than the TextField, or one of these; 0 for all other tags.
cdef enum:
    IS_PAYLOAD = S_PAYLOAD + 1
    IS_META = N_SPANS + 1
    IS_NUMBER = N_SPANS + 2
    META_KEY = 1 << 3 | WIRE_BYTES
    META_VALUE = 2 << 3 | WIRE_BYTES

cdef unsigned char[256] SPAN_OF_TAG
SPAN_OF_TAG[:] = [0] * 256
SPAN_OF_TAG[N_ID << 3 | WIRE_BYTES] = F_ID + 1
SPAN_OF_TAG[N_TYPE << 3 | WIRE_BYTES] = F_TYPE + 1
SPAN_OF_TAG[N_SCHEMA << 3 | WIRE_BYTES] = F_SCHEMA + 1
SPAN_OF_TAG[N_CAUSE << 3 | WIRE_BYTES] = F_CAUSE + 1
SPAN_OF_TAG[N_CLIENT << 3 | WIRE_BYTES] = F_CLIENT + 1
SPAN_OF_TAG[N_AGGREGATE << 3 | WIRE_BYTES] = F_AGGREGATE + 1
SPAN_OF_TAG[N_META << 3 | WIRE_BYTES] = IS_META
SPAN_OF_TAG[N_TIME << 3 | WIRE_VARINT] = IS_NUMBER
SPAN_OF_TAG[N_ACK_TIME << 3 | WIRE_VARINT] = IS_NUMBER
SPAN_OF_TAG[N_DATA << 3 | WIRE_BYTES] = IS_PAYLOAD
SPAN_OF_TAG[N_ENCODING << 3 | WIRE_BYTES] = S_ENCODING + 1


cdef inline void note_span(Event event, unsigned char what, const unsigned char* base, const unsigned char* data,
                           Py_ssize_t n) noexcept nogil:
    """Note where a field with a length is."""
    cdef Span* span = &event.spans[what - 1]
    span.start = <uint32_t>(data - base)
    span.n = <uint32_t>n


# Taking what comes next: a field that is not there, or is odd in any way, is not taken, and the position stays.
# Where the position is at `end`, what is read is the zero behind every bytes object, or other bytes before it: no tag
# is zero, and the length behind another does not fit.


cdef inline const unsigned char* take_text(Event event, int span, unsigned char tag, const unsigned char* base,
                                           const unsigned char* pos, const unsigned char* end) noexcept nogil:
    cdef Py_ssize_t n
    if pos[0] != tag:
        return pos
    n = pos[1]
    if n >= 0x80 or end - pos - 2 < n:
        return pos
    event.spans[span].start = <uint32_t>(pos + 2 - base)
    event.spans[span].n = <uint32_t>n
    return pos + 2 + n


cdef inline const unsigned char* take_time(int64_t* time_ns, unsigned char tag, const unsigned char* pos,
                                           const unsigned char* end) noexcept nogil:
    """Take a number of nine bytes, as times from 1972 to 2262 are."""
    cdef uint64_t number
    if pos[0] != tag or end - pos < 10 or not nine_bytes(pos + 1, &number):
        return pos
    time_ns[0] = <int64_t>number
    return pos + 10


cdef inline const unsigned char* take_payload(Event event, const unsigned char* base, const unsigned char* pos,
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
    event.spans[S_PAYLOAD].start = <uint32_t>(data - base)
    event.spans[S_PAYLOAD].n = <uint32_t>n
    return data + n


cdef inline const unsigned char* take_meta(const unsigned char* pos, const unsigned char* end) noexcept nogil:
    """Take an entry of a key and a value."""
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


cdef bint read_plain(Event event, const unsigned char* base, const unsigned char* pos,
                     const unsigned char* end) noexcept nogil:
    """Read an envelope whose fields come as writers write them, mostly; False where something has to be looked at.

    Texts are checked in runs, over several fields at once: tags and short lengths are ASCII, too. In a run that is not
    ASCII each text has to be UTF-8 for itself, and then all is read again, by read_field().
    """
    cdef const unsigned char* run = pos         # begin of what has to be ASCII and was not looked at
    cdef const unsigned char* begin
    cdef const unsigned char* at
    cdef const unsigned char* begin_meta
    cdef uint32_t field
    cdef Cursor c
    event.ascii = True
    while pos != end:
        begin = pos
        pos = take_text(event, F_ID, N_ID << 3 | WIRE_BYTES, base, pos, end)
        at = pos
        pos = take_time(&event.time_ns_, N_TIME << 3 | WIRE_VARINT, pos, end)
        if pos != at:
            if not is_ascii(run, at - run):
                return False
            run = pos
        pos = take_text(event, F_TYPE, N_TYPE << 3 | WIRE_BYTES, base, pos, end)
        pos = take_text(event, F_SCHEMA, N_SCHEMA << 3 | WIRE_BYTES, base, pos, end)
        pos = take_text(event, F_CAUSE, N_CAUSE << 3 | WIRE_BYTES, base, pos, end)
        pos = take_text(event, F_CLIENT, N_CLIENT << 3 | WIRE_BYTES, base, pos, end)
        at = pos
        pos = take_payload(event, base, pos, end)
        if pos != at:
            if not is_ascii(run, at - run):
                return False
            run = pos
        pos = take_text(event, S_ENCODING, N_ENCODING << 3 | WIRE_BYTES, base, pos, end)
        at = pos
        while True:
            begin_meta = pos
            pos = take_meta(pos, end)
            if pos == begin_meta:
                break
        if pos != at:
            note_meta(event, base, at, pos)
        at = pos
        pos = take_time(&event.ack_time_ns_, N_ACK_TIME << 3 | WIRE_VARINT, pos, end)
        if pos != at:
            if not is_ascii(run, at - run):
                return False
            run = pos
        pos = take_text(event, F_AGGREGATE, N_AGGREGATE << 3 | WIRE_BYTES, base, pos, end)
        if pos == begin:
            if not is_ascii(run, pos - run):
                return False
            c.pos = pos
            c.end = end
            if read_field(event, &c, base, &field) != READ_OK:
                return False
            if not is_ascii(pos, c.pos - pos):
                event.ascii = False
            pos = run = c.pos
    return is_ascii(run, end - run)


cdef inline void note_meta(Event event, const unsigned char* base, const unsigned char* begin,
                           const unsigned char* end) noexcept nogil:
    """Note where entries are, behind those before."""
    if event.meta_span.n == 0:
        event.meta_span.start = <uint32_t>(begin - base)
    event.meta_span.n = <uint32_t>(end - base) - event.meta_span.start


cdef ReadError read_field(Event event, Cursor* c, const unsigned char* base, uint32_t* field) noexcept nogil:
    """Take any field, however it is written."""
    cdef const unsigned char* tag_at = c.pos
    cdef const unsigned char* data
    cdef Py_ssize_t n
    cdef uint32_t wire_type = 0
    cdef uint64_t number = 0
    cdef unsigned char what
    cdef ReadError error
    field[0] = 0
    error = take_tag(c, field, &wire_type)
    if error != READ_OK:
        return error
    what = SPAN_OF_TAG[field[0] << 3 | WIRE_BYTES] if field[0] < 16 else 0
    if what:
        if wire_type != WIRE_BYTES:
            return READ_WIRE_TYPE
        error = take_bytes(c, &data, &n)
        if error != READ_OK:
            return error
        if what != IS_META:
            if what != IS_PAYLOAD and not is_utf8(data, n):
                return READ_UTF8
            note_span(event, what, base, data, n)
            return READ_OK
        error = check_meta_entry(data, n)
        note_meta(event, base, tag_at, c.pos)
        return error
    if field[0] == N_TIME or field[0] == N_ACK_TIME:
        if wire_type != WIRE_VARINT:
            return READ_WIRE_TYPE
        error = take_varint(c, &number)
        if field[0] == N_TIME:
            event.time_ns_ = <int64_t>number
        else:
            event.ack_time_ns_ = <int64_t>number
        return error
    return skip_field(c, field[0], wire_type)


cdef int read_envelope(Event event, bytes raw, Py_ssize_t start, Py_ssize_t end, Refusal* refusal) noexcept:
    cdef const unsigned char* base = <const unsigned char*>PyBytes_AS_STRING(raw)
    cdef Cursor c
    cdef const unsigned char* begin
    cdef uint32_t field = 0
    cdef ReadError error
    if not read_plain(event, base, base + start, base + end):
        # Once more, field by field: it says what is wrong, if something is.
        forget_read(event)
        c.pos = base + start
        c.end = base + end
        while c.pos < c.end:
            begin = c.pos
            error = read_field(event, &c, base, &field)
            if error != READ_OK:
                refusal.error = error
                refusal.offset = begin - base - start
                refusal.field = field
                return -1
    event.raw = raw
    return 0


cdef dict REASONS = {
    READ_TRUNCATED: "the bytes end inside a field",
    READ_LENGTH: "a length points past the end",
    READ_VARINT: "a varint is too long",
    READ_FIELD_ZERO: "field number 0",
    READ_WIRE_TYPE: "wrong wire type",
    READ_GROUP: "a group is not closed, or nests too deep",
    READ_UTF8: "not UTF-8",
}


cdef object refusal_error(Refusal* refusal):
    reason = REASONS[refusal.error]
    if refusal.field and refusal.field < 13 and FIELD_NAMES[refusal.field][0]:
        reason = f"{FIELD_NAMES[refusal.field].decode()}: {reason}"
    elif refusal.field:
        reason = f"field {refusal.field}: {reason}"
    return DecodeError("envelope", reason, offset=refusal.offset)


cdef str id_in(const unsigned char* envelope):
    cdef Py_ssize_t n = envelope[1]
    envelope += 2
    if n >= 0x80:
        n = n - 0x80 + (<Py_ssize_t>envelope[0] << 7)
        envelope += 1
    return envelope[:n].decode("ascii")


def encode_event(Event event not None, str id not None="", str client not None="", int64_t now_ns=0):
    """Return the event's envelope; `id`, `client` and `now_ns` stand in where the event has none."""
    cdef Plan plan
    cdef Writer w
    w.buf = NULL
    w.pos = w.cap = 0
    plan_envelope(event, id, client, now_ns, &plan)
    if reserve(&w, plan.size) < 0:
        raise MemoryError
    try:
        w.pos = copy_envelope(w.buf, event, &plan) - w.buf
        assert w.pos == plan.size
        return (<char*>w.buf)[:w.pos]
    finally:
        release(&w)


def decode_event(bytes envelope not None, /):
    """Return the event of an envelope. Raises DecodeError saying what is wrong, and at which byte."""
    cdef Event event = new_event()
    cdef Refusal refusal
    if read_envelope(event, envelope, 0, len(envelope), &refusal) < 0:
        raise refusal_error(&refusal)
    return event
