"""Whether handlers may start: not while the user pauses them, the circuit is open, or a suspect is handled."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from eda._clock cimport monotonic_ns
from eda.handling._credit cimport Credit
from eda.handling._ledger cimport Ledger
from eda.handling._waiting cimport WaitingWorkers

__all__ = ["Gate"]

cdef uint64_t KEPT_NS = 5_000_000_000       # how long a shared subscription keeps its events while its circuit is open


@cython.final
cdef class Gate:
    """The three reasons for which a subscription starts no handlers: a pause, an open circuit, a suspect.

    A pause and an open circuit also stop the pulls. The circuit counts the events that fail in a row, and opens when
    there are so many that the cause is probably not in the events. The host calls `try_one` some time later. The lease
    of an ordered subscription, a fourth reason, is in `Lease`.
    """

    def __init__(
        self, object host, Ledger ledger not None, Credit credit not None, WaitingWorkers waiting not None, *,
        int max_failures
    ):
        self.host = host
        self.ledger = ledger
        self.credit = credit
        self.waiting = waiting
        self.max_failures = max_failures
        self.failed_in_row = set()
        self.trying = -1

    # --- pauses --------------------------------------------------------------------------------------------------

    def pause(self):
        """Start no handler until `resume`."""
        if not self.barred & BY_PAUSE:
            self.barred |= BY_PAUSE
            self.apply()

    def resume(self):
        """Let handlers start again."""
        if self.barred & BY_PAUSE:
            self.barred &= ~BY_PAUSE
            self.apply()

    @property
    def is_paused(self):
        """Return whether no handler starts because of `pause`."""
        return self.barred & BY_PAUSE != 0

    cdef int begin_suspect(self) noexcept:
        """Start no other handler until `end_suspect`."""
        self.barred |= BY_SUSPECT
        return 0

    cdef int end_suspect(self, int index) except -1:
        """Let handlers start again after the suspect of worker `index`."""
        self.barred &= ~BY_SUSPECT
        self.end_trial(index)
        return self.waiting.wake_all()

    cdef bint is_shut_for(self, int index) noexcept:
        """Return whether worker `index`, which has a suspect or a trial, may not call the handler."""
        return self.barred & BY_PAUSE or (self.barred & BY_CIRCUIT and self.trying != index)

    cdef int close(self) except -1:
        """Let no handler start any more."""
        self.is_closing = True
        self.barred |= BY_CLOSING
        return self.waiting.wake_all()

    cdef int finish_until(self, uint64_t until_ns) except -1:
        """Closing: let handlers start until then, for events of packs that are partly done.

        If the subscription is paused or its circuit is open, none starts.
        """
        self.finish_until_ns = until_ns
        if self.barred & (BY_PAUSE | BY_CIRCUIT) or self.state != CLOSED:
            return self.end()
        self.barred &= ~BY_CLOSING
        return self.waiting.wake_all()

    cpdef int end(self) except -1:
        """Closing: let no handler start, whatever its event is."""
        self.is_over = True
        self.barred |= BY_CLOSING
        return self.waiting.wake_all()

    # --- the circuit ---------------------------------------------------------------------------------------------

    @property
    def is_circuit_open(self):
        """Return whether the circuit is open or half open."""
        return self.state != CLOSED

    cdef int note_failure(self, int index, uint64_t seq, uint32_t place) except -1:
        """Note that worker `index` has called the handler for the event with this identity, and that it failed."""
        if self.max_failures == 0:
            return 0
        if self.state == CLOSED:
            self.sees_failures = True
            self.failed_in_row.add((seq, place))        # an event that fails several times counts once
            if len(self.failed_in_row) >= self.max_failures:
                self.open_circuit()
        elif self.state == HALF_OPEN and index == self.trying:
            self.open_circuit()
        return 0

    cdef int open_circuit(self) except -1:
        self.failed_in_row.clear()
        if self.state == CLOSED:
            self.opened_ns = monotonic_ns()
        self.state = OPEN
        self.n_openings += 1
        self.trying = -1
        self.apply()
        if self.is_closing:
            self.end()
        self.host.on_circuit(self.n_openings)
        return 0

    def try_one(self):
        """Let one event be handled, since the pause of an open circuit is over."""
        if self.state == OPEN:
            self.state = HALF_OPEN
            self.apply()

    cdef int begin_trial(self, int index) noexcept:
        """Half open: start no other handler while worker `index` tries an event."""
        self.trying = index
        self.barred |= BY_CIRCUIT
        return 0

    cdef int end_trial(self, int index) except -1:
        """Note that worker `index` is done with its event.

        If the event was a trial that neither failed nor succeeded, another event may be tried.
        """
        if self.trying == index:
            self.trying = -1
            self.apply()
        return 0

    cdef int note_success(self) except -1:
        """Forget the failures so far, and close the circuit if it is not closed."""
        self.failed_in_row.clear()
        self.sees_failures = False
        if self.state != CLOSED:
            self.state = CLOSED
            self.n_openings = 0
            self.trying = -1
            self.gave_back = False
            self.apply()
            self.host.on_circuit(0)
        return 0

    cdef bint should_give_back(self, uint64_t now_ns) noexcept:
        """Shared: return whether to give waiting events back to the server, for other members; True only once.

        This is False while a pull is under way: the server could deliver the events here again, and each delivery
        counts as an attempt.
        """
        if self.state == CLOSED or self.gave_back or self.credit.n_messages or now_ns - self.opened_ns <= KEPT_NS:
            return False
        self.gave_back = True
        return True

    cdef int apply(self) except -1:
        """Stop or start handlers and pulls as pause and circuit say."""
        cdef bint is_shut = self.state == OPEN or self.trying >= 0
        self.barred = (self.barred & ~BY_CIRCUIT) | (BY_CIRCUIT if is_shut else 0)
        if self.barred & BY_PAUSE or self.state == OPEN:
            self.credit.restrict(0)
        elif self.state == HALF_OPEN:
            # Pull one event to try, unless one is held. Held events whose dead letter is not stored yet can't be tried.
            self.credit.restrict(1 + self.ledger.n_retrying)
        else:
            self.credit.lift()
        return 0 if self.barred else self.waiting.wake_all()
