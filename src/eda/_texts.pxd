from cpython.unicode cimport PyUnicode_DATA, PyUnicode_New
from libc.string cimport memcpy


# Both make a str of ASCII bytes, which the caller has checked.
cdef inline str ascii_text(const char* data, Py_ssize_t n):
    cdef str text = PyUnicode_New(n, 127)
    if n:
        memcpy(PyUnicode_DATA(text), data, n)
    return text


cdef str shared_text(const char* data, Py_ssize_t n)
