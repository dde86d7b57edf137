"""The NATS client protocol: incoming bytes > frames; subject tokens; the reply subjects of JetStream's deliveries.

Sources: https://docs.nats.io/reference/reference-protocols/nats-protocol and ADR-15 (acknowledgement subjects).
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memmove

from eda._bytes cimport Writer, copy_byte, copy_bytes, eight_digits, parse_decimal, release, reserve

__all__ = ["MAX_CONTROL_LINE", "FrameError", "Parser", "Sink"]

cdef enum:
    READ_SIZE = 256 * 1024          # the most bytes of one read, as in asyncio's own transports
    MIN_READ = 32 * 1024            # with less free room at its end, the buffer moves its bytes to its start
    MAX_LINE = 1024 * 1024          # bytes of a received line; INFO may be longer than MAX_CONTROL_LINE
    MAX_PAYLOAD = 64 * 1024 * 1024 + 64 * 1024      # the server's limit for a payload, and for headers
    MAX_REPLY = 1024                # bytes of a reply subject; the names of stream and consumer have at most 255


class FrameError(Exception):
    """The peer sent bytes that are not the NATS protocol."""


cdef class Sink:
    """The receiver of the frames of one subscription id."""

    cdef int take_frame(self, Frame* frame) except -1:
        raise NotImplementedError


cdef inline bint is_blank(unsigned char byte) noexcept nogil:
    return byte == 32 or byte == 9


cdef inline const unsigned char* end_of_token(
    const unsigned char* pos, const unsigned char* end, bint has_tabs
) noexcept nogil:
    cdef const unsigned char* blank
    if not has_tabs:                # servers write spaces
        blank = <const unsigned char*>memchr(pos, 32, end - pos)
        return end if blank is NULL else blank
    while pos < end and not is_blank(pos[0]):
        pos += 1
    return pos


cdef inline const unsigned char* skip_blanks(const unsigned char* pos, const unsigned char* end) noexcept nogil:
    while pos < end and is_blank(pos[0]):
        pos += 1
    return pos


@cython.final
cdef class Parser:
    """A parser that splits incoming bytes into frames. A read may end at any byte.

    It gives the frames of registered subscription ids to their sinks. `received` returns everything else as a list of
    complete `(verb, bytes)` pairs, for nats-py.
    """

    def __cinit__(self):
        self.buffer = bytearray(READ_SIZE)
        self.sinks = []

    def register(self, Py_ssize_t sid, Sink sink):
        """Give the frames of subscription id `sid` to `sink`; with None, to nats-py."""
        if sid < 0:
            raise ValueError(f"subscription id {sid}")
        while len(self.sinks) <= sid:
            self.sinks.append(None)
        self.sinks[sid] = sink

    def reset(self):
        """Drop all input, because a new connection begins."""
        self.head = self.tail = self.resume = 0
        self.n_resets += 1

    def room(self):
        """Return a memoryview to read into."""
        cdef char* base = PyByteArray_AS_STRING(self.buffer)
        cdef Py_ssize_t size = len(self.buffer)
        cdef Py_ssize_t rest = self.tail - self.head
        cdef Py_ssize_t larger
        if rest == 0:
            self.head = self.tail = self.resume = 0
            if size > READ_SIZE:
                self.buffer = bytearray(READ_SIZE)
        elif size - self.tail < MIN_READ or (size > READ_SIZE and rest < MIN_READ):
            if size > READ_SIZE and rest < MIN_READ:
                # The buffer grew for a large message, and is mostly empty again.
                smaller = bytearray(READ_SIZE)
                memcpy(PyByteArray_AS_STRING(smaller), base + self.head, rest)
                self.buffer = smaller
            elif rest > size // 2:
                # The buffer grows only for bytes that have arrived. A peer could announce any size.
                larger = size * 2
                grown = bytearray(larger)
                memcpy(PyByteArray_AS_STRING(grown), base + self.head, rest)
                self.buffer = grown
            else:
                memmove(base, base + self.head, rest)
            self.head = 0
            self.tail = rest
        return memoryview(self.buffer)[self.tail:]

    def received(self, Py_ssize_t n):
        """Parse `n` more bytes in `room()`. Return the pairs for nats-py, or None. Raises FrameError."""
        if n < 0 or n > len(self.buffer) - self.tail:
            raise ValueError(f"{n} bytes do not fit into the room given")
        self.tail += n
        return self.parse()

    def feed(self, data):
        """Parse these bytes. Return the pairs for nats-py, or None. Raises FrameError."""
        cdef Py_ssize_t n
        others = None
        view = memoryview(data)
        while len(view):
            room = self.room()
            n = min(len(room), len(view))
            room[:n] = view[:n]
            view = view[n:]
            more = self.received(n)
            if more:
                others = others + more if others else more
        return others

    cdef list parse(self):
        cdef const unsigned char* base = <const unsigned char*>PyByteArray_AS_STRING(self.buffer)
        cdef list others = []
        cdef Py_ssize_t used
        cdef uint64_t n_resets = self.n_resets
        while self.head < self.tail:
            used = self.parse_one(base + self.head, base + self.tail, others)
            if used == 0 or n_resets != self.n_resets:
                break                   # incomplete, or a sink has called reset()
            self.head += used
            self.resume = 0
        return others if others else None

    cdef Py_ssize_t parse_one(self, const unsigned char* pos, const unsigned char* end, list others) except -1:
        """Parse one frame or line. Return the bytes used, 0 if it is incomplete."""
        cdef const unsigned char* newline
        cdef const unsigned char* line_end
        cdef Py_ssize_t n
        newline = <const unsigned char*>memchr(pos + self.resume, 10, end - pos - self.resume)
        if newline is NULL:
            if end - pos > MAX_LINE:
                raise FrameError("a protocol line of more than 1 MiB")
            self.resume = end - pos
            return 0
        self.resume = newline - pos
        line_end = newline
        if line_end > pos and (line_end - 1)[0] == 13:
            line_end -= 1
        n = line_end - pos
        if n >= 4 and memcmp(pos, b"MSG", 3) == 0 and is_blank(pos[3]):
            return self.parse_message(pos, line_end, end, False, others)
        if n >= 5 and memcmp(pos, b"HMSG", 4) == 0 and is_blank(pos[4]):
            return self.parse_message(pos, line_end, end, True, others)
        if n == 3 and memcmp(pos, b"+OK", 3) == 0:
            pass
        elif n == 4 and (memcmp(pos, b"PING", 4) == 0 or memcmp(pos, b"PONG", 4) == 0):
            others.append((pos[:4], b""))
        elif n > 5 and is_blank(pos[4]) and (memcmp(pos, b"-ERR", 4) == 0 or memcmp(pos, b"INFO", 4) == 0):
            others.append((pos[:4], pos[5:n]))
        else:
            raise FrameError(f"unknown protocol line {pos[:min(n, 40)]!r}")
        return newline + 1 - pos

    cdef Py_ssize_t parse_message(
        self, const unsigned char* pos, const unsigned char* line_end, const unsigned char* end, bint has_headers,
        list others
    ) except -1:
        # [H]MSG <subject> <sid> [reply] [header bytes] <total bytes>
        cdef const unsigned char* token[6]
        cdef Py_ssize_t n_token[6]
        cdef int n = 0
        cdef int n_sizes = 2 if has_headers else 1
        cdef const unsigned char* at = pos + 4 + has_headers
        cdef const unsigned char* body
        cdef uint64_t sid, n_headers = 0, n_total
        cdef Frame frame
        cdef Sink sink = None
        cdef bint has_tabs = memchr(at, 9, line_end - at) is not NULL
        at = skip_blanks(at, line_end)
        while at < line_end:
            if n == 5:
                raise FrameError(f"malformed message line {pos[:min(line_end - pos, 80)]!r}")
            token[n] = at
            at = end_of_token(at, line_end, has_tabs)
            n_token[n] = at - token[n]
            n += 1
            at = skip_blanks(at, line_end)
        if (
            n < 2 + n_sizes or n > 3 + n_sizes
            or not parse_decimal(token[1], n_token[1], &sid)
            or not parse_decimal(token[n - 1], n_token[n - 1], &n_total)
            or (has_headers and not parse_decimal(token[n - 2], n_token[n - 2], &n_headers))
            or n_headers > n_total
        ):
            raise FrameError(f"malformed message line {pos[:min(line_end - pos, 80)]!r}")
        if n_total > MAX_PAYLOAD:
            raise FrameError(f"a message of {n_total} bytes")
        body = line_end + (2 if line_end[0] == 13 else 1)
        if <uint64_t>(end - body) < n_total + 2:
            return 0
        if body[n_total] != 13 or body[n_total + 1] != 10:
            raise FrameError("a message is longer or shorter than announced")
        at = body + n_total + 2
        if sid < <uint64_t>len(self.sinks):
            sink = self.sinks[<Py_ssize_t>sid]
        if sink is None:
            others.append((b"MSG", pos[:at - pos]))
            return at - pos
        frame.subject = token[0]
        frame.n_subject = n_token[0]
        frame.reply = token[2] if n == 3 + n_sizes else NULL
        frame.n_reply = n_token[2] if n == 3 + n_sizes else 0
        frame.headers = body
        frame.n_headers = <Py_ssize_t>n_headers
        frame.payload = body + n_headers
        frame.n_payload = <Py_ssize_t>(n_total - n_headers)
        self.n_frames += 1
        sink.take_frame(&frame)
        return at - pos


cdef bint is_plain(const unsigned char* text, Py_ssize_t n) noexcept nogil:
    """Return whether the text is printable ASCII without spaces and wildcards."""
    cdef Py_ssize_t i
    for i in range(n):
        if text[i] <= 32 or text[i] > 126 or text[i] == 42 or text[i] == 62:
            return False
    return True


cdef inline const unsigned char* read_number(
    const unsigned char* pos, const unsigned char* end, uint64_t* value
) noexcept nogil:
    """Read a decimal number below 2**63. Return where its digits end, or NULL if there is no such number."""
    cdef const unsigned char* begin = pos
    cdef uint64_t result = 0, eight
    cdef unsigned int digit
    cdef int _
    for _ in range(2):              # a time has 19 digits
        if end - pos < 8 or not eight_digits(pos, &eight):
            break
        result = result * 100000000 + eight
        pos += 8
    while pos < end:
        digit = <unsigned int>pos[0] - 48
        if digit > 9:
            break
        result = result * 10 + digit
        pos += 1
    if pos == begin or pos - begin > 19 or result >= 0x8000000000000000ULL:
        return NULL
    value[0] = result
    return pos


cdef bint read_last_tokens(const unsigned char* pos, const unsigned char* end, Delivery* delivery) noexcept nogil:
    """Read <stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, up to the end or a dot."""
    cdef const unsigned char* dot = <const unsigned char*>memchr(pos, 46, end - pos)
    cdef uint64_t number[5]
    cdef int i
    if dot is NULL or dot == pos:
        return False
    delivery.stream = pos
    delivery.n_stream = dot - pos
    pos = dot + 1
    dot = <const unsigned char*>memchr(pos, 46, end - pos)
    if dot is NULL or dot == pos:
        return False
    delivery.consumer = pos
    delivery.n_consumer = dot - pos
    pos = dot
    for i in range(5):
        if pos == end or pos[0] != 46:
            return False
        pos = read_number(pos + 1, end, &number[i])
        if pos is NULL:
            return False
    delivery.n_delivered = number[0]
    delivery.stream_seq = number[1]
    delivery.consumer_seq = number[2]
    delivery.time_ns = <int64_t>number[3]
    delivery.n_pending = number[4]
    delivery.end = pos
    return delivery.stream_seq > 0 and delivery.n_delivered > 0


cdef bint has_empty_token(const unsigned char* pos, const unsigned char* end) noexcept nogil:
    """Return whether the tokens after a dot, up to the end, are not all at least one byte long."""
    cdef const unsigned char* at = pos
    while at < end:
        if at[0] == 46 and (at + 1 == end or at[1] == 46):
            return True
        at += 1
    return False


cdef bint read_delivery(const unsigned char* reply, Py_ssize_t n, Delivery* delivery) noexcept nogil:
    """Split the reply subject of a delivery into its parts. Return False for any other subject.

    $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, or the longer form
    $JS.ACK.<domain>.<account>.<stream>.<consumer>.<…the same>.<random>
    """
    cdef const unsigned char* end = reply + n
    cdef const unsigned char* pos = reply + 8
    cdef const unsigned char* dot
    cdef int _
    if n < 8 or memcmp(reply, b"$JS.ACK.", 8) != 0:
        return False
    if read_last_tokens(pos, end, delivery) and delivery.end == end:
        return True
    for _ in range(2):
        dot = <const unsigned char*>memchr(pos, 46, end - pos)
        if dot is NULL or dot == pos:
            return False
        pos = dot + 1
    # Any text may be domain and account, hence the is_plain(). Servers may append tokens.
    return (
        read_last_tokens(pos, end, delivery) and (delivery.end == end or delivery.end[0] == 46)
        and not has_empty_token(delivery.end, end) and n <= MAX_REPLY and is_plain(reply, n)
    )


cdef int status_of(Frame* frame) noexcept nogil:
    # NATS/1.0 <status> <description>
    cdef uint64_t status
    if frame.n_headers < 12 or memcmp(frame.headers, b"NATS/1.0 ", 9) != 0:
        return 0
    if not parse_decimal(frame.headers + 9, 3, &status) or status < 100:
        return 0
    return <int>status


# 1 for the bytes that a subject token may not hold: 0x00 to 0x20, 0x7F, and . * > %
cdef unsigned char[256] MUST_ESCAPE
MUST_ESCAPE[:] = [byte <= 32 or byte == 127 or byte in b".*>%" for byte in range(256)]


cdef Py_ssize_t count_token(const unsigned char* text, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i, n_escaped = 0
    if n == 0:
        return 1
    if n == 1 and text[0] == 95:
        return 3
    for i in range(n):
        n_escaped += MUST_ESCAPE[text[i]]
    return n + 2 * n_escaped


cdef const unsigned char* HEX = b"0123456789ABCDEF"


cdef unsigned char* copy_token(unsigned char* to, const unsigned char* text, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if n == 0:
        return copy_byte(to, 95)
    if n == 1 and text[0] == 95:
        return copy_bytes(to, b"%5F", 3)
    for i in range(n):
        if MUST_ESCAPE[text[i]]:
            to[0] = 37
            to[1] = HEX[text[i] >> 4]
            to[2] = HEX[text[i] & 15]
            to += 3
        else:
            to = copy_byte(to, text[i])
    return to


def escape_token(str text not None):
    """Return a text as a subject token, as eda.jetstream.subjects.escape_token does."""
    cdef Writer w
    cdef bytes utf8 = text.encode()
    cdef Py_ssize_t size = size_of_token(utf8, len(utf8))
    w.buf = NULL
    w.pos = w.cap = 0
    if reserve(&w, size) < 0:
        raise MemoryError
    try:
        w.pos = copy_token(w.buf, utf8, len(utf8)) - w.buf
        return w.buf[:w.pos].decode()
    finally:
        release(&w)


def parse_delivery(bytes reply not None):
    """Return (stream, consumer, delivered, stream seq, consumer seq, time, pending) of a reply subject, or None."""
    cdef Delivery d
    if not read_delivery(reply, len(reply), &d):
        return None
    return (
        d.stream[:d.n_stream], d.consumer[:d.n_consumer], d.n_delivered, d.stream_seq, d.consumer_seq, d.time_ns,
        d.n_pending,
    )


@cython.final
cdef class Collector(Sink):
    """A sink that keeps every frame as (subject, reply, headers, payload): for tests and debugging."""

    cdef readonly list frames

    def __cinit__(self):
        self.frames = []

    cdef int take_frame(self, Frame* frame) except -1:
        self.frames.append((
            frame.subject[:frame.n_subject],
            frame.reply[:frame.n_reply] if frame.reply is not NULL else b"",
            frame.headers[:frame.n_headers],
            frame.payload[:frame.n_payload],
        ))
        return 0
