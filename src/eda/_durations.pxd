# How long handlers and publishes took, counted in buckets. Counting costs some ten instructions for each event.

from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #if defined(_MSC_VER)
    #include <intrin.h>
    static inline int eda_bit_length(unsigned long long n) {
        unsigned long at;
        _BitScanReverse64(&at, n | 1);
        return (int)at + 1;
    }
    #else
    static inline int eda_bit_length(unsigned long long n) { return 64 - __builtin_clzll(n | 1); }
    #endif
    /* The upper ends of the buckets in nanoseconds: 1, 2.5 and 5 of each power of ten. The last bucket has no end. */
    static const unsigned long long eda_bounds[22] = {
        10000ULL, 25000ULL, 50000ULL, 100000ULL, 250000ULL, 500000ULL,
        1000000ULL, 2500000ULL, 5000000ULL, 10000000ULL, 25000000ULL, 50000000ULL,
        100000000ULL, 250000000ULL, 500000000ULL, 1000000000ULL, 2500000000ULL, 5000000000ULL,
        10000000000ULL, 25000000000ULL, 50000000000ULL, ~0ULL
    };
    /* By the number of bits of a duration: how many bounds are below the smallest duration with so many bits. */
    static const unsigned char eda_n_below[65] = {
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7,
        7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 16, 17, 18, 19, 20, 21, 21, 21, 21, 21, 21, 21,
        21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21
    };
    """
    const uint64_t* BOUNDS "eda_bounds"
    const unsigned char* N_BELOW "eda_n_below"
    int bit_length "eda_bit_length"(uint64_t n) noexcept nogil      # of 0 it is 1


cdef enum:
    N_BOUNDS = 21


# Durations of one kind of work.
cdef class Durations:
    cdef uint64_t[N_BOUNDS + 1] counts  # by bucket
    cdef uint64_t sum_ns


cdef inline int bucket_of(uint64_t ns) noexcept:
    """Return the bucket of a duration: the first one whose bound is not below it."""
    # Each bound is at least twice the one before, so at most one of them has as many bits as the duration.
    cdef int first = N_BELOW[bit_length(ns)]
    return first + (ns > BOUNDS[first])


cdef inline void note_duration(Durations durations, uint64_t ns, uint64_t n) noexcept:
    """Count `n` durations of `ns` nanoseconds each."""
    durations.counts[bucket_of(ns)] += n
    durations.sum_ns += ns * n
