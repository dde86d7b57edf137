from libc.stdint cimport uint64_t

from eda.publishing._window cimport Slot, PublishWindow
from eda.transport._frame cimport Sink
from eda.transport._outbound cimport Outbound
from eda.publishing._stream_sender cimport Destination


# The events of one publisher that are not settled.
cdef class Pending(Sink):
    cdef readonly PublishWindow window      # a slot's waiter is its Event; resend_ns: when it was accepted
    cdef Outbound out
    cdef Destination destination
    # With a domain only the end of a batch says who has stored its events: what comes before it only paces.
    cdef readonly bint settles_at_end
    cdef uint64_t give_up_ns                # an event fails this long after it was accepted
    cdef uint64_t next_unwritten                    # the first sequence that is not written yet; never below window.base

    cdef const char* written_at(self, Slot* slot) except NULL
    cdef bytes frame_at(self, uint64_t seq)
