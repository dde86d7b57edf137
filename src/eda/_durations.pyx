"""How long handlers and publishes took: all of them counted in buckets, and samples of some for those who ask."""

cimport cython
from libc.stdint cimport uint64_t

__all__ = ["BOUNDS_S", "Durations"]

cdef uint64_t NEVER = <uint64_t>-1
BOUNDS_S = tuple([BOUNDS[i] / 1e9 for i in range(N_BOUNDS)])


@cython.final
cdef class Durations:
    """Durations of one kind of work. Compiled code adds them by `note_duration`."""

    def __cinit__(self):
        self.next_sample = NEVER

    cdef void keep_sample(self, uint64_t ns) noexcept:
        if self.n_samples < N_SAMPLES:
            self.samples[self.n_samples] = ns
            self.n_samples += 1
        self.next_sample = self.n + self.stride

    def note(self, uint64_t ns, uint64_t n=1):
        """Count `n` durations of `ns` nanoseconds each."""
        note_duration(self, ns, n)

    def read(self):
        """Return how many durations are in each bucket, and the sum of all durations in seconds.

        A bucket has the durations up to its bound in BOUNDS_S that no earlier bucket has. The last bucket has the rest.
        """
        return tuple([self.counts[i] for i in range(N_BOUNDS + 1)]), self.sum_ns / 1e9

    def take_samples(self, int most):
        """Return some of the durations since the last call, in seconds: at most `most`, and at most 64.

        They are spread evenly over the coming durations, if those come as fast as the last ones did. Until the first
        call, none are kept.
        """
        cdef int i
        cdef uint64_t n_since = self.n - self.n_at_take
        samples = [self.samples[i] / 1e9 for i in range(min(self.n_samples, most))]
        if self.next_sample == NEVER:
            n_since = 0                 # nobody has asked before, so this is no rate
        self.stride = max(n_since // <uint64_t>max(most, 1), <uint64_t>1) - 1
        self.n_samples = 0
        self.n_at_take = self.n
        self.next_sample = self.n
        return samples

    def stop_sampling(self):
        """Keep no samples any more."""
        self.next_sample = NEVER
        self.n_samples = 0
