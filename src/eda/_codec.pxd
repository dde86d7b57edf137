from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from eda._bytes cimport WIRE_VARINT, copy_varint, likely, size_of_length
from eda._event cimport N_TEXT, Event


# A text to write. It is borrowed: valid while the event (or the default for an empty field) lives unchanged.
cdef struct Text:
    const unsigned char* data
    Py_ssize_t n


cdef enum:
    MAX_PLANNED = 8             # meta entries that a plan has room for


# The plan of an envelope: the content of each field, and the envelope's size.
cdef struct Plan:
    Text text[N_TEXT]           # by TextField
    Text encoding
    Text payload
    Text meta[2 * MAX_PLANNED]  # key, value, key, value …; not used if there are more entries
    Py_ssize_t n_meta           # number of entries
    int64_t time_ns
    int64_t ack_time_ns
    Py_ssize_t size             # of the whole envelope, bytes


# Why an envelope can't be read.
cdef struct Refusal:
    int error                   # a ReadError
    Py_ssize_t offset           # where the wrong field begins, in bytes from the start of the envelope
    unsigned int field          # the field's number; 0 if it is not known


# --- the parts of a plan ----------------------------------------------------------------------------------------------


cdef extern from *:
    """
    /* The UTF-8 of a str that is only ASCII: it follows the object's head (PEP 393). */
    static inline int eda_ascii_of(PyObject* text, const unsigned char** data, Py_ssize_t* n) {
        if (!PyUnicode_IS_COMPACT_ASCII(text)) return 0;
        *data = (const unsigned char*)((PyASCIIObject*)text + 1);
        *n = PyUnicode_GET_LENGTH(text);
        return 1;
    }
    """
    bint ascii_of "eda_ascii_of"(PyObject* text, const unsigned char** data, Py_ssize_t* n) noexcept
    # Declared without `except NULL`: the caller checks the result, which is cheaper than an exception check.
    const char* as_utf8 "PyUnicode_AsUTF8AndSize"(PyObject* text, Py_ssize_t* n)


cdef inline int utf8_of(PyObject* text, str field, Text* part) except -1:
    """Point `part` to the text's UTF-8 form, which the str owns."""
    if likely(ascii_of(text, &part.data, &part.n)):
        return 0
    part.data = <const unsigned char*>as_utf8(text, &part.n)
    if part.data is NULL:
        refuse_text(field)
    return 0


# Raise the EncodeError for a text with lone surrogates.
cdef int refuse_text(str field) except -1


cdef inline Py_ssize_t size_of_text(Py_ssize_t n) noexcept:
    if likely(n < 0x80):
        return n + 2 if n else 0
    return 1 + size_of_length(n) + n


cdef inline unsigned char* copy_number(unsigned char* to, unsigned int field, int64_t value) noexcept:
    if value == 0:
        return to
    to[0] = <unsigned char>(field << 3 | WIRE_VARINT)
    return copy_varint(to + 1, <uint64_t>value)


# --- envelopes --------------------------------------------------------------------------------------------------------

# Fill `plan` from the event. `id`, `client` and `now_ns` replace empty fields. Raises EncodeError.
cdef int plan_envelope(Event event, str id, str client, int64_t now_ns, Plan* plan) except -1

# Return the envelope of an event, as `encode_event` does. Raises EncodeError.
cdef bytes envelope_of(Event event, str id, str client, int64_t now_ns, int64_t version)

# Write the envelope of plan.size bytes and return its end. The caller has reserved the room.
cdef unsigned char* copy_envelope(unsigned char* to, Event event, Plan* plan) except NULL

# Return the id in an envelope that we wrote with an id. It must be the first field.
cdef str id_in(const unsigned char* envelope)

# Fill the event's spans from the envelope at raw[start:end] and set event.raw. Return 0, or -1 with `refusal` filled.
cdef int read_envelope(Event event, bytes raw, Py_ssize_t start, Py_ssize_t end, Refusal* refusal) noexcept

# Return the DecodeError for a refusal.
cdef object refusal_error(Refusal* refusal)

# Return the event of a message that was read from a stream, as `stored_event` does; None with `refusal` filled.
cdef Event read_stored(bytes envelope, str stream, uint64_t sequence, int64_t time_ns, const unsigned char* subject,
                       Py_ssize_t n_subject, Refusal* refusal)
