"""Frames > events > ledger > handlers > acknowledgements: the consuming side's loop.

Nothing here knows the event loop: futures come from the host, and workers are coroutines that the host runs as tasks.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcmp, memcpy

from eda._acks cimport FREE, Held, Ledger
from eda._bytes cimport monotonic_ns
from eda._codec cimport Refusal, read_envelope, refusal_error
from eda._event cimport F_AGGREGATE, F_TYPE, Event, new_event
from eda._frame cimport Delivery, Frame, Outbound, Sink, put_publish, read_delivery, status_of

__all__ = ["Dispatcher"]

cdef enum:
    # The longest the loop is kept from others by handlers that never suspend, nanoseconds.
    SLICE_NS = 4_000_000


@cython.final
cdef class _Turn:
    """Awaited, gives the event loop one turn."""

    cdef bint done

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.done:
            raise StopIteration
        self.done = True
        return None


@cython.final
cdef class Dispatcher(Sink):
    """Takes the deliveries of one shared subscription and sees each through its handler to its acknowledgement.

    What needs Python is asked of `host` (futures, logging, retry delays) and `source` (pulls); the stub says how.
    """

    def __init__(
        self, object host, object source, object handler, Outbound out not None, *, str stream not None,
        str consumer not None,
        bytes inbox not None, int64_t limit, int64_t limit_bytes, int concurrency, object types=None,
        str aggregate=None
    ):
        self.ledger = Ledger()
        self.host = host
        self.source = source
        self.handler = handler
        self.out = out
        self.stream = stream
        self.stream_utf8 = stream.encode()
        self.consumer_utf8 = consumer.encode()
        self.inbox = inbox
        self.types = frozenset(types) if types is not None else None
        self.aggregate = aggregate
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.min_pull = max(1, limit // 4)
        self.idle = []
        self.tasks = [None] * concurrency
        self.running = [None] * concurrency
        self.overdue = [False] * concurrency
        self.clock_ns = monotonic_ns()

    # --- deliveries in -------------------------------------------------------------------------------------------

    cdef int take_frame(self, Frame* frame) except -1:
        cdef Delivery delivery
        cdef int status
        self.n_received += 1
        if read_delivery(frame.reply, frame.n_reply, &delivery):
            if (
                delivery.n_stream == PyBytes_GET_SIZE(self.stream_utf8)
                and delivery.n_consumer == PyBytes_GET_SIZE(self.consumer_utf8)
                and memcmp(delivery.stream, PyBytes_AS_STRING(self.stream_utf8), delivery.n_stream) == 0
                and memcmp(delivery.consumer, PyBytes_AS_STRING(self.consumer_utf8), delivery.n_consumer) == 0
            ):
                return self.take_delivery(frame, &delivery)
            self.n_foreign += 1
            return 0
        status = status_of(frame)
        if status:
            if frame.n_subject > PyBytes_GET_SIZE(self.inbox):
                self.source.on_status(
                    status, frame.subject[PyBytes_GET_SIZE(self.inbox):frame.n_subject], frame.headers[:frame.n_headers]
                )
            return 0
        self.n_foreign += 1
        return 0

    cdef int take_delivery(self, Frame* frame, Delivery* delivery) except -1:
        cdef Event event
        cdef bytes raw
        cdef Refusal refusal
        # As the server counts it against a pull's max_bytes.
        cdef int64_t size = frame.n_subject + frame.n_reply + frame.n_headers + frame.n_payload
        cdef bint wanted = True
        if self.credit > 0:
            self.credit -= 1
        self.credit_bytes = self.credit_bytes - size if self.credit > 0 and self.credit_bytes > size else 0
        self.n_pending = delivery.n_pending
        if delivery.n_delivered > 1:
            self.n_redelivered += 1
            if self.ledger.renew(delivery.stream_seq, frame.reply[:frame.n_reply], self.clock_ns) >= 0:
                return 0
        elif self.ledger.lookup(delivery.stream_seq) >= 0:
            return 0
        raw = PyBytes_FromStringAndSize(NULL, frame.n_reply + frame.n_payload)
        memcpy(PyBytes_AS_STRING(raw), frame.reply, frame.n_reply)
        if frame.n_payload:
            memcpy(PyBytes_AS_STRING(raw) + frame.n_reply, frame.payload, frame.n_payload)
        event = new_event()
        if read_envelope(event, raw, frame.n_reply, frame.n_reply + frame.n_payload, &refusal) < 0:
            self.n_undecodable += 1
            self.host.on_undecodable(delivery.stream_seq, refusal_error(&refusal))
            put_publish(self.out, frame.reply, frame.n_reply, b"+TERM undecodable", 17)
            return self.refill()
        event.reply.n = <unsigned int>frame.n_reply
        event._stream = self.stream
        event.sequence_ = delivery.stream_seq
        event.attempt_ = <unsigned int>delivery.n_delivered
        if event.ack_time_ns_ == 0:
            event.ack_time_ns_ = delivery.time_ns
        if self.types is not None:
            wanted = event.get_text(F_TYPE) in self.types
        if wanted and self.aggregate is not None:
            wanted = event.get_text(F_AGGREGATE) == self.aggregate
        if not wanted:
            self.n_passed_over += 1
            put_publish(self.out, frame.reply, frame.n_reply, NULL, 0)
            return self.refill()
        self.ledger.add(event, delivery.stream_seq, self.clock_ns)
        return self.wake()

    cdef int wake(self) except -1:
        while self.idle:
            future = self.idle.pop()
            if not future.done():
                future.set_result(None)
                break
        return 0

    # --- credit --------------------------------------------------------------------------------------------------

    cpdef int refill(self) except -1:
        """Have the host pull when enough of the limit is free."""
        cdef int64_t room = self.limit - self.ledger.n_held - self.credit
        cdef int64_t room_bytes = self.limit_bytes - <int64_t>self.ledger.n_bytes - self.credit_bytes
        if room >= self.min_pull and not self.closing and (room_bytes >= self.limit_bytes // 4 or self.credit == 0):
            if self.ledger.n_held == 0 or room_bytes > 0:
                self.source.pull(room, max(room_bytes, 1))
        return 0

    def grant(self, int64_t n, int64_t n_bytes):
        """Note a pull: the server may send this much more."""
        self.credit += n
        self.credit_bytes += n_bytes

    def revoke(self, int64_t n, int64_t n_bytes):
        """Note the end of a pull with this much of it unused."""
        self.credit = max(self.credit - n, 0)
        self.credit_bytes = max(self.credit_bytes - n_bytes, 0) if self.credit else 0

    def revoke_all(self):
        """Note that nothing is known of any pull: the connection or the consumer's leader changed."""
        self.credit = self.credit_bytes = 0

    # --- handlers ------------------------------------------------------------------------------------------------

    def set_task(self, int index, object task):
        """Name the task that runs `work(index)`."""
        self.tasks[index] = task

    async def work(self, int index):
        """Handle events until closed: the coroutine of one worker."""
        cdef int32_t slot
        cdef Event event
        cdef uint64_t now
        cdef object error
        cdef object handler = self.handler
        while True:
            if self.closing:
                return
            slot = self.ledger.take_ready()
            if slot < 0:
                future = self.host.make_future()
                self.idle.append(future)
                await future
                continue
            event = <Event>self.ledger.held[slot].event
            self.running[index] = event
            error = None
            try:
                result = handler(event)
                if result is not None and hasattr(result, "__await__"):
                    await result
            except Exception as caught:
                error = caught
            except BaseException as caught:
                # A handler may raise CancelledError of its own; the worker's task then is not being cancelled.
                if isinstance(caught, (KeyboardInterrupt, SystemExit, GeneratorExit)) or (
                    self.tasks[index].cancelling() and not self.overdue[index]
                ):
                    self.running[index] = None
                    self.respond(slot, b"-NAK", 4)
                    raise
                error = caught
            self.running[index] = None
            if self.overdue[index]:
                self.overdue[index] = False
                self.tasks[index].uncancel()
                error = self.host.overdue_error(event, error)
            if error is None:
                self.n_handled += 1
                if event.sequence_ > self.last_seq:
                    self.last_seq = event.sequence_
                self.acknowledged = event
                self.respond(slot, NULL, 0)
            else:
                self.n_failed += 1
                answer = b'-NAK {"delay": %d}' % self.host.on_failure(event, error)
                self.respond(slot, answer, len(answer))
            event = None
            now = monotonic_ns()
            if now - self.slice_ns > SLICE_NS:
                await _Turn()
                self.slice_ns = monotonic_ns()

    cdef int respond(self, int32_t slot, const char* payload, Py_ssize_t n) except -1:
        """Answer a running delivery and forget it."""
        cdef Held* held = &self.ledger.held[slot]
        cdef Event event = <Event>held.event
        cdef bytes renewed
        if held.renewed is NULL:
            put_publish(
                self.out, <const unsigned char*>PyBytes_AS_STRING(event.raw) + event.reply.start, event.reply.n,
                payload, n,
            )
        else:
            renewed = <bytes>held.renewed
            put_publish(
                self.out, <const unsigned char*>PyBytes_AS_STRING(renewed), PyBytes_GET_SIZE(renewed), payload, n
            )
        return self.finish(slot)

    cdef int finish(self, int32_t slot) except -1:
        self.ledger.finish(slot)
        return self.refill()

    # --- the clock -----------------------------------------------------------------------------------------------

    def tick(self, double lease_age_s):
        """Note the time, and extend the leases of everything held for longer than `lease_age_s`; returns how many.

        Without a connection none is: what is said of a lease would be kept until it means nothing any more.
        """
        cdef uint64_t age_ns = <uint64_t>(lease_age_s * 1e9)
        cdef int32_t slot
        cdef int n = 0
        cdef bytes reply
        self.clock_ns = monotonic_ns()
        if self.ledger.n_held == 0 or self.out.write is None:
            return 0
        for slot in range(self.ledger.n_slots):
            if self.ledger.held[slot].state != FREE and self.clock_ns - self.ledger.held[slot].lease_ns >= age_ns:
                reply = self.ledger.reply_of(slot)
                put_publish(
                    self.out, <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply), b"+WPI", 4
                )
                self.ledger.held[slot].lease_ns = self.clock_ns
                n += 1
        return n

    def running_events(self):
        """Return what each worker runs, by index: an Event or None."""
        return self.running.copy()

    def cancel_overdue(self, int index):
        """Cancel the handler of a worker because it has run too long."""
        self.overdue[index] = True
        self.tasks[index].cancel()

    # --- the end -------------------------------------------------------------------------------------------------

    def stop(self):
        """Hand out nothing more: workers end when they have handled what they run."""
        self.closing = True
        while self.idle:
            self.wake()

    def give_back(self):
        """Give back what no handler has begun, in order, after `stop()`; returns how many."""
        cdef list waiting = []
        cdef int32_t slot
        while True:
            slot = self.ledger.take_ready()
            if slot < 0:
                break
            waiting.append((self.ledger.held[slot].seq, slot))
        for _, slot in sorted(waiting):
            self.respond(slot, b"-NAK", 4)
        return len(waiting)

    def last_acknowledged(self):
        """The acknowledgement subject of the latest event that was acknowledged, or None."""
        cdef Event event = self.acknowledged
        if event is None:
            return None
        return event.raw[event.reply.start:event.reply.start + event.reply.n]

    @property
    def n_waiting(self):
        """Events received that no handler has begun."""
        return self.ledger.n_waiting

    @property
    def n_running(self):
        """Events that handlers work on."""
        return self.ledger.n_running

    @property
    def n_held(self):
        """Events received and not answered."""
        return self.ledger.n_held
