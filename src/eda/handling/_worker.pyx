"""A worker of a subscription: it takes events from the ledger, calls the handler, and passes on the outcome.

This module does not use the event loop: the host makes the futures, and a task outside runs a worker's coroutine.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport free, realloc

from types import AsyncGeneratorType, GeneratorType

from eda._clock cimport monotonic_ns
from eda._durations cimport note_duration
from eda._event cimport Event
from eda.handling._credit cimport Credit
from eda.handling._gate cimport BY_CLOSING, HALF_OPEN, Gate
from eda.handling._intake cimport Intake
from eda.handling._ledger cimport WAITING, Ledger, SharedLedger
from eda.handling._ledger_ordered cimport OrderedLedger
from eda.handling._lease cimport Lease
from eda.handling._outcome cimport Outcomes
from eda.handling._waiting cimport Turn, WaitingWorkers

from eda.handlers import GivenBack
from eda.handling.verdicts import Alone, Exhausted, Suspect, Undecodable

__all__ = ["Worker"]

cdef enum:
    # Handlers that never suspend may keep other tasks from running for this long, nanoseconds.
    SLICE_NS = 4_000_000

cdef extern from "Python.h":
    bint is_coroutine "PyCoro_CheckExact"(object it)


@cython.final
cdef class Worker:
    """One of the workers of a subscription: it runs the handler for one event or one batch after the other."""

    def __init__(
        self, int index, object host, object handler, Ledger ledger not None, WaitingWorkers waiting not None,
        Credit credit not None, Lease lease not None, Gate gate not None, Outcomes outcomes not None,
        Intake intake not None, *, int batch, bint in_order, double linger_s, uint64_t timeout_ns
    ):
        self.index = index
        self.host = host
        self.handler = handler
        self.ledger = ledger
        self.shared = ledger if isinstance(ledger, SharedLedger) else None
        self.ordered = ledger if isinstance(ledger, OrderedLedger) else None
        self.waiting = waiting
        self.credit = credit
        self.lease = lease
        self.gate = gate
        self.outcomes = outcomes
        self.intake = intake
        self.batch = batch
        self.in_order = in_order
        self.linger_s = linger_s
        self.timeout_ns = timeout_ns
        self.cancelled = NOT_CANCELLED

    def __dealloc__(self):
        free(self.slots)

    def work(self):
        """Return the coroutine of this worker: it handles events until the gate is closed, and finishes packs then."""
        return self.work_by_batch() if self.batch else self.work_by_event()

    async def work_by_event(self):
        cdef int32_t slot
        cdef Event event
        cdef uint64_t began, took
        cdef object error
        cdef object handler = self.handler
        cdef bint was_awaited
        cdef uint64_t now = monotonic_ns()
        while not self.gate.is_closing or self.has_rest():
            if now - self.waiting.slice_ns > SLICE_NS:
                await Turn()
                self.raise_if_cancelled()
                self.waiting.slice_ns = now = monotonic_ns()
                continue
            slot = self.next_slot(now)
            if slot < 0:
                await self.wait_for_event()
                self.waiting.slice_ns = now = monotonic_ns()
                continue
            began = now
            took = 0
            error = None
            if self.ledger.held[slot].is_judged:
                if self.is_suspect(slot):
                    await self.handle_suspect(slot)
                    now = monotonic_ns()
                    continue
                error = self.verdict_on(slot)
                if self.ledger.held[slot].state == WAITING:
                    self.gate.end_trial(self.index)
                    continue
            event = <Event>self.ledger.held[slot].event
            if error is None:
                # The same as call(), which would cost a coroutine for each event.
                was_awaited = False
                self.running = event
                try:
                    result = handler(event)
                    if result is not None and self.must_be_awaited(result):
                        was_awaited = True
                        await result
                except BaseException as caught:
                    error = caught
                now = self.end_call(event, began, was_awaited)
                took = now - began
            if error is None and self.cancelled == NOT_CANCELLED:
                note_duration(self.outcomes.calls.succeeded, took, 1)
                self.outcomes.succeed(slot)
            else:
                await self.conclude([slot], error, took)
                now = monotonic_ns()
            event = error = result = None
            self.note_work(1, began, now)
            if self.lease.is_confirming:
                await self.lease.confirm()
                now = monotonic_ns()
        self.waiting.wake_all()             # if this worker has finished the last pack, the others end as well

    async def work_by_batch(self):
        cdef int32_t first
        cdef Py_ssize_t n, i
        cdef list events
        cdef uint64_t began, took
        cdef object error
        cdef uint64_t now = monotonic_ns()
        while not self.gate.is_closing or self.has_rest():
            if now - self.waiting.slice_ns > SLICE_NS:
                await Turn()
                self.raise_if_cancelled()
                self.waiting.slice_ns = now = monotonic_ns()
                continue
            if self.should_linger(now):
                await self.linger()
                self.waiting.slice_ns = now = monotonic_ns()
                if self.gate.is_closing:
                    continue
            n = self.take_batch(now)
            if n == 0:
                await self.wait_for_event()
                self.waiting.slice_ns = now = monotonic_ns()
                continue
            began = now
            first = self.slots[0]
            if self.is_suspect(first):
                await self.handle_suspect(first)
                now = monotonic_ns()
                continue
            if self.ledger.n_ready():
                self.waiting.wake_one()         # while a worker lingers, new events wake no other
            took = 0
            error = self.ledger.verdict_of(first)
            if error is None or type(error) is Alone:
                events = [<object>self.ledger.held[self.slots[i]].event for i in range(n)]
                try:
                    error = await self.call(tuple(events), events)
                except BaseException as caught:
                    error = caught
                took = monotonic_ns() - began
            now = monotonic_ns()
            if error is None and self.cancelled == NOT_CANCELLED:
                note_duration(self.outcomes.calls.succeeded, took, 1)
                self.outcomes.succeed_all(self.slots, n)
            else:
                await self.conclude([self.slots[i] for i in range(n)], error, took)
                now = monotonic_ns()
            events = error = None
            self.note_work(n, began, now)
            if self.lease.is_confirming:
                await self.lease.confirm()
                now = monotonic_ns()
        self.waiting.wake_all()

    cdef bint has_rest(self) noexcept:
        """Closing: return whether events are left that a worker has to handle, because their packs are partly done."""
        if self.shared is None or self.shared.packs.n_held == 0 or self.gate.is_over:
            return False
        if self.gate.barred & BY_CLOSING:
            return True                     # it is not known yet which packs are given back
        return self.ledger.n_waiting > 0 or (
            self.ledger.n_retrying > 0 and self.ledger.next_due_ns <= self.gate.finish_until_ns
        )

    cdef bint should_linger(self, uint64_t now) except -1:
        """Return whether to wait for a full batch: some events are ready, and more may be added."""
        cdef Py_ssize_t n_ready = self.ledger.n_ready()
        if n_ready == 0 or n_ready >= self.batch or self.linger_s == 0 or self.gate.is_closing:
            return False
        if now >= self.lease.until_ns or self.lease.is_confirming or self.gate.barred:
            return False
        if self.in_order and self.ordered.awaits_rest():
            return False
        return n_ready < self.most_in_batch() and self.ledger.n_held < self.waiting.limit

    async def linger(self):
        """Wait until a batch is full, for `linger_s` at the latest."""
        future = self.host.make_future_within(self.linger_s)
        self.waiting.for_batch.append(future)
        try:
            await future
        finally:
            if future in self.waiting.for_batch:
                self.waiting.for_batch.remove(future)

    async def handle_suspect(self, int32_t slot):
        """Handle a suspect. It is recorded first: if it kills this process, the member that gets it next finds that."""
        cdef Event event = <Event>self.ledger.held[slot].event
        cdef object verdict = self.ledger.verdict_of(slot)
        cdef object error = None
        cdef int32_t pack = self.ledger.held[slot].pack
        cdef bint is_failed
        cdef int64_t delay_ns
        cdef uint64_t began
        cdef uint64_t took = 0
        if verdict.is_alone:
            self.gate.begin_suspect()
        try:
            try:
                delay_ns = await self.host.try_on_record(event, verdict)
            except BaseException as caught:
                await self.conclude([slot], caught, 0)
                return
            self.outcomes.note_record(pack)
            if delay_ns < 0:
                error = Exhausted()
            elif self.gate.is_closing and pack < 0:
                error = GivenBack() if delay_ns > 0 else None
            elif delay_ns > 0:
                self.outcomes.retry_later(slot, delay_ns, event, None)
                return
            elif self.gate.is_shut_for(self.index) or self.outcomes.is_given_back(pack):
                # Handlers were stopped meanwhile. The event was not begun, so its record is removed, and it waits here.
                await self.host.end_record(event, verdict, False)
                self.outcomes.wait_again(slot)
                return
            if verdict.n_begun >= event.attempt_:
                # Processes died before they could report how these attempts ended.
                event = self.outcomes.note_attempt(slot, verdict.n_begun + 1)
            if delay_ns == 0:
                began = monotonic_ns()
                try:
                    error = await self.call((event,), [event] if self.batch else event)
                except BaseException as caught:
                    error = caught
                took = monotonic_ns() - began
                # A handled event is acknowledged before anything is awaited. The record of an event that is given back
                # is removed first, because another member may get the event at once.
                if error is None and self.cancelled == NOT_CANCELLED:
                    note_duration(self.outcomes.calls.succeeded, took, 1)
                    self.outcomes.succeed(slot)
                    await self.host.end_record(event, verdict, True)
                    return
                # A failed event of a pack stays on record until its pack is acknowledged: another member may get the
                # pack next, and continues to count.
                is_failed = isinstance(error, (Exception, GeneratorExit))
                if pack >= 0:
                    is_failed = self.cancelled == OVERDUE or (is_failed and type(error) is not GivenBack)
                if not is_failed:
                    await self.host.end_record(event, verdict, pack < 0)
            await self.conclude([slot], error, took)
            if pack < 0 and isinstance(error, Exception):
                await self.host.end_record(event, verdict, True)
        finally:
            if verdict.is_alone:
                self.gate.end_suspect(self.index)
            else:
                self.gate.end_trial(self.index)     # the event may have to wait, although it was a trial

    cdef object wait_for_event(self):
        """Return a future that is done when this worker should look for an event again."""
        self.raise_if_cancelled()
        future = self.host.make_future()
        self.waiting.for_event.append(future)
        return future

    cdef int note_work(self, Py_ssize_t n, uint64_t began, uint64_t now) noexcept:
        """Count `n` events that a worker has handled since `began`."""
        self.intake.clock_ns = now
        self.credit.n_timed += n
        self.credit.busy_ns += now - began
        return 0

    # --- which event is next -------------------------------------------------------------------------------------

    cdef int32_t next_slot(self, uint64_t now) except -2:
        """Take the event that this worker handles now; returns its slot, or -1 if there is none."""
        if now >= self.lease.until_ns or self.lease.is_confirming or self.gate.barred:
            return -1
        if self.lease.one_by_one or self.gate.state == HALF_OPEN:
            return self.next_slot_alone()
        return self.take_ready()

    cdef int32_t next_slot_alone(self) except -2:
        """Take the next event while only one event is handled at a time; returns its slot, or -1."""
        cdef int32_t slot
        if self.lease.one_by_one and self.ledger.n_running:
            return -1
        slot = self.take_ready()
        if slot >= 0 and self.gate.state == HALF_OPEN:
            self.gate.begin_trial(self.index)
        return slot

    cdef int32_t take_ready(self) except -2:
        """Take the event that has been ready longest, unless it is a suspect while other events run."""
        cdef int32_t slot = self.ledger.take_ready()
        if slot >= 0 and self.ledger.held[slot].is_judged and self.ledger.n_running > 1 and self.must_be_alone(slot):
            self.ledger.put_back(slot)          # the last worker to finish takes it
            return -1
        return slot

    cdef Py_ssize_t take_batch(self, uint64_t now) except -1:
        """Take up to a batch of events, or one with a verdict, into `slots`; returns how many."""
        cdef int32_t slot
        cdef Py_ssize_t n = 0
        cdef Py_ssize_t most = min(self.most_in_batch(), self.ledger.n_ready())
        self.make_room(most)
        if self.in_order:
            return self.take_list(now, most)
        while n < most:
            slot = self.next_slot(now)
            if slot < 0:
                break
            if n and self.ledger.held[slot].is_judged:
                self.ledger.put_back(slot)          # the earlier events need not wait for this one
                break
            self.slots[n] = slot
            n += 1
            if self.ledger.held[slot].is_judged:
                break
        return n

    cdef Py_ssize_t take_list(self, uint64_t now, Py_ssize_t most) except -1:
        """Take the events of the next list, in order, into `slots`; returns how many."""
        cdef Py_ssize_t n
        if now >= self.lease.until_ns or self.lease.is_confirming or self.gate.barred:
            return 0
        n = self.ordered.take_next(self.slots, most)
        if n and self.gate.state == HALF_OPEN:
            self.gate.begin_trial(self.index)
        return n

    cdef int make_room(self, Py_ssize_t n) except -1:
        """Let `slots` have room for `n`."""
        cdef int32_t* slots
        if n > self.n_room:
            slots = <int32_t*>realloc(self.slots, n * sizeof(int32_t))
            if slots is NULL:
                raise MemoryError
            self.slots = slots
            self.n_room = n
        return 0

    cdef Py_ssize_t most_in_batch(self) noexcept:
        """Return how many events the next batch may have."""
        return 1 if self.lease.n_careful or self.gate.state == HALF_OPEN else self.batch

    cdef bint is_suspect(self, int32_t slot) except -1:
        return type(self.ledger.verdict_of(slot)) is Suspect

    cdef bint must_be_alone(self, int32_t slot) except -1:
        return self.is_suspect(slot) and self.ledger.verdict_of(slot).is_alone

    cdef object verdict_on(self, int32_t slot):
        """Return the error with which an event fails before it is handled, or None.

        If the key function has failed for the event before, it is called again here. With its key the event may be
        handled, or is WAITING behind others of its key.
        """
        cdef Event event = <Event>self.ledger.held[slot].event
        cdef object verdict = self.ledger.verdict_of(slot)
        if self.intake.key_of is None or event.attempt_ < 2 or self.ledger.held[slot].is_dead:
            return verdict
        if isinstance(verdict, (Exhausted, Undecodable)):
            return verdict
        try:
            self.ordered.admit(slot, self.intake.key_of(event))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.ledger.set_verdict(slot, error)
            return error
        return None

    # --- calling the handler -------------------------------------------------------------------------------------

    async def call(self, tuple events, object given):
        """Call the handler with `given`, the event or the list of `events`; returns the handler's error, or None."""
        cdef object error = None
        cdef bint was_awaited = False
        cdef uint64_t began = monotonic_ns()
        self.running = events
        try:
            result = self.handler(given)
            if result is not None and self.must_be_awaited(result):
                was_awaited = True
                await result
        except BaseException as caught:
            error = caught
        self.end_call(events[0], began, was_awaited)
        if isinstance(error, GeneratorExit):
            raise error                         # a coroutine that is closed may not return a value
        return error

    cdef bint must_be_awaited(self, object result) except -1:
        """Return whether the result of a handler has to be awaited. If it is a generator, raises the host's error."""
        if is_coroutine(result) or hasattr(result, "__await__"):
            return True
        if isinstance(result, (GeneratorType, AsyncGeneratorType)):
            error = self.host.refuse(result)
            if error is not None:
                raise error
        return False

    cdef uint64_t end_call(self, object first, uint64_t began, bint was_awaited) except 0:
        """Note that a handler call is over; returns the time. `first`: the first event of the call."""
        cdef uint64_t now = monotonic_ns()
        self.running = None
        if self.n_by_groups:
            self.forget_groups()
        if not was_awaited and now - began > self.timeout_ns:
            self.host.on_overrun(first, (now - began) / 1e9)    # a plain function can't be cancelled
        return now

    async def conclude(self, list slots, object error, uint64_t took_ns):
        """Give events their outcomes after a handler call that failed or was cancelled.

        `took_ns`: how long the call took; 0: a verdict is the error, and there was no call.
        """
        cdef int32_t slot
        cdef int ending
        try:
            ending = self.ending_of(error)
            if ending == FAILED or ending == TIMED_OUT:
                if ending == TIMED_OUT:
                    error = self.host.overdue_error(<object>self.ledger.held[<int32_t>slots[0]].event, error)
                if took_ns:
                    note_duration(self.outcomes.calls.failed, took_ns, 1)
                await self.outcomes.fail(self.index, slots, error)
            elif error is None and ending == NOT_HANDLED:
                for slot in slots:
                    self.outcomes.succeed(slot)         # the cancellation came too late to stop the handler
            else:
                self.outcomes.give_back_all(slots)
                if ending == WORKER_ENDS:
                    raise self.host.cancelled_error() if error is None or isinstance(error, Exception) else error
        finally:
            self.gate.end_trial(self.index)

    cdef int ending_of(self, object error) except -1:
        """Return how the handler call has ended (an Ending), and forget that we cancelled the task."""
        cdef int why = self.cancelled
        if why != NOT_CANCELLED:
            self.cancelled = NOT_CANCELLED
            if self.task.uncancel() > 0:
                return WORKER_ENDS              # somebody else has cancelled the task, too
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            return WORKER_ENDS
        if type(error) is GivenBack:
            return NOT_HANDLED
        if why == OVERDUE:
            return TIMED_OUT
        if isinstance(error, Exception):
            return FAILED
        if why == FENCED:
            return NOT_HANDLED
        # A handler may raise CancelledError though nobody has cancelled its task. Then the handler has failed.
        return WORKER_ENDS if self.task.cancelling() > 0 else FAILED

    cdef int raise_if_cancelled(self) except -1:
        """Raise if somebody else has cancelled the worker's task, and the handler has swallowed the cancellation."""
        if self.task is not None and self.task.cancelling():
            raise self.host.cancelled_error()
        return 0

    cdef int forget_groups(self) except -1:
        """Take back what TaskGroups of a handler that has ended have left: nobody else has cancelled the task."""
        while self.n_by_groups > 0:
            self.n_by_groups -= 1
            self.task.uncancel()
        self.n_by_groups = 0
        return 0

    cdef int cancel(self, int why) except -1:
        """Cancel the task while its handler runs, unless we have cancelled it already."""
        if self.running is not None and self.cancelled == NOT_CANCELLED:
            self.cancelled = why
            self.task.cancel()
        return 0
