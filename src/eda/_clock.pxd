# The clocks, in nanoseconds. Inline, libc only.

from libc.stdint cimport int64_t, uint64_t


cdef extern from *:
    """
    #if defined(_WIN32)
    #define WIN32_LEAN_AND_MEAN
    #include <windows.h>
    static inline unsigned long long eda_monotonic_ns(void) {
        LARGE_INTEGER count, frequency;
        QueryPerformanceCounter(&count);
        QueryPerformanceFrequency(&frequency);
        return (unsigned long long)((double)count.QuadPart * 1e9 / (double)frequency.QuadPart);
    }
    static inline long long eda_wall_ns(void) {
        FILETIME time;
        ULARGE_INTEGER ticks;
        GetSystemTimePreciseAsFileTime(&time);
        ticks.LowPart = time.dwLowDateTime;
        ticks.HighPart = time.dwHighDateTime;
        return (long long)(ticks.QuadPart - 116444736000000000ULL) * 100;
    }
    #else
    #include <time.h>
    static inline unsigned long long eda_monotonic_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (unsigned long long)now.tv_sec * 1000000000ULL + (unsigned long long)now.tv_nsec;
    }
    static inline long long eda_wall_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        return (long long)now.tv_sec * 1000000000LL + (long long)now.tv_nsec;
    }
    #endif
    #ifdef CLOCK_MONOTONIC_COARSE
    static inline unsigned long long eda_coarse_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return (unsigned long long)now.tv_sec * 1000000000ULL + (unsigned long long)now.tv_nsec;
    }
    #else
    static inline unsigned long long eda_coarse_ns(void) { return eda_monotonic_ns(); }
    #endif
    #ifdef CLOCK_REALTIME_COARSE
    #define EDA_HAS_TICKS 1
    static inline long long eda_wall_tick_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
        return (long long)now.tv_sec * 1000000000LL + (long long)now.tv_nsec;
    }
    #else
    #define EDA_HAS_TICKS 0
    static inline long long eda_wall_tick_ns(void) { return eda_wall_ns(); }
    #endif
    """
    uint64_t monotonic_ns "eda_monotonic_ns"() noexcept nogil   # since an arbitrary moment; never goes back
    # The same clock, up to some milliseconds late, for waits of seconds. Reading it takes 5 ns instead of 23.
    uint64_t coarse_ns "eda_coarse_ns"() noexcept nogil
    int64_t wall_ns "eda_wall_ns"() noexcept nogil              # since 1970, UTC
    # The same at the system's latest tick. While it stays equal, no more time has passed than from tick to tick: 1 to
    # 10 ms, and more while the machine is busy. Where HAS_TICKS is False, it is the exact time.
    const bint HAS_TICKS "EDA_HAS_TICKS"
    int64_t wall_tick_ns "eda_wall_tick_ns"() noexcept nogil
