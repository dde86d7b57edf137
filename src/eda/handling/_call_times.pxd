from libc.stdint cimport uint64_t

from eda._durations cimport Durations


# How long the handler calls of a subscription took, and with which errors they failed.
cdef class CallTimes:
    cdef readonly Durations succeeded   # of the calls that returned
    cdef readonly Durations failed      # of the calls that failed
    cdef readonly object errors         # the ErrorCounts of the failed attempts, in events
    cdef list failed_samples            # (seconds, name of the error's type) of failed calls; None: nobody wants them

    cdef int note_failed(self, uint64_t took_ns, object error) except -1
