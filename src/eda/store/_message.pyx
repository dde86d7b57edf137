"""The message of a single event that is appended: its subject, and the headers that state the expectation."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from eda._bytes cimport copy_byte, copy_bytes, copy_decimal, size_of_decimal
from eda.transport._frame cimport copy_token, size_of_token

from eda.headers import EXPECTED_FILTER, EXPECTED_SEQUENCE, MSG_ID
from eda.publishing._stream_sender import check_event_id
from eda.store._earlier import EARLIER

__all__ = ["Message"]

cdef bytes HEAD = f"NATS/1.0\r\n{MSG_ID}: ".encode()
cdef bytes SEQUENCE = f"\r\n{EXPECTED_SEQUENCE}: ".encode()
cdef bytes FILTER = f"\r\n{EXPECTED_FILTER}: ".encode()
cdef bytes EARLIER_NAME = f"\r\n{EARLIER}: 0".encode()
cdef bytes END = b"\r\n\r\n"


cdef extern from *:
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* n) except NULL


cdef inline unsigned char* copy_constant(unsigned char* to, bytes text) noexcept:
    return copy_bytes(to, <const unsigned char*>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef inline unsigned char* copy_name(unsigned char* to, const char* text, Py_ssize_t n, Py_ssize_t n_token) noexcept:
    """Write a text as a token of a subject."""
    if n == n_token:
        return copy_bytes(to, <const unsigned char*>text, n)
    return copy_token(to, <const unsigned char*>text, n)


cdef class Message:
    """The message of a single event, with its expectation: the aggregate's last event is stored at `sequence`.

    `subject`, `headers` and `envelope` are its bytes. `id` is the event's id, and `type` its type.
    """

    def __init__(self, str stream not None, str aggregate not None, str type not None, str id not None,
                 bytes envelope not None, uint64_t sequence, str earlier not None):
        check_event_id(id)
        self.type = type
        self.id = id
        self.envelope = envelope
        self.write(stream, aggregate, sequence, earlier)

    cdef int write(self, str stream, str aggregate, uint64_t sequence, str earlier) except -1:
        """Set subject and headers. `earlier` has the sequences of the aggregate's last events, as far as known."""
        cdef Py_ssize_t n_stream, n_type, n_aggregate, n_id, n_earlier, n_type_token, n_aggregate_token
        cdef const char* stream_text = PyUnicode_AsUTF8AndSize(stream, &n_stream)
        cdef const char* type_text = PyUnicode_AsUTF8AndSize(self.type, &n_type)
        cdef const char* aggregate_text = PyUnicode_AsUTF8AndSize(aggregate, &n_aggregate)
        cdef const char* id_text = PyUnicode_AsUTF8AndSize(self.id, &n_id)
        cdef const char* earlier_text = PyUnicode_AsUTF8AndSize(earlier, &n_earlier)
        cdef Py_ssize_t n_named = n_earlier
        cdef unsigned char* to
        if not n_earlier and sequence:
            n_named = size_of_decimal(sequence)
        n_type_token = size_of_token(<const unsigned char*>type_text, n_type)
        n_aggregate_token = size_of_token(<const unsigned char*>aggregate_text, n_aggregate)
        self.aggregate = aggregate
        self.stream = stream
        self.sequence = sequence
        self.subject = PyBytes_FromStringAndSize(NULL, n_stream + n_type_token + n_aggregate_token + 2)
        to = <unsigned char*>PyBytes_AS_STRING(self.subject)
        to = copy_bytes(to, <const unsigned char*>stream_text, n_stream)
        to = copy_byte(to, 46)
        to = copy_name(to, type_text, n_type, n_type_token)
        to = copy_byte(to, 46)
        copy_name(to, aggregate_text, n_aggregate, n_aggregate_token)
        self.headers = PyBytes_FromStringAndSize(
            NULL,
            PyBytes_GET_SIZE(HEAD) + n_id + PyBytes_GET_SIZE(SEQUENCE) + size_of_decimal(sequence)
            + PyBytes_GET_SIZE(FILTER) + n_stream + 3 + n_aggregate_token + PyBytes_GET_SIZE(EARLIER_NAME)
            + (1 + n_named if n_named else 0) + PyBytes_GET_SIZE(END),
        )
        to = <unsigned char*>PyBytes_AS_STRING(self.headers)
        to = copy_constant(to, HEAD)
        to = copy_bytes(to, <const unsigned char*>id_text, n_id)
        to = copy_constant(to, SEQUENCE)
        to = copy_decimal(to, sequence)
        to = copy_constant(to, FILTER)
        to = copy_bytes(to, <const unsigned char*>stream_text, n_stream)
        to = copy_bytes(to, b".*.", 3)
        to = copy_name(to, aggregate_text, n_aggregate, n_aggregate_token)
        to = copy_constant(to, EARLIER_NAME)
        if n_earlier:
            to = copy_byte(to, 32)
            to = copy_bytes(to, <const unsigned char*>earlier_text, n_earlier)
        elif sequence:
            to = copy_byte(to, 32)
            to = copy_decimal(to, sequence)
        to = copy_constant(to, END)
        assert to - <unsigned char*>PyBytes_AS_STRING(self.headers) == PyBytes_GET_SIZE(self.headers)
        return 0

    @property
    def filter(self):
        """The filter of the expectation: all events of the aggregate."""
        token = self.subject.rpartition(b".")[2].decode()
        return f"{self.stream}.*.{token}"
