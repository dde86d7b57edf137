"""Reads an aggregate's events after a baseline by the sequences that their messages name (see `_earlier`).

It runs in the reader of the connection: each answer becomes an event, and the next requests are written at once. The
task that waits resumes once. Whatever is unusual ends the read without a result; then `history.py` reads otherwise.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcmp, memset

from eda._bytes cimport Writer, put_byte, put_bytes, put_decimal, release, reserve, size_of_decimal
from eda._codec cimport Refusal, read_stored
from eda._event cimport F_AGGREGATE, F_TYPE, Event
from eda.jetstream._direct_reads cimport Answer, PendingRead, read_answer
from eda.store._earlier cimport Named, read_named
from eda.transport._frame cimport Frame, status_of

from eda.errors import ServerError
from eda.names import FORGOTTEN

__all__ = ["MAX_FOLLOWED", "TailReading"]

cdef bytes TOMBSTONE = FORGOTTEN.encode()

cdef enum:
    NOT_FOUND = 404
    UNAVAILABLE = 503


cdef bint is_of_aggregate(const unsigned char* subject, Py_ssize_t n, bytes token) noexcept:
    """Return whether a subject has three tokens and ends with the aggregate's."""
    cdef Py_ssize_t n_token = PyBytes_GET_SIZE(token)
    cdef Py_ssize_t n_before = n - n_token
    cdef const unsigned char* dot
    if n_before < 2 or subject[n_before - 1] != 46 or memcmp(subject + n_before, PyBytes_AS_STRING(token), n_token):
        return False
    dot = <const unsigned char*>memchr(subject, 46, n_before - 1)
    return dot is not NULL and memchr(dot + 1, 46, n_before - 1 - (dot + 1 - subject)) is NULL


@cython.final
cdef class TailReading(PendingRead):
    """A read of the events of one aggregate after a baseline. `token` is the aggregate's name in subjects.

    It begins with a direct get of the aggregate's last event, or with `begin_with` at a newest event that is known.
    When it is over, `is_complete` says whether `events()` has all events from the baseline's version up to the newest.
    With `reads_base`, `base` is the event at the baseline's sequence. If there is nothing new, there is no `base`, and
    `newest` is the event at the baseline's sequence. `is_foreign`: a mirror has answered for the last event.
    """

    keeps_answers = True

    def __init__(self, str stream not None, str aggregate not None, bytes token not None, int64_t base_version,
                 uint64_t base_sequence, bint reads_base):
        self.stream = stream
        self.aggregate = aggregate.encode()
        self.token = token
        self.base_version = base_version
        self.base_sequence = base_sequence
        self.reads_base = reads_base

    def events(self):
        """Return the events after the baseline, in order. Only for a complete read."""
        return self.found

    def missing(self):
        """Return index, version and sequence of each event that was asked for, if these are all that is missing.

        Either there is no such message where the request was answered, or a mirror has answered.
        """
        if self.error is not None or self.is_wrong or self.is_complete:
            return []
        return [
            (at, self.newest.version_ - at, self.asked[at])
            for at in range(1, self.n_asked + 1) if not self.is_there(at)
        ]

    def put(self, Py_ssize_t index, Event event not None, bytes headers not None):
        """Add an event that `missing` has named, and the headers of its message. The read may go on then."""
        if not 1 <= index <= self.n_asked or self.is_there(index):
            raise ValueError(f"the event {index} is not missing")
        self.is_over = False
        self.add(
            index, event, <const unsigned char*>PyBytes_AS_STRING(headers), PyBytes_GET_SIZE(headers)
        )

    def begin_with(self, Event newest not None, bytes headers not None):
        """Begin with the last event of the aggregate, and the headers of its message."""
        cdef Named named
        read_named(
            <const unsigned char*>PyBytes_AS_STRING(headers), PyBytes_GET_SIZE(headers), newest.sequence_, &named
        )
        self.begin_at_newest(newest, &named)

    @property
    def n_body(self):
        """Return how many bytes the body of the longest request has at most."""
        return len(self.stream) + 2 * PyBytes_GET_SIZE(self.token) + 64

    def send(self):
        """Write the requests that have no answer yet."""
        self.n_missing = 0
        memset(self.is_missing, 0, sizeof(self.is_missing))
        if self.found is not None:
            self.request(1)
            return
        body = b'{"last_by_subj":"%b.*.%b"}' % (self.stream.encode(), json_text(self.token))
        self.write(self.subject, body)

    # --- answers -----------------------------------------------------------------------------------------------------

    cdef int take(self, Frame* frame, uint64_t index) except -1:
        cdef int status = status_of(frame)
        cdef Py_ssize_t at = <Py_ssize_t>index
        if status == UNAVAILABLE:
            error = ServerError(status, 0, "no responders", operation=self.subject)
            error.retryable = True
            return self.end(error)
        if self.found is None:
            return self.give_up() if status != 0 else self.take_newest(frame)
        if at < 1 or at > self.n_asked or self.is_there(at):
            return 0                    # also the answer to an earlier attempt
        if status == NOT_FOUND:
            return self.note_missing(at)
        return self.give_up() if status != 0 else self.take_earlier(frame, at)

    cdef int give_up(self) except -1:
        self.is_wrong = True
        return self.end(None)

    cdef bint is_there(self, Py_ssize_t at) except -1:
        return (self.found[self.n_earlier - at] if at <= self.n_earlier else self.base) is not None

    cdef bint is_own(self, Answer* answer) except -1:
        """Return whether the stream itself has answered, and not a mirror."""
        cdef bytes stream = self.stream.encode()
        return (
            answer.n_stream == PyBytes_GET_SIZE(stream)
            and memcmp(answer.stream, PyBytes_AS_STRING(stream), answer.n_stream) == 0
        )

    cdef Event event_of(self, Frame* frame, Answer* answer, int64_t version):
        """Return the event in an answer; None if it is not of this aggregate, or has another version (0: any)."""
        cdef Refusal refusal
        cdef Event event
        cdef bytes aggregate = self.aggregate
        if not is_of_aggregate(answer.subject, answer.n_subject, self.token):
            return None
        event = read_stored(
            frame.payload[:frame.n_payload], self.stream, answer.sequence, answer.time_ns, answer.subject,
            answer.n_subject, &refusal,
        )
        if event is None or event.version_ <= 0 or (version != 0 and event.version_ != version):
            return None
        if (
            event.spans[F_AGGREGATE].n != <uint64_t>PyBytes_GET_SIZE(aggregate)
            or memcmp(
                PyBytes_AS_STRING(event.raw) + event.spans[F_AGGREGATE].start, PyBytes_AS_STRING(aggregate),
                event.spans[F_AGGREGATE].n,
            ) != 0
        ):
            return None
        return event

    cdef int take_newest(self, Frame* frame) except -1:
        cdef Answer answer
        cdef Named named
        cdef Event event
        if not read_answer(frame, &answer):
            return self.give_up()
        if not self.is_own(&answer):
            self.is_foreign = True
            return self.give_up()
        event = self.event_of(frame, &answer, 0)
        if event is None or event.sequence_ < self.base_sequence:
            return self.give_up()
        if event.sequence_ == self.base_sequence:
            self.newest = event
            self.found = []
            self.is_complete = event.version_ == self.base_version
            return self.end(None) if self.is_complete else self.give_up()
        read_named(frame.headers, frame.n_headers, answer.sequence, &named)
        return self.begin_at_newest(event, &named)

    cdef int begin_at_newest(self, Event event, Named* named) except -1:
        """Go on from the aggregate's last event, and the sequences that its message names."""
        cdef int64_t n_earlier = event.version_ - self.base_version - 1
        self.newest = event
        if not 0 <= n_earlier <= MAX_FOLLOWED:
            return self.give_up()
        if (
            event.spans[F_TYPE].n == <uint64_t>PyBytes_GET_SIZE(TOMBSTONE)
            and memcmp(
                PyBytes_AS_STRING(event.raw) + event.spans[F_TYPE].start, PyBytes_AS_STRING(TOMBSTONE),
                event.spans[F_TYPE].n,
            ) == 0
        ):
            return self.give_up()       # it stands alone: there are no events before it
        self.n_earlier = <Py_ssize_t>n_earlier
        self.found = [None] * (self.n_earlier + 1)
        self.found[self.n_earlier] = event
        if self.n_earlier == 0 and not self.reads_base:
            self.is_complete = True
            return self.end(None)
        return self.ask(named)

    cdef int take_earlier(self, Frame* frame, Py_ssize_t at) except -1:
        cdef Answer answer
        cdef Event event
        if not read_answer(frame, &answer) or answer.sequence != self.asked[at]:
            return self.give_up()
        if not self.is_own(&answer):
            return self.note_missing(at)
        event = self.event_of(frame, &answer, self.newest.version_ - at)
        if event is None:
            return self.give_up()
        return self.add(at, event, frame.headers, frame.n_headers)

    cdef int add(self, Py_ssize_t at, Event event, const unsigned char* headers, Py_ssize_t n_headers) except -1:
        if at <= self.n_earlier:
            self.found[self.n_earlier - at] = event
        else:
            self.base = event
        if at == self.n_asked:
            read_named(headers, n_headers, event.sequence_, &self.next)
        self.n_there += 1
        self.n_missing -= self.is_missing[at]
        self.is_missing[at] = False
        return self.go_on()

    cdef int note_missing(self, Py_ssize_t at) except -1:
        self.n_missing += not self.is_missing[at]
        self.is_missing[at] = True
        return self.go_on()

    cdef int go_on(self) except -1:
        """End the read, or ask for further events, if there is an answer to each request."""
        if self.n_there + self.n_missing < self.n_asked:
            return 0
        if self.n_missing:
            return self.end(None)
        if self.n_asked == self.n_earlier + self.reads_base:
            self.is_complete = True
            return self.end(None)
        return self.ask(&self.next)

    # --- requests ----------------------------------------------------------------------------------------------------

    cdef int ask(self, Named* named) except -1:
        """Ask for the events before those that are there. `named`: the sequences that the oldest of them names."""
        cdef uint64_t before = self.asked[self.n_asked] if self.n_asked else self.newest.sequence_
        cdef Py_ssize_t first = self.n_asked + 1
        cdef Py_ssize_t i = 0
        self.n_steps += 1
        while i < named.n and self.n_asked < self.n_earlier:
            if not self.base_sequence < named.sequence[i] < before:
                return self.give_up()
            before = named.sequence[i]
            self.n_asked += 1
            self.asked[self.n_asked] = before
            i += 1
        if self.n_asked == self.n_earlier and self.reads_base:
            self.n_asked += 1
            self.asked[self.n_asked] = self.base_sequence
        if self.n_asked < first or self.n_steps > MAX_STEPS:
            return self.give_up()
        return self.request(first) if self.reads is not None else 0

    cdef int request(self, Py_ssize_t first) except -1:
        """Write the requests from index `first` onwards that have no answer yet."""
        cdef Writer w
        cdef bytes subject = self.reads.subject
        cdef bytes inbox = self.reads.inbox
        cdef Py_ssize_t n_each = PyBytes_GET_SIZE(subject) + PyBytes_GET_SIZE(inbox) + 4 + 1 + 20 + 1 + 20 + 1 + 2 + 40
        cdef Py_ssize_t at
        w.buf = NULL
        w.pos = w.cap = 0
        try:
            if reserve(&w, n_each * (self.n_asked - first + 1)) < 0:
                raise MemoryError
            for at in range(first, self.n_asked + 1):
                if self.is_there(at):
                    continue
                put_bytes(&w, b"PUB ", 4)
                put_bytes(&w, PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject))
                put_byte(&w, 32)
                put_bytes(&w, PyBytes_AS_STRING(inbox), PyBytes_GET_SIZE(inbox))
                put_decimal(&w, self.number)
                put_byte(&w, 45)
                put_decimal(&w, <uint64_t>at)
                put_byte(&w, 32)
                put_decimal(&w, <uint64_t>(8 + size_of_decimal(self.asked[at])))
                put_bytes(&w, b'\r\n{"seq":', 9)
                put_decimal(&w, self.asked[at])
                put_bytes(&w, b"}\r\n", 3)
            self.reads.write(w.buf[:w.pos])
        finally:
            release(&w)
        return 0


cdef bytes json_text(bytes token):
    """Return a token as the content of a JSON text. A token has no control characters."""
    return token.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
