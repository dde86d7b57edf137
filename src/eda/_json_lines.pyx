"""Events as JSON lines: one object a line for each event. The command line prints them (docs/cli.md)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr

from eda._bytes cimport (
    Writer, copy_byte, copy_bytes, copy_decimal, copy_pair, eight_digits, is_utf8, parse_decimal, put_byte, put_bytes,
    release, reserve,
)
from eda._data cimport Data
from eda._event cimport F_AGGREGATE, F_CAUSE, F_CLIENT, F_ID, F_SCHEMA, F_TYPE, Event

import base64
import json

import msgspec

from eda.encodings import decode_value, encode_value

__all__ = ["json_lines", "printed_time_ns"]

cdef object _check_json = msgspec.json.Decoder(msgspec.Raw).decode
cdef object _as_one_line = msgspec.json.format
cdef object _not_json = (msgspec.MsgspecError, RecursionError)

cdef enum:
    NS = 1_000_000_000
    N_NUMBERS = 200             # at most: the names of all fields with numbers, and the numbers

cdef extern from *:
    """
    static const char EDA_HEX[] = "0123456789abcdef";
    """
    const char* HEX "EDA_HEX"


def json_lines(list events not None):
    """Return the events as JSON, in UTF-8, one object a line.

    Data that is JSON already is copied as it is, without line breaks. If `data` is not exactly the stored data,
    `data_base64` has the bytes; if the data has no form in JSON, `data` is null.
    """
    cdef Writer w
    cdef Event event
    w.buf = NULL
    w.pos = w.cap = 0
    try:
        for event in events:
            if event is None:
                raise TypeError("None is no event")
            put_event(&w, event)
        return PyBytes_FromStringAndSize(<char*>w.buf, w.pos)
    finally:
        release(&w)


cdef int put_event(Writer* w, Event event) except -1:
    room(w, N_NUMBERS)
    put_bytes(w, b'{"stream":', 10)
    put_str(w, "" if event._stream is None else event._stream)
    put_field(w, b',"aggregate":', 13, event.get_text(F_AGGREGATE))
    room(w, N_NUMBERS)
    put_bytes(w, b',"version":', 11)
    put_number(w, <uint64_t>event.version_ if event.version_ > 0 else 0)
    put_bytes(w, b',"sequence":', 12)
    put_number(w, event.sequence_)
    put_bytes(w, b',"index":', 9)
    put_number(w, event.index_)
    put_field(w, b',"type":', 8, event.get_text(F_TYPE))
    put_field(w, b',"id":', 6, event.get_text(F_ID))
    room(w, N_NUMBERS)
    put_bytes(w, b',"time":', 8)
    put_time(w, event.time_ns_)
    put_bytes(w, b',"ack_time":', 12)
    put_time(w, event.ack_time_ns_)
    put_field(w, b',"cause":', 9, event.get_text(F_CAUSE))
    put_field(w, b',"client":', 10, event.get_text(F_CLIENT))
    put_field(w, b',"schema":', 10, event.get_text(F_SCHEMA))
    put_meta(w, event.get_meta())
    put_data(w, event.get_data())
    room(w, 2)
    put_bytes(w, b"}\n", 2)
    return 0


cdef inline int room(Writer* w, Py_ssize_t n) except -1:
    if reserve(w, n) < 0:
        raise MemoryError
    return 0


cdef inline void put_number(Writer* w, uint64_t value) noexcept nogil:
    w.pos = copy_decimal(w.buf + w.pos, value) - w.buf


cdef inline int put_field(Writer* w, const char* name, Py_ssize_t n, str text) except -1:
    room(w, n)
    put_bytes(w, name, n)
    return put_str(w, text)


cdef int put_str(Writer* w, str text) except -1:
    cdef Py_ssize_t n
    cdef const char* data = PyUnicode_AsUTF8AndSize(text, &n)
    return put_text(w, <const unsigned char*>data, n)


cdef inline bint is_plain(unsigned char byte) noexcept nogil:
    # A terminal may act on DEL.
    return byte >= 0x20 and byte != 0x22 and byte != 0x5C and byte != 0x7F


cdef int put_text(Writer* w, const unsigned char* data, Py_ssize_t n) except -1:
    """Write a text, which is UTF-8, as a JSON string."""
    cdef Py_ssize_t begin = 0, i = 0
    cdef unsigned char byte
    cdef unsigned char* to
    room(w, n + 2)
    put_byte(w, 0x22)
    while True:
        while i < n and is_plain(data[i]):
            i += 1
        w.pos = copy_bytes(w.buf + w.pos, data + begin, i - begin) - w.buf
        if i == n:
            break
        byte = data[i]
        i += 1
        begin = i
        room(w, n - i + 8)              # the escape, the rest and the quote
        to = w.buf + w.pos
        to = copy_byte(to, 0x5C)
        if byte == 0x22 or byte == 0x5C:
            to = copy_byte(to, byte)
        elif byte == 10:
            to = copy_byte(to, 0x6E)                                    # n
        else:
            to = copy_bytes(to, <const unsigned char*>b"u00", 3)
            to = copy_byte(to, <unsigned char>HEX[byte >> 4])
            to = copy_byte(to, <unsigned char>HEX[byte & 15])
        w.pos = to - w.buf
    put_byte(w, 0x22)
    return 0


cdef void put_time(Writer* w, int64_t ns) noexcept:
    """Write a time in RFC 3339 and UTC, with nanoseconds; null for 0, which means that no time is set."""
    cdef int64_t seconds, days, era, of_era, year_of_era, of_year, month, year
    cdef unsigned int second, fraction
    cdef unsigned char* to
    if ns == 0:
        put_bytes(w, b"null", 4)
        return
    # A negative time is rounded down, as `//` does, so the remainders are positive.
    seconds = ns // NS
    fraction = <unsigned int>(ns - seconds * NS)
    days = seconds // 86_400
    second = <unsigned int>(seconds - days * 86_400)
    # From days to a date, in years that begin in March and eras of 400 years: `parse_time` in jetstream/_direct_reads
    # does the opposite.
    days += 719_468
    era = days // 146_097
    of_era = days - era * 146_097
    year_of_era = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * of_year + 2) // 153
    year = year_of_era + era * 400 + (month >= 10)
    to = copy_byte(w.buf + w.pos, 0x22)
    to = copy_pair(to, <unsigned int>(year // 100))
    to = copy_pair(to, <unsigned int>(year % 100))
    to = copy_byte(to, 0x2D)
    to = copy_pair(to, <unsigned int>(month + 3 if month < 10 else month - 9))
    to = copy_byte(to, 0x2D)
    to = copy_pair(to, <unsigned int>(of_year - (153 * month + 2) // 5 + 1))
    to = copy_byte(to, 0x54)            # T
    to = copy_pair(to, second // 3600)
    to = copy_byte(to, 0x3A)
    to = copy_pair(to, second // 60 % 60)
    to = copy_byte(to, 0x3A)
    to = copy_pair(to, second % 60)
    to = copy_byte(to, 0x2E)
    to = copy_byte(to, <unsigned char>(48 + fraction // 100_000_000))
    to = copy_pair(to, fraction // 1_000_000 % 100)
    to = copy_pair(to, fraction // 10_000 % 100)
    to = copy_pair(to, fraction // 100 % 100)
    to = copy_pair(to, fraction % 100)
    to = copy_byte(to, 0x5A)            # Z
    to = copy_byte(to, 0x22)
    w.pos = to - w.buf


cdef inline bint two_digits(const unsigned char* text, unsigned int* value) noexcept nogil:
    cdef unsigned int tens = <unsigned int>text[0] - 48
    cdef unsigned int ones = <unsigned int>text[1] - 48
    value[0] = tens * 10 + ones
    return tens < 10 and ones < 10


def printed_time_ns(str text not None):
    """Return a time as `json_lines` writes it, in nanoseconds since 1970; None if the text has another form.

    None as well for a time that does not exist, or is before 1970 or after 2261.
    """
    cdef Py_ssize_t n
    cdef const char* at = PyUnicode_AsUTF8AndSize(text, &n)
    cdef int64_t ns = 0
    return ns if read_time(<const unsigned char*>at, n, &ns) else None


cdef inline bint read_fraction(const unsigned char* at, uint64_t* fraction) noexcept nogil:
    """Read nine digits."""
    cdef unsigned int last = <unsigned int>at[8] - 48
    if last > 9 or not eight_digits(at, fraction):
        return parse_decimal(at, 9, fraction)
    fraction[0] = fraction[0] * 10 + last
    return True


cdef bint read_time(const unsigned char* at, Py_ssize_t n, int64_t* ns) noexcept nogil:
    cdef unsigned int century, of_century, month, day, hour, minute, second
    cdef unsigned int days_of_month
    cdef uint64_t fraction = 0
    cdef int64_t year, era, days
    if (
        n != N_PRINTED_TIME or at[4] != 45 or at[7] != 45 or at[10] != 84 or at[13] != 58 or at[16] != 58
        or at[19] != 46 or at[29] != 90 or not two_digits(at, &century) or not two_digits(at + 2, &of_century)
        or not two_digits(at + 5, &month) or not two_digits(at + 8, &day) or not two_digits(at + 11, &hour)
        or not two_digits(at + 14, &minute) or not two_digits(at + 17, &second)
        or not read_fraction(at + 20, &fraction)
    ):
        return False
    year = century * 100 + of_century
    if year < 1970 or year > 2261 or not 0 < month < 13 or hour > 23 or minute > 59 or second > 59:
        return False
    days_of_month = 31 - (month == 4 or month == 6 or month == 9 or month == 11)
    if month == 2:
        days_of_month = 28 + (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
    if not 0 < day <= days_of_month:
        return False
    # The days since 1970-01-01, counted in years that begin in March and eras of 400 years.
    year -= month <= 2
    era = year // 400
    days = (153 * (<int64_t>month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    year -= era * 400
    days = era * 146_097 + year * 365 + year // 4 - year // 100 + days - 719_468
    ns[0] = ((days * 24 + hour) * 60 + minute) * 60 * NS + second * <int64_t>NS + <int64_t>fraction
    return True


cdef int put_meta(Writer* w, tuple meta) except -1:
    cdef Py_ssize_t i
    room(w, 10)
    put_bytes(w, b',"meta":{', 9)
    if meta is not None:
        for i in range(0, len(meta), 2):
            if i:
                room(w, 1)
                put_byte(w, 0x2C)
            put_str(w, <str>meta[i])
            room(w, 1)
            put_byte(w, 0x3A)
            put_str(w, <str>meta[i + 1])
    room(w, 1)
    put_byte(w, 0x7D)
    return 0


# --- data ------------------------------------------------------------------------------------------------------------


cdef int put_data(Writer* w, Data data) except -1:
    cdef bytes stored = data.encoded()
    cdef const unsigned char* raw = <const unsigned char*>PyBytes_AS_STRING(stored)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(stored)
    cdef str encoding = data.type
    cdef bytes value = None
    cdef bint is_exact = True
    put_field(w, b',"encoding":', 12, encoding)
    room(w, 8)
    put_bytes(w, b',"data":', 8)
    if encoding == "json":
        value = one_line(stored)
    elif encoding == "string" and is_utf8(raw, n):
        return put_text(w, raw, n)
    elif encoding == "nil" and n == 0:
        value = b"null"
    elif encoding == "msgpack":
        value = of_msgpack(stored, &is_exact)
    if value is not None:
        room(w, PyBytes_GET_SIZE(value))
        put_bytes(w, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        if is_exact:
            return 0
    else:
        room(w, 4)
        put_bytes(w, b"null", 4)
    value = base64.b64encode(stored)
    room(w, PyBytes_GET_SIZE(value) + 20)
    put_bytes(w, b',"data_base64":"', 16)
    put_bytes(w, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    put_byte(w, 0x22)
    return 0


cdef bint check_json(bytes text):
    try:
        _check_json(text)
    except _not_json:
        return False
    return True


cdef bytes one_line(bytes stored):
    """Return JSON in one line; None if the bytes are not JSON."""
    cdef const char* raw = PyBytes_AS_STRING(stored)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(stored)
    # msgspec checks all but the texts' UTF-8.
    if not is_utf8(<const unsigned char*>raw, n):
        return None
    try:
        _check_json(stored)
        if memchr(raw, 10, n) is not NULL or memchr(raw, 13, n) is not NULL:
            return _as_one_line(stored, indent=-1)
    except _not_json:
        return None
    return stored


cdef bytes of_msgpack(bytes stored, bint* is_exact):
    """Return MessagePack as JSON; None if it has no form in JSON. JSON is not exact for keys that are numbers."""
    try:
        value = decode_value("msgpack", stored, None, "")
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        is_exact[0] = encode_value("msgpack", json.loads(text)) == stored
        return text.encode()
    except (TypeError, ValueError, RecursionError):         # also errors of decoding and encoding
        return None
