"""The work of `conn.publish` for each event: writes the frame, fills a slot, reads the acknowledgement.

All publishers write their frames, and read their acknowledgements, with the functions in this file.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcmp

from eda.publishing._window cimport Slot, PublishWindow
from eda._bytes cimport (
    Writer, copy_byte, copy_bytes, copy_decimal, likely, parse_decimal, put_byte, put_bytes,
    reserve, size_of_decimal,
)
from eda._clock cimport monotonic_ns, wall_ns
from eda._codec cimport Plan, Text, copy_envelope, plan_envelope
from eda._durations cimport Durations, note_duration
from eda._event cimport F_AGGREGATE, F_ID, F_TYPE, Event
from eda.transport._frame cimport MAX_CONTROL_LINE, Frame, Sink, copy_token, size_of_token, status_of
from eda.transport._outbound cimport Chunk, Outbound, write_soon
from eda.transport._waits cimport Wait
from eda._nuid cimport new_nuid

from eda.error_counts import ErrorCounts
from eda.errors import ConfigError

__all__ = ["Destination", "StreamSender", "check_event_id", "frame_of"]

cdef enum:
    N_HEADER = 27               # NATS/1.0\r\nNats-Msg-Id: \r\n\r\n without the id


@cython.final
cdef class Destination:
    """A stream to which events are published."""

    def __init__(self, str stream not None, Py_ssize_t max_payload, str domain not None="", object check=None,
                 Py_ssize_t limit=0):
        self.stream = stream
        self.domain = domain.encode()
        self.head = b"HPUB %b." % stream.encode("ascii")
        self.check = check
        self.limit = limit
        self.set_max_payload(max_payload)

    def set_max_payload(self, Py_ssize_t max_payload):
        """Set the max_payload of the server that is connected now."""
        self.max_payload = min(max_payload, self.limit) if self.limit else max_payload


cdef str id_of(Event event):
    """Return the id under which an event is published: the event's own id, or a new one. `put_frame` checks it."""
    cdef PyObject* text = event.texts[F_ID]
    cdef str id = <str>text if text is not NULL else event.get_text(F_ID)
    return id if id else new_nuid()


cdef int check_odd_id(const unsigned char* id, Py_ssize_t n) except -1:
    cdef Py_ssize_t i
    if n > MAX_ID:
        raise ConfigError(
            f"id has {n} bytes, at most {MAX_ID} are allowed: {id[:40].decode('utf-8', 'replace')!r}…", argument="id"
        )
    for i in range(n):
        if id[i] <= 32 or id[i] > 126:
            raise ConfigError(
                f"id must be printable ASCII without spaces: {id[:n].decode('utf-8', 'replace')!r}", argument="id"
            )
    return 0


def check_event_id(str id not None):
    """Raise ConfigError unless events may be published under this id."""
    cdef bytes utf8 = id.encode("utf-8", "surrogatepass")
    check_id(utf8, len(utf8))


cdef inline Py_ssize_t size_of_type(Destination destination, Event event, Text* type) noexcept:
    """Return size_of_token() of the type. A type that needs no escaping is remembered, to save the next computation."""
    cdef PyObject* text = event.texts[F_TYPE]
    cdef Py_ssize_t n
    if text == <PyObject*>destination.plain_type:
        return type.n
    n = size_of_token(type.data, type.n)
    if n == type.n and text is not NULL:
        destination.plain_type = <str>text
    return n


cdef int put_frame(Writer* w, Destination destination, Event event, Plan* plan, Reply* reply, bint dedup) except -1:
    cdef Text* id = &plan.text[F_ID]
    cdef Text* type = &plan.text[F_TYPE]
    cdef Text* aggregate = &plan.text[F_AGGREGATE]
    cdef Py_ssize_t n_header = N_HEADER + id.n if dedup else 0
    cdef Py_ssize_t n_total = n_header + plan.size
    cdef Py_ssize_t n_type = size_of_type(destination, event, type)
    cdef Py_ssize_t n_aggregate = size_of_token(aggregate.data, aggregate.n)
    cdef Py_ssize_t n_head = PyBytes_GET_SIZE(destination.head)
    cdef const unsigned char* head = <const unsigned char*>PyBytes_AS_STRING(destination.head)
    cdef Py_ssize_t n_subject = n_head - 5 + n_type + 1 + n_aggregate
    cdef unsigned char* to
    # The line HPUB <subject> <reply> <header bytes> <total bytes> has at most this length.
    cdef Py_ssize_t n_line = 5 + n_subject + 1 + reply.n_prefix + 20 + reply.n_suffix + 1 + 20 + 1 + 20 + 2
    check_id(id.data, id.n)
    if destination.check is not None:
        destination.check(event)
    # `n_line` is an upper bound. If it is over the limit, compute the exact length.
    if n_line > MAX_CONTROL_LINE and (
        5 + n_subject + 1 + size_of_reply(reply) + 11 + size_of_decimal(n_total) > MAX_CONTROL_LINE
    ):
        raise ConfigError(
            f"type and aggregate make a subject of {n_subject} bytes, too long for the server's protocol line of "
            f"{MAX_CONTROL_LINE}: type {event.type[:40]!r}, aggregate {event.aggregate[:40]!r}",
            argument="type" if type.n > aggregate.n else "aggregate",
        )
    if n_total > destination.max_payload:
        of = "stream's max_msg_size" if destination.max_payload == destination.limit else "server's max_payload"
        raise ConfigError(
            f"an event of {n_total} bytes (data {plan.payload.n}) is over the {of} of "
            f"{destination.max_payload}: type {event.type[:40]!r}, stream {destination.stream!r}",
            argument="data",
        )
    if reserve(w, n_line + n_total + 2) < 0:
        raise MemoryError
    to = w.buf + w.pos
    to = copy_bytes(to, head, n_head) if dedup else copy_bytes(to, head + 1, n_head - 1)
    to = copy_bytes(to, type.data, n_type) if n_type == type.n else copy_token(to, type.data, type.n)
    to = copy_byte(to, 46)
    if n_aggregate == aggregate.n:
        to = copy_bytes(to, aggregate.data, n_aggregate)
    else:
        to = copy_token(to, aggregate.data, aggregate.n)
    to = copy_byte(to, 32)
    to = copy_reply(to, reply)
    to = copy_byte(to, 32)
    if dedup:
        to = copy_decimal(to, <uint64_t>n_header)
        to = copy_byte(to, 32)
    to = copy_decimal(to, <uint64_t>n_total)
    to = copy_bytes(to, b"\r\n", 2)
    if dedup:
        to = copy_bytes(to, b"NATS/1.0\r\nNats-Msg-Id: ", 23)
        to = copy_bytes(to, id.data, id.n)
        to = copy_bytes(to, b"\r\n\r\n", 4)
    to = copy_envelope(to, event, plan)
    to = copy_bytes(to, b"\r\n", 2)
    w.pos = to - w.buf
    return 0


cdef int put_again(Writer* w, const char* frame, Py_ssize_t n, Reply* reply, const char** subject,
                   Py_ssize_t* n_subject) except -1:
    # The frame is <verb> <subject> <reply> <sizes>\r\n…, and only the reply changes.
    cdef const char* end = frame + n
    cdef const char* subject_end
    cdef const char* reply_end
    subject[0] = <const char*>memchr(frame, 32, n) + 1
    subject_end = <const char*>memchr(subject[0], 32, end - subject[0])
    reply_end = <const char*>memchr(subject_end + 1, 32, end - subject_end - 1)
    n_subject[0] = subject_end - subject[0]
    if reserve(w, n + size_of_reply(reply)) < 0:
        raise MemoryError
    put_bytes(w, frame, subject_end + 1 - frame)
    put_reply(w, reply)
    put_bytes(w, reply_end, end - reply_end)
    return 0


cdef Writer scratch         # the buffer of frame_of, kept between calls


def frame_of(Destination destination not None, Event event not None, bytes inbox not None, uint64_t seq):
    """Return the whole frame that publishes an event: HPUB line, header, envelope."""
    cdef Plan plan
    cdef Reply reply
    cdef str id = id_of(event)
    reply.prefix = PyBytes_AS_STRING(inbox)
    reply.n_prefix = PyBytes_GET_SIZE(inbox)
    reply.number = seq
    reply.n_suffix = 0
    # Encoding may run code of the user, which may call this function too. So `scratch` is used after encoding.
    plan_envelope(event, id, "", 0, &plan)
    scratch.pos = 0
    put_frame(&scratch, destination, event, &plan, &reply, True)
    return PyBytes_FromStringAndSize(<char*>scratch.buf, scratch.pos)


cdef inline const unsigned char* take_name(const unsigned char* pos, const unsigned char* end,
                                           const unsigned char** name, Py_ssize_t* n) noexcept nogil:
    """Read a name up to its closing quote, and the comma. Return the next position; NULL if the name has an escape."""
    cdef const unsigned char* quote = <const unsigned char*>memchr(pos, 34, end - pos)
    if quote is NULL or memchr(pos, 92, quote - pos) is not NULL:
        return NULL
    name[0] = pos
    n[0] = quote - pos
    pos = quote + 1
    if pos < end and pos[0] == 44:
        pos += 1
        while pos < end and pos[0] == 32:
            pos += 1
    return pos


cdef bint read_ack(const unsigned char* text, Py_ssize_t n, Ack* ack) noexcept nogil:
    cdef const unsigned char* end = text + n
    cdef const unsigned char* pos
    cdef Py_ssize_t n_digits = 0
    if n < 20 or memcmp(text, b'{"stream":"', 11) != 0:
        return False
    pos = take_name(text + 11, end, &ack.stream, &ack.n_stream)
    ack.n_domain = 0
    if pos is not NULL and end - pos > 10 and memcmp(pos, b'"domain":"', 10) == 0:
        pos = take_name(pos + 10, end, &ack.domain, &ack.n_domain)
    if pos is NULL or end - pos <= 7 or memcmp(pos, b'"seq":', 6) != 0:
        return False
    pos += 6
    while pos < end and pos[0] == 32:
        pos += 1
    while pos + n_digits < end and 48 <= pos[n_digits] <= 57:
        n_digits += 1
    # After the number the server always writes at least a brace, and the number is never 0.
    if not parse_decimal(pos, n_digits, &ack.seq) or ack.seq == 0 or pos + n_digits >= end:
        return False
    pos += n_digits
    if likely(pos[0] == 125 and pos + 1 == end):
        ack.duplicate = False
        return True
    return read_rest(pos, end, ack)


cdef bint read_rest(const unsigned char* pos, const unsigned char* end, Ack* ack) noexcept nogil:
    """Read the rest after the number, such as , "duplicate": true}. Return False if the rest has a domain."""
    cdef const unsigned char* at = pos
    if pos[0] not in b",} ":
        return False
    while end - at > 9:
        if memcmp(at, b'"domain":', 9) == 0:
            return False
        at += 1
    while pos < end and pos[0] in b", ":
        pos += 1
    ack.duplicate = False
    if end - pos > 15 and memcmp(pos, b'"duplicate":', 12) == 0:
        pos += 12
        while pos < end and pos[0] == 32:
            pos += 1
        ack.duplicate = end - pos > 4 and memcmp(pos, b"true", 4) == 0
    return True


cdef bint read_flow(const unsigned char* text, Py_ssize_t n, uint64_t* seq, uint64_t* messages) noexcept nogil:
    """Read {"type":"ack","seq":N,"msgs":M}. Return False for any other answer."""
    cdef const unsigned char* end = text + n
    cdef const unsigned char* pos
    cdef Py_ssize_t n_digits = 0
    if n < 30 or memcmp(text, b'{"type":"ack","seq":', 20) != 0:
        return False
    pos = text + 20
    while pos + n_digits < end and 48 <= pos[n_digits] <= 57:
        n_digits += 1
    if not parse_decimal(pos, n_digits, seq):
        return False
    pos += n_digits
    if end - pos < 9 or memcmp(pos, b',"msgs":', 8) != 0:
        return False
    pos += 8
    n_digits = 0
    while pos + n_digits < end and 48 <= pos[n_digits] <= 57:
        n_digits += 1
    return parse_decimal(pos, n_digits, messages) and pos + n_digits + 1 == end and (end - 1)[0] == 125


cdef bint is_from(Ack* ack, const unsigned char* frame, Py_ssize_t n, bytes domain) noexcept:
    cdef Py_ssize_t n_verb = 5 if frame[0] == 72 else 4         # HPUB or PUB
    return (
        ack.n_domain == PyBytes_GET_SIZE(domain)
        and (ack.n_domain == 0 or memcmp(ack.domain, PyBytes_AS_STRING(domain), ack.n_domain) == 0)
        and n_verb + ack.n_stream < n and memcmp(frame + n_verb, ack.stream, ack.n_stream) == 0
        and frame[n_verb + ack.n_stream] == 46
    )


cdef int put_empty(Writer* w, bytes subject, Reply* reply) except -1:
    if reserve(w, 4 + PyBytes_GET_SIZE(subject) + 1 + size_of_reply(reply) + 6) < 0:
        raise MemoryError
    put_bytes(w, b"PUB ", 4)
    put_bytes(w, PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject))
    put_byte(w, 32)
    put_reply(w, reply)
    put_bytes(w, b" 0\r\n\r\n", 6)
    return 0


cdef inline uint64_t first_sent_ns(Slot* slot) noexcept:
    return slot.batch_seq if slot.batch_seq else slot.sent_ns


cdef class StreamSender(Sink):
    """Publishes the events of one stream, and settles each by its own acknowledgement.

    When a plain acknowledgement comes from the right stream and domain, the event's waiter (a future) gets the stream
    sequence, which is negative if the stream had stored the event's id before. All other answers are passed to
    `on_answer(seq, status, payload)`.
    """

    def __init__(self, PublishWindow window not None, Outbound out not None, bytes inbox not None, str client not None,
                 object on_answer):
        self.window = window
        self.out = out
        self.inbox = inbox
        self.client = client
        self.domain = b""
        self.on_answer = on_answer
        self.errors = ErrorCounts()
        self.durations = Durations()

    cdef int take_frame(self, Frame* frame) except -1:
        cdef Py_ssize_t n_inbox = PyBytes_GET_SIZE(self.inbox)
        cdef uint64_t seq
        cdef Ack ack
        cdef Slot* slot
        cdef Chunk chunk
        if frame.n_subject <= n_inbox or not parse_decimal(frame.subject + n_inbox, frame.n_subject - n_inbox, &seq):
            return 0
        slot = self.window.find(seq)
        if slot is NULL:
            return 0
        chunk = <Chunk>slot.chunk
        if chunk.data is NULL:
            return 0                    # the publish is not written yet, so the answer is forged
        if frame.n_headers == 0 and read_ack(frame.payload, frame.n_payload, &ack):
            if is_from(&ack, <const unsigned char*>chunk.data + slot.start, slot.n, self.domain):
                return self.settle(seq, -<int64_t>ack.seq if ack.duplicate else <int64_t>ack.seq)
        self.on_answer(seq, status_of(frame), frame.payload[:frame.n_payload])
        return 0

    cdef int settle(self, uint64_t seq, int64_t stream_seq) except -1:
        cdef Slot* slot = self.window.find(seq)
        if slot is not NULL:
            note_duration(self.durations, monotonic_ns() - first_sent_ns(slot), 1)
        waiter = self.window.settle(seq)
        self.n_acknowledged += 1
        if type(waiter) is Wait:
            (<Wait>waiter).end_with(stream_seq)
        elif not waiter.done():
            waiter.set_result(stream_seq)
        return 0

    def acknowledge(self, uint64_t seq, int64_t stream_seq):
        """Settle a pending publish by an acknowledgement that `read_ack` does not read."""
        self.settle(seq, stream_seq)

    cdef uint64_t put(self, Destination destination, Event event, str id, object waiter, uint64_t resend_ns,
                      uint64_t give_up_ns) except 0:
        cdef Plan plan
        cdef Writer* w = &self.out.publishes
        cdef Py_ssize_t start
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t seq
        cdef Reply reply
        # Encoding may run code of the user, which may publish too. So the state is read after encoding.
        plan_envelope(event, id, self.client, wall_ns(), &plan)
        start = w.pos
        reply.prefix = PyBytes_AS_STRING(self.inbox)
        reply.n_prefix = PyBytes_GET_SIZE(self.inbox)
        reply.number = self.window.next_seq
        reply.n_suffix = 0
        try:
            put_frame(w, destination, event, &plan, &reply, True)
            seq = self.window.open(
                waiter, self.out.current_chunk(), start, w.pos - start, now, now + resend_ns, now + give_up_ns
            )
        except BaseException:
            w.pos = start               # drop the bytes of the event
            raise
        if self.domain is not destination.domain:
            self.domain = destination.domain     # the same for all streams of a connection
        write_soon(self.out)
        return seq

    cpdef str publish(self, Destination destination, Event event, object waiter, double resend_s, double give_up_s):
        """Publish an event, whose outcome `waiter` gets later, and return its id.

        The caller has checked `has_room`. Raises ConfigError or EncodeError. Then nothing is published.
        """
        cdef str id = id_of(event)
        self.put(destination, event, id, waiter, <uint64_t>(resend_s * 1e9), <uint64_t>(give_up_s * 1e9))
        return id

    @property
    def has_room(self):
        """Return whether the window has room for another publish."""
        return not self.window.is_full()

    @property
    def n_pending(self):
        """Return how many publishes are not settled."""
        return self.window.n_pending

    def fail(self, uint64_t seq, object error):
        """Settle a publish with an error. Do nothing if it is settled already."""
        waiter = self.window.settle(seq)
        if waiter is not None:
            self.errors.add(error)
            if not waiter.done():
                waiter.set_exception(error)

    def resend(self, uint64_t seq, double resend_s):
        """Write a pending publish again, with the same bytes. The next try is due after `resend_s`.

        The slot's `batch_seq`, which this class needs for nothing else, keeps when the first try was sent.
        """
        cdef Slot* slot = self.window.find(seq)
        cdef Chunk chunk
        cdef Writer* w = &self.out.publishes
        if slot is NULL:
            return
        chunk = <Chunk>slot.chunk
        if chunk.data is NULL or (<object>slot.waiter).done():
            return                      # not written for the first time yet, or the caller was cancelled
        if reserve(w, slot.n) < 0:
            raise MemoryError
        put_bytes(w, chunk.data + slot.start, slot.n)
        if slot.batch_seq == 0:
            slot.batch_seq = slot.sent_ns
        slot.sent_ns = monotonic_ns()
        slot.resend_ns = slot.sent_ns + <uint64_t>(resend_s * 1e9)
        slot.n_tries += 1
        self.n_resent += 1
        write_soon(self.out)

    def age_s(self, uint64_t seq):
        """Return the seconds since a pending publish was first sent; 0 if it is settled or not written yet."""
        cdef Slot* slot = self.window.find(seq)
        if slot is NULL or (<Chunk>slot.chunk).data is NULL:
            return 0.0
        return (monotonic_ns() - first_sent_ns(slot)) / 1e9

    def oldest_age_s(self):
        """Return the seconds since the oldest pending publish was first sent; 0 if none is pending."""
        cdef Slot* slot = self.window.find(self.window.base)
        return 0.0 if slot is NULL else (monotonic_ns() - first_sent_ns(slot)) / 1e9

    def defer(self, uint64_t seq, double delay_s):
        """Set the next try of a pending publish to `delay_s` from now, and return how often it was sent."""
        cdef Slot* slot = self.window.find(seq)
        if slot is NULL:
            return 0
        slot.resend_ns = monotonic_ns() + <uint64_t>(delay_s * 1e9)
        return slot.n_tries

    def subject_of(self, uint64_t seq):
        """Return the subject of a pending publish; empty if it is settled or not written yet."""
        cdef Slot* slot = self.window.find(seq)
        cdef Chunk chunk
        if slot is NULL:
            return ""
        chunk = <Chunk>slot.chunk
        if chunk.data is NULL:
            return ""
        return chunk.data[slot.start + 5:slot.start + slot.n].partition(b" ")[0].decode()

    def size_of(self, uint64_t seq):
        """Return the bytes of a pending publish that count for max_payload; 0 if it is settled or not written yet."""
        cdef Slot* slot = self.window.find(seq)
        cdef Chunk chunk
        cdef const char* frame
        if slot is NULL:
            return 0
        chunk = <Chunk>slot.chunk
        if chunk.data is NULL:
            return 0
        frame = chunk.data + slot.start
        return slot.n - (<const char*>memchr(frame, 10, slot.n) + 1 - frame) - 2

    def due(self):
        """Return (sequences to send again, sequences to give up, seconds until the next one is due or None)."""
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t seq, at, next_ns = 0
        cdef Slot* slot
        cdef list resend = []
        cdef list give_up = []
        for seq in range(self.window.base, self.window.next_seq):
            slot = self.window.find(seq)
            if slot is NULL:
                continue
            if (<object>slot.waiter).done() or now >= slot.give_up_ns:
                give_up.append(seq)
                continue
            at = slot.give_up_ns
            if now >= slot.resend_ns:
                resend.append(seq)
            elif slot.resend_ns < at:
                at = slot.resend_ns
            if next_ns == 0 or at < next_ns:
                next_ns = at
        return resend, give_up, (next_ns - now) / 1e9 if next_ns else None
