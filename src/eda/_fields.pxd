from libc.stdint cimport int64_t


# These take what users give; they raise ConfigError naming the field.
cdef str check_text(str name, object value)
cdef tuple check_meta(object value)         # key, value, key, value …; None where there is no entry
cdef int64_t check_time(object value) except? -1

cdef tuple flatten(dict meta)               # the same of a dict
cdef dict to_dict(tuple meta)               # and back

cdef object to_datetime(int64_t ns)         # None for 0
cdef str to_rfc3339(int64_t ns)
