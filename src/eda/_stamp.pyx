"""Metadata that are the same for many events: added to events, and recognised in received ones."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp

cimport cython

from eda._event cimport Event
from eda._fields cimport check_meta

__all__ = ["SameMeta", "Stamp"]


@cython.final
cdef class Stamp:
    """Stamp(entries, names)\n--\n
    Adds `entries` to the metadata of events, unless these have an entry of one of the `names` already.

    It is `event.replace(meta={**entries, **event.meta})` at a fifth of the time. Raises ConfigError if `entries` are no
    texts.
    """

    def __init__(self, dict entries, names):
        self.entries = dict(entries)
        self.texts = check_meta(self.entries)
        self.names = frozenset(names)

    cpdef Event on(self, Event event):
        """Return a copy of the event with the entries, or the very event."""
        cdef Event copy
        if self.texts is None:
            return event
        if event.get_meta() is not None:
            return event if not self.names.isdisjoint(event.meta) else event.replace(meta=self.entries | event.meta)
        copy = event.copied()
        copy._meta = self.texts
        return copy


@cython.final
cdef class SameMeta:
    """Tells whether received events have the same metadata as the event that was noted, without reading them."""

    def __cinit__(self):
        self.kept = b""

    cpdef int note(self, Event event) except -1:
        """Note the metadata of an event. An event that was not received, or has none, is like no other."""
        self.kept = event.kept(&event.meta_span) if event.raw is not None else b""
        return 0

    cpdef bint is_in(self, object event):
        """Return whether an event has the noted metadata, byte for byte. If not, they may be equal all the same."""
        cdef Event it
        cdef Py_ssize_t n = PyBytes_GET_SIZE(self.kept)
        if n == 0 or type(event) is not Event:
            return False
        it = <Event>event
        return it.raw is not None and it.meta_span.n == n and memcmp(
            PyBytes_AS_STRING(it.raw) + it.meta_span.start, PyBytes_AS_STRING(self.kept), n
        ) == 0
