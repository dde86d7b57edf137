"""Event <> envelope: the protobuf message of docs/wire.md, written and read by hand.

Writing: `plan_envelope` collects the fields and the size, `copy_envelope` writes them into the outgoing buffer.
Reading: `read_envelope` checks every byte and notes where each field is. `Event` makes a Python value when a field is
first read.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t, uint32_t, uint64_t

from eda._bytes cimport (
    READ_EMPTY, READ_FIELD_ZERO, READ_GROUP, READ_LENGTH, READ_NAMELESS, READ_OK, READ_PACK, READ_TRUNCATED, READ_UTF8,
    READ_VARINT, READ_WIRE_TYPE, WIRE_BYTES, WIRE_VARINT, Cursor, ReadError, Writer, copy_bytes, copy_length,
    is_ascii, is_utf8, release, reserve, size_of_length, size_of_varint, skip_field, take_bytes, take_tag, take_varint,
)
from eda._data cimport Data
from eda._envelope cimport (
    N_ACK_TIME, N_AGGREGATE, N_CAUSE, N_CLIENT, N_DATA, N_ENCODING, N_ID, N_META, N_PACK, N_PACK_FROM, N_PACK_TO,
    N_SCHEMA, N_TIME, N_TYPE, N_VERSION, is_plain_subject, take_meta, take_payload, take_text, take_time,
)
from eda._event cimport (
    F_AGGREGATE, F_CAUSE, F_CLIENT, F_ID, F_SCHEMA, F_TYPE, N_SPANS, S_ENCODING, S_PAYLOAD, Event, forget_read,
    new_event,
)

from eda.errors import DecodeError, EncodeError

__all__ = ["decode_event", "decode_fields", "encode_event", "stored_event"]

cdef const char** FIELD_NAMES = [
    "", "id", "time", "type", "schema", "cause", "client", "data", "encoding", "", "meta", "ack_time", "aggregate",
    "version",
]


cdef int refuse_text(str field) except -1:
    PyErr_Clear()
    raise EncodeError("envelope", "str", f"{field} can't be written as UTF-8: it has lone surrogates")


# The plan_*() return the size of their field in bytes. The caller adds these up in a local variable, which is quicker
# than a sum in the plan.


cdef inline Py_ssize_t plan_text(Event event, int index, PyObject* default, str name, Plan* plan) except -1:
    """Plan one text field. `default` (a str, or NULL) replaces an empty text."""
    cdef Text* part = &plan.text[index]
    if event.texts[index] is NULL:
        part.n = event.spans[index].n
        if part.n:
            part.data = <const unsigned char*>PyBytes_AS_STRING(event.raw) + event.spans[index].start
    else:
        utf8_of(event.texts[index], name, part)
    if part.n == 0 and default is not NULL:
        utf8_of(default, name, part)
    return size_of_text(part.n)


cdef inline int utf8_of_entry(tuple meta, Py_ssize_t i, Text* entry) except -1:
    utf8_of(<PyObject*>PyTuple_GET_ITEM(meta, 2 * i), "meta", &entry[0])
    return utf8_of(<PyObject*>PyTuple_GET_ITEM(meta, 2 * i + 1), "meta", &entry[1])


cdef Py_ssize_t plan_meta(tuple meta, Plan* plan) except -1:
    cdef Text* entry
    cdef Text spare[2]
    cdef Py_ssize_t i, size = 0
    plan.n_meta = len(meta) // 2
    for i in range(plan.n_meta):
        entry = &plan.meta[2 * i] if i < MAX_PLANNED else &spare[0]
        utf8_of_entry(meta, i, entry)
        size += size_of_meta(entry)
    return size


cdef inline Py_ssize_t size_of_meta(Text* entry) noexcept:
    cdef Py_ssize_t n = size_of_text(entry[0].n) + size_of_text(entry[1].n)
    return 1 + size_of_length(n) + n


cdef int plan_envelope(Event event, str id, str client, int64_t now_ns, Plan* plan) except -1:
    # These three may run code of the user. So they come before the texts are borrowed: that code could free a text.
    cdef Data data = event.get_data() if event._data is None else event._data
    cdef bytes payload = data.encoded() if data._encoded is None else data._encoded
    cdef tuple meta = event.get_meta() if event._meta is None else event._meta
    cdef Py_ssize_t size
    size = plan_text(event, F_ID, <PyObject*>id, "id", plan)
    size += plan_text(event, F_TYPE, NULL, "type", plan)
    size += plan_text(event, F_SCHEMA, NULL, "schema", plan)
    size += plan_text(event, F_CAUSE, NULL, "cause", plan)
    size += plan_text(event, F_CLIENT, <PyObject*>client, "client", plan)
    size += plan_text(event, F_AGGREGATE, NULL, "aggregate", plan)
    plan.time_ns = event.time_ns_ if event.time_ns_ != 0 else now_ns
    plan.ack_time_ns = event.ack_time_ns_
    if plan.time_ns != 0:
        size += 1 + size_of_varint(<uint64_t>plan.time_ns)
    if plan.ack_time_ns != 0:
        size += 1 + size_of_varint(<uint64_t>plan.ack_time_ns)
    plan.payload.data = <const unsigned char*>PyBytes_AS_STRING(payload)
    plan.payload.n = PyBytes_GET_SIZE(payload)
    utf8_of(<PyObject*>data.type, "encoding", &plan.encoding)
    size += size_of_text(plan.payload.n) + size_of_text(plan.encoding.n)
    plan.n_meta = 0
    if meta is not None:
        size += plan_meta(meta, plan)
    plan.size = size
    return 0


cdef inline unsigned char* copy_text(unsigned char* to, unsigned int field, Text* part) noexcept:
    if part.n == 0:
        return to
    to[0] = <unsigned char>(field << 3 | WIRE_BYTES)
    to = copy_length(to + 1, part.n)
    return copy_bytes(to, part.data, part.n)


cdef unsigned char* copy_meta(unsigned char* to, Text* entry) noexcept:
    to[0] = N_META << 3 | WIRE_BYTES
    to = copy_length(to + 1, size_of_text(entry[0].n) + size_of_text(entry[1].n))
    to = copy_text(to, 1, &entry[0])
    return copy_text(to, 2, &entry[1])


cdef unsigned char* copy_envelope(unsigned char* to, Event event, Plan* plan) except NULL:
    cdef Text entry[2]
    cdef Py_ssize_t i
    to = copy_text(to, N_ID, &plan.text[F_ID])
    to = copy_number(to, N_TIME, plan.time_ns)
    to = copy_text(to, N_TYPE, &plan.text[F_TYPE])
    to = copy_text(to, N_SCHEMA, &plan.text[F_SCHEMA])
    to = copy_text(to, N_CAUSE, &plan.text[F_CAUSE])
    to = copy_text(to, N_CLIENT, &plan.text[F_CLIENT])
    to = copy_text(to, N_DATA, &plan.payload)
    to = copy_text(to, N_ENCODING, &plan.encoding)
    for i in range(plan.n_meta):
        if plan.n_meta <= MAX_PLANNED:
            to = copy_meta(to, &plan.meta[2 * i])
        else:
            utf8_of_entry(event._meta, i, entry)
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


# By field number: the index of the field's span plus 1, or IS_META; 0 for fields without a span.
cdef enum:
    IS_PAYLOAD = S_PAYLOAD + 1
    IS_META = N_SPANS + 1

cdef unsigned char[16] SPAN_OF_FIELD
SPAN_OF_FIELD[:] = [0] * 16
SPAN_OF_FIELD[N_ID] = F_ID + 1
SPAN_OF_FIELD[N_TYPE] = F_TYPE + 1
SPAN_OF_FIELD[N_SCHEMA] = F_SCHEMA + 1
SPAN_OF_FIELD[N_CAUSE] = F_CAUSE + 1
SPAN_OF_FIELD[N_CLIENT] = F_CLIENT + 1
SPAN_OF_FIELD[N_AGGREGATE] = F_AGGREGATE + 1
SPAN_OF_FIELD[N_META] = IS_META
SPAN_OF_FIELD[N_DATA] = IS_PAYLOAD
SPAN_OF_FIELD[N_ENCODING] = S_ENCODING + 1


cdef bint read_plain(Event event, const unsigned char* base, const unsigned char* pos,
                     const unsigned char* end) noexcept nogil:
    """Read an envelope of the usual form and order. Return False if it must be read field by field.

    Several fields in a row are checked for ASCII together, since their tags and short lengths are ASCII as well. If
    they are not ASCII, each text must be checked for UTF-8, so read_field() has to read the whole envelope.
    """
    cdef const unsigned char* run = pos         # start of the bytes that must be ASCII and are not checked yet
    cdef const unsigned char* begin
    cdef const unsigned char* at
    cdef const unsigned char* begin_meta
    cdef uint32_t field
    cdef Cursor c
    event.ascii = True
    while pos != end:
        begin = pos
        pos = take_text(&event.spans[F_ID], N_ID << 3 | WIRE_BYTES, base, pos, end)
        at = pos
        pos = take_time(&event.time_ns_, N_TIME << 3 | WIRE_VARINT, pos, end)
        if pos != at:
            if not is_ascii(run, at - run):
                return False
            run = pos
        pos = take_text(&event.spans[F_TYPE], N_TYPE << 3 | WIRE_BYTES, base, pos, end)
        pos = take_text(&event.spans[F_SCHEMA], N_SCHEMA << 3 | WIRE_BYTES, base, pos, end)
        pos = take_text(&event.spans[F_CAUSE], N_CAUSE << 3 | WIRE_BYTES, base, pos, end)
        pos = take_text(&event.spans[F_CLIENT], N_CLIENT << 3 | WIRE_BYTES, base, pos, end)
        at = pos
        pos = take_payload(&event.spans[S_PAYLOAD], base, pos, end)
        if pos != at:
            if not is_ascii(run, at - run):
                return False
            run = pos
        pos = take_text(&event.spans[S_ENCODING], N_ENCODING << 3 | WIRE_BYTES, base, pos, end)
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
        pos = take_text(&event.spans[F_AGGREGATE], N_AGGREGATE << 3 | WIRE_BYTES, base, pos, end)
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
    """Extend the span of the meta entries up to `end`."""
    if event.meta_span.n == 0:
        event.meta_span.start = <uint32_t>(begin - base)
    event.meta_span.n = <uint32_t>(end - base) - event.meta_span.start


cdef ReadError read_field(Event event, Cursor* c, const unsigned char* base, uint32_t* field) noexcept nogil:
    """Read any field, in any valid form."""
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
    what = SPAN_OF_FIELD[field[0]] if field[0] < 16 else 0
    if what:
        if wire_type != WIRE_BYTES:
            return READ_WIRE_TYPE
        error = take_bytes(c, &data, &n)
        if error != READ_OK:
            return error
        if what != IS_META:
            if what != IS_PAYLOAD and not is_utf8(data, n):
                return READ_UTF8
            event.spans[what - 1].start = <uint32_t>(data - base)
            event.spans[what - 1].n = <uint32_t>n
            return READ_OK
        error = check_meta_entry(data, n)
        note_meta(event, base, tag_at, c.pos)
        return error
    if field[0] == N_TIME or field[0] == N_ACK_TIME or field[0] == N_VERSION:
        if wire_type != WIRE_VARINT:
            return READ_WIRE_TYPE
        error = take_varint(c, &number)
        if field[0] == N_TIME:
            event.time_ns_ = <int64_t>number
        elif field[0] == N_ACK_TIME:
            event.ack_time_ns_ = <int64_t>number
        else:
            event.version_ = <int64_t>number
        return error
    if field[0] == N_PACK or N_PACK_FROM <= field[0] <= N_PACK_TO:
        return READ_PACK
    return skip_field(c, field[0], wire_type)


cdef int read_envelope(Event event, bytes raw, Py_ssize_t start, Py_ssize_t end, Refusal* refusal) noexcept:
    if read_fields(event, raw, start, end, refusal) < 0:
        return -1
    if event.spans[F_ID].n == 0 and event.spans[F_TYPE].n == 0:
        refusal.error = READ_NAMELESS if end != start else READ_EMPTY
        refusal.offset = 0
        refusal.field = 0
        return -1
    event.raw = raw
    event.envelope.start = <uint32_t>start
    event.envelope.n = <uint32_t>(end - start)
    return 0


cdef inline int read_fields(Event event, bytes raw, Py_ssize_t start, Py_ssize_t end, Refusal* refusal) noexcept:
    cdef const unsigned char* base = <const unsigned char*>PyBytes_AS_STRING(raw)
    cdef Cursor c
    cdef const unsigned char* begin
    cdef uint32_t field = 0
    cdef ReadError error
    if not read_plain(event, base, base + start, base + end):
        # Read it again, field by field, which also finds the error if there is one.
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
    return 0


cdef dict REASONS = {
    READ_TRUNCATED: "the bytes end inside a field",
    READ_LENGTH: "a length points past the end",
    READ_VARINT: "a varint is too long",
    READ_FIELD_ZERO: "field number 0",
    READ_WIRE_TYPE: "wrong wire type",
    READ_GROUP: "a group is not closed, or nests too deep",
    READ_UTF8: "not UTF-8",
    READ_PACK: "it marks a pack of events, which can't be read here",
    READ_EMPTY: "the message has no payload",
    READ_NAMELESS: "it has neither an id nor a type, so it is not an event",
}


cdef object refusal_error(Refusal* refusal):
    reason = REASONS[refusal.error]
    if refusal.field and refusal.field <= N_VERSION and FIELD_NAMES[refusal.field][0]:
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


def encode_event(Event event not None, str id not None="", str client not None="", int64_t now_ns=0,
                 int64_t version=0):
    """Return the event's envelope. `id`, `client` and `now_ns` replace fields that the event leaves empty.

    `version` is the event's version in its aggregate; 0 writes none. The version of a received event is never written.
    """
    return envelope_of(event, id, client, now_ns, version)


cdef bytes envelope_of(Event event, str id, str client, int64_t now_ns, int64_t version):
    cdef Plan plan
    cdef Writer w
    w.buf = NULL
    w.pos = w.cap = 0
    plan_envelope(event, id, client, now_ns, &plan)
    if version != 0:
        plan.size += 1 + size_of_varint(<uint64_t>version)
    if reserve(&w, plan.size) < 0:
        raise MemoryError
    try:
        # The version has the highest field number, so it comes last. Plain publishes, which never write a version, do
        # not pay for it.
        w.pos = copy_number(copy_envelope(w.buf, event, &plan), N_VERSION, version) - w.buf
        assert w.pos == plan.size
        return (<char*>w.buf)[:w.pos]
    finally:
        release(&w)


def decode_event(bytes envelope not None, /):
    """Return the event of an envelope. Raises DecodeError, which says what is wrong and at which byte."""
    cdef Event event = new_event()
    cdef Refusal refusal
    if read_envelope(event, envelope, 0, len(envelope), &refusal) < 0:
        raise refusal_error(&refusal)
    return event


def decode_fields(bytes envelope not None, /):
    """Return the event of an envelope that may have neither an id nor a type. Raises DecodeError as `decode_event`."""
    cdef Event event = new_event()
    cdef Refusal refusal
    if read_envelope(event, envelope, 0, len(envelope), &refusal) < 0:
        # These two are found only after all fields were read.
        if refusal.error != READ_NAMELESS and refusal.error != READ_EMPTY:
            raise refusal_error(&refusal)
    event.raw = envelope
    return event


cdef Event read_stored(bytes envelope, str stream, uint64_t sequence, int64_t time_ns, const unsigned char* subject,
                       Py_ssize_t n_subject, Refusal* refusal):
    cdef Event event = new_event()
    cdef const unsigned char* base
    cdef Text name
    if read_envelope(event, envelope, 0, PyBytes_GET_SIZE(envelope), refusal) < 0:
        return None
    base = <const unsigned char*>PyBytes_AS_STRING(envelope)
    utf8_of(<PyObject*>stream, "stream", &name)
    if n_subject and not is_plain_subject(
        subject, n_subject, name.data, name.n, base + event.spans[F_TYPE].start, event.spans[F_TYPE].n,
        base + event.spans[F_AGGREGATE].start, event.spans[F_AGGREGATE].n,
    ):
        event.keep(envelope + subject[:n_subject], PyBytes_GET_SIZE(envelope), 0, n_subject)
    event._stream = stream
    event.sequence_ = sequence
    if event.ack_time_ns_ == 0:
        event.ack_time_ns_ = time_ns
    return event


def stored_event(bytes envelope not None, str stream not None, uint64_t sequence, int64_t time_ns,
                 bytes subject not None=b""):
    """Return the event of a message that was read from a stream and was not delivered: its `attempt` is 0.

    `time_ns`, when the stream stored the message, becomes the event's `ack_time` if the envelope has none. Without
    `subject`, it is taken to be stream, type and aggregate without escapes. Raises DecodeError as `decode_event`.
    """
    cdef Refusal refusal
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(subject)
    cdef Event event = read_stored(envelope, stream, sequence, time_ns, at, PyBytes_GET_SIZE(subject), &refusal)
    if event is None:
        raise refusal_error(&refusal)
    return event
