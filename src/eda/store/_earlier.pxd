from libc.stdint cimport uint64_t


# Python reads these as attributes of the module.
cpdef enum:
    MOST = 15                   # sequences in the header


cdef enum:
    MAX_NAMED = 30              # sequences that one message names: those of its own append, and of earlier ones


# The sequences that a message names, the latest first.
cdef struct Named:
    uint64_t sequence[MAX_NAMED]
    Py_ssize_t n


# Fill `named` with the sequences that the headers of the message at `sequence` name.
cdef void read_named(const unsigned char* headers, Py_ssize_t n, uint64_t sequence, Named* named) noexcept nogil

# Return the list of an aggregate's last sequences with a further one. It has at most 15, the latest first.
cdef str with_sequence(str earlier, uint64_t sequence)
