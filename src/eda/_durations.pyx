"""How long handlers and publishes took: each duration is counted in a bucket."""

cimport cython
from libc.stdint cimport uint64_t

__all__ = ["BOUNDS_S", "Durations"]

BOUNDS_S = tuple([BOUNDS[i] / 1e9 for i in range(N_BOUNDS)])


@cython.final
cdef class Durations:
    """Durations of one kind of work. Compiled code adds them by `note_duration`."""

    def note(self, uint64_t ns, uint64_t n=1):
        """Count `n` durations of `ns` nanoseconds each."""
        note_duration(self, ns, n)

    def read(self):
        """Return how many durations are in each bucket, and the sum of all durations in seconds.

        A bucket has the durations up to its bound in BOUNDS_S that no earlier bucket has. The last bucket has the rest.
        """
        return tuple([self.counts[i] for i in range(N_BOUNDS + 1)]), self.sum_ns / 1e9
