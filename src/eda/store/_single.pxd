from libc.stdint cimport int64_t

from eda._event cimport Event
from eda.publishing._message_sender cimport MessageSender
from eda.publishing._stream_sender cimport Destination
from eda.store._cache cimport Cache, Cached, Entry
from eda.store._message cimport Message
from eda.transport._loop_check cimport LoopCheck


cdef class Single(Message):
    cdef readonly str command_id            # None: the append has none
    cdef readonly object waiter
    cdef object refusal                     # the error that `decide` has raised; None: none
    cdef readonly object decided
    cdef Entry entry                        # the aggregate's place in the cache; None: not known
    cdef Cached known                       # before the append
    cdef bint is_spent                      # `evolve` may have changed the state of `known`
    cdef readonly Cached after
    cdef object state                       # after the event
    cdef bint has_state
    cdef Cache cache

    cdef object stored_at(self, int64_t sequence)


cdef class Singles:
    cdef LoopCheck loop_check
    cdef object opened
    cdef object parts
    cdef dict known
    cdef object seen                        # the stream in `known` that the next three are of; None: none yet
    cdef MessageSender sender
    cdef Destination destination
    cdef double usual_s
    cdef str stream
    cdef str client
    cdef Cache cache
    cdef dict turns
    cdef object decider
    cdef object decide
    cdef object evolve
    cdef readonly object on_stored
    cdef type state_type                    # of the last state
    cdef object state_answer                # quick_answer() of this type
    cdef str usual_type                     # of the last event: not one that only a store may append
    cdef frozenset types                    # those whose payloads `evolve` gets; None: not asked yet

    cdef Single execute(self, object aggregate, object command, object command_id, object handled)
    cdef Single append(self, object aggregate, object events, object expected, object command_id, object handled)
    cdef bint can_send(self) except -1
    cdef Entry usable(self, object aggregate)
    cdef bint is_expected(self, object expected, str aggregate, Cached known) except -1
    cdef int give(self, str aggregate) except -1
    cdef int fill(self, Single single, str aggregate, Cached known, Event event, str command_id, str id,
                  object folded, object payload) except -1
    cdef bint is_kept(self, object state) except -1
    cdef Event as_stored(self, bytes envelope)
    cdef frozenset payload_types(self)
    cdef object fold(self, object state, Single single, object payload)
    cdef int send_to(self, Single single, MessageSender sender, Destination destination, double give_up_s) except -1
