from libc.stdint cimport int64_t


# These check and convert a value that a user gave. They raise ConfigError, naming the field.
cdef str check_text(str name, object value)
cdef tuple check_meta(object value)         # key, value, key, value …; None without entries
cdef int64_t check_time(object value) except? -1

cdef tuple flatten(dict meta)               # a dict > key, value, key, value …
cdef dict to_dict(tuple meta)               # key, value, key, value … > a dict

# Return the meta entries in a part of an envelope that the codec has checked.
cdef dict read_meta(const unsigned char* data, Py_ssize_t n)

cdef object to_datetime(int64_t ns)         # None for 0
cdef str to_rfc3339(int64_t ns)
