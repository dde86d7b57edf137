from libc.stdint cimport int64_t


cdef enum:
    N_PRINTED_TIME = 30     # bytes of a time as `json_lines` writes it: 2026-01-02T03:04:05.123456789Z


# Return whether a text is one JSON value. It does not check that texts in it are UTF-8.
cdef bint check_json(bytes text)

# Read a time as `json_lines` writes it, in nanoseconds since 1970. Return False for any other form.
cdef bint read_time(const unsigned char* at, Py_ssize_t n, int64_t* ns) noexcept nogil
