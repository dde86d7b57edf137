"""Makes events of lines of JSON as `_json_lines` writes them, for publishing at volume.

A line of any other form is left to the caller, who reads it with a whole JSON parser. So this file may only ever accept
less than that parser: texts without escapes, no white space between the fields, each field once.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from eda._bytes cimport HIGHS, IS_LITTLE, ONES, has_zero, is_utf8, lowest_byte
from eda._data cimport Data, Span, received_data
from eda._event cimport F_AGGREGATE, F_CAUSE, F_CLIENT, F_ID, F_SCHEMA, F_TYPE, N_TEXT, Event, forget_read, new_event
from eda._json_lines cimport N_PRINTED_TIME, check_json, read_time
from eda._nuid cimport new_nuid
from eda._texts cimport ascii_text, shared_text

__all__ = ["events_of_lines", "n_lines_of"]


cdef struct Text:
    const unsigned char* at
    Py_ssize_t n
    bint is_ascii


# A field's name as the line before had it, with its quotes and the colon: most lines have the same names in one order.
cdef struct Name:
    const unsigned char* at
    Py_ssize_t n
    int key


# The fields of a line: the TextFields, and these.
cdef enum:
    K_STREAM = N_TEXT
    K_ENCODING
    K_VERSION
    K_SEQUENCE
    K_INDEX
    K_TIME
    K_ACK_TIME
    K_META
    K_DATA
    K_UNKNOWN


def events_of_lines(bytes lines not None, read_line not None):
    """Return the events of whole lines. `read_line(line)` reads each line that has another form; its errors pass."""
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(lines)
    cdef const unsigned char* end = at + PyBytes_GET_SIZE(lines)
    cdef const unsigned char* line_end
    cdef Name names[K_UNKNOWN]
    cdef Event event
    cdef list events = []
    cdef int i
    for i in range(K_UNKNOWN):
        names[i].n = 0
    while at < end:
        line_end = <const unsigned char*>memchr(at, 10, end - at)
        if line_end is NULL:
            line_end = end
        event = read_event(at, line_end, names)
        if event is None:
            events.append(read_line(PyBytes_FromStringAndSize(<const char*>at, line_end - at)))
        else:
            events.append(event)
        at = line_end + 1
    return events


def n_lines_of(bytes lines not None):
    """Return how many line ends there are. `bytes.count` takes ten times as long."""
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(lines)
    cdef const unsigned char* end = at + PyBytes_GET_SIZE(lines)
    cdef Py_ssize_t n = 0
    while at < end:
        at = <const unsigned char*>memchr(at, 10, end - at)
        if at is NULL:
            break
        at += 1
        n += 1
    return n


cdef Event read_event(const unsigned char* at, const unsigned char* end, Name* name):
    """Return the event of a line; None if it has another form than `_json_lines` gives to JSON data.

    `name`: the names of the line before, in the same bytes. They become those of this line.
    """
    cdef Text texts[N_TEXT]
    cdef Text text
    cdef int64_t time_ns = 0
    cdef unsigned int seen = 0
    cdef bint is_json = False
    cdef int key
    cdef bytes data = None
    cdef Event event
    cdef int i
    for i in range(N_TEXT):
        texts[i].at = NULL
        texts[i].n = 0
    if end - at < 2 or at[0] != 0x7B or (end - 1)[0] != 0x7D:              # { }
        return None
    while True:
        at += 1                         # { or the comma between two fields
        key = take_name(&at, end, name)
        if key == K_UNKNOWN or seen & 1 << key:
            return None
        seen |= 1 << key
        if key == K_DATA:
            break
        name += 1                       # there is room: each field comes once, and the data ends the line
        if key < K_STREAM:
            if not take_text(&at, end, &texts[key]):
                return None
        elif key == K_STREAM:
            if not take_text(&at, end, &text):
                return None
        elif key == K_ENCODING:
            if not take_text(&at, end, &text):
                return None
            is_json = text.n == 4 and memcmp(text.at, b"json", 4) == 0
        elif key == K_TIME or key == K_ACK_TIME:
            if end - at > 4 and memcmp(at, b"null", 4) == 0:
                at += 4
            elif (
                key == K_TIME and end - at >= N_PRINTED_TIME + 2 and at[0] == 0x22 and at[N_PRINTED_TIME + 1] == 0x22
                and read_time(at + 1, N_PRINTED_TIME, &time_ns) and time_ns != 0
            ):
                at += N_PRINTED_TIME + 2
            elif not take_text(&at, end, &text) or (key == K_TIME and not read_time(text.at, text.n, &time_ns)):
                return None
            elif key == K_TIME and time_ns == 0:
                return None
        elif key == K_META:
            if end - at < 2 or memcmp(at, b"{}", 2) != 0:
                return None
            at += 2
        else:
            if not take_number(&at, end, key == K_VERSION):
                return None
        if at >= end or at[0] != 0x2C:
            return None
    if not is_json:
        return None
    if at[0] <= 0x20 or (end - 2)[0] <= 0x20:
        return None                     # white space is not part of the data
    # The rest of the line is the data and the last brace, or it is not valid JSON.
    data = PyBytes_FromStringAndSize(<const char*>at, end - 1 - at)
    if not is_utf8(at, end - 1 - at) or not check_json(data):
        return None
    event = new_event()
    forget_read(event)
    for i in range(N_TEXT):
        if texts[i].n:
            event.set_text(i, str_of(&texts[i], i != F_ID and i != F_CAUSE))
    if not texts[F_ID].n:
        event.set_text(F_ID, new_nuid())
    event._data = encoded_data(data)
    event.time_ns_ = time_ns
    return event


cdef Data encoded_data(bytes data):
    cdef Span payload, nothing
    cdef Data made
    payload.start = nothing.start = nothing.n = 0
    payload.n = <uint32_t>PyBytes_GET_SIZE(data)
    made = received_data(data, &nothing, &payload, &nothing)
    made.type = "json"
    made._encoded = data
    return made


cdef inline str str_of(Text* text, bint is_shared):
    if not text.is_ascii:
        return PyUnicode_DecodeUTF8(<const char*>text.at, text.n, NULL)
    if is_shared:
        return shared_text(<const char*>text.at, text.n)
    return ascii_text(<const char*>text.at, text.n)


cdef inline bint take_text(const unsigned char** at, const unsigned char* end, Text* text) noexcept nogil:
    """Take a text without escapes, with its quotes."""
    cdef const unsigned char* pos = at[0] + 1
    cdef uint64_t word, stops
    cdef uint64_t bits = 0              # of all bytes of the text
    if end - at[0] < 2 or at[0][0] != 0x22:
        return False
    text.at = pos
    # Eight bytes at once: byte by byte, it would take most of the time for which a line is read.
    while IS_LITTLE and end - pos >= 8:
        memcpy(&word, pos, 8)
        stops = has_zero(word ^ ONES * 0x22) | has_zero(word ^ ONES * 0x5C) | ((word - ONES * 0x20) & ~word & HIGHS)
        if stops:
            bits |= word & (((stops & -stops) >> 7) - 1)        # the bytes before the first that stops it
            pos += lowest_byte(stops)
            break
        bits |= word
        pos += 8
    while pos < end and pos[0] >= 0x20 and pos[0] != 0x22 and pos[0] != 0x5C:
        bits |= pos[0]
        pos += 1
    if pos == end or pos[0] != 0x22:
        return False
    text.n = pos - text.at
    text.is_ascii = bits & HIGHS == 0
    at[0] = pos + 1
    return text.is_ascii or is_utf8(text.at, text.n)


cdef inline int take_name(const unsigned char** at, const unsigned char* end, Name* name) noexcept nogil:
    """Take the name of a field with its colon, and return its key. `name` is that of the line before."""
    cdef const unsigned char* begin = at[0]
    cdef Text text
    if name.n and end - begin >= name.n and memcmp(begin, name.at, name.n) == 0:
        at[0] += name.n
        return name.key
    if not take_text(at, end, &text) or at[0] >= end or at[0][0] != 0x3A:
        return K_UNKNOWN
    at[0] += 1
    name.at = begin
    name.n = at[0] - begin
    name.key = key_of(&text)
    return name.key


cdef inline bint take_number(const unsigned char** at, const unsigned char* end, bint is_zero) noexcept nogil:
    """Take a number without sign and leading zero, of at most 18 digits; with `is_zero`, only a zero."""
    cdef const unsigned char* begin = at[0]
    cdef const unsigned char* pos = begin
    while pos < end and 0x30 <= pos[0] <= 0x39:
        pos += 1
    at[0] = pos
    if is_zero:
        return pos - begin == 1 and begin[0] == 0x30
    return 0 < pos - begin <= 18 and (begin[0] != 0x30 or pos - begin == 1)


cdef inline bint is_key(Text* text, const char* name, Py_ssize_t n) noexcept nogil:
    return text.n == n and memcmp(text.at, name, n) == 0


cdef int key_of(Text* text) noexcept nogil:
    cdef unsigned char first = text.at[0]
    if first == 0x74:                   # t
        if is_key(text, b"type", 4):
            return F_TYPE
        if is_key(text, b"time", 4):
            return K_TIME
    elif first == 0x61:                 # a
        if is_key(text, b"aggregate", 9):
            return F_AGGREGATE
        if is_key(text, b"ack_time", 8):
            return K_ACK_TIME
    elif first == 0x63:                 # c
        if is_key(text, b"cause", 5):
            return F_CAUSE
        if is_key(text, b"client", 6):
            return F_CLIENT
    elif first == 0x69:                 # i
        if is_key(text, b"id", 2):
            return F_ID
        if is_key(text, b"index", 5):
            return K_INDEX
    elif first == 0x73:                 # s
        if is_key(text, b"sequence", 8):
            return K_SEQUENCE
        if is_key(text, b"stream", 6):
            return K_STREAM
        if is_key(text, b"schema", 6):
            return F_SCHEMA
    elif is_key(text, b"data", 4):
        return K_DATA
    elif is_key(text, b"encoding", 8):
        return K_ENCODING
    elif is_key(text, b"meta", 4):
        return K_META
    elif is_key(text, b"version", 7):
        return K_VERSION
    return K_UNKNOWN
