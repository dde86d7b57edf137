from libc.stdint cimport int64_t


# These take what users give; they raise ConfigError naming the field.
cdef str check_text(str name, object value)
cdef dict check_meta(object value)
cdef int64_t check_time(object value) except? -1

cdef object to_datetime(int64_t ns)         # None for 0
cdef str to_rfc3339(int64_t ns)
