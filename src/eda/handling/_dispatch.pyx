"""The parts that handle a subscription's events, put together: intake, ledger, workers, outcomes and the rest."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from eda._clock cimport monotonic_ns
from eda.transport._outbound cimport Outbound
from eda.handling._credit cimport Credit
from eda.handling._gate cimport Gate
from eda.handling._intake cimport Intake
from eda.handling._ledger cimport SharedLedger
from eda.handling._ledger_ordered cimport OrderedLedger
from eda.handling._lease cimport Lease
from eda.handling._outcome cimport Outcomes
from eda.handling._waiting cimport WaitingWorkers
from eda.handling._worker cimport FENCED, OVERDUE, Worker

__all__ = ["Dispatcher"]

cdef double MAX_FINISH_S = 1e6


@cython.final
cdef class Dispatcher:
    """The parts that handle a subscription's events.

    `host` and `source` do everything that needs Python and the event loop; their protocols are in the stub.
    """

    def __init__(
        self, object host, object source, object handler, Outbound out not None, *, str stream not None,
        str consumer not None, bytes inbox not None, int64_t limit, int64_t limit_bytes, int concurrency=1, batch=None,
        double linger_s=0.0, double timeout_s=30.0, bint strict=False, int circuit=0, bint ordered=False,
        bint serial=False, object types=None, str aggregate=None, object key=None, str name="", uint64_t max_attempts=0
    ):
        cdef int least = concurrency * (batch or 1)
        cdef uint64_t suspect_from = 0
        if max_attempts and not ordered:
            # An event whose handler fails is given up at `max_attempts`. So a delivery beyond that means that processes
            # died before they could report a failure. If the workers handle only one event at a time, a suspect
            # delays no other event, so the last attempt is recorded as well. The first attempt is never recorded,
            # because most events need only one.
            suspect_from = max(max_attempts, 2) if least == 1 else max_attempts + 1
        if ordered:
            # Serial lists: the ledger's `take_next` keeps the order.
            self.ledger = self.ordered = OrderedLedger(serial=serial and not batch)
        else:
            self.ledger = SharedLedger()
        self.waiting = WaitingWorkers(self.ledger, limit=limit, batch=batch or 0)
        self.credit = Credit(
            self.ledger, source, limit=limit, limit_bytes=limit_bytes, n_workers=concurrency, least=least,
            is_measured=not ordered,
        )
        self.lease = Lease(host, self.ordered, self.waiting, is_strict=strict)
        self.gate = Gate(host, self.ledger, self.credit, self.waiting, max_failures=circuit)
        self.outcomes = Outcomes(
            host, out, self.ledger, self.credit, self.gate, self.lease, records_attempts=suspect_from > 0
        )
        self.intake = Intake(
            source, out, self.ledger, self.credit, self.outcomes, self.lease, self.waiting, stream=stream,
            consumer=consumer, name=name or consumer, inbox=inbox, types=types, aggregate=aggregate,
            # With `serial`, events must not overtake each other, as they could with keys.
            key=None if serial else key, max_attempts=max_attempts, suspect_from=suspect_from,
        )
        self.workers = [
            Worker(
                index, host, handler, self.ledger, self.waiting, self.credit, self.lease, self.gate, self.outcomes,
                self.intake, batch=batch or 0, in_order=serial and batch, linger_s=linger_s,
                timeout_ns=<uint64_t>(timeout_s * 1e9),
            ) for index in range(concurrency)
        ]

    # --- workers -------------------------------------------------------------------------------------------------

    def work(self, int index):
        """Return the coroutine of one worker: it handles events until `stop()`."""
        return self.workers[index].work()

    def set_task(self, int index, object task):
        """Name the task that runs `work(index)`."""
        (<Worker>self.workers[index]).task = task

    def note_group(self, int index, int change):
        """Note that a TaskGroup has cancelled the task of a worker (1), or has taken that back (-1)."""
        (<Worker>self.workers[index]).n_by_groups += change

    def running_now(self):
        """Return, by worker index, what the worker's handler has now: an Event, a tuple of Events, or None."""
        cdef Worker worker
        return [worker.running for worker in self.workers]

    def running_of(self, int index):
        """Return what the handler of one worker has now: an Event, a tuple of Events, or None."""
        return (<Worker>self.workers[index]).running

    def cancel_overdue(self, int index):
        """Cancel the handler of a worker because it has run too long, unless we have cancelled it already."""
        (<Worker>self.workers[index]).cancel(OVERDUE)

    def is_overdue(self, int index):
        """Return whether `cancel_overdue` has cancelled the handler of a worker, which has not ended yet."""
        return (<Worker>self.workers[index]).cancelled == OVERDUE

    # --- the clock -----------------------------------------------------------------------------------------------

    def tick(self, double lease_age_s):
        """Note the time, and extend the leases of events held for longer than `lease_age_s`; returns how many.

        Without a connection no lease is extended: the request would be written after the reconnect, perhaps too late.
        """
        cdef uint64_t now = monotonic_ns()
        self.intake.clock_ns = now
        if self.ordered is not None or self.outcomes.out.write is None:
            return 0
        # A pack may be held though its events are done: the source finds out whether other members want the rest.
        if self.ledger.n_held == 0 and (<SharedLedger>self.ledger).packs.n_held == 0:
            return 0
        if self.gate.should_give_back(now):
            self.outcomes.give_back_waiting()
        return self.outcomes.extend_leases(now, <uint64_t>(lease_age_s * 1e9))

    def take_due(self):
        """Make events ready whose retry is due; returns the seconds until the next retry is due, or None."""
        cdef uint64_t now = monotonic_ns()
        cdef int n = self.ledger.take_due(now)
        while n > 0:
            self.waiting.event_is_ready()
            n -= 1
        if self.ledger.next_due_ns == 0:
            return None
        return max(<int64_t>(self.ledger.next_due_ns - now), 0) / 1e9

    # --- beginning and end ---------------------------------------------------------------------------------------

    def begin_at(
        self, uint64_t position, uint64_t tries=0, int64_t stored_ns=0, uint32_t idx=0, uint64_t part=0,
        int64_t part_ns=0
    ):
        """Ordered: forget all events held, and begin after `position`.

        `stored_ns`: when the stream stored the message at `position`; 0: not known.
        `idx`: how many events of the pack `part`, which was stored at `part_ns`, are done and are passed over.
        `tries`: how often the first event was tried before. If it was, the next events are handled one by one, and each
        position is stored before the next event begins. So if the process dies again, the event after the stored
        position is the cause.
        """
        if self.ordered is None:
            raise TypeError("a shared subscription has no position")
        self.ordered.drop(position, stored_ns, idx, part, part_ns)
        self.intake.begin_after(tries)
        self.lease.be_careful(self.credit.limit if tries else 0)
        if self.gate.sees_failures:
            self.gate.note_success()            # the events that failed are not held any more

    def fence(self):
        """Start no handler until `lease.extend`, and cancel the handlers that run."""
        cdef Worker worker
        self.lease.forbid()
        for worker in self.workers:
            worker.cancel(FENCED)

    def finish_packs(self, double timeout_s):
        """Shared, after `stop`: let handlers start for `timeout_s`, for events of packs that are partly done.

        Their events that failed are retried, too. Workers end when nothing is left to do in this time. If the
        subscription is paused or its circuit is open, no handler starts.
        """
        if timeout_s > 0:
            self.gate.finish_until(monotonic_ns() + <uint64_t>(min(timeout_s, MAX_FINISH_S) * 1e9))
        else:
            self.gate.end()

    def end_packs(self):
        """Shared: end what `finish_packs` has begun, and give back the packs that are partly done; returns how many."""
        self.gate.end()
        return self.outcomes.give_back_rest()

    def pack_held_s(self):
        """Return for how long the oldest pack has been held, in seconds; 0.0 if none is held."""
        cdef uint64_t since_ns = 0 if self.ordered is not None else (<SharedLedger>self.ledger).packs.oldest_ns()
        return 0.0 if since_ns == 0 else max(<int64_t>(monotonic_ns() - since_ns), 0) / 1e9

    def stop(self):
        """Start no handler any more: workers end when the handlers that run are done."""
        self.credit.close()
        self.lease.close()
        self.gate.close()
        self.waiting.end_lingering()

    # --- what is held --------------------------------------------------------------------------------------------

    @property
    def n_held(self):
        """Return how many events were received and are not done."""
        return self.ledger.n_held

    @property
    def n_waiting(self):
        """Return how many events wait for a handler or for a retry."""
        return self.ledger.n_waiting + self.ledger.n_retrying

    @property
    def n_running(self):
        """Return how many events are in a handler."""
        return self.ledger.n_running

    @property
    def position(self):
        """Return the sequence up to which every message is wholly done; 0 if the subscription is shared."""
        return self.ordered.position if self.ordered is not None else 0

    @property
    def place(self):
        """Return `position`, and how many events of the next message are done; zeros if the subscription is shared."""
        if self.ordered is None:
            return 0, 0
        return self.ordered.position, self.ordered.idx

    @property
    def position_parts(self):
        """Return what `begin_at` takes: position, its time, idx, part and its time; zeros if it is shared."""
        if self.ordered is None:
            return 0, 0, 0, 0, 0
        return (
            self.ordered.position, self.ordered.position_ns, self.ordered.idx, self.ordered.part, self.ordered.part_ns
        )

    @property
    def position_ns(self):
        """Return when the stream stored the event at `position`, nanoseconds since 1970; 0: not known."""
        return self.ordered.position_ns if self.ordered is not None else 0

    def stored_times(self, list events not None):
        """Ordered: return when the stream stored each of these running events; 0: not known."""
        return self.ordered.stored_times(events)

    @property
    def highest(self):
        """Return the last sequence received; 0 if the subscription is shared."""
        return self.ordered.highest if self.ordered is not None else 0

    @property
    def highest_ns(self):
        """Return when the stream stored the event at `highest`; 0: not known."""
        return self.ordered.highest_ns if self.ordered is not None else 0
