from libc.stdint cimport uint32_t, uint64_t

from eda._event cimport Event
from eda._pack cimport Pack
from eda.transport._frame cimport Delivery, Frame, Sink


cdef class EventReader(Sink):
    cdef object source              # a DispatchSource
    cdef str stream
    cdef bytes stream_utf8
    cdef bytes consumer_utf8        # empty: no delivery is taken
    cdef object verdict             # why no handler gets the event that was read last, or None
    cdef object fault               # why a message or an envelope can't be read, until `verdict` is set
    cdef readonly uint64_t n_undecodable

    cdef Event read_event(self, Frame* frame, Delivery* delivery, Py_ssize_t n_reply)
    cdef Event undecodable(self, Py_ssize_t start, Py_ssize_t n)
    cdef Pack open_pack(self, Frame* frame)
    cdef Event read_packed(self, Pack pack, uint32_t index, Delivery* delivery)
    cdef int keep_message(self, Event event, bytes raw, Frame* frame) except -1
