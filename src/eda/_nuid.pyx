"""Event ids: NUIDs, as the NATS clients generate them.

An id has 22 base-62 characters: 12 from the operating system's random generator, and 10 of a sequence with a random
step. New random characters are drawn when the sequence is exhausted, and after a fork.

Source: https://github.com/nats-io/nuid
"""

import os

from cpython.unicode cimport PyUnicode_New, PyUnicode_DATA
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

__all__ = ["next_nuid"]

cdef enum:
    N_PREFIX = 12
    N_SEQ = 10
    N_LAST = 4                                      # digits that change from id to id
    MAX_LAST = 62 * 62 * 62 * 62                    # 62 ** N_LAST
    MIN_STEP = 33
    MAX_STEP = 333

cdef uint64_t MAX_SEQ = 839299365868340224ULL       # 62 ** N_SEQ
cdef const unsigned char* DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
cdef unsigned char[62 * 62 * 2] PAIRS               # two digits for each number below 62 * 62: half as many divisions

cdef unsigned char[N_PREFIX + N_SEQ] latest         # the latest id, but for its last digits
cdef uint32_t last = 0                              # the number that its last digits are
cdef uint64_t seq = 0
cdef uint32_t step = 0                              # 0: not seeded yet


cdef int seed() except -1:
    """Draw a new prefix, sequence start and step."""
    global seq, step, last
    cdef unsigned char[N_PREFIX] prefix
    cdef uint64_t new_seq
    cdef uint32_t new_step
    cdef int i = 0
    cdef int byte
    while i < N_PREFIX:
        for byte in os.urandom(2 * N_PREFIX):
            # 248 is the largest multiple of 62 in a byte. Without this limit the first digits would be more frequent.
            if byte < 248 and i < N_PREFIX:
                prefix[i] = DIGITS[byte % 62]
                i += 1
    new_seq = int.from_bytes(os.urandom(8), "little") % MAX_SEQ
    new_step = MIN_STEP + int.from_bytes(os.urandom(2), "little") % (MAX_STEP - MIN_STEP)
    # Other threads may have run in urandom(). None can run from here until the caller has made its id.
    memcpy(latest, prefix, N_PREFIX)
    seq = new_seq
    step = new_step
    last = MAX_LAST
    return 0


cdef int fill_latest() noexcept:
    """Set the digits of `latest`, and `last`, from `seq`."""
    global last
    cdef uint64_t rest = seq
    cdef int i
    for i in range(N_PREFIX + N_SEQ - 1, N_PREFIX - 1, -1):
        latest[i] = DIGITS[rest % 62]
        rest //= 62
    last = <uint32_t>(seq % MAX_LAST)
    return 0


cdef int fill_pairs() noexcept:
    cdef int i
    for i in range(62 * 62):
        PAIRS[2 * i] = DIGITS[i // 62]
        PAIRS[2 * i + 1] = DIGITS[i % 62]
    return 0


fill_pairs()


cdef str new_nuid():
    global seq, last
    cdef str result
    cdef unsigned char* text
    seq += step
    last += step
    if step == 0 or seq >= MAX_SEQ:
        seed()
    if last >= MAX_LAST:
        fill_latest()
    result = PyUnicode_New(N_PREFIX + N_SEQ, 127)
    text = <unsigned char*>PyUnicode_DATA(result)
    memcpy(text, latest, N_PREFIX + N_SEQ - N_LAST)
    memcpy(text + N_PREFIX + N_SEQ - N_LAST, PAIRS + 2 * (last // (62 * 62)), 2)
    memcpy(text + N_PREFIX + N_SEQ - 2, PAIRS + 2 * (last % (62 * 62)), 2)
    return result


def next_nuid():
    """Return a new id of 22 base-62 characters, unique across processes and forks."""
    return new_nuid()


def _forget():
    global step
    step = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
