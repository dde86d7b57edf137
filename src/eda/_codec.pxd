from libc.stdint cimport int64_t

from eda._event cimport N_TEXT, Event


# A text to be written. Borrowed: valid while the event (or the default that stands in for a field) lives unchanged.
cdef struct Text:
    const unsigned char* data
    Py_ssize_t n


cdef enum:
    MAX_PLANNED = 8             # meta entries that a plan has room for


# An envelope about to be written: what goes into each field, and how long it will be.
cdef struct Plan:
    Text text[N_TEXT]           # by TextField
    Text encoding
    Text payload
    Text meta[2 * MAX_PLANNED]  # key, value, key, value …; not used where there are more entries
    Py_ssize_t n_meta           # entries
    int64_t time_ns
    int64_t ack_time_ns
    Py_ssize_t size             # of the whole envelope, bytes


# Why an envelope was refused.
cdef struct Refusal:
    int error                   # a ReadError
    Py_ssize_t offset           # of the field at fault, from the envelope's begin
    unsigned int field          # its number; 0 where it has none


# Fill `plan` from the event; `id`, `client` and `now_ns` stand in for fields that are not set. Raises EncodeError.
cdef int plan_envelope(Event event, str id, str client, int64_t now_ns, Plan* plan) except -1

# Write the envelope, plan.size bytes, and return where it ends; the caller has reserved the room.
cdef unsigned char* copy_envelope(unsigned char* to, Event event, Plan* plan) except NULL

# The id in an envelope that was written with one: its first field.
cdef str id_in(const unsigned char* envelope)

# Fill the event's spans from the envelope at raw[start:end]; sets event.raw. Returns 0, or -1 with `refusal` filled.
cdef int read_envelope(Event event, bytes raw, Py_ssize_t start, Py_ssize_t end, Refusal* refusal) noexcept

# The error for a refusal, ready to raise.
cdef object refusal_error(Refusal* refusal)
