from cpython.unicode cimport PyUnicode_DATA, PyUnicode_New

from eda._bytes cimport copy_bytes


# Both return the bytes as a str. The caller must know that they are ASCII.
cdef inline str ascii_text(const char* data, Py_ssize_t n):
    cdef str text = PyUnicode_New(n, 127)
    copy_bytes(<unsigned char*>PyUnicode_DATA(text), <const unsigned char*>data, n)
    return text


cdef str shared_text(const char* data, Py_ssize_t n)
