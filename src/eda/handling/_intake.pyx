"""Takes deliveries from the wire: decides which are ours, and puts their events into the ledger."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp

from eda._clock cimport monotonic_ns
from eda._event cimport F_AGGREGATE, F_TYPE, Event
from eda._pack cimport Pack, is_pack, next_envelope
from eda.transport._frame cimport Delivery, Frame, read_delivery, status_of
from eda.transport._outbound cimport Outbound, put_publish
from eda.handling._credit cimport Credit
from eda.handling._foreign cimport MARKER, STRIPPED, is_for_another, is_schedule, mark_of
from eda.handling._ledger cimport Ledger, SharedLedger
from eda.handling._ledger_ordered cimport OrderedLedger
from eda.handling._lease cimport Lease
from eda.handling._outcome cimport Outcomes
from eda.handling._reading cimport EventReader
from eda.handling._waiting cimport WaitingWorkers

from eda.errors import Closed
from eda.handling.verdicts import Exhausted, Suspect

__all__ = ["Intake"]

cdef enum:
    MAX_STATUS = 4096               # bytes of a status's headers; the server's have a hundred


@cython.final
cdef class Intake(EventReader):
    """The sink of a subscription's deliveries, which puts their events into its ledger.

    It calls `source` (a DispatchSource in _dispatch.pyi) for statuses, and for deliveries about which the source must
    ask the server.
    """

    def __init__(
        self, object source, Outbound out not None, Ledger ledger not None, Credit credit not None,
        Outcomes outcomes not None, Lease lease not None, WaitingWorkers waiting not None, *, str stream not None,
        str consumer not None, str name not None, bytes inbox not None, object types, str aggregate, object key,
        uint64_t max_attempts, uint64_t suspect_from
    ):
        self.source = source
        self.out = out
        self.shared = ledger if isinstance(ledger, SharedLedger) else None
        self.ordered = ledger if isinstance(ledger, OrderedLedger) else None
        self.credit = credit
        self.outcomes = outcomes
        self.lease = lease
        self.waiting = waiting
        self.stream = stream
        self.stream_utf8 = stream.encode()
        self.consumer_utf8 = consumer.encode()
        self.name_utf8 = name.encode()
        self.inbox = inbox
        self.types = frozenset(types) if types is not None else None
        self.aggregate = aggregate
        self.sees_all = types is None and aggregate is None
        self.by_aggregate = key == "aggregate"
        self.key_of = key if callable(key) else None
        self.has_keys = self.by_aggregate or self.key_of is not None
        self.max_attempts = max_attempts
        self.suspect_from = suspect_from
        self.first_attempt = 1
        self.empty = frozenset()
        self.clock_ns = monotonic_ns()

    cdef int take_frame(self, Frame* frame) except -1:
        cdef Delivery delivery
        cdef int status
        self.n_received += 1
        if read_delivery(frame.reply, frame.n_reply, &delivery):
            if (
                delivery.n_stream != PyBytes_GET_SIZE(self.stream_utf8)
                or delivery.n_consumer != PyBytes_GET_SIZE(self.consumer_utf8)
                or memcmp(delivery.stream, PyBytes_AS_STRING(self.stream_utf8), delivery.n_stream) != 0
                or memcmp(delivery.consumer, PyBytes_AS_STRING(self.consumer_utf8), delivery.n_consumer) != 0
            ):
                self.n_foreign += 1
                return 0
            # The size is what the server counts against a pull's max_bytes.
            self.credit.note_delivery(frame.n_subject + frame.n_reply + frame.n_headers + frame.n_payload)
            self.n_pending = delivery.n_pending
            if self.ordered is not None:
                return self.take_ordered(frame, &delivery)
            return self.take_shared(frame, &delivery)
        status = status_of(frame)
        if status == 0:
            self.n_foreign += 1
        elif frame.n_subject > PyBytes_GET_SIZE(self.inbox):
            self.source.on_status(
                status, frame.subject[PyBytes_GET_SIZE(self.inbox):frame.n_subject],
                frame.headers[:min(frame.n_headers, MAX_STATUS)],
            )
        return 0

    # --- shared --------------------------------------------------------------------------------------------------

    cdef int take_shared(self, Frame* frame, Delivery* delivery) except -1:
        cdef Event event
        cdef object verdict
        cdef bint is_unwanted
        cdef int32_t slot
        cdef Pack pack
        cdef int mark
        if self.is_redelivered(frame, delivery):
            return 0
        if frame.n_payload == 0:
            mark = mark_of(frame)
            if mark == STRIPPED and delivery.stream_seq not in self.empty:
                # The source finds out whether this is an event. Until then, it is neither held nor acknowledged.
                self.source.on_stripped(delivery.stream_seq, frame.reply[:frame.n_reply])
                return 0
            if mark == MARKER:
                return self.acknowledge_unwanted(frame)
        if is_pack(frame.payload, frame.n_payload):
            pack = self.open_pack(frame)
            if pack is not None:
                return self.take_shared_pack(frame, delivery, pack)
            if self.fault is None:
                return 0
        event = self.read_event(frame, delivery, frame.n_reply)
        verdict = self.verdict
        event.attempt_ = <unsigned int>delivery.n_delivered
        is_unwanted = verdict is None and not self.is_wanted(event)
        if is_unwanted and self.asks_for_unwanted:
            self.source.on_unwanted(delivery.stream_seq, frame.reply[:frame.n_reply])
            return self.credit.refill()
        if is_unwanted or (event.headers_span.n and self.is_for_others(frame)):
            return self.acknowledge_unwanted(frame)
        slot = self.shared.add(event, delivery.stream_seq, self.clock_ns)
        # The server also counts deliveries that no handler began. So many deliveries make an event only a suspect.
        if verdict is None and self.suspect_from and delivery.n_delivered >= self.suspect_from:
            verdict = Suspect(delivery.n_delivered)
        if verdict is not None:
            self.shared.set_verdict(slot, verdict)
        return self.waiting.event_is_ready()

    cdef int take_shared_pack(self, Frame* frame, Delivery* delivery, Pack pack) except -1:
        """Hold the events of a pack that the filter includes. The pack is answered when they are done."""
        cdef int32_t held
        cdef uint32_t n_held
        if frame.n_headers and self.is_for_others(frame):
            return self.acknowledge_unwanted(frame)
        held = self.shared.add_pack(
            delivery.stream_seq, frame.reply[:frame.n_reply], <uint32_t>delivery.n_delivered,
            <uint64_t>PyBytes_GET_SIZE(pack.raw), self.clock_ns,
        )
        try:
            self.hold_shared_pack(delivery, pack, held)
        except BaseException:
            self.outcomes.abandon_pack(held)    # a part of it is held
            raise
        n_held = <uint32_t>self.shared.packs.entries[held].n_events
        self.credit.note_pack(n_held, PyBytes_GET_SIZE(pack.raw))
        if delivery.n_delivered > 1 and n_held:
            self.n_redelivered += n_held - 1
        self.waiting.events_are_ready(n_held)
        if self.asks_for_unwanted and n_held < pack.n_events:
            if n_held:
                self.n_passed_over += pack.n_events - n_held
                self.shared.packs.entries[held].is_asked_for = True
                self.source.on_unwanted(delivery.stream_seq, b"")
                return 0
            self.shared.forget_pack(held)
            self.source.on_unwanted(delivery.stream_seq, frame.reply[:frame.n_reply])
            return self.credit.refill()
        self.n_passed_over += pack.n_events - n_held
        return self.outcomes.let_go(held)

    cdef int hold_shared_pack(self, Delivery* delivery, Pack pack, int32_t held) except -1:
        cdef Event event
        cdef uint32_t index
        cdef int32_t slot
        # The server does not count how often each event was begun. So a record does, from the second delivery onwards.
        cdef bint is_suspect = self.suspect_from and delivery.n_delivered > 1
        for index in range(pack.n_events):
            event = self.read_packed(pack, index, delivery)
            if self.verdict is None and not self.sees_all and not self.is_wanted(event):
                continue
            event.attempt_ = 1
            slot = self.shared.add_of_pack(held, event, self.clock_ns)
            if self.verdict is not None or is_suspect:
                self.shared.set_verdict(slot, self.verdict or Suspect(delivery.n_delivered))
        return 0

    cdef bint is_redelivered(self, Frame* frame, Delivery* delivery) except -1:
        """Return whether the event is held already; if so, its lease begins again. Counts missing events."""
        cdef uint64_t n_missing, n_elsewhere
        cdef int32_t held
        # Consumer sequences that are missing here were delivered to other members. If more stream sequences than
        # consumer sequences are missing, events are gone from the stream.
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
        # First deliveries are looked up, too: a server that has lost its counts may deliver a held event with count 1.
        held = self.shared.find(delivery.stream_seq)
        if held == 0:
            return False
        if held < 0 and delivery.n_delivered > 1:
            self.n_redelivered += <uint64_t>(self.shared.packs.entries[-1 - held].n_events - 1)
        return self.shared.renew(delivery.stream_seq, frame.reply[:frame.n_reply], self.clock_ns)

    cdef int acknowledge_unwanted(self, Frame* frame) except -1:
        """Acknowledge a delivery that this subscription does not handle."""
        self.n_passed_over += 1
        put_publish(self.out, frame.reply, frame.n_reply, NULL, 0)
        return self.credit.refill()

    def set_floor(self, uint64_t stream_seq, uint64_t consumer_seq, uint64_t n_pending):
        """Shared: note up to where the consumer had delivered before this member started."""
        self.stream_seq = stream_seq
        self.consumer_seq = consumer_seq
        self.n_pending = n_pending

    def ask_for_unwanted(self):
        """Shared: ask the source about events that the filter excludes, rather than acknowledge them.

        The consumer's filter should have excluded them as well. If it does not, another member may want them.
        """
        self.asks_for_unwanted = True

    def pass_over(self, uint64_t seq, bytes reply not None):
        """Shared: acknowledge a delivery after `source.on_unwanted` was called for it.

        If `reply` is empty, it is a pack with other events that are held: it may be acknowledged when these are done.
        """
        if reply:
            self.n_passed_over += 1
            put_publish(self.out, <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply), NULL, 0)
        else:
            self.outcomes.end_asking(self.shared.lookup_pack(seq), True)

    def give_back(self, uint64_t seq, bytes reply not None):
        """Shared: give back a delivery, so that another member gets it. `reply` is as in `pass_over`."""
        if reply:
            put_publish(self.out, <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply), b"-NAK", 4)
        else:
            self.outcomes.end_asking(self.shared.lookup_pack(seq), False)

    # --- ordered -------------------------------------------------------------------------------------------------

    cdef int take_ordered(self, Frame* frame, Delivery* delivery) except -1:
        cdef Event event
        cdef object verdict
        cdef OrderedLedger ledger = self.ordered
        cdef Pack pack
        cdef uint32_t n_done = 0
        cdef int mark = 0
        if delivery.consumer_seq != self.consumer_seq + 1:
            self.consumer_utf8 = b""            # ignore all later deliveries of this reader
            self.source.on_gap(self.consumer_seq + 1, delivery.consumer_seq)
            return 0
        self.consumer_seq += 1
        self.stream_seq = delivery.stream_seq
        if delivery.stream_seq <= ledger.highest:
            return self.credit.refill()         # we have had this event: the reader began too early
        if frame.n_payload == 0:
            mark = mark_of(frame)
            if mark == STRIPPED and delivery.stream_seq not in self.empty:
                self.consumer_utf8 = b""        # ignore this reader, because it leaves bodies out
                self.source.on_stripped(delivery.stream_seq, b"")
                return 0
        if self.sees_all:
            self.n_skipped += delivery.stream_seq - ledger.highest - 1
        ledger.highest_ns = delivery.time_ns
        if self.awaits_part:
            n_done = self.end_wait_for_part(delivery)
        if mark == MARKER:
            return self.pass_over_ordered(delivery.stream_seq)
        if is_pack(frame.payload, frame.n_payload):
            pack = self.open_pack(frame)
            if pack is not None:
                return self.take_ordered_pack(frame, delivery, pack, n_done)
            if self.fault is None:
                return 0
        event = self.read_event(frame, delivery, 0)
        verdict = self.verdict
        if (verdict is None and not self.is_wanted(event)) or (event.headers_span.n and self.is_for_others(frame)):
            return self.pass_over_ordered(delivery.stream_seq)
        event.attempt_ = 1
        if self.first_attempt > 1 and not self.awaits_part:
            verdict = self.continue_attempts(event, verdict)
        self.hold_ordered(event, delivery.stream_seq, verdict, True)
        return self.waiting.event_is_ready()

    cdef int take_ordered_pack(self, Frame* frame, Delivery* delivery, Pack pack, uint32_t n_done) except -1:
        """Hold the events of a pack. The first `n_done` of them are done."""
        cdef uint32_t n_passed = 0
        cdef int64_t n_held = self.ordered.n_held
        self.has_packs = True
        if frame.n_headers and self.is_for_others(frame):
            return self.pass_over_ordered(delivery.stream_seq)
        if n_done >= pack.n_events:
            self.forget_part()                  # a pack of which so many events are done would be wholly done
            n_done = 0
        self.ordered.begin_pack(delivery.stream_seq, <uint64_t>PyBytes_GET_SIZE(pack.raw))
        try:
            n_passed = self.hold_pack(delivery, pack, n_done)
        except BaseException as error:
            # A part of it is held. If later messages were taken, the rest would be passed over.
            self.consumer_utf8 = b""
            self.source.on_unreadable(error if isinstance(error, Exception) else Closed("reading a pack"))
            raise
        finally:
            self.ordered.end_pack()
        # With what stands for events that are passed over.
        self.credit.note_pack(self.ordered.n_held - n_held, PyBytes_GET_SIZE(pack.raw))
        if n_passed:
            self.n_passed_over += n_passed
            self.lease.position_moved()
            self.credit.refill()
        return self.waiting.events_are_ready(pack.n_events - n_done - n_passed)

    cdef uint32_t hold_pack(self, Delivery* delivery, Pack pack, uint32_t n_done) except? 0:
        """Hold the events of a pack behind the first `n_done`; returns how many of them are not for us."""
        cdef Event event
        cdef object verdict
        cdef uint32_t index, _index
        cdef uint32_t last = pack.n_events - 1
        cdef uint32_t n_passed = 0
        cdef Py_ssize_t n = 0
        for _index in range(n_done):
            next_envelope(pack, &n)
        for index in range(n_done, pack.n_events):
            event = self.read_packed(pack, index, delivery)
            verdict = self.verdict
            if not self.sees_all and verdict is None and not self.is_wanted(event):
                self.ordered.pass_over(delivery.stream_seq, index, index == last)
                n_passed += 1
                continue
            event.attempt_ = 1
            if self.first_attempt > 1 and not self.awaits_part:
                verdict = self.continue_attempts(event, verdict)
            if verdict is None and not self.has_keys:
                self.ordered.add(event, delivery.stream_seq, self.clock_ns, index == last)
            else:
                self.hold_ordered(event, delivery.stream_seq, verdict, index == last)
        return n_passed

    cdef uint32_t end_wait_for_part(self, Delivery* delivery) except? 0:
        """Return how many events of this message are done, because it is the pack in whose middle reading began.

        If another message comes at its place or behind it, the pack is gone from the stream, or the filter has changed.
        """
        cdef OrderedLedger ledger = self.ordered
        if delivery.stream_seq < ledger.part:
            return 0
        self.awaits_part = False
        if delivery.stream_seq == ledger.part and delivery.time_ns == ledger.part_ns:
            return ledger.idx
        self.forget_part()
        return 0

    cdef int forget_part(self) except -1:
        """Note that the pack in whose middle reading began is not there: no event of another message is done."""
        self.ordered.forget_part()
        self.first_attempt = 1
        self.source.on_part_gone()
        return 0

    cdef object continue_attempts(self, Event event, object verdict):
        """Count the attempts of processes that died, for the event after the position; returns the verdict on it."""
        event.attempt_ = <unsigned int>self.first_attempt
        # If only one process has died, the event need not be the cause: the process may have died before the event was
        # begun, or after the event was handled and before its position was stored.
        if verdict is None and self.max_attempts and self.first_attempt > max(self.max_attempts, 2):
            verdict = Exhausted()
        self.first_attempt = 1
        return verdict

    cdef int pass_over_ordered(self, uint64_t seq) except -1:
        """Note a delivery that this subscription does not handle."""
        self.n_passed_over += 1
        self.ordered.pass_over(seq)
        self.lease.position_moved()
        return self.credit.refill()

    cdef int hold_ordered(self, Event event, uint64_t seq, object verdict, bint is_last) except -1:
        """Add an event to the ledger, with its key if there are keys.

        If the key function fails, its error is the verdict.
        """
        cdef int32_t slot = -1
        if verdict is None and self.has_keys:
            try:
                key = event.get_text(F_AGGREGATE) if self.by_aggregate else self.key_of(event)
                slot = self.ordered.add_keyed(event, seq, self.clock_ns, key, is_last)
            except (KeyboardInterrupt, SystemExit):
                self.consumer_utf8 = b""        # the event is not held, so no later one may be taken
                raise
            except BaseException as error:      # as for a handler
                verdict = error
        if slot < 0:
            slot = self.ordered.add(event, seq, self.clock_ns, is_last)
        if verdict is not None:
            self.ordered.set_verdict(slot, verdict)
        return 0

    cdef int begin_after(self, uint64_t tries) except -1:
        """Ordered: take no delivery until `use_reader`.

        `tries`: how often the first event after that was tried before.
        """
        self.consumer_utf8 = b""
        self.first_attempt = tries + 1
        self.awaits_part = self.ordered.idx > 0
        return 0

    def use_reader(self, str consumer not None, uint64_t n_pending):
        """Ordered: take the deliveries of this new reader."""
        self.consumer_utf8 = consumer.encode()
        self.consumer_seq = 0
        self.n_pending = n_pending
        self.credit.revoke_all()

    def use_no_reader(self):
        """Ordered: take no delivery until `use_reader`."""
        self.consumer_utf8 = b""
        self.credit.revoke_all()

    def forget_tries(self):
        """Ordered: count no tries for the next event, because it was not in the stream when they happened."""
        self.first_attempt = 1

    @property
    def n_read(self):
        """Ordered: return how many deliveries came from the current reader."""
        return self.consumer_seq

    # --- events --------------------------------------------------------------------------------------------------

    @property
    def highest_seen(self):
        """Return the highest stream sequence that was delivered."""
        return self.stream_seq

    def accept_empty(self, sequences):
        """Treat these messages as stored without a body, and not as stripped. Replaces the set of the last call."""
        self.empty = frozenset(sequences)

    cdef bint is_wanted(self, Event event) except -1:
        """Return whether our filter includes the event; the server's filter may be wider."""
        if self.types is not None and event.get_text(F_TYPE) not in self.types:
            return False
        return self.aggregate is None or event.get_text(F_AGGREGATE) == self.aggregate

    cdef bint is_for_others(self, Frame* frame) except -1:
        """Return whether the message's headers say that it is not an event of this subscription."""
        if is_schedule(frame):
            return True
        return self.verdict is None and is_for_another(frame, self.name_utf8)
