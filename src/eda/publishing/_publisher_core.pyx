"""The work of a publisher that is done for each event. Its host, the pump, does the work that is less frequent.

In window mode each event gets its own acknowledgement. In fast mode (fast ingest) one acknowledgement covers many.

Source for fast ingest: ADR-50 and nats-server's server/stream.go (getFastBatch) and server/jetstream_batching.go.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.pystate cimport PyThreadState_Get
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcmp

from eda.publishing._window cimport Slot, PublishWindow, free_slot, has_slot, fill_slot
from eda._bytes cimport Writer, parse_decimal, release
from eda._clock cimport coarse_ns, monotonic_ns, wall_ns
from eda._codec cimport Plan, plan_envelope
from eda._durations cimport Durations, note_duration
from eda._event cimport Event
from eda.transport._frame cimport Frame, status_of
from eda.transport._outbound cimport Chunk, Outbound, write_soon
from eda.publishing._pending cimport MIN_WINDOW, Pending, note_answer_time
from eda.publishing._stream_sender cimport (
    Ack, Reply, Destination, id_of, is_from, put_again, put_empty, put_frame, read_ack, read_flow,
)

from eda.errors import ConfigError

__all__ = ["PublisherCore"]

# What a message does to its batch: the second to last token of its reply subject.
cdef enum:
    OP_START = 0
    OP_APPEND = 1
    OP_COMMIT = 2
    OP_COMMIT_EMPTY = 3

cdef const char** SUFFIXES = [".0.$FI", ".1.$FI", ".2.$FI", ".3.$FI"]
cdef enum:
    N_SUFFIX = 6


cdef class PublisherCore(Pending):
    """The events of one publisher on their way to one stream, in the order in which they were accepted.

    Each event is a message of its own. The subclass `PackingCore` puts many events into a message: there, the sequences
    of the window, and all numbers in a batch, are those of packs.

    While `writing` is set, accepted events are written at once, up to `limit`. Otherwise events wait in the window
    until the host calls a method that writes them. Each event leaves the window once, acknowledged or failed.
    """

    def __init__(
        self, object host, Outbound out not None, Destination destination not None, bytes inbox not None,
        str client not None, *,
        bint dedup, bint wants_acks, uint64_t max_pending, uint64_t max_bytes, double give_up_s, object loop=None,
        object running_loop=None
    ):
        self.host, self.out = host, out
        self.destination = destination
        self.settles_at_end = len(destination.domain) > 0
        self.inbox = inbox
        self.client = client
        self.dedup, self.wants_acks = dedup, wants_acks
        self.max_pending = self.max_messages = max_pending
        self.max_bytes = max_bytes
        self.give_up_ns = <uint64_t>(give_up_s * 1e9)
        self.loop, self.running_loop = loop, running_loop
        self.thread = PyThreadState_Get()
        self.checked = out.n_writes - 1
        self.receipts = {}
        self.durations = Durations()
        self.window = PublishWindow(max_pending)
        self.limit = max_pending
        self.next_unwritten = 1
        self.reply = b""
        self.subject = b""

    def __dealloc__(self):
        release(&self.scratch)

    # --- accepting -----------------------------------------------------------------------------------------------

    cdef bint at_limit(self) noexcept:
        cdef uint64_t n = self.window.next_seq - self.window.base
        # An event beyond `limit` can't be written yet and needs its own buffer. It is faster to let the sender wait.
        cdef uint64_t most = self.limit if self.writing else self.max_pending
        return n >= most or (self.window.n_bytes >= self.max_bytes and n > 0)

    @property
    def is_full(self):
        """Return whether the next sender has to wait."""
        return self.at_limit()

    @property
    def room(self):
        """Return how many more events fit, if they are as large as the pending events."""
        cdef uint64_t most = self.limit if self.writing else self.max_pending
        cdef uint64_t n = self.window.next_seq - self.window.base
        cdef uint64_t room = most - n if most > n else 0
        if self.window.n_bytes and room:
            n = self.max_bytes - self.window.n_bytes if self.max_bytes > self.window.n_bytes else 0
            room = min(room, n * self.window.n_pending // self.window.n_bytes)
        return room

    def accept(self, Event event not None):
        """Take an event and return its id. The caller has checked `is_full`.

        Raises ConfigError or EncodeError; then the event is not taken.
        """
        self.check_caller()
        return self.put(event, monotonic_ns(), wall_ns(), True)

    def accept_with_receipt(self, Event event not None, object receipt not None):
        """Accept an event whose sender waits for a receipt. Return its sequence in the window, its index, and its id.

        In fast mode the event gets a batch of its own, so that the answer is about this event alone. `receipt` stays in
        `receipts` until the core passes it to `on_receipt`, or the host removes it because the event failed.
        """
        cdef uint64_t seq
        self.check_caller()
        id = self.put(event, monotonic_ns(), wall_ns(), not self.fast)
        seq = self.window.next_seq - 1
        self.receipts[seq] = receipt
        return seq, 0, id

    def accept_if_flowing(self, event):
        """Accept an event and return its id if the host has nothing to do for it; otherwise only return None."""
        return self.take_if_flowing(event)

    cdef str take_if_flowing(self, object event):
        if type(event) is not Event or not (self.timer_runs and self.writing) or self.out.paused or self.at_limit():
            return None
        # In a wrong loop or thread, the sender calls `accept` next, which raises. One check of the loop per write is
        # enough, because no other loop can run in this thread before the write.
        if self.thread != PyThreadState_Get():
            return None
        if self.checked != self.out.n_writes:
            if self.running_loop is not None and self.running_loop() is not self.loop:
                return None
            self.checked = self.out.n_writes
        return self.put(<Event>event, coarse_ns(), wall_ns(), True)

    def accept_many(self, list events not None, Py_ssize_t begin, list ids not None):
        """Accept events from index `begin` until the window is full, and append their ids; return the next index.

        It stops earlier if the connection takes no more, and after 4,096 events, so that the event loop can run
        meanwhile. Raises what `accept` raises. Then the events before the wrong one are accepted.
        """
        cdef Py_ssize_t i = begin
        cdef Py_ssize_t end = min(len(events), begin + MAX_AT_ONCE)
        cdef uint64_t now = monotonic_ns()      # for all of them: they are accepted within milliseconds
        cdef int64_t time_ns = wall_ns()
        self.check_caller()
        while i < end and not (self.out.paused or self.at_limit()):
            event = events[i]
            if not isinstance(event, Event):
                raise ConfigError(
                    f"events[{len(ids)}] must be an eda.Event, not {type(event).__name__}", argument="events"
                )
            ids.append(self.put(<Event>event, now, time_ns, True))
            i += 1
        return i

    cdef str put(self, Event event, uint64_t now, int64_t time_ns, bint at_once):
        cdef Plan plan
        cdef Reply reply
        cdef str id = id_of(event)
        cdef uint64_t seq
        cdef bint direct
        cdef Writer* w
        cdef Chunk chunk
        cdef Py_ssize_t start = 0
        cdef Slot* slot
        # Encoding may run code of the user, which may change the state. So the state is read after encoding.
        plan_envelope(event, id, self.client, time_ns, &plan)
        seq = self.window.next_seq
        direct = at_once and self.writing and self.next_unwritten == seq and seq - self.window.base < self.limit
        # All steps that may fail come first, so that no byte of an event is written that is not accepted.
        if not has_slot(self.window):
            self.window.grow()
        self.fill_reply(&reply, seq, OP_APPEND)
        if direct:
            chunk = self.out.current_chunk() if self.out.chunk is None else self.out.chunk
            w = &self.out.publishes
            start = w.pos
            put_frame(w, self.destination, event, &plan, &reply, self.dedup)
        else:
            chunk = Chunk.__new__(Chunk)
            w = &self.scratch
            w.pos = 0
            put_frame(w, self.destination, event, &plan, &reply, self.dedup)
            chunk.keep(PyBytes_FromStringAndSize(<char*>w.buf, w.pos))
        slot = fill_slot(self.window, event, chunk, start, w.pos - start, now, now, now + self.give_up_ns)
        slot.n_envelope = <unsigned int>plan.size
        self.n_accepted += 1
        if direct:
            self.next_unwritten = seq + 1
            if self.fast:
                self.n_in_batch += 1
                slot.batch_seq = self.n_in_batch
            write_soon(self.out)
        else:
            slot.n_tries = 0
        return id

    # --- writing -------------------------------------------------------------------------------------------------

    def use_window_mode(self):
        """Switch to window mode, and stop writing. The host then calls `rewind`, and a method that writes."""
        self.fast = False
        self.writing = False
        self.limit = min(self.max_pending, <uint64_t>MIN_WINDOW * 4)
        self.n_flow_acked = self.n_timed = self.sum_ns = 0

    def begin_batch(self, bytes batch not None, int flow):
        """Switch to fast mode and begin a new batch, with an acknowledgement for every `flow` events."""
        self.fast = True
        self.writing = False
        self.reply = b"%b%b.%d.fail." % (self.inbox, batch, flow)
        self.n_in_batch = self.n_batch_settled = self.n_flow_acked = 0
        self.batch_has_receipt = False
        self.limit = self.max_pending

    def set_limit(self, uint64_t limit):
        """Set how many events may be unanswered, at most `max_pending`."""
        self.limit = min(limit + self.count_flow_only(), self.max_pending) if limit else 1

    cdef uint64_t count_flow_only(self) noexcept:
        """Return how many events were acknowledged within the batch, and are unsettled all the same."""
        cdef Slot* slot
        if self.n_flow_acked == 0:
            return 0
        slot = self.window.find(self.window.base)
        if slot is NULL or slot.batch_seq == 0 or slot.batch_seq > self.n_flow_acked:
            return 0
        return self.n_flow_acked - slot.batch_seq + 1

    @property
    def n_batch_answered(self):
        """Return how many events of the batch the server has acknowledged, settled or not (fast mode)."""
        return max(self.n_batch_settled, self.n_flow_acked)

    @property
    def needs_batch_end(self):
        """Return whether only the end of the batch can make room (fast mode)."""
        return self.settles_at_end and (self.limit >= self.max_pending or self.window.n_bytes > self.max_bytes // 4 * 3)

    cpdef int stop_writing(self) except -1:
        """Write no events until the host calls `start_writing` or `write_oldest`."""
        self.writing = False
        return self.tell_host()          # there may be room now: until writing starts, `max_pending` is the limit

    def rewind(self):
        """Stop writing. All unsettled events count as not written from now on."""
        self.out.flush()            # write_slot() reads frames from chunks, which have their bytes only after a flush
        self.next_unwritten = self.window.base
        self.stop_writing()

    def write_oldest(self, bint commit):
        """Write only the oldest waiting event. In fast mode it begins the batch; with `commit` it also ends it."""
        self.batch_has_receipt = self.next_wants_receipt
        self.write_waiting(1, OP_COMMIT if commit else OP_START)

    def start_writing(self):
        """Write the waiting events; from now on, write events as soon as they are accepted."""
        self.writing = True
        self.write_waiting(self.max_pending, OP_APPEND)

    @cython.final
    cdef int write_waiting(self, uint64_t n, int operation) except -1:
        """Write up to `n` of the waiting events, as `limit` allows."""
        while n and self.has_next() and self.next_unwritten - self.window.base < self.limit:
            if operation == OP_APPEND and self.fast and self.next_unwritten in self.receipts:
                break                   # the next event needs a batch of its own
            self.next_unwritten += 1
            self.write_slot(self.next_unwritten - 1, operation)
            n -= 1
        return 0

    cdef bint has_next(self) noexcept:
        """Return whether an event waits to be written, after passing over events that have failed meanwhile."""
        while self.next_unwritten < self.window.next_seq and self.window.find(self.next_unwritten) is NULL:
            self.next_unwritten += 1
        return self.next_unwritten < self.window.next_seq

    @property
    def next_wants_receipt(self):
        """Return whether the next event to write needs a batch of its own, because its sender wants a receipt."""
        return self.fast and self.has_next() and self.next_unwritten in self.receipts

    @cython.final
    cdef void fill_reply(self, Reply* reply, uint64_t seq, int operation) noexcept:
        """Fill in the next message's reply subject: with its number in the batch, or in window mode with `seq`."""
        cdef bytes prefix = self.reply if self.fast else self.inbox
        reply.prefix = PyBytes_AS_STRING(prefix)
        reply.n_prefix = PyBytes_GET_SIZE(prefix)
        reply.number = self.n_in_batch + 1 if self.fast else seq
        reply.suffix = SUFFIXES[operation]
        reply.n_suffix = N_SUFFIX if self.fast else 0

    def commit_batch(self):
        """Commit the batch after its last written event, and stop writing (fast mode)."""
        cdef Reply reply
        self.fill_reply(&reply, 0, OP_COMMIT_EMPTY)
        put_empty(&self.out.publishes, self.subject, &reply)
        write_soon(self.out)
        self.stop_writing()

    cdef int write_slot(self, uint64_t seq, int operation) except -1:
        """Write the frame of a waiting event, with a new reply subject."""
        cdef Slot* slot = self.window.find(seq)
        cdef Chunk chunk = <Chunk>slot.chunk
        cdef const char* frame = chunk.data + slot.start
        cdef const char* subject
        cdef Py_ssize_t n_subject
        cdef Reply reply
        self.fill_reply(&reply, seq, operation)
        put_again(&self.out.publishes, frame, slot.n, &reply, &subject, &n_subject)
        slot.batch_seq = 0
        if self.fast:
            self.n_in_batch += 1
            slot.batch_seq = self.n_in_batch
            if operation != OP_APPEND:
                self.subject = subject[:n_subject]
        slot.sent_ns = monotonic_ns()
        if slot.n_tries:
            self.n_resent += self.n_events_of(slot)
        slot.n_tries += 1
        return write_soon(self.out)

    cdef uint64_t n_events_of(self, Slot* slot) noexcept:
        """Return how many events are in a pending message."""
        return 1

    # --- answers -------------------------------------------------------------------------------------------------

    cdef int take_frame(self, Frame* frame) except -1:
        cdef Py_ssize_t n_inbox = PyBytes_GET_SIZE(self.inbox)
        cdef uint64_t seq
        if frame.n_subject <= n_inbox:
            return 0
        if parse_decimal(frame.subject + n_inbox, frame.n_subject - n_inbox, &seq):
            return self.take_window_answer(frame, seq)
        return self.take_batch_answer(frame)

    @cython.final
    cdef int take_window_answer(self, Frame* frame, uint64_t seq) except -1:
        cdef Slot* slot = self.window.find(seq)
        cdef Ack ack
        cdef Chunk chunk
        if slot is NULL or slot.n_tries == 0 or slot.batch_seq:
            return 0                    # settled already; or not written in window mode, so the answer is forged
        chunk = <Chunk>slot.chunk
        if chunk.data is NULL:
            return 0                    # not written yet, so the answer is forged
        if frame.n_headers == 0 and read_ack(frame.payload, frame.n_payload, &ack):
            if is_from(&ack, <const unsigned char*>chunk.data + slot.start, slot.n, self.destination.domain):
                self.now_ns = monotonic_ns()
                note_answer_time(self, self.now_ns - slot.sent_ns)
                self.settle_one(seq, slot, -<int64_t>ack.seq if ack.duplicate else <int64_t>ack.seq)
                return self.after_answer()
        self.host.on_window_answer(seq, status_of(frame), frame.payload[:frame.n_payload])
        return self.after_answer()

    @cython.final
    cdef int after_answer(self) except -1:
        """Write waiting events after an answer has made room. Call `on_probed` if all written events are settled."""
        if self.writing:
            self.write_waiting(self.max_pending, OP_APPEND)
        elif self.next_unwritten == self.window.base:
            self.host.on_probed()
        return self.tell_host()

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
            return 0                    # an answer to an earlier batch
        dot = <const unsigned char*>memchr(pos, 46, end - pos)
        if dot is NULL or not parse_decimal(pos, dot - pos, &seq) or seq > self.n_in_batch + 1:
            return 0
        if read_flow(frame.payload, frame.n_payload, &n, &n_messages):
            if n > self.n_in_batch:
                return 0
            self.now_ns = monotonic_ns()
            if not (self.settles_at_end or self.batch_has_receipt):
                self.settle_batch(n, 0)
            elif n > self.n_flow_acked:     # settle nothing: the answer names no domain, and may be from another one
                self.n_flow_acked = n
            self.host.on_flow(min(n_messages, self.max_pending))
            return self.tell_host()
        self.host.on_batch_answer(seq, status_of(frame), frame.payload[:frame.n_payload])
        return self.tell_host()

    cdef int tell_host(self) except -1:
        """Call `on_room` if it is wanted and a quarter of the window is free, and `on_flushed` if a flush has ended."""
        cdef uint64_t limit = self.limit if self.writing else self.max_pending
        cdef uint64_t n_flow_acked = min(self.count_flow_only(), limit) if self.writing and self.room_wanted else 0
        limit -= n_flow_acked
        if (
            self.room_wanted
            and self.window.next_seq - self.window.base - n_flow_acked <= limit - (limit + 3) // 4
            and self.window.n_bytes <= self.max_bytes - self.max_bytes // 4
        ):
            self.room_wanted = False
            self.host.on_room()
        if self.flush_to and self.window.base >= self.flush_to:
            self.flush_to = 0
            self.host.on_flushed()
        return 0

    cdef int settle_batch(self, uint64_t n, int64_t stream_seq) except -1:
        """Settle the first `n` events of the batch. `stream_seq` is the sequence of its only event, or 0."""
        cdef bint tell = self.wants_acks or len(self.receipts) > 0
        cdef PublishWindow window = self.window
        cdef Slot* slot
        cdef PyObject* event
        cdef PyObject* chunk
        cdef uint64_t since_ns = 0
        cdef uint64_t n_since = 0               # events that were accepted at the same time
        if n <= self.n_batch_settled:
            return 0
        self.n_batch_settled = n
        while window.base < self.next_unwritten:
            slot = &window.slots[window.base & window.mask]
            if slot.batch_seq == 0 or slot.batch_seq > n:
                break
            if tell:
                self.settle_one(window.base, slot, stream_seq)
                continue
            if slot.resend_ns != since_ns:
                note_duration(self.durations, self.now_ns - since_ns, n_since)
                since_ns, n_since = slot.resend_ns, 0
            n_since += 1
            event = slot.waiter
            chunk = slot.chunk
            free_slot(window, slot)
            if self.next_unwritten < window.base:
                self.next_unwritten = window.base
            self.n_acknowledged += 1
            # These come last: freeing an event may free an object of the user and so run code of the user.
            Py_XDECREF(chunk)
            Py_XDECREF(event)
        note_duration(self.durations, self.now_ns - since_ns, n_since)
        return 0

    def settle_batch_to(self, uint64_t n, int64_t stream_seq=0):
        """Settle the first `n` events of the batch and return True; return False if the batch has fewer events.

        `stream_seq` is the stream sequence of the last of them, negative if the stream had its id already.
        """
        if n > self.n_in_batch:
            return False
        self.now_ns = monotonic_ns()
        self.settle_batch(n, stream_seq if self.n_in_batch == 1 else 0)
        return True

    def settle(self, uint64_t seq, int64_t stream_seq):
        """Settle a pending event that is stored. `stream_seq` is negative if the stream had its id already."""
        cdef Slot* slot = self.window.find(seq)
        if slot is not NULL:
            self.now_ns = monotonic_ns()
            self.settle_one(seq, slot, stream_seq)

    cdef int settle_one(self, uint64_t seq, Slot* slot, int64_t stream_seq) except -1:
        cdef str id = self.id_at(seq) if self.wants_acks else None
        note_duration(self.durations, self.now_ns - slot.resend_ns, 1)
        self.take_out(seq)
        self.n_acknowledged += 1
        if len(self.receipts) and seq in self.receipts:
            self.host.on_receipt(self.receipts.pop(seq), stream_seq)
        if id is not None:
            self.host.on_acknowledged(id, 0 if self.fast else abs(stream_seq))
        return 0

    def fail(self, uint64_t seq):
        """Remove a pending message that has failed. Return (event with its id, id, receipt or None) of each event."""
        cdef str id = self.id_at(seq)
        cdef Event event = self.take_out(seq)
        if event is None:
            return []
        self.n_failed += 1
        self.tell_host()
        return [(event if event.id else event.replace(id=id), id, self.receipts.pop(seq, None))]
