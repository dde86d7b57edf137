"""Frames > events > ledger: the receiving half of a subscription, and its credit."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from eda._clock cimport monotonic_ns
from eda._codec cimport Refusal, read_envelope, refusal_error
from eda._event cimport F_AGGREGATE, F_ID, F_TYPE, Event, new_event
from eda.handling._foreign cimport MARKER, STRIPPED, is_for_another, is_ours, is_schedule, mark_of
from eda.transport._frame cimport Delivery, Frame, Sink, read_delivery, status_of
from eda.transport._outbound cimport Outbound, put_publish
from eda.handling._ledger cimport SharedLedger
from eda.handling._ledger_ordered cimport OrderedLedger

from eda.errors import DecodeError
from eda.headers import id_in_headers

__all__ = ["Exhausted", "Intake", "Suspect", "Undecodable"]

cdef enum:
    FIRST_ALLOWED = 8               # before it is known how long handlers take
    MAX_STATUS = 4096               # bytes of a status's headers; the server's have a hundred


class Undecodable(Exception):
    """The verdict on a message that is no envelope; its cause says why."""


class Exhausted(Exception):
    """The verdict on an event that was tried as often as it may be, by processes that did not live to say so."""


class Suspect(Exception):
    """The verdict on an event that may be what kills whoever handles it: it is handled alone, and on record."""


cdef class Intake(Sink):
    """Takes the deliveries of one subscription into its ledger, and gives the server credit for more.

    What needs Python is asked of `host` (logging, failures) and `source` (pulls, restarts); the stub says how.
    """

    def __init__(
        self, object host, object source, Outbound out not None, *, str stream not None, str consumer not None,
        bytes inbox not None, int64_t limit, int64_t limit_bytes, int n_workers=1, int64_t least=1, bint ordered=False,
        bint serial=False, object types=None, str aggregate=None, object key=None, str name="", uint64_t max_attempts=0
    ):
        if ordered:
            self.ledger = self.ordered = OrderedLedger(serial=serial)
        else:
            self.ledger = self.shared = SharedLedger()
        self.host = host
        self.source = source
        self.out = out
        self.stream = stream
        self.stream_utf8 = stream.encode()
        self.consumer_utf8 = consumer.encode()
        self.name_utf8 = (name or consumer).encode()
        self.inbox = inbox
        self.types = frozenset(types) if types is not None else None
        self.aggregate = aggregate
        self.sees_all = types is None and aggregate is None
        if not serial:                  # where all wait for each other, keys would only let some overtake
            self.by_aggregate = key == "aggregate"
            self.key_of = key if callable(key) else None
        self.max_attempts = max_attempts
        # A handler that fails ends at `max_attempts`: what comes after that was told by nobody. Where it is handled
        # alone anyway, the last attempt is put on record as well. The first one never: most events have one only.
        self.suspect_from = 0 if not max_attempts else max(max_attempts, 2) if least == 1 else max_attempts + 1
        self.first_attempt = 1
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.n_workers = n_workers
        self.least = min(max(least, n_workers), limit)
        self.withheld = False
        self.allowed = limit if ordered else min(limit, max(self.least, FIRST_ALLOWED))
        self.min_room = max(1, self.allowed // 4)
        self.max_pulls = MAX_PULLS
        self.empty = frozenset()
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
                    status, frame.subject[PyBytes_GET_SIZE(self.inbox):frame.n_subject],
                    frame.headers[:min(frame.n_headers, MAX_STATUS)],
                )
            return 0
        self.n_foreign += 1
        return 0

    cdef int take_delivery(self, Frame* frame, Delivery* delivery) except -1:
        # As the server counts it against a pull's max_bytes.
        self.spend(frame.n_subject + frame.n_reply + frame.n_headers + frame.n_payload)
        self.n_pending = delivery.n_pending
        if self.ordered is not None:
            return self.take_ordered(frame, delivery)
        return self.take_shared(frame, delivery)

    cdef int take_shared(self, Frame* frame, Delivery* delivery) except -1:
        cdef Event event
        cdef bint is_unwanted
        cdef int32_t slot
        cdef uint64_t n_missing, n_elsewhere
        cdef int mark
        # Between two first deliveries every consumer sequence is one event, ours or another member's.
        if delivery.n_delivered == 1 and delivery.stream_seq > self.stream_seq:
            n_missing = delivery.stream_seq - self.stream_seq - 1
            n_elsewhere = 0
            if delivery.consumer_seq > self.consumer_seq:
                n_elsewhere = delivery.consumer_seq - self.consumer_seq - 1
            if n_missing > n_elsewhere and self.sees_all:
                self.n_skipped += n_missing - n_elsewhere
            self.stream_seq = delivery.stream_seq
        if delivery.consumer_seq > self.consumer_seq:
            self.consumer_seq = delivery.consumer_seq
        if delivery.n_delivered > 1:
            self.n_redelivered += 1
        # Also a server that has lost its count may send again what we hold.
        if self.shared.lookup(delivery.stream_seq) >= 0:
            self.shared.renew(delivery.stream_seq, frame.reply[:frame.n_reply], self.clock_ns)
            return 0
        if frame.n_payload == 0:
            mark = mark_of(frame)
            if mark == STRIPPED and delivery.stream_seq not in self.empty:
                # It is nobody's yet: not handled, not acknowledged, and no place in the ledger.
                self.source.on_stripped(delivery.stream_seq, frame.reply[:frame.n_reply])
                return 0
            if mark == MARKER:
                self.n_passed_over += 1
                put_publish(self.out, frame.reply, frame.n_reply, NULL, 0)
                return self.refill()
        event = self.read(frame, delivery, frame.n_reply)
        verdict = self.verdict
        event.attempt_ = <unsigned int>delivery.n_delivered
        is_unwanted = verdict is None and not self.wants(event)
        if is_unwanted and self.doubts:
            self.source.on_unwanted(delivery.stream_seq, frame.reply[:frame.n_reply])
            return self.refill()
        if is_unwanted or (event.headers_span.n and self.is_aside(frame)):
            self.n_passed_over += 1
            put_publish(self.out, frame.reply, frame.n_reply, NULL, 0)
            return self.refill()
        slot = self.shared.add(event, delivery.stream_seq, self.clock_ns)
        # What was received and not begun comes again as well, counted: a delivery is not yet an attempt.
        if verdict is None and self.suspect_from and delivery.n_delivered >= self.suspect_from:
            verdict = Suspect()
        if verdict is not None:
            self.shared.judge(slot, verdict)
        return self.arrived()

    def doubt_unwanted(self):
        """Shared: ask the source about events that the filter does not want, rather than acknowledge them.

        For a consumer whose own filter should have kept them away.
        """
        self.doubts = True

    def pass_over(self, bytes reply not None):
        """Shared: acknowledge a delivery that `on_unwanted` was told of."""
        self.n_passed_over += 1
        put_publish(self.out, <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply), NULL, 0)

    def give_back_delivery(self, bytes reply not None):
        """Shared: have a delivery that `on_unwanted` was told of delivered to another member."""
        put_publish(self.out, <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply), b"-NAK", 4)

    def believe_empty(self, sequences):
        """Take these messages for what they are: stored without a body. Replaces those named before."""
        self.empty = frozenset(sequences)

    cdef int take_ordered(self, Frame* frame, Delivery* delivery) except -1:
        cdef Event event
        cdef OrderedLedger ledger = self.ordered
        cdef int mark = 0
        if delivery.consumer_seq != self.consumer_seq + 1:
            self.consumer_utf8 = b""            # whatever else comes of this reader is not ours
            self.source.on_gap(self.consumer_seq + 1, delivery.consumer_seq)
            return 0
        self.consumer_seq += 1
        self.stream_seq = delivery.stream_seq
        if delivery.stream_seq <= ledger.highest:
            return self.refill()                # from before where we wanted to begin
        if frame.n_payload == 0:
            mark = mark_of(frame)
            if mark == STRIPPED and delivery.stream_seq not in self.empty:
                self.consumer_utf8 = b""        # whatever else comes of this reader has no body either
                self.source.on_stripped(delivery.stream_seq, b"")
                return 0
        if self.sees_all:
            self.n_skipped += delivery.stream_seq - ledger.highest - 1
        ledger.highest_ns = delivery.time_ns
        if mark == MARKER:
            self.n_passed_over += 1
            ledger.pass_over(delivery.stream_seq)
            self.progressed()
            return self.refill()
        event = self.read(frame, delivery, 0)
        verdict = self.verdict
        if (verdict is None and not self.wants(event)) or (event.headers_span.n and self.is_aside(frame)):
            self.n_passed_over += 1
            ledger.pass_over(delivery.stream_seq)
            self.progressed()
            return self.refill()
        event.attempt_ = <unsigned int>self.first_attempt
        if self.first_attempt > 1:
            # One death may have come before the event was begun, or after it was done and before that was stored.
            if verdict is None and self.max_attempts and self.first_attempt > max(self.max_attempts, 2):
                verdict = Exhausted()
            self.first_attempt = 1
        self.hold_ordered(event, delivery.stream_seq, verdict)
        return self.arrived()

    cdef int hold_ordered(self, Event event, uint64_t seq, object verdict) except -1:
        cdef int32_t slot = -1
        if verdict is None and (self.by_aggregate or self.key_of is not None):
            try:
                key = event.get_text(F_AGGREGATE) if self.by_aggregate else self.key_of(event)
                slot = self.ordered.add_keyed(event, seq, self.clock_ns, key)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:      # as of a handler
                verdict = error
        if slot < 0:
            slot = self.ordered.add(event, seq, self.clock_ns)
        if verdict is not None:
            self.ordered.judge(slot, verdict)
        return 0

    cdef Event read(self, Frame* frame, Delivery* delivery, Py_ssize_t n_reply):
        """Make an event of a delivery; sets `verdict`, to None or what is wrong with it."""
        cdef Refusal refusal
        cdef Event event = new_event()
        cdef bytes raw = PyBytes_FromStringAndSize(NULL, n_reply + frame.n_payload)
        if n_reply:
            memcpy(PyBytes_AS_STRING(raw), frame.reply, n_reply)
        if frame.n_payload:
            memcpy(PyBytes_AS_STRING(raw) + n_reply, frame.payload, frame.n_payload)
        self.verdict = None
        if frame.n_payload == 0 or read_envelope(event, raw, n_reply, n_reply + frame.n_payload, &refusal) < 0:
            self.n_undecodable += 1
            self.verdict = Undecodable()
            self.verdict.__cause__ = refusal_error(&refusal) if frame.n_payload else DecodeError(
                "envelope", "the message has no body", offset=0
            )
            event = new_event()
            self.keep_rest(event, raw, frame)
        elif not is_ours(
            frame, <const unsigned char*>PyBytes_AS_STRING(raw), event,
            <const unsigned char*>PyBytes_AS_STRING(self.stream_utf8), PyBytes_GET_SIZE(self.stream_utf8)
        ):
            self.keep_rest(event, raw, frame)
        event.reply.n = <unsigned int>n_reply
        event._stream = self.stream
        event.sequence_ = delivery.stream_seq
        if event.ack_time_ns_ == 0:
            event.ack_time_ns_ = delivery.time_ns
        return event

    cdef bint is_aside(self, Frame* frame) except -1:
        """Whether the message's headers say that it is no event for this subscription."""
        if is_schedule(frame):
            return True
        return self.verdict is None and is_for_another(frame, self.name_utf8)

    cdef int keep_rest(self, Event event, bytes raw, Frame* frame) except -1:
        """Have the event keep the headers and the subject of its message."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(raw)
        cdef bytes all = PyBytes_FromStringAndSize(NULL, n + frame.n_headers + frame.n_subject)
        cdef char* to = PyBytes_AS_STRING(all)
        memcpy(to, PyBytes_AS_STRING(raw), n)
        memcpy(to + n, frame.headers, frame.n_headers)
        memcpy(to + n + frame.n_headers, frame.subject, frame.n_subject)
        event.keep(all, n, frame.n_headers, frame.n_subject)
        if event.spans[F_ID].n == 0:
            event.take_id(id_in_headers(frame.headers[:frame.n_headers]))
        return 0

    cdef bint wants(self, Event event) except -1:
        """Whether the filter takes the event; the server's may be wider."""
        if self.types is not None and event.get_text(F_TYPE) not in self.types:
            return False
        return self.aggregate is None or event.get_text(F_AGGREGATE) == self.aggregate

    cdef int arrived(self) except -1:
        """An event was added to the ledger."""
        return 0

    cdef int progressed(self) except -1:
        """Ordered: the position may have moved."""
        return 0

    # --- where reading is ----------------------------------------------------------------------------------------

    def set_floor(self, uint64_t stream_seq, uint64_t consumer_seq, uint64_t n_pending):
        """Shared: note what the consumer had delivered when we came."""
        self.stream_seq = stream_seq
        self.consumer_seq = consumer_seq
        self.n_pending = n_pending

    def use_reader(self, str consumer not None, uint64_t n_pending):
        """Ordered: take deliveries of this new reader, from its first one on."""
        self.consumer_utf8 = consumer.encode()
        self.consumer_seq = 0
        self.n_pending = n_pending
        self.revoke_all()

    def forget_tries(self):
        """Ordered: note that the next event is yet to come, so nobody can have tried it."""
        self.first_attempt = 1

    def use_no_reader(self):
        """Ordered: take no deliveries until further notice."""
        self.consumer_utf8 = b""
        self.revoke_all()

    @property
    def n_read(self):
        """Ordered: deliveries of this reader so far."""
        return self.consumer_seq

    @property
    def seen(self):
        """The highest stream sequence that was delivered."""
        return self.stream_seq

    @property
    def position(self):
        """Ordered: every event up to this sequence is done."""
        return self.ordered.position if self.ordered is not None else 0

    @property
    def highest(self):
        """Ordered: the last sequence received."""
        return self.ordered.highest if self.ordered is not None else 0

    @property
    def position_ns(self):
        """Ordered: when the stream stored the event at `position`, nanoseconds since 1970; 0: not known."""
        return self.ordered.position_ns if self.ordered is not None else 0

    @property
    def highest_ns(self):
        """Ordered: when the stream stored the event at `highest`; 0: not known."""
        return self.ordered.highest_ns if self.ordered is not None else 0

    # --- credit --------------------------------------------------------------------------------------------------

    cdef int adapt(self) noexcept:
        """Shared: hold about a second's work, as measured; other members want the rest."""
        cdef double rate
        if self.shared is None or self.n_timed == 0 or self.withheld:
            return 0
        rate = <double>self.n_timed * self.n_workers * 1e9 / <double>(self.busy_ns + 1)
        self.allowed = self.limit if rate >= <double>self.limit else max(self.least, <int64_t>rate, 2)
        self.allowed = min(self.allowed, self.limit)
        self.min_room = max(1, self.allowed // 4)
        if self.n_timed >= 16:              # what is new counts more
            self.n_timed //= 2
            self.busy_ns //= 2
        return 0

    cdef int withhold(self, bint withheld, int64_t allowed) except -1:
        """Have no more than `allowed` events held, pulls included, or end that."""
        self.withheld = withheld
        if withheld:
            self.allowed = allowed
        else:
            self.allowed = self.limit if self.ordered is not None else min(self.limit, max(self.least, FIRST_ALLOWED))
        self.min_room = max(1, self.allowed // 4)
        self.adapt()
        return self.refill()

    cpdef int refill(self) except -1:
        """Have the source pull when enough is free."""
        cdef int64_t room, room_bytes, share
        if self.allowed - self.ledger.n_held - self.credit < self.min_room or self.closing:
            return 0
        self.adapt()
        room = self.allowed - self.ledger.n_held - self.credit
        if room < self.min_room or self.n_pulls >= self.max_pulls:
            return 0
        room_bytes = self.limit_bytes - <int64_t>self.ledger.n_bytes
        for i in range(self.n_pulls):
            room_bytes -= self.pulls[i].n_bytes
        # No pull takes all the bytes there are, or none could be ahead of the events.
        share = max(self.limit_bytes // 4, 1)
        if room_bytes < share and (self.credit > 0 or (self.ledger.n_held > 0 and room_bytes <= 0)):
            return 0
        self.source.pull(room, max(min(room_bytes, share), 1))
        return 0

    cdef int spend(self, int64_t size) noexcept:
        """A delivery came: the oldest pull brought it."""
        cdef Pull* pull = &self.pulls[0]
        if self.n_pulls == 0:
            return 0
        self.credit -= 1
        pull.n -= 1
        pull.n_bytes = max(pull.n_bytes - size, 0)
        if pull.n <= 0:
            self.n_pulls -= 1
            memmove(&self.pulls[0], &self.pulls[1], self.n_pulls * sizeof(Pull))
        return 0

    def set_max_pulls(self, int64_t n):
        """Have at most `n` pulls under way: the consumer keeps no more; 0: it does not say."""
        self.max_pulls = <int>min(n, MAX_PULLS) if n > 0 else MAX_PULLS

    def grant(self, uint64_t number, int64_t n, int64_t n_bytes):
        """Note a pull: the server may send this much more."""
        if self.n_pulls == MAX_PULLS or n <= 0:
            raise ValueError("more pulls than there is room for")
        self.pulls[self.n_pulls].number = number
        self.pulls[self.n_pulls].n = n
        self.pulls[self.n_pulls].n_bytes = n_bytes
        self.n_pulls += 1
        self.credit += n

    def revoke(self, uint64_t number, int64_t n):
        """Note the end of a pull with `n` of it unused, as the server counts (negative: it did not say).

        The server may have served several pulls in turn, where we had the oldest bring all: the rest is the others'.
        """
        cdef int i
        cdef int64_t rest
        for i in range(self.n_pulls):
            if self.pulls[i].number == number:
                n = n - self.pulls[i].n if n >= 0 else 0
                self.credit -= self.pulls[i].n
                if n < 0 and self.n_pulls == 1:
                    # The others have more left, but seemed to be done: this one stands for them from now on.
                    self.pulls[0].number = 0
                    self.pulls[0].n = 0
                    break
                self.n_pulls -= 1
                memmove(&self.pulls[i], &self.pulls[i + 1], (self.n_pulls - i) * sizeof(Pull))
                break
        else:
            n = max(n, 0)
        if n < 0:
            self.pulls[0].n -= n
            self.credit -= n
        while n > 0 and self.n_pulls:
            rest = min(n, self.pulls[0].n)
            n -= rest
            self.credit -= rest
            self.pulls[0].n -= rest
            if self.pulls[0].n == 0:
                self.n_pulls -= 1
                memmove(&self.pulls[0], &self.pulls[1], self.n_pulls * sizeof(Pull))

    def revoke_all(self):
        """Note that nothing is known of any pull: the connection or the consumer's leader changed."""
        self.credit = 0
        self.n_pulls = 0

    @property
    def credit_bytes(self):
        """Bytes that the pulls under way may bring."""
        return sum([self.pulls[i].n_bytes for i in range(self.n_pulls)])
