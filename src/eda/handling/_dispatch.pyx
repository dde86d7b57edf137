"""Ledger > handlers > outcomes: the workers of a subscription.

Nothing here knows the event loop: futures come from the host, and workers are coroutines that the host runs as tasks.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint64_t

from types import AsyncGeneratorType, GeneratorType

from eda._clock cimport monotonic_ns
from eda._event cimport Event, end_of_envelope
from eda.handling._ledger cimport ORPHAN, WAITING
from eda.handling._outcome cimport BY_CIRCUIT, BY_PAUSE, BY_SUSPECT, HALF_OPEN, Outcomes

from eda.handling._intake import Exhausted, Suspect, Undecodable

__all__ = ["Dispatcher", "GivenBack"]

cdef enum:
    # The longest the loop is kept from others by handlers that never suspend, nanoseconds.
    SLICE_NS = 4_000_000

cdef extern from "Python.h":
    bint is_coroutine "PyCoro_CheckExact"(object it)


class GivenBack(BaseException):
    """Raised by a handler of ours: nothing became of the event, and it comes again at once."""


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
cdef class Dispatcher(Outcomes):
    """Sees each event of one subscription through its handler to the end: acknowledged, tried again, or dead."""

    def __init__(
        self, object host, object source, object handler, object out, *, int concurrency=1, batch=None,
        double linger_s=0.0, double timeout_s=30.0, bint strict=False, **intake
    ):
        super().__init__(
            host, source, out, n_workers=concurrency, least=concurrency * (batch or 1), batch=batch or 0, strict=strict,
            **intake,
        )
        self.handler = handler
        self.linger_s = linger_s
        self.timeout_ns = <uint64_t>(timeout_s * 1e9)
        self.tasks = [None] * concurrency
        self.running = [None] * concurrency
        self.cancelled = [NOT_CANCELLED] * concurrency

    # --- workers -------------------------------------------------------------------------------------------------

    def set_task(self, int index, object task):
        """Name the task that runs `work(index)`."""
        self.tasks[index] = task

    def work(self, int index):
        """Return the coroutine of one worker: it handles events until `stop()`."""
        return self.work_by_batch(index) if self.batch else self.work_by_event(index)

    cdef int32_t next_slot(self, int index, uint64_t now) except -2:
        """The event that may be handled now, or -1."""
        cdef int32_t slot
        if now >= self.lease_until_ns or self.confirming or self.barred:
            return -1
        if self.one_by_one:
            return self.next_alone(index)
        slot = self.ledger.take_ready()
        if slot >= 0 and self.ledger.held[slot].is_judged and self.ledger.n_running > 1 and self.is_suspect(slot):
            self.ledger.put_back(slot)          # whoever ends last comes back for it
            return -1
        return slot

    cdef int32_t next_alone(self, int index) except -2:
        """The same where one event is handled at a time."""
        cdef int32_t slot
        if self.ledger.n_running and (self.n_careful or self.is_strict):
            return -1
        slot = self.ledger.take_ready()
        if slot < 0:
            return -1
        if self.ledger.held[slot].is_judged and self.ledger.n_running > 1 and self.is_suspect(slot):
            self.ledger.put_back(slot)
            return -1
        if self.circuit_state == HALF_OPEN:
            self.trying = index
            self.barred |= BY_CIRCUIT
        return slot

    cdef bint is_suspect(self, int32_t slot) except -1:
        return type(self.ledger.verdict_of(slot)) is Suspect

    async def work_by_event(self, int index):
        cdef int32_t slot
        cdef Event event
        cdef uint64_t began, now
        cdef object error
        cdef object handler = self.handler
        cdef bint awaited
        now = monotonic_ns()
        while True:
            if self.closing:
                return
            if now - self.slice_ns > SLICE_NS:
                await _Turn()
                self.check_task(index)
                self.slice_ns = now = monotonic_ns()
                continue
            slot = self.next_slot(index, now)
            if slot < 0:
                self.check_task(index)
                future = self.host.make_future()
                self.idle.append(future)
                await future
                self.slice_ns = now = monotonic_ns()
                continue
            began = now
            event = <Event>self.ledger.held[slot].event
            error = None
            awaited = False
            if self.ledger.held[slot].is_judged:
                if self.is_suspect(slot):
                    event = None
                    await self.work_alone(index, slot)
                    now = monotonic_ns()
                    continue
                error = self.ledger.verdict_of(slot)
                if self.key_of is not None and event.attempt_ > 1 and not self.ledger.held[slot].is_dead:
                    if not isinstance(error, (Exhausted, Undecodable)):
                        error = self.ask_again(slot, event)
                        if self.ledger.held[slot].state == WAITING:
                            self.end_trial(index)
                            continue
            if error is None:
                self.running[index] = event
                try:
                    result = handler(event)
                    if result is not None:
                        if is_coroutine(result) or hasattr(result, "__await__"):
                            awaited = True
                            await result
                        elif isinstance(result, (GeneratorType, AsyncGeneratorType)):
                            error = self.host.refuse(result)
                except BaseException as caught:
                    error = caught
                self.running[index] = None
            now = monotonic_ns()
            if error is None and self.cancelled[index] == NOT_CANCELLED:
                self.succeed(slot)
                if not awaited and now - began > self.timeout_ns:
                    self.host.on_overrun(event, (now - began) / 1e9)
            else:
                await self.conclude(index, [slot], error)
                now = monotonic_ns()
            event = error = result = None
            self.clock_ns = now
            self.n_timed += 1
            self.busy_ns += now - began
            if self.confirming:
                await self.confirm()
                now = monotonic_ns()

    cdef object ask_again(self, int32_t slot, Event event):
        """Ask for a key that could not be had; returns the error. Without one the event runs, or waits in its lane."""
        try:
            self.ordered.admit(slot, self.key_of(event))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.ledger.judge(slot, error)
            return error
        return None

    async def work_by_batch(self, int index):
        cdef int32_t slot
        cdef list slots
        cdef list events
        cdef uint64_t began, now
        cdef object error, linger
        cdef Py_ssize_t most
        while True:
            if self.closing:
                return
            now = monotonic_ns()
            if now - self.slice_ns > SLICE_NS:
                await _Turn()
                self.check_task(index)
                self.slice_ns = monotonic_ns()
                continue
            if self.ledger.n_ready() == 0 or now >= self.lease_until_ns or self.confirming or self.barred:
                self.check_task(index)
                future = self.host.make_future()
                self.idle.append(future)
                await future
                self.slice_ns = monotonic_ns()
                continue
            most = 1 if self.n_careful or self.circuit_state == HALF_OPEN else self.batch
            if self.ledger.n_ready() < most and self.linger_s > 0 and self.ledger.n_held < self.limit:
                linger = self.host.make_future_within(self.linger_s)
                self.lingering.append(linger)
                try:
                    await linger
                finally:
                    if linger in self.lingering:
                        self.lingering.remove(linger)
                self.slice_ns = now = monotonic_ns()
                if self.closing:
                    return
            slots = []
            events = []
            while len(slots) < most:
                slot = self.next_slot(index, now)
                if slot < 0:
                    break
                if self.ledger.held[slot].is_judged:
                    # Nobody can handle it; the others need not wait for that.
                    self.ledger.put_back(slot)
                    if not slots:
                        slots.append(self.ledger.take_ready())
                    break
                slots.append(slot)
                events.append(<object>self.ledger.held[slot].event)
            if not slots:
                self.check_task(index)
                future = self.host.make_future()
                self.idle.append(future)
                await future
                continue
            if not events and self.is_suspect(<int32_t>slots[0]):
                await self.work_alone(index, <int32_t>slots[0])
                continue
            if self.ledger.n_ready():
                self.wake()                     # one wake stands for a batch of arrivals
            began = now
            error = None
            if not events:
                error = self.ledger.verdict_of(<int32_t>slots[0])
            else:
                try:
                    error = await self.call(index, tuple(events), events)
                except BaseException as caught:
                    error = caught
            now = monotonic_ns()
            if error is None and self.cancelled[index] == NOT_CANCELLED:
                for slot in slots:
                    self.succeed(slot)
            else:
                await self.conclude(index, slots, error)
                now = monotonic_ns()
            self.clock_ns = now
            self.n_timed += len(slots)
            self.busy_ns += now - began
            events = error = None
            if self.confirming:
                await self.confirm()

    async def call(self, int index, tuple events, object given):
        """Run the handler, given its events in the form it takes them; returns what it failed with, or None.

        `work_by_event` does the same in line: one coroutine less for each event.
        """
        cdef object error = None
        cdef bint awaited = False
        cdef uint64_t began = monotonic_ns()
        self.running[index] = events
        try:
            result = self.handler(given)
            if result is not None:
                if is_coroutine(result) or hasattr(result, "__await__"):
                    awaited = True
                    await result
                elif isinstance(result, (GeneratorType, AsyncGeneratorType)):
                    error = self.host.refuse(result)
        except BaseException as caught:
            error = caught
        self.running[index] = None
        if not awaited and monotonic_ns() - began > self.timeout_ns:
            self.host.on_overrun(events[0], (monotonic_ns() - began) / 1e9)
        return error

    async def work_alone(self, int index, int32_t slot):
        """See a suspect through: what kills the process must be known to be this one, by whoever comes after us."""
        cdef Event event = <Event>self.ledger.held[slot].event
        cdef object error = None
        cdef int64_t delay_ns
        self.barred |= BY_SUSPECT
        try:
            try:
                delay_ns = await self.host.try_on_record(event)
            except BaseException as caught:
                await self.conclude(index, [slot], caught)
                return
            if delay_ns > 0 and not self.closing:
                self.ledger.retry(slot, monotonic_ns() + <uint64_t>delay_ns, event, None)
                self.host.on_retry(delay_ns / 1e9)
                return
            if delay_ns == 0 and not self.closing and (
                self.barred & BY_PAUSE or (self.barred & BY_CIRCUIT and self.trying != index)
            ):
                # Paused meanwhile. It is kept: given back, its next delivery would find the record of this one.
                await self.host.end_record(event)
                self.ledger.put_back(slot)
                return
            if delay_ns != 0:
                error = Exhausted() if delay_ns < 0 else GivenBack()
            else:
                try:
                    error = await self.call(index, (event,), [event] if self.batch else event)
                except BaseException as caught:
                    error = caught
                # What was handled is acknowledged before anything is waited for; what is given back is off the record
                # before the next one has it.
                if error is None and self.cancelled[index] == NOT_CANCELLED:
                    self.succeed(slot)
                    await self.host.end_record(event)
                    return
                if not isinstance(error, (Exception, GeneratorExit)):
                    await self.host.end_record(event)
            await self.conclude(index, [slot], error)
            if isinstance(error, Exception):
                await self.host.end_record(event)
        finally:
            self.barred &= ~BY_SUSPECT
            self.end_trial(index)
            self.wake_all()

    async def conclude(self, int index, list slots, object error):
        """See to what did not simply succeed: failed, cancelled, out of time."""
        try:
            await self.judge(index, slots, error)
        finally:
            self.end_trial(index)

    async def judge(self, int index, list slots, object error):
        cdef int32_t slot
        cdef Event event
        cdef int why = self.cancelled[index]
        cdef int64_t delay_ns
        cdef list errors
        cdef bint ends = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))
        if why != NOT_CANCELLED:
            # What is left of cancellations is somebody else's.
            self.cancelled[index] = NOT_CANCELLED
            if self.tasks[index].uncancel() > 0:
                ends = True
                if isinstance(error, Exception) or error is None:
                    error = self.host.cancelled_error()
        elif not (ends or isinstance(error, (Exception, GivenBack))):
            # A handler may raise CancelledError of its own; the worker's task then is not being cancelled.
            ends = self.tasks[index].cancelling() > 0
        if ends or type(error) is GivenBack or (why == FENCED and not isinstance(error, Exception)):
            if error is None:
                for slot in slots:
                    self.succeed(slot)          # fenced, and quicker
            else:
                self.give_back_all(slots)
            if ends:
                raise error
            return
        if why == OVERDUE:
            error = self.host.overdue_error(<object>self.ledger.held[<int32_t>slots[0]].event, error)
        errors = self.host.errors_of([<object>self.ledger.held[<int32_t>slot].event for slot in slots], error)
        waits = []
        failed = []
        for slot, each in zip(slots, errors):
            if each is None:
                self.succeed(slot)
                continue
            if self.ledger.held[slot].state == ORPHAN:
                self.ledger.finish(slot)
                continue
            if self.ledger.held[slot].is_dead:
                waits.append((slot, each))
                continue
            failed.append((slot, each))
        if failed:
            events = [<object>self.ledger.held[<int32_t>slot].event for slot, _ in failed]
            errors = [each for _, each in failed]
            if not isinstance(errors[0], (Exhausted, Undecodable)):
                self.n_failed += len(failed)
            delays = self.host.on_failures(events, errors)
            if len(failed) == len(slots) and self.host.is_failure(errors):
                self.note_failure(index, (<Event>events[0]).sequence_)
            for (slot, each), delay in zip(failed, delays):
                delay_ns = delay
                if delay_ns >= 0:
                    self.try_again(slot, delay_ns)
                else:
                    waits.append((slot, each))
        for position, (slot, each) in enumerate(waits):
            event = <Event>self.ledger.held[slot].event
            try:
                delay_ns = await self.host.bury(event, event.raw[event.reply.n:end_of_envelope(event)], each)
            except BaseException:
                self.give_back_all([slot for slot, _ in waits[position:]])
                raise
            if delay_ns < 0:
                self.n_dead += 1
                self.settle(slot, each)
            elif self.closing:
                self.give_back_one(slot)
            elif self.ledger.held[slot].state == ORPHAN:
                self.ledger.finish(slot)
            else:
                # It stays here, with its lease, until the dead-letter stream has it.
                self.ledger.retry(slot, monotonic_ns() + <uint64_t>delay_ns, event, each)
                self.host.on_retry(delay_ns / 1e9)

    cdef int check_task(self, int index) except -1:
        """Raise when the worker's task was cancelled by somebody else and its handler has swallowed that."""
        if self.tasks[index] is not None and self.tasks[index].cancelling():
            raise self.host.cancelled_error()
        return 0

    async def confirm(self):
        """Strict: wait until the offset is stored."""
        try:
            await self.host.confirmed(self.ordered.position)
        finally:
            self.confirming = False
            self.wake_all()

    # --- the clock -----------------------------------------------------------------------------------------------

    def running_now(self):
        """Return what each worker's handler has, by index: an Event, a list of them, or None."""
        return self.running.copy()

    def cancel_overdue(self, int index):
        """Cancel the handler of a worker because it has run too long, unless it is cancelled already."""
        if self.running[index] is None or self.cancelled[index] != NOT_CANCELLED:
            return
        self.cancelled[index] = OVERDUE
        self.tasks[index].cancel()

    def fence(self):
        """Start no handler, and cancel those that run, until `set_lease`."""
        cdef int index
        self.lease_until_ns = 0
        for index in range(len(self.tasks)):
            if self.running[index] is not None and self.cancelled[index] == NOT_CANCELLED:
                self.cancelled[index] = FENCED
                self.tasks[index].cancel()

    # --- the end -------------------------------------------------------------------------------------------------

    def stop(self):
        """Hand out nothing more: workers end when they have handled what they run."""
        self.closing = True
        self.wake_all()
        for future in self.lingering:
            if not future.done():
                future.set_result(None)
