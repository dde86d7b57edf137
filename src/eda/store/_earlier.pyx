"""The sequences of an aggregate's earlier events, which the header `Eda-Earlier` of each message names.

With them a load asks for each event by its sequence. This costs the server a constant time. A search by subject goes
through all messages between two events that are in the same block of the stream's file.

The header's value has numbers separated by spaces. The first says how many events of the same append are stored
directly before this one. The others are the sequences of the events before that append, the latest first. The list may
end early, or be missing.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp

from eda._bytes cimport copy_byte, copy_bytes, copy_decimal, parse_decimal
from eda._texts cimport ascii_text

__all__ = ["EARLIER", "MOST", "earlier_in", "value_of", "with_all"]

EARLIER = "Eda-Earlier"

cdef bytes line_begin = f"{EARLIER}: ".encode()
cdef const char* LINE_BEGIN = PyBytes_AS_STRING(line_begin)
cdef Py_ssize_t N_LINE_BEGIN = PyBytes_GET_SIZE(line_begin)

cdef enum:
    N_NUMBER = 20               # digits of the largest number


cdef extern from *:
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* n) except NULL
    bint PyUnicode_IS_ASCII(str text) noexcept


# --- writing ---------------------------------------------------------------------------------------------------------


def with_all(str earlier not None, sequences):
    """Return the list of sequences with those of further events. It has at most 15, the latest first."""
    for sequence in sequences[-<Py_ssize_t>MOST:]:
        earlier = with_sequence(earlier, sequence)
    return earlier


def value_of(str earlier not None, Py_ssize_t n_before=0):
    """Return the header's value. `n_before`: how many events of the same append are stored directly before this one."""
    return f"{n_before} {earlier}" if earlier else str(n_before)


cdef str with_sequence(str earlier, uint64_t sequence):
    """Return the list of an aggregate's last sequences with a further one. It has at most 15, the latest first."""
    cdef unsigned char text[(N_NUMBER + 1) * (MOST + 1)]
    cdef Py_ssize_t n
    cdef const char* old = PyUnicode_AsUTF8AndSize(earlier, &n)
    cdef Py_ssize_t end = 0             # where the 14th sequence ends, or the last one
    cdef int n_blanks = 0
    cdef unsigned char* to = copy_decimal(text, sequence)
    if n > (N_NUMBER + 1) * MOST or not PyUnicode_IS_ASCII(earlier):
        raise ValueError(f"earlier: no list of at most {MOST} sequences")
    while end < n:
        n_blanks += old[end] == 32
        if n_blanks == MOST - 1:
            break
        end += 1
    if end > 0:
        to = copy_byte(to, 32)
        to = copy_bytes(to, <const unsigned char*>old, end)
    return ascii_text(<char*>text, to - text)


# --- reading ---------------------------------------------------------------------------------------------------------


cdef bint read_list(const unsigned char* text, Py_ssize_t n, uint64_t sequence, Named* named) noexcept nogil:
    """Read the value of `Eda-Earlier`. Return False if it is malformed."""
    cdef const unsigned char* end = text + n
    cdef const unsigned char* space
    cdef Py_ssize_t n_word
    cdef uint64_t number
    cdef int n_words = 0
    named.n = 0
    while True:
        space = <const unsigned char*>memchr(text, 32, end - text)
        n_word = (end if space is NULL else space) - text
        if n_words > MOST or not parse_decimal(text, n_word, &number):
            return False
        if n_words == 0:
            if n_word > 4:
                return False
            # The events of the same append are stored directly before this one.
            while named.n < MOST and <uint64_t>named.n < number and <uint64_t>named.n + 1 < sequence:
                named.sequence[named.n] = sequence - 1 - <uint64_t>named.n
                named.n += 1
        elif text[0] == 48:
            return False
        elif number < sequence:         # it is only a hint, so sequences that can't be right are left out
            named.sequence[named.n] = number
            named.n += 1
        n_words += 1
        if space is NULL:
            return True
        text = space + 1


cdef void read_named(const unsigned char* headers, Py_ssize_t n, uint64_t sequence, Named* named) noexcept nogil:
    """Fill `named` with the sequences that the message at `sequence` names, the latest first."""
    cdef const unsigned char* end = headers + n
    cdef const unsigned char* line = headers
    cdef const unsigned char* line_end
    named.n = 0
    while line < end:
        line_end = <const unsigned char*>memchr(line, 13, end - line)
        if line_end is NULL or end - line_end < 2:
            break
        if line_end[1] != 10:           # a lone CR: it can't be part of the list's line
            line_end = <const unsigned char*>memchr(line, 10, end - line)
            if line_end is NULL:
                break
            line = line_end + 1
            continue
        if line_end - line > N_LINE_BEGIN and memcmp(line, LINE_BEGIN, N_LINE_BEGIN) == 0:
            if read_list(line + N_LINE_BEGIN, line_end - line - N_LINE_BEGIN, sequence, named):
                return
        line = line_end + 2
    named.n = 0


def earlier_in(bytes headers not None, uint64_t sequence):
    """Return the sequences that the message at `sequence` names, the latest first; [] if it names none."""
    cdef Named named
    read_named(<const unsigned char*>PyBytes_AS_STRING(headers), PyBytes_GET_SIZE(headers), sequence, &named)
    return [named.sequence[i] for i in range(named.n)]
