from cpython.ref cimport PyObject
from libc.stdint cimport int64_t

from eda.store._recent_commands cimport RecentCommands


cdef class Cached:
    cdef readonly object state
    cdef readonly int64_t version
    cdef readonly int64_t sequence
    cdef readonly str last_id
    cdef readonly RecentCommands commands
    cdef readonly bint has_state
    cdef public int64_t snapshot_version
    cdef public int64_t snapshot_sequence
    cdef readonly int64_t epoch
    cdef readonly str earlier
    cdef str infix                  # infix_of() the aggregate; None: not needed yet

    cdef void fetch(self) noexcept
    cpdef Cached without_state(self)
    cpdef Cached after(self, int64_t version, int64_t sequence, str last_id, object state, bint has_state, str earlier)


# An aggregate in the cache. `cached` is None while `evolve` may be changing the state.
# `older` and `newer` are the ones that were used before and after it. Borrowed.
cdef class Entry:
    cdef Cached cached
    cdef str aggregate
    cdef bint is_dropped            # it is no longer in the cache
    cdef PyObject* older
    cdef PyObject* newer


cdef class Cache:
    cdef Py_ssize_t bound
    cdef dict entries
    cdef PyObject* oldest           # an Entry, which `entries` owns
    cdef PyObject* newest

    cdef Entry find(self, str aggregate)
    cdef int use(self, Entry entry) except -1
    cdef void link(self, Entry entry) noexcept
    cdef void unlink(self, Entry entry) noexcept
    cpdef int put(self, str aggregate, Cached cached) except -1
    cdef int put_at(self, Entry entry, str aggregate, Cached cached) except -1
    cpdef int drop(self, str aggregate) except -1
