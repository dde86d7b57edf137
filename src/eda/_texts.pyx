"""A table of texts that repeat (types, aggregates, clients). A look-up is more than twice as quick as a new str."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_GET_LENGTH
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

__all__: list = []

# The table is direct-mapped, so its size has a bound: 1,024 texts of at most 64 bytes.
cdef enum:
    N_SHARED = 1024
    MAX_SHARED = 64

cdef PyObject* shared[N_SHARED]


cdef inline bint same_bytes(const char* a, const char* b, Py_ssize_t n) noexcept nogil:
    """Return whether the bytes are equal. For so few bytes, a call of memcmp would take most of the time."""
    cdef uint64_t x, y
    cdef Py_ssize_t i = 0
    if n < 8:
        for i in range(n):
            if a[i] != b[i]:
                return False
        return True
    while i < n - 8:
        memcpy(&x, a + i, 8)
        memcpy(&y, b + i, 8)
        if x != y:
            return False
        i += 8
    memcpy(&x, a + n - 8, 8)
    memcpy(&y, b + n - 8, 8)
    return x == y


cdef str shared_text(const char* data, Py_ssize_t n):
    """Return the ASCII text. If the table has it, no new str is made."""
    cdef uint64_t head = 0, tail = 0
    cdef uint64_t at
    cdef PyObject* known
    cdef str text
    if n == 0:
        return ""
    if n > MAX_SHARED:
        return ascii_text(data, n)
    if n >= 8:
        memcpy(&head, data, 8)
        memcpy(&tail, data + n - 8, 8)
    else:
        memcpy(&head, data, n)
    at = (((head ^ (tail * 31)) + <uint64_t>n) * 0x9E3779B97F4A7C15ULL) >> 54
    known = shared[at]
    if known is not NULL and PyUnicode_GET_LENGTH(<str>known) == n:
        if same_bytes(<const char*>PyUnicode_DATA(<str>known), data, n):
            return <str>known
    text = ascii_text(data, n)
    Py_INCREF(text)
    shared[at] = <PyObject*>text
    Py_XDECREF(known)
    return text
