# Recognises messages of other programs, by their headers and subjects. All functions are inline.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy

from eda._event cimport F_AGGREGATE, F_ID, F_TYPE, Event
from eda.transport._frame cimport Frame


cdef extern from *:
    """
    static const unsigned char EDA_HEAD[] = "NATS/1.0\\r\\nNats-Msg-Id: ";
    """
    const unsigned char* HEAD "EDA_HEAD"        # the headers of an event up to its id


cdef enum:
    N_HEAD = 23


cdef inline const unsigned char* find_header(Frame* frame, const char* name, Py_ssize_t n,
                                             Py_ssize_t* n_value) noexcept nogil:
    """Return a header's value and set its length; NULL if there is no such header. `name` ends with a colon."""
    cdef const unsigned char* pos = frame.headers
    cdef const unsigned char* end = pos + frame.n_headers
    cdef const unsigned char* line_end
    while pos < end:
        line_end = <const unsigned char*>memchr(pos, 10, end - pos)
        if line_end is NULL:
            return NULL
        if line_end - pos > n and memcmp(pos, name, n) == 0:
            pos += n
            while pos < line_end and pos[0] == 32:
                pos += 1
            while line_end > pos and ((line_end - 1)[0] == 13 or (line_end - 1)[0] == 32):
                line_end -= 1
            n_value[0] = line_end - pos
            return pos
        pos = line_end + 1
    return NULL


cdef inline bint is_for_another(Frame* frame, bytes name) noexcept:
    """Return whether the message was replayed for a subscription of another name (docs/wire.md: Eda-Replay-For)."""
    cdef Py_ssize_t n = 0
    cdef const unsigned char* value = find_header(frame, b"Eda-Replay-For:", 15, &n)
    if value is NULL:
        return False
    return n != PyBytes_GET_SIZE(name) or memcmp(value, PyBytes_AS_STRING(name), n) != 0


cdef inline bint is_schedule(Frame* frame) noexcept nogil:
    """Return whether the message only schedules the actual event, which the server publishes later (ADR-51)."""
    cdef Py_ssize_t n
    return find_header(frame, b"Nats-Schedule:", 14, &n) is not NULL


cdef enum:
    MARKER = 1
    STRIPPED = 2


cdef inline int mark_of(Frame* frame) noexcept nogil:
    """Return why a message has no body, judging by its headers: MARKER, STRIPPED, or 0.

    MARKER: the server (ADR-43) or a key-value client has stored it in place of messages that were removed.
    STRIPPED: the consumer has left the body out. A message stored with these headers and no body looks the same.
    """
    cdef Py_ssize_t n = 0
    cdef const unsigned char* size
    if find_header(frame, b"Nats-Marker-Reason:", 19, &n) is not NULL:
        return MARKER
    if find_header(frame, b"KV-Operation:", 13, &n) is not NULL:
        return MARKER
    size = find_header(frame, b"Nats-Msg-Size:", 14, &n)        # of the body in the stream
    return 0 if size is NULL or (n == 1 and size[0] == 48) else STRIPPED


cdef inline bint same_text(const unsigned char* a, const unsigned char* b, Py_ssize_t n) noexcept nogil:
    """Return whether n bytes are equal. For few bytes this is faster than a call of memcmp."""
    cdef uint64_t x, y
    while n >= 8:
        memcpy(&x, a, 8)
        memcpy(&y, b, 8)
        if x != y:
            return False
        a += 8
        b += 8
        n -= 8
    while n > 0:
        n -= 1
        if a[n] != b[n]:
            return False
    return True


cdef inline bint is_ours(Frame* frame, const unsigned char* base, Event event, const unsigned char* stream,
                         Py_ssize_t n_stream) noexcept nogil:
    """Return whether the message is as eda publishes it: the id is its only header, and its subject consists of stream,
    type and aggregate.

    If type or aggregate are escaped in the subject, this returns False. The event then keeps a copy of its headers and
    subject, which only costs memory.
    """
    cdef Py_ssize_t n_id = event.spans[F_ID].n
    cdef Py_ssize_t n_type = event.spans[F_TYPE].n
    cdef Py_ssize_t n_aggregate = event.spans[F_AGGREGATE].n
    cdef const unsigned char* subject = frame.subject
    if frame.n_headers != 0 and (
        frame.n_headers != N_HEAD + n_id + 4 or not same_text(frame.headers, HEAD, N_HEAD)
        or not same_text(frame.headers + N_HEAD, base + event.spans[F_ID].start, n_id)
    ):
        return False
    if frame.n_subject != n_stream + 2 + n_type + n_aggregate + (n_type == 0) + (n_aggregate == 0):
        return False
    # The subjects of a mirror begin with the name of its origin, which may be as long as this stream's.
    if not same_text(subject, stream, n_stream) or subject[n_stream] != 46:        # .
        return False
    subject += n_stream + 1
    if n_type == 0:
        if subject[0] != 95:            # _
            return False
        subject += 1
    else:
        if not same_text(subject, base + event.spans[F_TYPE].start, n_type):
            return False
        subject += n_type
    if subject[0] != 46:
        return False
    subject += 1
    if n_aggregate == 0:
        return subject[0] == 95
    return same_text(subject, base + event.spans[F_AGGREGATE].start, n_aggregate)
