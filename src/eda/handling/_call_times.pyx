"""How long the handler calls of a subscription took, and with which errors they failed."""

cimport cython

from eda._durations cimport Durations

from eda.error_counts import ErrorCounts

__all__ = ["CallTimes"]


@cython.final
cdef class CallTimes:
    """The durations of handler calls: of those that returned, and of those that failed. A batch is one call."""

    def __init__(self):
        self.succeeded = Durations()
        self.failed = Durations()
        self.errors = ErrorCounts()
