from libc.stdint cimport int64_t


# These take what users give; they raise ConfigError naming the field.
cdef str check_text(str name, object value)
cdef tuple check_meta(object value)         # key, value, key, value …; None where there is no entry
cdef int64_t check_time(object value) except? -1

cdef tuple flatten(dict meta)               # the same of a dict
cdef dict to_dict(tuple meta)               # and back

# The meta entries of a stretch of envelope that the codec has checked.
cdef dict read_meta(const unsigned char* data, Py_ssize_t n)

cdef object to_datetime(int64_t ns)         # None for 0
cdef str to_rfc3339(int64_t ns)
