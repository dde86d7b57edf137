from libc.stdint cimport int64_t


cdef class RecentCommands:
    cdef char* entries
    cdef Py_ssize_t size            # bytes of the entries
    cdef Py_ssize_t room            # bytes of the buffer
    cdef int n_entries              # up to 64 more than are still found

    cdef int put(self, str command_id, int64_t version, int64_t sequence, int n) except -1
    cdef bint has(self, str command_id) except -1
    cdef Py_ssize_t begin(self) noexcept
    cdef int drop_old(self) except -1
