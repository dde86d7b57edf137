"""What becomes of an event: acknowledged, given back, tried again; and where that leaves the offset.

The part of a subscription between its ledger and its workers, without a coroutine.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint64_t

from eda._clock cimport monotonic_ns
from eda._codec cimport Refusal, read_envelope
from eda._event cimport F_ID, Event, end_of_envelope, new_event
from eda.transport._outbound cimport put_publish
from eda.handling._intake cimport Intake
from eda.handling._ledger cimport FREE, ORPHAN

from eda.handling._intake import Undecodable

__all__ = ["Outcomes"]

cdef uint64_t FOR_EVER = 0xFFFFFFFFFFFFFFFFULL
cdef uint64_t KEPT_NS = 5_000_000_000       # how long a shared subscription whose circuit is open keeps what it holds


cdef Event copy_of(Event event, unsigned int attempt):
    """The same received event for another attempt: a handler may have kept the one it had."""
    cdef Event copy = new_event()
    cdef Refusal refusal
    if read_envelope(copy, event.raw, event.reply.n, end_of_envelope(event), &refusal) < 0:
        copy = new_event()
        copy.raw = event.raw
    if copy.spans[F_ID].n == 0:
        copy.take_id(event.get_text(F_ID))      # of the header
    copy.reply = event.reply
    copy.headers_span = event.headers_span
    copy.subject_span = event.subject_span
    copy._stream = event._stream
    copy.sequence_ = event.sequence_
    copy.attempt_ = attempt
    copy.ack_time_ns_ = event.ack_time_ns_
    return copy


cdef class Outcomes(Intake):
    """The answers to deliveries, the wake-ups of workers, and the lease under which they work."""

    def __init__(
        self, object host, object source, object out, *, int batch=0, bint strict=False, int circuit=0, **intake
    ):
        super().__init__(host, source, out, **intake)
        self.batch = batch
        self.is_strict = self.one_by_one = strict
        self.circuit = circuit
        self.failed_in_row = set()
        self.trying = -1
        self.idle = []
        self.lingering = []
        self.lease_until_ns = FOR_EVER

    # --- outcomes ------------------------------------------------------------------------------------------------

    cdef int succeed(self, int32_t slot) except -1:
        """The handler has handled the event."""
        cdef Event event = <Event>self.ledger.held[slot].event
        self.n_handled += 1
        if self.failing:
            self.note_success()
        if event.sequence_ > self.last_seq:
            self.last_seq = event.sequence_
        if self.shared is not None:
            self.answer(event, slot, NULL, 0)
            self.acknowledged = event
        return self.settle(slot, None)

    cdef int settle(self, int32_t slot, object verdict) except -1:
        """Forget an event that is done with; one with a verdict was not handled."""
        cdef Event event
        cdef bint counts = self.ledger.held[slot].state != ORPHAN
        if verdict is not None:
            event = <Event>self.ledger.held[slot].event
            if self.shared is not None:
                if isinstance(verdict, Undecodable):
                    self.answer(event, slot, b"+TERM undecodable", 17)
                else:
                    self.answer(event, slot, NULL, 0)
                    self.acknowledged = event
        self.ledger.finish(slot)
        if self.ordered is not None and counts:
            if self.is_strict or self.n_careful:
                # While closing nobody waits: the last write of all says as much.
                self.confirming = self.lease_until_ns != FOR_EVER and not self.closing
                if self.n_careful:
                    self.n_careful -= 1
                    self.one_by_one = self.n_careful or self.is_strict or self.circuit_state == HALF_OPEN
            if not self.confirming:             # else the offset is stored by who waits for that
                self.progressed()
        return self.refill()

    cdef int progressed(self) except -1:
        if self.tell:
            self.tell = False
            self.host.on_progress()
        return 0

    cdef int try_again(self, int32_t slot, int64_t delay_ns) except -1:
        """Have a failed event come again: the server keeps time for a shared one, we for an ordered one."""
        cdef Event event = <Event>self.ledger.held[slot].event
        cdef bytes answer
        if self.shared is not None:
            answer = b'-NAK {"delay": %d}' % delay_ns
            self.answer(event, slot, answer, PyBytes_GET_SIZE(answer))
            self.ledger.finish(slot)
            return self.refill()
        self.ledger.retry(slot, monotonic_ns() + <uint64_t>delay_ns, copy_of(event, event.attempt_ + 1), None)
        self.host.on_retry(delay_ns / 1e9)
        return 0

    cdef int give_back_one(self, int32_t slot) except -1:
        """Have a running event handled by whoever is next: nothing became of it."""
        cdef Event event
        if self.shared is None:
            event = <Event>self.ledger.held[slot].event
            if self.ledger.held[slot].state != ORPHAN:
                self.ledger.replace(slot, copy_of(event, event.attempt_))
            return self.ledger.put_back(slot)
        self.answer(<Event>self.ledger.held[slot].event, slot, b"-NAK", 4)
        self.ledger.finish(slot)
        return self.refill()

    cdef int give_back_all(self, list slots) except -1:
        """The same in order: put back, each goes before what is there; the server takes them one behind the other."""
        cdef int32_t slot
        for slot in slots if self.shared is not None else slots[::-1]:
            self.give_back_one(slot)
        return 0

    cdef int answer(self, Event event, int32_t slot, const char* payload, Py_ssize_t n) except -1:
        """Shared: publish an answer to the event's latest delivery."""
        cdef bytes renewed
        if self.ledger.held[slot].renewed is NULL:
            return put_publish(
                self.out, <const unsigned char*>PyBytes_AS_STRING(event.raw) + event.reply.start, event.reply.n,
                payload, n,
            )
        renewed = <bytes>self.ledger.held[slot].renewed
        return put_publish(
            self.out, <const unsigned char*>PyBytes_AS_STRING(renewed), PyBytes_GET_SIZE(renewed), payload, n
        )

    # --- the circuit, and pauses ---------------------------------------------------------------------------------

    cdef int note_failure(self, int index, uint64_t seq) except -1:
        """Worker `index` has called the handler for the event with this sequence, and it failed."""
        if self.circuit == 0:
            return 0
        if self.circuit_state == CLOSED:
            self.failing = True
            self.failed_in_row.add(seq)         # one that fails again and again counts once
            if len(self.failed_in_row) >= self.circuit:
                self.open_circuit()
        elif self.circuit_state == HALF_OPEN and index == self.trying:
            self.open_circuit()
        return 0

    cdef int open_circuit(self) except -1:
        self.failed_in_row.clear()
        if self.circuit_state == CLOSED:
            self.opened_ns = monotonic_ns()
        self.circuit_state = OPEN
        self.n_openings += 1
        self.trying = -1
        self.adjust()
        self.host.on_circuit(self.n_openings)
        return 0

    def try_one(self):
        """Let one event be handled, since the pause of an open circuit is over."""
        if self.circuit_state == OPEN:
            self.circuit_state = HALF_OPEN
            self.adjust()

    cdef int note_success(self) except -1:
        """Close the circuit, or forget the failures so far."""
        self.failed_in_row.clear()
        self.failing = False
        if self.circuit_state != CLOSED:
            self.circuit_state = CLOSED
            self.n_openings = 0
            self.trying = -1
            self.gave_back = False
            self.adjust()
            self.host.on_circuit(0)
        return 0

    cdef int end_trial(self, int index) except -1:
        """A worker's event has ended. If it was tried and did neither succeed nor fail, another one is."""
        if self.trying == index:
            self.trying = -1
            self.adjust()
        return 0

    cdef int adjust(self) except -1:
        """Bring what depends on pause and circuit in line with them."""
        cdef bint is_shut = self.circuit_state == OPEN or self.trying >= 0
        self.one_by_one = self.n_careful or self.is_strict or self.circuit_state == HALF_OPEN
        self.barred = (self.barred & ~BY_CIRCUIT) | (BY_CIRCUIT if is_shut else 0)
        # Half open, one event is asked for where none is held; what waits to be stored as a dead letter is not one.
        self.withhold(
            self.circuit_state != CLOSED or self.barred & BY_PAUSE,
            1 + self.ledger.n_retrying if self.circuit_state == HALF_OPEN and not self.barred & BY_PAUSE else 0,
        )
        return 0 if self.barred else self.wake_all()

    def pause(self):
        """Start no handler until `resume`."""
        if not self.barred & BY_PAUSE:
            self.barred |= BY_PAUSE
            self.adjust()

    def resume(self):
        """Let handlers start again."""
        if self.barred & BY_PAUSE:
            self.barred &= ~BY_PAUSE
            self.adjust()

    @property
    def is_paused(self):
        """Whether no handler starts because of `pause`."""
        return self.barred & BY_PAUSE != 0

    @property
    def is_circuit_open(self):
        """Whether so many events have failed in a row that at most one is handled, now and then."""
        return self.circuit_state != CLOSED

    # --- waking --------------------------------------------------------------------------------------------------

    cdef int arrived(self) except -1:
        if self.lingering:
            if self.ledger.n_ready() >= self.batch or self.ledger.n_held >= self.limit:
                future = self.lingering.pop()
                if not future.done():
                    future.set_result(None)
            return 0
        return self.wake() if self.ledger.n_ready() else 0

    cdef int wake(self) except -1:
        while self.idle:
            future = self.idle.pop()
            if not future.done():
                future.set_result(None)
                break
        return 0

    cdef int wake_all(self) except -1:
        while self.idle:
            self.wake()
        return 0

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
        if self.shared is None or self.ledger.n_held == 0 or self.out.write is None:
            return 0
        if (
            self.circuit_state != CLOSED and not self.gave_back and self.credit == 0
            and self.clock_ns - self.opened_ns > KEPT_NS
        ):
            # Others may do better. Only once, and when no pull can bring it here again: each delivery is an attempt.
            self.gave_back = True
            self.give_back()
        for slot in range(self.ledger.n_slots):
            if self.ledger.held[slot].state != FREE and self.clock_ns - self.ledger.held[slot].lease_ns >= age_ns:
                reply = self.shared.reply_of(slot)
                put_publish(
                    self.out, <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply), b"+WPI", 4
                )
                self.ledger.held[slot].lease_ns = self.clock_ns
                n += 1
        return n

    def take_due(self):
        """Hand out again what was to wait until now; returns the seconds until the next one is due, or None."""
        cdef uint64_t now = monotonic_ns()
        cdef int n = self.ledger.take_due(now)
        while n > 0:
            self.arrived()
            n -= 1
        if self.ledger.next_due_ns == 0:
            return None
        return max(<int64_t>(self.ledger.next_due_ns - now), 0) / 1e9

    # --- ordered: position and lease -----------------------------------------------------------------------------

    def begin_at(self, uint64_t position, uint64_t tries=0, int64_t stored_ns=0):
        """Drop everything, and take the first event after `position` as one that was tried `tries` times.

        `stored_ns`: when the stream stored the event at `position`; 0: not known.

        Where it was, events are handled one by one for a while, each stored before the next: what kills the process is
        then known to be the first.
        """
        if self.ordered is None:
            raise TypeError("a shared subscription has no position")
        self.ordered.drop(position, stored_ns)
        self.consumer_utf8 = b""
        self.first_attempt = tries + 1
        self.n_careful = self.limit if tries else 0
        self.one_by_one = self.n_careful or self.is_strict
        if self.failing:
            self.note_success()                 # of what failed nothing is held any more

    def set_lease(self, uint64_t until_ns):
        """Let handlers start until then (monotonic nanoseconds)."""
        cdef bint was_over = self.lease_until_ns <= monotonic_ns()
        self.lease_until_ns = until_ns
        if was_over and until_ns:
            self.wake_all()

    def tell_progress(self):
        """Call `on_progress` of the host when the position moves next."""
        self.tell = True

    # --- the end -------------------------------------------------------------------------------------------------

    def give_back(self):
        """Shared: give back what no handler has begun, in order, after `stop()`; returns how many."""
        cdef list waiting = []
        cdef int32_t slot
        if self.shared is None:
            return 0
        self.ledger.take_due(FOR_EVER)
        while True:
            slot = self.ledger.take_ready()
            if slot < 0:
                break
            waiting.append((self.ledger.held[slot].seq, slot))
        self.give_back_all([slot for _, slot in sorted(waiting)])
        return len(waiting)

    def last_acknowledged(self):
        """The acknowledgement subject of the latest event that was acknowledged, or None."""
        cdef Event event = self.acknowledged
        if event is None:
            return None
        return event.raw[event.reply.start:event.reply.start + event.reply.n]

    @property
    def n_waiting(self):
        """Events received that no handler has begun, or that wait to be tried again."""
        return self.ledger.n_waiting + self.ledger.n_retrying

    @property
    def n_running(self):
        """Events that handlers work on."""
        return self.ledger.n_running

    @property
    def n_held(self):
        """Events received and not done."""
        return self.ledger.n_held
