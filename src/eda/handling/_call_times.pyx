"""How long the handler calls of a subscription took, and with which errors they failed."""

cimport cython
from libc.stdint cimport uint64_t

from eda._durations cimport Durations, N_SAMPLES, note_duration

from eda.error_counts import ErrorCounts, name_of

__all__ = ["CallTimes"]


@cython.final
cdef class CallTimes:
    """The durations of handler calls: of those that returned, and of those that failed. A batch is one call."""

    def __init__(self):
        self.succeeded = Durations()
        self.failed = Durations()
        self.errors = ErrorCounts()

    cdef int note_failed(self, uint64_t took_ns, object error) except -1:
        """Count a handler call that has failed with `error`."""
        note_duration(self.failed, took_ns, 1)
        if self.failed_samples is not None and len(self.failed_samples) < N_SAMPLES:
            self.failed_samples.append((took_ns / 1e9, name_of(error)))
        return 0

    def take_failed(self):
        """Return (seconds, name of the error's type) of failed calls since the last call, at most 64."""
        taken = self.failed_samples or []
        self.failed_samples = []
        return taken

    def stop_sampling(self):
        """Keep no samples any more."""
        self.succeeded.stop_sampling()
        self.failed_samples = None
