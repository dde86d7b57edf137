from libc.stdint cimport int32_t, int64_t, uint64_t

from eda._event cimport Event
from eda.transport._outbound cimport Outbound
from eda.handling._call_times cimport CallTimes
from eda.handling._credit cimport Credit
from eda.handling._gate cimport Gate
from eda.handling._ledger cimport Ledger, SharedLedger
from eda.handling._ledger_ordered cimport OrderedLedger
from eda.handling._lease cimport Lease


cdef class Outcomes:
    cdef object host                # a DispatchHost; decides about failures
    cdef Outbound out
    cdef Ledger ledger
    cdef SharedLedger shared        # the ledger, or None: ordered
    cdef OrderedLedger ordered      # the ledger, or None: shared
    cdef bint records_attempts      # shared: the later attempts of events of packs are recorded
    cdef Credit credit              # each outcome makes room for another event
    cdef Gate gate
    cdef Lease lease
    cdef Event acknowledged         # shared: the latest event whose message was acknowledged; None: it was a pack
    cdef bytes acknowledged_pack    # shared: the acknowledgement subject of this pack
    cdef readonly uint64_t n_handled
    cdef readonly uint64_t n_failed
    cdef readonly uint64_t n_retried        # failed attempts after which the event is handled again
    cdef readonly CallTimes calls           # how long the handler calls took
    cdef readonly uint64_t n_misfits        # events whose payload their handler could not decode
    cdef readonly uint64_t n_dead
    cdef readonly uint64_t last_seq         # the highest stream sequence handled

    cdef int succeed(self, int32_t slot) except -1
    cdef int succeed_all(self, int32_t* slots, Py_ssize_t n) except -1
    cdef int acknowledge(self, Event event, int32_t slot) except -1
    cdef int drop(self, int32_t slot, object verdict) except -1
    cdef int finish(self, int32_t slot) except -1
    cdef int end(self, int32_t slot) except -1
    cdef int retry(self, int32_t slot, int64_t delay_ns) except -1
    cdef int retry_later(self, int32_t slot, int64_t delay_ns, Event event, object verdict) except -1
    cdef int note_record(self, int32_t pack) noexcept
    cdef bint is_given_back(self, int32_t pack) noexcept
    cdef int wait_again(self, int32_t slot) except -1
    cdef int give_back(self, int32_t slot) except -1
    cdef int begin_again(self, list slots) except -1
    cdef int give_back_all(self, list slots) except -1
    cdef bint is_kept(self, int32_t slot) noexcept
    cdef int answer(self, Event event, int32_t slot, const char* payload, Py_ssize_t n) except -1
    cdef int end_dead_letter(self, int32_t slot, Event event, object error, int64_t delay_ns) except -1
    cdef list failures_of(self, list slots, object error)
    cdef list retry_all(self, int index, list failures, bint is_whole)
    cdef int answer_pack(self, int32_t pack) except -1
    cdef int let_go(self, int32_t pack) except -1
    cdef int abandon_pack(self, int32_t pack) except -1
    cdef int end_asking(self, int32_t pack, bint is_unwanted) except -1
    cdef Event note_attempt(self, int32_t slot, unsigned int attempt)
    cdef int give_back_packs(self, list packs) except -1
    cdef int extend_lease(self, bytes reply) except -1
    cdef int extend_leases(self, uint64_t now_ns, uint64_t age_ns) except -1
