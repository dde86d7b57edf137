from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from eda._event cimport Event
from eda._pack cimport Pack
from eda.transport._frame cimport Delivery, Frame
from eda.transport._outbound cimport Outbound
from eda.handling._credit cimport Credit
from eda.handling._ledger cimport Ledger, SharedLedger
from eda.handling._ledger_ordered cimport OrderedLedger
from eda.handling._lease cimport Lease
from eda.handling._outcome cimport Outcomes
from eda.handling._reading cimport EventReader
from eda.handling._waiting cimport WaitingWorkers


cdef class Intake(EventReader):
    cdef Outbound out
    cdef SharedLedger shared        # the ledger, or None: ordered
    cdef OrderedLedger ordered      # the ledger, or None: shared
    cdef Credit credit              # each delivery uses some of it
    cdef Outcomes outcomes          # shared: answers packs
    cdef Lease lease                # ordered: told when an event that is not for us moves the position
    cdef WaitingWorkers waiting

    # Which deliveries are taken.
    cdef bytes name_utf8            # of the subscription
    cdef bytes inbox                # subject prefix of statuses, with its last dot
    cdef frozenset types            # None: all
    cdef str aggregate              # None: all
    cdef bint asks_for_unwanted     # shared: the source decides about events that the filter excludes
    cdef frozenset empty            # sequences of messages that look stripped, but were stored without a body

    # What is noted for an event.
    cdef object key_of              # None, or a function of the event
    cdef bint by_aggregate          # the key is the aggregate
    cdef bint has_keys              # one of these two
    cdef uint64_t max_attempts      # 0: no limit
    cdef uint64_t suspect_from      # shared: an event is a suspect from this delivery onwards; 0: never
    cdef readonly uint64_t first_attempt    # ordered: of the next event; more than 1 if it was tried before
    cdef bint awaits_part           # ordered: the ledger's `part` is a pack that is partly done and was not read yet
    cdef readonly bint has_packs            # ordered: a pack was read
    cdef readonly uint64_t clock_ns         # monotonic, coarse: as of the latest tick or handler

    # To notice events that are missing: the highest stream and consumer sequences of first deliveries.
    cdef bint sees_all              # there is no filter, so a gap in stream sequences means that events are gone
    cdef uint64_t stream_seq
    cdef uint64_t consumer_seq

    cdef readonly uint64_t n_received       # frames of any kind, which show that the server is alive
    cdef readonly uint64_t n_redelivered
    cdef readonly uint64_t n_passed_over    # excluded by our own filter, or replayed for another subscription
    cdef readonly uint64_t n_foreign        # frames that name another stream or consumer; they are ignored
    cdef readonly uint64_t n_skipped        # gone from the stream before they were delivered
    cdef readonly uint64_t n_pending        # events in the stream not delivered yet, as of the latest delivery

    cdef int take_shared(self, Frame* frame, Delivery* delivery) except -1
    cdef int take_ordered(self, Frame* frame, Delivery* delivery) except -1
    cdef int take_shared_pack(self, Frame* frame, Delivery* delivery, Pack pack) except -1
    cdef int hold_shared_pack(self, Delivery* delivery, Pack pack, int32_t held) except -1
    cdef bint is_redelivered(self, Frame* frame, Delivery* delivery) except -1
    cdef int acknowledge_unwanted(self, Frame* frame) except -1
    cdef int take_ordered_pack(self, Frame* frame, Delivery* delivery, Pack pack, uint32_t n_done) except -1
    cdef uint32_t end_wait_for_part(self, Delivery* delivery) except? 0
    cdef int forget_part(self) except -1
    cdef uint32_t hold_pack(self, Delivery* delivery, Pack pack, uint32_t n_done) except? 0
    cdef object continue_attempts(self, Event event, object verdict)
    cdef int pass_over_ordered(self, uint64_t seq) except -1
    cdef int hold_ordered(self, Event event, uint64_t seq, object verdict, bint is_last) except -1
    cdef bint is_wanted(self, Event event) except -1
    cdef bint is_for_others(self, Frame* frame) except -1
    cdef int begin_after(self, uint64_t tries) except -1
