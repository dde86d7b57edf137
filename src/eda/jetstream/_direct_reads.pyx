"""The answers to direct gets: finds the read to which an answer belongs, and reads the headers that the server adds.

An answer comes to `<inbox>.<number>-<index>`. The number is that of the read. The index says to which of its requests
the answer belongs.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.exc cimport PyErr_WriteUnraisable
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcmp

from eda._bytes cimport parse_decimal
from eda.transport._waits cimport Wait

__all__ = ["DirectReads", "PendingRead", "answer_headers"]


cdef class PendingRead:
    """A read that is under way: one request, or several that were written together.

    `send` writes the requests of an attempt, and `take_message` gets each answer. The number stays the same in a
    further attempt if `keeps_answers` says so; else late answers to earlier requests are ignored.
    """

    keeps_answers = False

    @property
    def subject(self):
        """Return the subject of the requests."""
        return self.reads.subject.decode()

    @property
    def n_body(self):
        """Return how many bytes the body of the longest request has at most."""
        return 0

    def send(self):
        """Write the requests."""
        raise NotImplementedError

    def take_message(self, bytes headers, bytes payload):
        """Take an answer. Must not raise."""
        raise NotImplementedError

    def write(self, str subject not None, bytes body not None):
        """Write one request."""
        self.reads.write(
            b"PUB %b %b%d-0 %d\r\n%b\r\n" % (subject.encode(), self.reads.inbox, self.number, len(body), body)
        )

    cdef int take(self, Frame* frame, uint64_t index) except -1:
        self.take_message(frame.headers[:frame.n_headers], frame.payload[:frame.n_payload])
        return 0

    def finish(self, object error=None):
        """End the attempt. With an error, it is over without an answer."""
        self.end(error)

    cdef int end(self, object error) except -1:
        cdef Wait waiter
        self.is_over = True
        self.error = error
        if self.waiter is not None:
            waiter = <Wait?>self.waiter
            if not waiter.is_done:
                waiter.finish(None, None, waiter.waits.is_reading)
        return 0


@cython.final
cdef class DirectReads(Sink):
    """The reads under way that share one inbox. `inbox` ends with a dot; `subject` is that of direct gets."""

    def __init__(self, bytes inbox not None, bytes subject not None, object out):
        self.by_number = {}
        self.inbox = inbox
        self.subject = subject
        self.out = out

    def add(self, PendingRead read not None):
        """Begin an attempt: expect answers for the read."""
        if read.number == 0 or not read.keeps_answers:
            self.remove(read)
            self.last_number += 1
            read.number = self.last_number
        self.by_number[read.number] = read
        read.reads = self
        read.is_over = False
        read.error = None
        read.n_answers = 0

    def remove(self, PendingRead read not None):
        """Ignore further answers for the read."""
        self.by_number.pop(read.number, None)
        read.reads = None

    def under_way(self):
        """Return the reads for which answers are expected, in a new list."""
        return list(self.by_number.values())

    def __len__(self):
        return len(self.by_number)

    cdef int write(self, bytes frames) except -1:
        """Write requests. If no other read is under way, they need not wait for the end of the loop's turn."""
        if len(self.by_number) > 1:
            self.out.request(frames)
            return 0
        self.out.at_once = True
        try:
            self.out.request(frames)
        finally:
            self.out.at_once = False
        return 0

    cdef int take_frame(self, Frame* frame) except -1:
        cdef Py_ssize_t n_inbox = PyBytes_GET_SIZE(self.inbox)
        cdef const unsigned char* tail = frame.subject + n_inbox
        cdef const unsigned char* dash
        cdef Py_ssize_t n_tail = frame.n_subject - n_inbox
        cdef uint64_t number = 0, index = 0
        cdef PendingRead read
        if n_tail < 3:
            return 0
        dash = <const unsigned char*>memchr(tail, 45, n_tail)
        if (
            dash is NULL
            or not parse_decimal(tail, dash - tail, &number)
            or not parse_decimal(dash + 1, tail + n_tail - dash - 1, &index)
        ):
            return 0
        read = self.by_number.get(number)
        if read is None or read.is_over:
            return 0
        read.n_answers += 1
        self.n_answers += 1
        try:
            read.take(frame, index)
        except Exception:               # an exception of a sink would end the connection
            PyErr_WriteUnraisable(read)
        return 0


# --- the server's headers --------------------------------------------------------------------------------------------


cdef inline bint two_digits(const unsigned char* text, unsigned int most, unsigned int* value) noexcept nogil:
    cdef unsigned int tens = <unsigned int>text[0] - 48
    cdef unsigned int ones = <unsigned int>text[1] - 48
    if tens > 9 or ones > 9:
        return False
    value[0] = tens * 10 + ones
    return value[0] <= most


cdef bint parse_time(const unsigned char* text, Py_ssize_t n, int64_t* time_ns) noexcept nogil:
    """Read a time of the form 2026-01-02T03:04:05.123456789Z, of the years 1970 to 2261, with 0 to 9 decimals."""
    cdef unsigned int century, year, month, day, hour, minute, second
    cdef uint64_t fraction = 0
    cdef int64_t days, y, era, of_year
    cdef Py_ssize_t n_decimals
    if (
        n < 20 or n > 30 or n == 21 or text[n - 1] != 90 or text[4] != 45 or text[7] != 45 or text[10] != 84
        or text[13] != 58 or text[16] != 58 or not two_digits(text, 22, &century)
        or not two_digits(text + 2, 99, &year) or not two_digits(text + 5, 12, &month)
        or not two_digits(text + 8, 31, &day) or not two_digits(text + 11, 23, &hour)
        or not two_digits(text + 14, 59, &minute) or not two_digits(text + 17, 59, &second)
    ):
        return False
    year += century * 100
    if year < 1970 or year > 2261 or month == 0 or day == 0:
        return False
    if n > 20:
        n_decimals = n - 21
        if text[19] != 46 or not parse_decimal(text + 20, n_decimals, &fraction):
            return False
        for _ in range(9 - n_decimals):
            fraction *= 10
    # The days since 1970-01-01, counted in years that begin in March and eras of 400 years.
    y = <int64_t>year - (month <= 2)
    era = y // 400
    of_year = (153 * (<int64_t>month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    y -= era * 400
    days = era * 146_097 + y * 365 + y // 4 - y // 100 + of_year - 719_468
    time_ns[0] = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + <int64_t>fraction
    return True


cdef bint read_answer(Frame* frame, Answer* answer) noexcept nogil:
    # The server adds its headers after those of the message, so the last value of each header counts.
    cdef const unsigned char* first = frame.headers + 10
    cdef const unsigned char* end = frame.headers + frame.n_headers - 4     # where the last line ends
    cdef const unsigned char* line
    cdef Py_ssize_t n
    cdef bint has_sequence = False, has_time = False
    if end < first or memcmp(frame.headers, b"NATS/1.0\r\n", 10) != 0 or memcmp(end, b"\r\n\r\n", 4) != 0:
        return False
    answer.stream = answer.subject = NULL
    while end > first:
        line = end
        while line > first and not ((line - 1)[0] == 10 and (line - 2)[0] == 13):
            line -= 1
        n = end - line
        # The comparisons may read up to four bytes after the line; the block ends with four bytes of its own.
        if n >= 13 and memcmp(line, b"Nats-", 5) == 0:
            if memcmp(line + 5, b"Stream: ", 8) == 0:
                if answer.stream is NULL:
                    answer.stream = line + 13
                    answer.n_stream = n - 13
            elif memcmp(line + 5, b"Subject: ", 9) == 0:
                if answer.subject is NULL:
                    answer.subject = line + 14
                    answer.n_subject = n - 14
            elif memcmp(line + 5, b"Sequence: ", 10) == 0:
                if not has_sequence and not parse_decimal(line + 15, n - 15, &answer.sequence):
                    return False
                has_sequence = True
            elif memcmp(line + 5, b"Time-Stamp: ", 12) == 0:
                if not has_time and not parse_time(line + 17, n - 17, &answer.time_ns):
                    return False
                has_time = True
            if answer.stream is not NULL and answer.subject is not NULL and has_sequence and has_time:
                return answer.sequence > 0
        end = line - 2
    return False


def answer_headers(bytes headers not None):
    """Return the stream, subject, sequence and time (in nanoseconds since 1970) of a stored message.

    Return None if the headers are not those of an answer to a direct get.
    """
    cdef Frame frame
    cdef Answer answer
    frame.headers = headers
    frame.n_headers = PyBytes_GET_SIZE(headers)
    if not read_answer(&frame, &answer):
        return None
    return answer.stream[:answer.n_stream], answer.subject[:answer.n_subject], answer.sequence, answer.time_ns
