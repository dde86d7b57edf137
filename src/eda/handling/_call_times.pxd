from eda._durations cimport Durations


# How long the handler calls of a subscription took, and with which errors they failed.
cdef class CallTimes:
    cdef readonly Durations succeeded   # of the calls that returned
    cdef readonly Durations failed      # of the calls that failed
    cdef readonly object errors         # the ErrorCounts of the failed attempts, in events
