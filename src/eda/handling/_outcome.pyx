"""The outcome of each delivery: acknowledged, tried again, stored as a dead letter, or given back."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint64_t

from eda._clock cimport monotonic_ns
from eda._codec cimport Refusal, read_envelope
from eda._event cimport F_ID, Event, new_event
from eda.transport._outbound cimport Outbound, put_publish
from eda.handling._call_times cimport CallTimes
from eda.handling._credit cimport Credit
from eda.handling._gate cimport Gate
from eda.handling._held_packs cimport HeldPack
from eda.handling._ledger cimport FREE, ORPHAN, RETRYING, WAITING, Ledger, SharedLedger
from eda.handling._ledger_ordered cimport OrderedLedger
from eda.handling._lease cimport Lease

from eda.handlers import GivenBack
from eda.handling.verdicts import Alone, Exhausted, Misfit, Suspect, Undecodable

__all__ = ["Outcomes", "attempted", "envelope_of"]


@cython.final
cdef class Outcomes:
    """The outcomes of a subscription's events, and how many there were of each.

    `slot` is always that of a running event. Once the event has its outcome, the slot must not be used any more.
    """

    def __init__(
        self, object host, Outbound out not None, Ledger ledger not None, Credit credit not None, Gate gate not None,
        Lease lease not None, *, bint records_attempts
    ):
        self.host = host
        self.out = out
        self.ledger = ledger
        self.shared = ledger if isinstance(ledger, SharedLedger) else None
        self.ordered = ledger if isinstance(ledger, OrderedLedger) else None
        self.credit = credit
        self.gate = gate
        self.lease = lease
        self.records_attempts = records_attempts
        self.calls = CallTimes()

    # --- handled, or dropped -------------------------------------------------------------------------------------

    cdef int succeed(self, int32_t slot) except -1:
        """Acknowledge an event, since its handler has handled it."""
        cdef Event event = <Event>self.ledger.held[slot].event
        self.n_handled += 1
        if self.gate.sees_failures:
            self.gate.note_success()
        if event.sequence_ > self.last_seq:
            self.last_seq = event.sequence_
        if self.shared is not None and self.ledger.held[slot].pack < 0:
            self.acknowledge(event, slot)
        return self.finish(slot)

    cdef int succeed_all(self, int32_t* slots, Py_ssize_t n) except -1:
        """Acknowledge the events of a list, since its handler has handled them. The credit is looked at once."""
        cdef Py_ssize_t i
        cdef Event event
        self.n_handled += n
        if self.gate.sees_failures:
            self.gate.note_success()
        for i in range(n):
            event = <Event>self.ledger.held[slots[i]].event
            if event.sequence_ > self.last_seq:
                self.last_seq = event.sequence_
            if self.shared is not None and self.ledger.held[slots[i]].pack < 0:
                self.acknowledge(event, slots[i])
            self.end(slots[i])
        return self.credit.refill()

    cdef int acknowledge(self, Event event, int32_t slot) except -1:
        """Acknowledge the message of an event that is no event of a pack."""
        self.answer(event, slot, NULL, 0)
        self.acknowledged = event
        self.acknowledged_pack = None
        return 0

    cdef int drop(self, int32_t slot, object verdict) except -1:
        """Finish an event that no handler has handled: its dead letter is stored, or dead letters are discarded."""
        cdef Event event
        self.n_dead += 1
        if self.shared is not None and self.ledger.held[slot].pack < 0:
            event = <Event>self.ledger.held[slot].event
            if isinstance(verdict, Undecodable):
                self.answer(event, slot, b"+TERM undecodable", 17)
            else:
                self.acknowledge(event, slot)
        return self.finish(slot)

    cdef int finish(self, int32_t slot) except -1:
        """Remove an event that is done, and pull more if there is room for more."""
        self.end(slot)
        return self.credit.refill()

    cdef int end(self, int32_t slot) except -1:
        """Remove an event that is done from the ledger. If it is the last one of its pack, answer the pack."""
        cdef bint is_orphan = self.ledger.held[slot].state == ORPHAN
        cdef int32_t pack = self.ledger.held[slot].pack
        self.ledger.finish(slot)
        if pack >= 0 and self.shared.packs.entries[pack].n_left == 0:
            self.answer_pack(pack)
        if self.ordered is not None and not is_orphan:
            self.lease.event_is_done()
        return 0

    # --- handled again -------------------------------------------------------------------------------------------

    cdef int retry(self, int32_t slot, int64_t delay_ns) except -1:
        """Retry a failed event after a delay.

        Shared: the server delivers it again. Ordered, and for an event of a pack: the ledger keeps it.
        """
        cdef Event event = <Event>self.ledger.held[slot].event
        cdef bytes answer
        cdef int32_t pack = self.ledger.held[slot].pack
        if self.is_given_back(pack):
            return self.finish(slot)
        if self.shared is not None and pack < 0:
            answer = b'-NAK {"delay": %d}' % delay_ns
            self.answer(event, slot, answer, PyBytes_GET_SIZE(answer))
            self.ledger.finish(slot)
            return self.credit.refill()
        self.retry_later(slot, delay_ns, copy_of(event, event.attempt_ + 1), None)
        if pack >= 0 and self.records_attempts and not isinstance(self.ledger.verdict_of(slot), Suspect):
            # Another process may get the pack next, and has to know how often this event was begun.
            self.ledger.set_verdict(slot, Suspect(self.shared.packs.entries[pack].n_delivered, is_alone=False))
        return 0

    cdef Event note_attempt(self, int32_t slot, unsigned int attempt):
        """Set the number of this attempt of an event; returns the event's new object."""
        cdef Event event = copy_of(<Event>self.ledger.held[slot].event, attempt)
        self.ledger.replace(slot, event)
        return event

    cdef int retry_later(self, int32_t slot, int64_t delay_ns, Event event, object verdict) except -1:
        """Keep the object `event` for `delay_ns`. With a `verdict`, only its dead letter is tried again after that."""
        if self.is_given_back(self.ledger.held[slot].pack):
            return self.finish(slot)
        self.ledger.retry(slot, monotonic_ns() + <uint64_t>delay_ns, event, verdict)
        self.host.on_retry(delay_ns / 1e9)
        return 0

    cdef int note_record(self, int32_t pack) noexcept:
        """Note that an event of this pack is on record. -1: it is not in a pack."""
        if pack >= 0:
            self.shared.packs.entries[pack].has_records = True
        return 0

    cdef bint is_given_back(self, int32_t pack) noexcept:
        """Return whether a pack is given back to the server when no handler has an event of it. -1: there is none."""
        return pack >= 0 and self.shared.packs.entries[pack].is_given_back

    cdef int wait_again(self, int32_t slot) except -1:
        """Have an event that was not begun wait in the ledger."""
        if self.is_given_back(self.ledger.held[slot].pack):
            return self.finish(slot)
        return self.ledger.put_back(slot)

    cdef int give_back(self, int32_t slot) except -1:
        """Give back an event, as if its handler had not begun.

        Shared: to the server. Ordered, and for an event of a pack: to the ledger, unless the pack is given back.
        """
        cdef Event event = <Event>self.ledger.held[slot].event
        if self.is_kept(slot):
            if self.ledger.held[slot].state != ORPHAN:
                self.ledger.replace(slot, copy_of(event, event.attempt_))
            return self.ledger.put_back(slot)
        if self.ledger.held[slot].pack >= 0:
            self.give_back_packs([self.ledger.held[slot].pack])
            return self.finish(slot)
        self.answer(event, slot, b"-NAK", 4)
        self.ledger.finish(slot)
        return self.credit.refill()

    cdef int give_back_all(self, list slots) except -1:
        """Give back events so that they are handled again in the same order."""
        cdef int32_t slot
        cdef list kept = []
        # The ledger puts a given-back event before all others. The server puts it behind the other given-back events.
        for slot in slots:
            if self.is_kept(slot):
                kept.append(slot)
            else:
                self.give_back(slot)
        for slot in kept[::-1]:
            self.give_back(slot)
        return 0

    cdef bint is_kept(self, int32_t slot) noexcept:
        """Return whether the ledger keeps an event that is given back: the server does not get it."""
        cdef int32_t pack = self.ledger.held[slot].pack
        return self.shared is None or (pack >= 0 and not self.gate.is_closing and not self.is_given_back(pack))

    cdef int begin_again(self, list slots) except -1:
        """Have events handled again at once, in order and as the same attempt: another event of their batch failed."""
        cdef int32_t slot, pack
        cdef Event event
        cdef list others = []
        for slot in slots[::-1]:
            pack = self.ledger.held[slot].pack
            if self.shared is None or self.is_given_back(pack) or (pack < 0 and self.gate.is_closing):
                others.append(slot)
            else:
                # The server would count another attempt if it delivered them again.
                event = <Event>self.ledger.held[slot].event
                self.ledger.replace(slot, copy_of(event, event.attempt_))
                self.ledger.put_back(slot)
        self.give_back_all(others[::-1])
        return self.gate.waiting.wake_one()

    def give_back_waiting(self):
        """Shared: give back the messages of which no handler has begun an event, in order; returns how many events.

        The events of packs that are partly done stay in the ledger: a pack can't be given back in part.
        """
        cdef list waiting = []
        cdef list slots = []
        cdef dict n_waiting = {}
        cdef int32_t slot, pack
        cdef Py_ssize_t n = 0
        if self.shared is None:
            return 0
        for slot in range(self.ledger.n_slots):
            if self.ledger.held[slot].state == RETRYING and self.ledger.held[slot].pack < 0:
                self.ledger.held[slot].due_ns = 0           # its dead letter was not stored
                self.ledger.next_due_ns = 0
        self.ledger.take_due(0)
        while True:
            slot = self.ledger.take_ready()
            if slot < 0:
                break
            waiting.append((self.ledger.held[slot].seq, self.ledger.held[slot].index, slot))
            pack = self.ledger.held[slot].pack
            if pack >= 0 and (<Event>self.ledger.held[slot].event).attempt_ == 1:
                n_waiting[pack] = n_waiting.get(pack, 0) + 1
        for _, _, slot in sorted(waiting, reverse=True):
            pack = self.ledger.held[slot].pack
            if pack < 0:
                slots.append(slot)
            else:
                self.ledger.put_back(slot)
        self.give_back_all(slots[::-1])
        n = len(slots)
        unbegun = [
            pack for pack in self.shared.held_packs()
            if n_waiting.get(pack, 0) == self.shared.packs.entries[pack].n_events
        ]
        self.give_back_packs(unbegun)
        return n + sum([n_waiting.get(pack, 0) for pack in unbegun])

    # --- failed --------------------------------------------------------------------------------------------------

    async def fail(self, int index, list slots, object error):
        """Retry the events for which a handler call has failed, or store them as dead letters.

        `index`: of the worker. If the worker is cancelled while it stores dead letters, it gives back the events whose
        letters are not stored yet.
        """
        cdef Event event
        cdef int64_t delay_ns
        cdef uint64_t n_handled = self.n_handled
        cdef list failures = self.failures_of(slots, error)
        cdef list dead = [failure for failure in failures if self.ledger.held[<int32_t>failure[0]].is_dead]
        failures = [failure for failure in failures if not self.ledger.held[<int32_t>failure[0]].is_dead]
        if failures:
            dead += self.retry_all(index, failures, self.n_handled == n_handled)
        for number, (slot, each) in enumerate(dead):
            event = <Event>self.ledger.held[<int32_t>slot].event
            try:
                payload = envelope_of(event)
                delay_ns = await self.host.store_dead_letter(event, payload, each)
            except BaseException:
                self.give_back_all([slot for slot, _ in dead[number:]])
                raise
            self.end_dead_letter(slot, event, each, delay_ns)

    cdef list failures_of(self, list slots, object error):
        """Return (slot, error) of each failed event. The other events of the handler call get their outcome here."""
        cdef int32_t slot
        cdef list failures = []
        cdef list unhandled = []
        errors = self.host.errors_of([<object>self.ledger.held[<int32_t>slot].event for slot in slots], error)
        for slot, each in zip(slots, errors):
            if each is None:
                self.succeed(slot)
            elif self.ledger.held[slot].state == ORPHAN:
                self.ledger.finish(slot)
            elif type(each) is GivenBack or type(each) is Alone:
                unhandled.append(slot)
                if type(each) is Alone:
                    self.ledger.set_verdict(slot, each)
            else:
                failures.append((slot, each))
        if unhandled:
            self.begin_again(unhandled)
        return failures

    cdef list retry_all(self, int index, list failures, bint is_whole):
        """Have failed events handled again; returns the (slot, error) of those that have no attempt left.

        `is_whole`: no event of the handler call was handled.
        """
        cdef list dead = []
        cdef list events = [<object>self.ledger.held[<int32_t>slot].event for slot, _ in failures]
        cdef list errors = [error for _, error in failures]
        cdef int64_t delay_ns
        cdef int32_t slot
        for error in errors:
            if isinstance(error, Misfit):
                self.n_misfits += 1
            elif not isinstance(error, (Exhausted, Undecodable)):
                self.n_failed += 1
                self.calls.errors.add(error)
        delays = self.host.on_failures(events, errors)
        if is_whole and self.host.is_failure(errors):
            slot = failures[0][0]
            self.gate.note_failure(index, self.ledger.held[slot].seq, self.ledger.held[slot].index)
        for failure, delay in zip(failures, delays):
            delay_ns = delay
            if delay_ns >= 0:
                self.n_retried += 1
                self.retry(failure[0], delay_ns)
            else:
                dead.append(failure)
        return dead

    cdef int end_dead_letter(self, int32_t slot, Event event, object error, int64_t delay_ns) except -1:
        """Finish an event whose dead letter is stored (`delay_ns` is negative), or keep it until the next attempt."""
        if delay_ns < 0:
            return self.drop(slot, error)
        if self.gate.is_closing and self.ledger.held[slot].pack < 0:
            return self.give_back(slot)
        if self.ledger.held[slot].state == ORPHAN:
            return self.ledger.finish(slot)
        # The event is held, and its lease extended, until its dead letter is stored.
        return self.retry_later(slot, delay_ns, event, error)

    # --- shared: answers to the server ---------------------------------------------------------------------------

    cdef int answer(self, Event event, int32_t slot, const char* payload, Py_ssize_t n) except -1:
        """Publish an answer to the event's latest delivery."""
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

    cdef int answer_pack(self, int32_t pack) except -1:
        """Acknowledge a pack of which all events are done, or give it back; and forget it."""
        cdef HeldPack* entry = &self.shared.packs.entries[pack]
        cdef bytes reply = <bytes>entry.reply
        cdef bint is_given_back = entry.is_given_back
        if is_given_back:
            put_publish(self.out, <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply), b"-NAK", 4)
        else:
            put_publish(self.out, <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply), NULL, 0)
            self.acknowledged = None
            self.acknowledged_pack = reply
        if entry.has_records:
            self.host.end_records(entry.seq, not is_given_back)
        return self.shared.forget_pack(pack)

    cdef int let_go(self, int32_t pack) except -1:
        """Note that the intake adds no more events to a pack, or that the pack may be acknowledged."""
        if self.shared.let_go(pack):
            self.answer_pack(pack)
            return self.credit.refill()
        return 0

    cdef int abandon_pack(self, int32_t pack) except -1:
        """Give back a pack of which the intake can't add the rest."""
        self.shared.packs.entries[pack].is_asked_for = True
        return self.give_back_packs([pack])

    cdef int end_asking(self, int32_t pack, bint is_unwanted) except -1:
        """Note whether other members want a pack: `is_unwanted` says that they do not. If they do, give it back.

        `pack` is -1 if it is not held any more.
        """
        if pack < 0 or not self.shared.packs.entries[pack].is_asked_for:
            return 0
        if not is_unwanted:
            return self.give_back_packs([pack])
        self.shared.packs.entries[pack].is_asked_for = False
        return self.let_go(pack)

    cdef int give_back_packs(self, list packs) except -1:
        """Give whole packs back to the server: now, or when no handler has an event of them any more."""
        cdef int32_t pack
        for pack in packs:
            self.shared.mark_given_back(pack)
            if self.shared.packs.entries[pack].is_asked_for:
                self.shared.packs.entries[pack].is_asked_for = False
                self.shared.let_go(pack)
        self.shared.drop_waiting()
        for pack in packs:
            if self.shared.packs.entries[pack].n_left == 0:
                self.answer_pack(pack)
        return self.credit.refill()

    def failed_once(self):
        """Shared: return (event, verdict) of the events of packs that have failed once, which is not on record."""
        cdef int32_t slot
        cdef Event event
        found = []
        for slot in range(self.ledger.n_slots):
            if self.ledger.held[slot].state not in (WAITING, RETRYING) or self.ledger.held[slot].pack < 0:
                continue
            event = <Event>self.ledger.held[slot].event
            verdict = self.ledger.verdict_of(slot)
            if isinstance(verdict, Suspect) and not verdict.is_alone and event.attempt_ == 2:
                found.append((copy_of(event, 1), verdict))
        return found

    def give_back_rest(self):
        """Shared: give back the packs that are partly done, each as a whole; returns how many."""
        if self.shared is None:
            return 0
        packs = self.shared.held_packs()
        self.give_back_packs(packs)
        return len(packs)

    cdef int extend_leases(self, uint64_t now_ns, uint64_t age_ns) except -1:
        """Extend the leases that began at least `age_ns` ago; returns how many."""
        cdef int32_t slot, pack
        cdef int n = 0
        cdef HeldPack* entry
        for slot in range(self.ledger.n_slots):
            if self.ledger.held[slot].state == FREE or self.ledger.held[slot].pack >= 0:
                continue
            if now_ns - self.ledger.held[slot].lease_ns >= age_ns:
                self.extend_lease(self.shared.reply_of(slot))
                self.ledger.held[slot].lease_ns = now_ns
                n += 1
        for pack in range(self.shared.packs.n_entries):
            entry = &self.shared.packs.entries[pack]
            if entry.reply is not NULL and now_ns - entry.lease_ns >= age_ns:
                self.extend_lease(<bytes>entry.reply)
                entry.lease_ns = now_ns
                n += 1
        return n

    cdef int extend_lease(self, bytes reply) except -1:
        return put_publish(
            self.out, <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply), b"+WPI", 4
        )

    def last_acknowledged(self):
        """Return the acknowledgement subject of the latest message that was acknowledged, or None."""
        cdef Event event = self.acknowledged
        if event is None:
            return self.acknowledged_pack
        return event.raw[event.reply.start:event.reply.start + event.reply.n]


def envelope_of(Event event not None):
    """Return the envelope of a received event, as it was delivered."""
    return event.raw[event.envelope.start:event.envelope.start + event.envelope.n]


def attempted(Event event not None, unsigned int attempt):
    """Return another object for the same received event, with this number of its attempt."""
    return copy_of(event, attempt)


cdef Event copy_of(Event event, unsigned int attempt):
    """Return another object for the same event, because the handler may have kept the first object."""
    cdef Event copy = new_event()
    cdef Refusal refusal
    cdef Py_ssize_t start = event.envelope.start
    if read_envelope(copy, event.raw, start, start + event.envelope.n, &refusal) < 0:
        copy = new_event()
        copy.raw = event.raw
        copy.envelope = event.envelope
    if copy.spans[F_ID].n == 0 and not event.is_packed:
        copy.take_id(event.get_text(F_ID))      # from the message's header
    copy.reply = event.reply
    copy.headers_span = event.headers_span
    copy.subject_span = event.subject_span
    copy._stream = event._stream
    copy.sequence_ = event.sequence_
    copy.index_, copy.is_packed = event.index_, event.is_packed
    copy.attempt_ = attempt
    copy.ack_time_ns_ = event.ack_time_ns_
    return copy
