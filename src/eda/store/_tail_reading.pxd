from libc.stdint cimport int64_t, uint64_t

from eda._event cimport Event
from eda.jetstream._direct_reads cimport Answer, PendingRead
from eda.store._earlier cimport Named
from eda.transport._frame cimport Frame


# Python reads these as attributes of the module.
cpdef enum:
    MAX_FOLLOWED = 120          # events that are read by their sequences


cdef enum:
    MAX_STEPS = 16              # round trips for these


cdef class TailReading(PendingRead):
    cdef readonly bint is_complete
    cdef readonly bint is_foreign       # another stream, a mirror, has answered the first request
    cdef readonly Event newest          # the aggregate's last event, if the read has begun with it
    cdef readonly Event base            # the event at the baseline's sequence
    cdef list found                     # the events after the baseline, in order; None: not there yet
    cdef str stream
    cdef bytes token                    # the aggregate as a token of subjects
    cdef bytes aggregate
    cdef int64_t base_version
    cdef uint64_t base_sequence
    cdef bint reads_base
    cdef Py_ssize_t n_earlier           # the events between the baseline and the newest one
    cdef Py_ssize_t n_asked             # of these and the baseline's: how many were asked for
    cdef Py_ssize_t n_there
    cdef Py_ssize_t n_missing           # of those that were asked for: no message has come, or one of a mirror
    cdef bint is_wrong                  # an answer is not the event that was asked for
    cdef Py_ssize_t n_steps
    cdef unsigned char is_missing[MAX_FOLLOWED + 2]     # by index
    cdef uint64_t asked[MAX_FOLLOWED + 2]       # by index, from 1: the sequences
    cdef Named next                     # what the oldest message of this step names

    cdef Event event_of(self, Frame* frame, Answer* answer, int64_t version)
    cdef int take_newest(self, Frame* frame) except -1
    cdef int take_earlier(self, Frame* frame, Py_ssize_t at) except -1
    cdef int add(self, Py_ssize_t at, Event event, const unsigned char* headers, Py_ssize_t n_headers) except -1
    cdef int begin_at_newest(self, Event event, Named* named) except -1
    cdef bint is_own(self, Answer* answer) except -1
    cdef bint is_there(self, Py_ssize_t at) except -1
    cdef int note_missing(self, Py_ssize_t at) except -1
    cdef int give_up(self) except -1
    cdef int go_on(self) except -1
    cdef int ask(self, Named* named) except -1
    cdef int request(self, Py_ssize_t first) except -1
