"""Event <> envelope: the protobuf message of docs/wire.md, written and read by hand.

Writing: `plan_envelope` sizes, `put_envelope` writes straight behind the frame. Reading: `read_envelope` checks every
byte and notes where each field is; `Event` makes Python values of them when they are first read.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from eda._bytes cimport (
    READ_FIELD_ZERO, READ_GROUP, READ_LENGTH, READ_OK, READ_TRUNCATED, READ_UTF8, READ_VARINT, READ_WIRE_TYPE,
    WIRE_BYTES, WIRE_VARINT, Cursor, ReadError, Writer, is_ascii, is_utf8, put_byte, put_bytes, put_varint, release,
    reserve, size_of_varint, skip_field, take_bytes, take_tag, take_varint,
)
from eda._data cimport Data
from eda._event cimport (
    F_AGGREGATE, F_CAUSE, F_CLIENT, F_ID, F_SCHEMA, F_TYPE, N_TEXT, Event, Span, forget_read, new_event,
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
    const char* as_utf8 "PyUnicode_AsUTF8AndSize"(object text, Py_ssize_t* n)


cdef int utf8_of(str text, str field, Text* part) except -1:
    """Borrow the text's UTF-8 form, which the str keeps."""
    part.data = <const unsigned char*>as_utf8(text, &part.n)
    if part.data is NULL:
        refuse_text(field)
    return 0


cdef int refuse_text(str field) except -1:
    PyErr_Clear()
    raise EncodeError("envelope", "str", f"{field} can't be written as UTF-8: it has lone surrogates")


cdef inline int plan_text(Event event, int index, str default, str name, Plan* plan) except -1:
    """Plan one text field; `default` stands in where it is empty."""
    cdef Text* part = &plan.text[index]
    if event.texts[index] is NULL:
        part.n = event.spans[index].n
        if part.n:
            part.data = <const unsigned char*>PyBytes_AS_STRING(event.raw) + event.spans[index].start
    else:
        utf8_of(<str>event.texts[index], name, part)
    if part.n == 0 and default is not None:
        utf8_of(default, name, part)
    if part.n:
        plan.size += 1 + size_of_varint(part.n) + part.n
    return 0


cdef Py_ssize_t size_of_meta_entry(Text* key, Text* value) noexcept:
    cdef Py_ssize_t n = 0
    if key.n:
        n += 1 + size_of_varint(key.n) + key.n
    if value.n:
        n += 1 + size_of_varint(value.n) + value.n
    return n


cdef int plan_envelope(Event event, str id, str client, int64_t now_ns, Plan* plan) except -1:
    cdef Text key, value
    cdef PyObject* key_object
    cdef PyObject* value_object
    cdef Py_ssize_t cursor = 0, n
    cdef dict meta
    # First of all, since encoding may run code of the user: what is borrowed after it stays.
    cdef Data data = event.get_data()
    cdef bytes payload = data.encoded()
    plan.size = 0
    plan_text(event, F_ID, id, "id", plan)
    plan_text(event, F_TYPE, None, "type", plan)
    plan_text(event, F_SCHEMA, None, "schema", plan)
    plan_text(event, F_CAUSE, None, "cause", plan)
    plan_text(event, F_CLIENT, client, "client", plan)
    plan_text(event, F_AGGREGATE, None, "aggregate", plan)
    plan.time_ns = event.time_ns_ if event.time_ns_ != 0 else now_ns
    plan.ack_time_ns = event.ack_time_ns_
    if plan.time_ns != 0:
        plan.size += 1 + size_of_varint(<uint64_t>plan.time_ns)
    if plan.ack_time_ns != 0:
        plan.size += 1 + size_of_varint(<uint64_t>plan.ack_time_ns)
    plan.payload.data = <const unsigned char*>PyBytes_AS_STRING(payload)
    plan.payload.n = PyBytes_GET_SIZE(payload)
    if plan.payload.n:
        plan.size += 1 + size_of_varint(plan.payload.n) + plan.payload.n
    utf8_of(data.type, "encoding", &plan.encoding)
    if plan.encoding.n:
        plan.size += 1 + size_of_varint(plan.encoding.n) + plan.encoding.n
    meta = event.get_meta()
    if meta is not None:
        while PyDict_Next(meta, &cursor, &key_object, &value_object):
            utf8_of(<str>key_object, "meta", &key)
            utf8_of(<str>value_object, "meta", &value)
            n = size_of_meta_entry(&key, &value)
            plan.size += 1 + size_of_varint(n) + n
    return 0


cdef inline void put_text(Writer* w, unsigned int field, Text* part) noexcept:
    if part.n:
        put_byte(w, <unsigned char>(field << 3 | WIRE_BYTES))
        put_varint(w, <uint64_t>part.n)
        put_bytes(w, part.data, part.n)


cdef inline void put_number(Writer* w, unsigned int field, int64_t value) noexcept:
    if value != 0:
        put_byte(w, <unsigned char>(field << 3 | WIRE_VARINT))
        put_varint(w, <uint64_t>value)


cdef int put_envelope(Writer* w, Event event, Plan* plan) except -1:
    cdef Text key, value
    cdef PyObject* key_object
    cdef PyObject* value_object
    cdef Py_ssize_t cursor = 0
    cdef dict meta
    put_text(w, N_ID, &plan.text[F_ID])
    put_number(w, N_TIME, plan.time_ns)
    put_text(w, N_TYPE, &plan.text[F_TYPE])
    put_text(w, N_SCHEMA, &plan.text[F_SCHEMA])
    put_text(w, N_CAUSE, &plan.text[F_CAUSE])
    put_text(w, N_CLIENT, &plan.text[F_CLIENT])
    put_text(w, N_DATA, &plan.payload)
    put_text(w, N_ENCODING, &plan.encoding)
    meta = event.get_meta()
    if meta is not None:
        while PyDict_Next(meta, &cursor, &key_object, &value_object):
            utf8_of(<str>key_object, "meta", &key)
            utf8_of(<str>value_object, "meta", &value)
            put_byte(w, N_META << 3 | WIRE_BYTES)
            put_varint(w, <uint64_t>size_of_meta_entry(&key, &value))
            put_text(w, 1, &key)
            put_text(w, 2, &value)
    put_number(w, N_ACK_TIME, plan.ack_time_ns)
    put_text(w, N_AGGREGATE, &plan.text[F_AGGREGATE])
    return 0


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
    IS_PAYLOAD = N_TEXT + 1
    IS_ENCODING = N_TEXT + 2
    IS_META = N_TEXT + 3
    IS_NUMBER = N_TEXT + 4
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
SPAN_OF_TAG[N_ENCODING << 3 | WIRE_BYTES] = IS_ENCODING


cdef inline void note_span(Event event, unsigned char what, const unsigned char* base, const unsigned char* data,
                           Py_ssize_t n) noexcept nogil:
    """Note where a field with a length is."""
    cdef Span* span
    if what == IS_PAYLOAD:
        span = &event.payload
    elif what == IS_ENCODING:
        span = &event.encoding
    else:
        span = &event.spans[what - 1]
    span.start = <uint32_t>(data - base)
    span.n = <uint32_t>n


cdef bint is_plain_meta(const unsigned char* pos, const unsigned char* end) noexcept nogil:
    """Whether a meta entry that is ASCII throughout holds nothing but its key and value; False in case of doubt."""
    cdef Py_ssize_t n
    while pos < end:
        if (pos[0] != META_KEY and pos[0] != META_VALUE) or end - pos < 2:
            return False
        n = pos[1]
        pos += 2
        if end - pos < n:
            return False
        pos += n
    return True


cdef bint read_plain(Event event, const unsigned char* base, const unsigned char* pos,
                     const unsigned char* end) noexcept nogil:
    """Read an envelope of known fields, whose texts are ASCII; False for all others, whatever was noted of them.

    Texts are checked in runs, over several fields at once: tags and short lengths are ASCII, too.
    """
    cdef const unsigned char* run = pos         # begin of what has to be ASCII and was not looked at
    cdef const unsigned char* at
    cdef Py_ssize_t n
    cdef unsigned char tag, what
    cdef uint64_t number
    cdef Cursor c
    c.end = end
    while pos < end:
        at = pos
        tag = pos[0]
        what = SPAN_OF_TAG[tag]
        if what == IS_NUMBER:
            if not is_ascii(run, pos - run):
                return False
            c.pos = pos + 1
            if take_varint(&c, &number) != READ_OK:
                return False
            if tag == N_TIME << 3 | WIRE_VARINT:
                event.time_ns_ = <int64_t>number
            else:
                event.ack_time_ns_ = <int64_t>number
            pos = run = c.pos
            continue
        if what == 0 or end - pos < 2:
            return False
        n = pos[1]
        pos += 2
        if n >= 0x80:
            if pos == end or pos[0] >= 0x80:
                return False
            n = n - 0x80 + (<Py_ssize_t>pos[0] << 7)
            pos += 1
            if not is_ascii(run, at - run):
                return False
            run = pos
        if end - pos < n:
            return False
        if what == IS_META:
            if not is_plain_meta(pos, pos + n):
                return False
            if event.meta_span.n == 0:
                event.meta_span.start = <uint32_t>(at - base)
            event.meta_span.n = <uint32_t>(pos + n - base) - event.meta_span.start
        else:
            note_span(event, what, base, pos, n)
            if what == IS_PAYLOAD:
                if run <= at and not is_ascii(run, at - run):
                    return False
                run = pos + n
        pos += n
    event.ascii = True
    return is_ascii(run, end - run)


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
        if event.meta_span.n == 0:
            event.meta_span.start = <uint32_t>(tag_at - base)
        event.meta_span.n = <uint32_t>(c.pos - base) - event.meta_span.start
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
        put_envelope(&w, event, &plan)
        assert w.pos == plan.size
        return (<char*>w.buf)[:w.pos]
    finally:
        release(&w)


def decode_event(bytes envelope not None):
    """Return the event of an envelope. Raises DecodeError saying what is wrong, and at which byte."""
    cdef Event event = new_event()
    cdef Refusal refusal
    if read_envelope(event, envelope, 0, len(envelope), &refusal) < 0:
        raise refusal_error(&refusal)
    return event
