"""Publishing at volume: events > frames > window, in order, with one acknowledgement each or one for hundreds.

Holds what happens per event; what happens per batch, per trouble and per timer is the host's (publisher.py).

Source for fast ingest: ADR-50 and nats-server's server/stream.go (getFastBatch) and server/jetstream_batching.go.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp

from eda._acks cimport Place, PublishWindow
from eda._bytes cimport (
    Writer, monotonic_ns, parse_decimal, put_byte, put_bytes, put_decimal, release, reserve, size_of_decimal, wall_ns,
)
from eda._codec cimport Plan, plan_envelope
from eda._event cimport Event
from eda._frame cimport Chunk, Frame, Outbound, Sink, put_publish, status_of
from eda._send cimport Reply, Target, id_of, put_frame, put_reply, read_ack, size_of_reply, went_to

from eda.errors import ConfigError

__all__ = ["Ingest"]

cdef enum:
    MIN_WINDOW = 256
    SLOW_ACK_NS = 250_000_000       # acknowledgements that take longer shrink the window
    QUICK_ACK_NS = 60_000_000       # quicker ones grow it

# What a message does to its batch: the last token but one of its reply subject.
cdef enum:
    OP_START = 0
    OP_APPEND = 1
    OP_COMMIT = 2
    OP_COMMIT_EMPTY = 3

cdef const char** SUFFIXES = [".0.$FI", ".1.$FI", ".2.$FI", ".3.$FI"]


@cython.final
cdef class Ingest(Sink):
    """The events of one publisher on their way to one stream, in the order they were accepted.

    Accepted events are written at once while `writing` is set and `limit` allows; the others wait in the window until
    the host has them written. Every event leaves the window once: acknowledged, or failed by the host.
    """

    def __init__(
        self, object host, Outbound out not None, Target target not None, bytes inbox not None, str client not None, *,
        bint dedup, bint tell, uint64_t max_pending, uint64_t max_bytes, double give_up_s
    ):
        self.host = host
        self.out = out
        self.target = target
        self.inbox = inbox
        self.client = client
        self.dedup = dedup
        self.tell = tell
        self.max_pending = max_pending
        self.max_bytes = max_bytes
        self.give_up_ns = <uint64_t>(give_up_s * 1e9)
        self.window = PublishWindow(max_pending)
        self.limit = max_pending
        self.cursor = 1
        self.reply = b""

    def __dealloc__(self):
        release(&self.scratch)

    # --- accepting -----------------------------------------------------------------------------------------------

    cdef bint full(self) noexcept:
        cdef uint64_t n = self.window.next_seq - self.window.base
        # What may not be written yet is kept in a slower way: while events flow, the flow's own limit is the window's.
        return n >= (self.limit if self.writing else self.max_pending) or (self.window.n_bytes >= self.max_bytes and n > 0)

    @property
    def is_full(self):
        """Whether the next event has to wait."""
        return self.full()

    def accept(self, Event event not None):
        """Take an event into the window and return its id; the caller has asked `is_full`.

        Raises ConfigError or EncodeError, and then nothing was taken.
        """
        return self.put(event)

    def accept_many(self, list events not None, Py_ssize_t begin, list ids not None):
        """Take events from `begin` on until the window is full, adding their ids; returns where it stopped.

        Raises what `accept` does; the events before the culprit are taken.
        """
        cdef Py_ssize_t i = begin
        while i < len(events) and not self.full():
            event = events[i]
            if not isinstance(event, Event):
                raise ConfigError(f"events[{i}] must be an eda.Event, not {type(event).__name__}", argument="events")
            ids.append(self.put(<Event>event))
            i += 1
        return i

    cdef str put(self, Event event):
        cdef Plan plan
        cdef Reply reply
        cdef str id = id_of(event)
        cdef uint64_t seq = self.window.next_seq
        cdef uint64_t now = monotonic_ns()
        cdef bint direct = self.writing and self.cursor == seq and seq - self.window.base < self.limit
        cdef Writer* w = &self.out.publishes if direct else &self.scratch
        cdef Chunk chunk
        cdef Py_ssize_t start
        cdef Place* place
        if not direct:
            w.pos = 0
        start = w.pos
        if self.fast:
            reply.prefix = PyBytes_AS_STRING(self.reply)
            reply.n_prefix = PyBytes_GET_SIZE(self.reply)
            reply.number = self.n_batch + 1
            reply.suffix = SUFFIXES[OP_APPEND]
            reply.n_suffix = 6
        else:
            reply.prefix = PyBytes_AS_STRING(self.inbox)
            reply.n_prefix = PyBytes_GET_SIZE(self.inbox)
            reply.number = seq
            reply.suffix = b""
            reply.n_suffix = 0
        plan_envelope(event, id, self.client, wall_ns(), &plan)
        put_frame(w, self.target, event, &plan, &reply, self.dedup)
        if direct:
            chunk = self.out.current_chunk()
        else:
            chunk = Chunk.__new__(Chunk)
            chunk.data = PyBytes_FromStringAndSize(<char*>w.buf, w.pos)
        self.window.open(event, chunk, start, w.pos - start, now, 0, now + self.give_up_ns)
        place = self.window.find(seq)
        place.n_envelope = <unsigned int>plan.size
        self.n_accepted += 1
        if direct:
            self.cursor = seq + 1
            if self.fast:
                self.n_batch += 1
                place.batch_seq = self.n_batch
            self.out.touch()
        else:
            place.n_tries = 0
        return id

    # --- writing -------------------------------------------------------------------------------------------------

    def use_window(self):
        """Switch to one acknowledgement each; nothing is written until `restart` and `write`."""
        self.fast = False
        self.writing = False
        self.limit = min(self.max_pending, <uint64_t>MIN_WINDOW * 4)
        self.n_timed = self.sum_ns = 0

    def use_batch(self, bytes batch not None, int flow):
        """Switch to a new fast-ingest batch, which asks for an acknowledgement of every `flow` events."""
        self.fast = True
        self.writing = False
        self.reply = b"%b%b.%d.fail." % (self.inbox, batch, flow)
        self.n_batch = self.n_settled = 0
        self.limit = self.max_pending

    def set_limit(self, uint64_t limit):
        """Allow so many unanswered events, at most `max_pending`."""
        self.limit = min(limit, self.max_pending) if limit else 1

    def stop(self):
        """Write nothing of what is accepted until further notice."""
        self.writing = False

    def restart(self):
        """Have everything that is not settled written again, from the oldest on."""
        self.writing = False
        self.out.flush()            # a frame is kept for another try once it has been handed over
        self.cursor = self.window.base

    def write(self, uint64_t n, bint start, bint commit):
        """Write up to `n` of the waiting events, as `limit` allows; returns how many were.

        Fast ingest: with `start` the first of them starts the batch, with `commit` the very last waiting one ends it.
        """
        cdef uint64_t written = 0
        cdef uint64_t seq
        cdef int operation
        while self.cursor < self.window.next_seq and written < n and self.cursor - self.window.base < self.limit:
            seq = self.cursor
            self.cursor += 1
            if self.window.find(seq) is NULL:
                continue
            operation = OP_APPEND
            if commit and self.cursor == self.window.next_seq:
                operation = OP_COMMIT
            elif start and self.n_batch == 0:
                operation = OP_START
            self.write_place(seq, operation)
            written += 1
        return written

    def resume(self):
        """Write events as they are accepted from now on, and those that wait."""
        self.writing = True
        return self.write(self.max_pending, False, False)

    def commit(self):
        """Fast ingest: end the batch after the events written so far."""
        cdef Reply reply
        cdef Writer* w = &self.out.publishes
        reply.prefix = PyBytes_AS_STRING(self.reply)
        reply.n_prefix = PyBytes_GET_SIZE(self.reply)
        reply.number = self.n_batch + 1
        reply.suffix = SUFFIXES[OP_COMMIT_EMPTY]
        reply.n_suffix = 6
        self.writing = False
        if reserve(w, 4 + len(self.target.stream_utf8) + 1 + size_of_reply(&reply) + 6) < 0:
            raise MemoryError
        put_bytes(w, b"PUB ", 4)
        put_bytes(w, PyBytes_AS_STRING(self.target.stream_utf8), PyBytes_GET_SIZE(self.target.stream_utf8))
        put_byte(w, 32)
        put_reply(w, &reply)
        put_bytes(w, b" 0\r\n\r\n", 6)
        self.out.touch()

    cdef int write_place(self, uint64_t seq, int operation) except -1:
        """Write a waiting event's frame with the reply subject that fits now."""
        cdef Place* place = self.window.find(seq)
        cdef Chunk chunk = <Chunk>place.chunk
        cdef const char* frame = PyBytes_AS_STRING(chunk.data) + place.start
        cdef const char* end = frame + place.n
        cdef const char* subject_end
        cdef const char* reply_end
        cdef Writer* w = &self.out.publishes
        cdef Reply reply
        # <verb> <subject> <reply> <sizes>\r\n…: all but the reply stays as it is.
        subject_end = <const char*>memchr(frame, 32, end - frame)
        subject_end = <const char*>memchr(subject_end + 1, 32, end - subject_end - 1)
        reply_end = <const char*>memchr(subject_end + 1, 32, end - subject_end - 1)
        if self.fast:
            self.n_batch += 1
            place.batch_seq = self.n_batch
            reply.prefix = PyBytes_AS_STRING(self.reply)
            reply.n_prefix = PyBytes_GET_SIZE(self.reply)
            reply.number = self.n_batch
            reply.suffix = SUFFIXES[operation]
            reply.n_suffix = 6
        else:
            place.batch_seq = 0
            reply.prefix = PyBytes_AS_STRING(self.inbox)
            reply.n_prefix = PyBytes_GET_SIZE(self.inbox)
            reply.number = seq
            reply.suffix = b""
            reply.n_suffix = 0
        if reserve(w, place.n + size_of_reply(&reply)) < 0:
            raise MemoryError
        put_bytes(w, frame, subject_end + 1 - frame)
        put_reply(w, &reply)
        put_bytes(w, reply_end, end - reply_end)
        place.sent_ns = monotonic_ns()
        if place.n_tries:
            self.n_resent += 1
        place.n_tries += 1
        return self.out.touch()

    @property
    def n_waiting(self):
        """Accepted events that are not written yet (upper bound: settled ones among them count)."""
        return self.window.next_seq - self.cursor

    @property
    def n_pending(self):
        """Accepted events that are not settled."""
        return self.window.n_pending

    @property
    def n_bytes(self):
        """The bytes of their frames."""
        return self.window.n_bytes

    @property
    def oldest(self):
        """The sequence of the oldest unsettled event; the next one's where there is none."""
        return self.window.base

    @property
    def newest(self):
        """The sequence that the next event will get."""
        return self.window.next_seq

    def waited_s(self):
        """How long the oldest unsettled event has waited for its answer since it was last written; 0 if it was not."""
        cdef Place* place = self.window.find(self.window.base)
        if place is NULL or self.cursor <= self.window.base:
            return 0.0
        return (monotonic_ns() - place.sent_ns) / 1e9

    def overdue(self):
        """Return the sequences that are past their time."""
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t seq
        cdef list result = []
        for seq in range(self.window.base, self.window.next_seq):
            place = self.window.find(seq)
            if place is not NULL:
                if now < place.give_up_ns:
                    break               # they were accepted in order
                result.append(seq)
        return result

    # --- answers -------------------------------------------------------------------------------------------------

    cdef int take_frame(self, Frame* frame) except -1:
        cdef Py_ssize_t n_inbox = PyBytes_GET_SIZE(self.inbox)
        cdef uint64_t seq
        if frame.n_subject <= n_inbox:
            return 0
        if parse_decimal(frame.subject + n_inbox, frame.n_subject - n_inbox, &seq):
            return self.take_window_answer(frame, seq)
        return self.take_batch_answer(frame)

    cdef int take_window_answer(self, Frame* frame, uint64_t seq) except -1:
        cdef Place* place = self.window.find(seq)
        cdef const unsigned char* stream
        cdef Py_ssize_t n_stream
        cdef uint64_t stream_seq
        cdef Chunk chunk
        if place is NULL or place.n_tries == 0 or place.batch_seq:
            return 0                    # settled before, or never sent this way: forged
        chunk = <Chunk>place.chunk
        if chunk.data is None:
            return 0                    # not even handed over: forged
        if frame.n_headers == 0 and read_ack(frame.payload, frame.n_payload, &stream, &n_stream, &stream_seq):
            if went_to(<const unsigned char*>PyBytes_AS_STRING(chunk.data) + place.start, place.n, stream, n_stream):
                self.adapt(monotonic_ns() - place.sent_ns)
                self.settle(seq, stream_seq)
                if not self.writing:
                    self.host.on_probed()
                elif self.cursor < self.window.next_seq:
                    self.write(self.max_pending, False, False)
                return self.wake()
        self.host.on_window_answer(seq, status_of(frame), frame.payload[:frame.n_payload])
        return 0

    cdef int adapt(self, uint64_t took_ns) except -1:
        """Size the window so that acknowledgements come soon: small enough for the server, large enough for speed."""
        self.n_timed += 1
        self.sum_ns += took_ns
        if self.n_timed < self.limit // 2:
            return 0
        if self.sum_ns // self.n_timed > SLOW_ACK_NS:
            self.limit = max(<uint64_t>MIN_WINDOW, self.limit // 2)
        elif self.sum_ns // self.n_timed < QUICK_ACK_NS:
            self.limit = self.limit * 2
        self.limit = min(self.limit, self.max_pending)
        self.n_timed = self.sum_ns = 0
        return 0

    cdef int take_batch_answer(self, Frame* frame) except -1:
        # <inbox><batch>.<flow>.fail.<seq>.<op>.$FI
        cdef Py_ssize_t n_reply = PyBytes_GET_SIZE(self.reply)
        cdef const unsigned char* pos = frame.subject + n_reply
        cdef const unsigned char* end = frame.subject + frame.n_subject
        cdef const unsigned char* dot
        cdef uint64_t seq, n, n_messages
        if not self.fast or frame.n_subject <= n_reply or memcmp(
            frame.subject, PyBytes_AS_STRING(self.reply), n_reply
        ) != 0:
            return 0                    # of a batch that is over
        dot = <const unsigned char*>memchr(pos, 46, end - pos)
        if dot is NULL or not parse_decimal(pos, dot - pos, &seq) or seq > self.n_batch + 1:
            return 0
        if read_flow(frame.payload, frame.n_payload, &n, &n_messages):
            if n > self.n_batch:
                return 0
            self.settle_batch(n)
            self.host.on_flow(n_messages)
            return self.wake()
        self.host.on_batch_answer(seq, status_of(frame), frame.payload[:frame.n_payload])
        return self.wake()

    cdef int wake(self) except -1:
        """Tell the host what it waits for: enough room that it is worth waking a sender, or the end of a flush."""
        cdef uint64_t limit = self.limit if self.writing else self.max_pending
        if (
            self.room_wanted and self.window.next_seq - self.window.base <= limit - (limit + 3) // 4
            and self.window.n_bytes <= self.max_bytes - self.max_bytes // 4
        ):
            self.room_wanted = False
            self.host.on_room()
        if self.flush_to and self.window.base >= self.flush_to:
            self.flush_to = 0
            self.host.on_flushed()
        return 0

    cdef int settle_batch(self, uint64_t n) except -1:
        """Settle the first `n` events of the batch."""
        cdef Place* place
        if n <= self.n_settled:
            return 0
        self.n_settled = n
        while self.window.base < self.cursor:
            place = self.window.find(self.window.base)
            if place.batch_seq == 0 or place.batch_seq > n:
                break
            self.settle(self.window.base, 0)
        return 0

    def settle_first(self, uint64_t n):
        """Settle the first `n` events of the batch: its final acknowledgement counts them."""
        if n > self.n_batch:
            n = self.n_batch
        self.settle_batch(n)

    cdef int settle(self, uint64_t seq, uint64_t stream_seq) except -1:
        cdef str id = None
        if self.tell:
            id = self.id_at(seq)
        event = self.window.settle(seq)
        if event is None:
            return 0
        self.n_acknowledged += 1
        if id is not None:
            self.host.on_acknowledged(id, stream_seq)
        return 0

    def id_at(self, uint64_t seq):
        """The id that a pending event goes under: the envelope's first field."""
        cdef Place* place = self.window.find(seq)
        cdef Chunk chunk
        cdef const unsigned char* envelope
        cdef Py_ssize_t n
        if place is NULL:
            return ""
        chunk = <Chunk>place.chunk
        if chunk.data is None:
            self.out.flush()
        envelope = <const unsigned char*>PyBytes_AS_STRING(chunk.data) + place.start + place.n - 2 - place.n_envelope
        n = envelope[1]
        envelope += 2
        if n >= 0x80:
            n = n - 0x80 + (<Py_ssize_t>envelope[0] << 7)
            envelope += 1
        return envelope[:n].decode("ascii")

    def subject_at(self, uint64_t seq):
        """The subject that a pending event goes to; empty when it is settled."""
        cdef Place* place = self.window.find(seq)
        cdef Chunk chunk
        if place is NULL:
            return ""
        chunk = <Chunk>place.chunk
        if chunk.data is None:
            self.out.flush()
        return chunk.data[place.start:place.start + place.n].split(b" ", 2)[1].decode()

    def fail(self, uint64_t seq):
        """Take a pending event out of the window; returns (event under its id, id), or None when it is settled."""
        cdef str id = self.id_at(seq)
        cdef Event event = self.window.settle(seq)
        if event is None:
            return None
        self.n_failed += 1
        if self.cursor < self.window.base:
            self.cursor = self.window.base
        self.wake()
        return (event if event.id else event.replace(id=id)), id


cdef bint read_flow(const unsigned char* text, Py_ssize_t n, uint64_t* seq, uint64_t* messages) noexcept nogil:
    """Read {"type":"ack","seq":N,"msgs":M}; False for anything else."""
    cdef const unsigned char* end = text + n
    cdef const unsigned char* pos
    cdef Py_ssize_t n_digits = 0
    if n < 30 or memcmp(text, b'{"type":"ack","seq":', 20) != 0:
        return False
    pos = text + 20
    while pos + n_digits < end and 48 <= pos[n_digits] <= 57:
        n_digits += 1
    if not parse_decimal(pos, n_digits, seq):
        return False
    pos += n_digits
    if end - pos < 9 or memcmp(pos, b',"msgs":', 8) != 0:
        return False
    pos += 8
    n_digits = 0
    while pos + n_digits < end and 48 <= pos[n_digits] <= 57:
        n_digits += 1
    return parse_decimal(pos, n_digits, messages) and pos + n_digits + 1 == end and (end - 1)[0] == 125
