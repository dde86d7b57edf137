"""The credit of a subscription: how many messages the server may still send, and when to pull more."""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memmove

from eda.handling._ledger cimport Ledger

__all__ = ["Credit"]

cdef enum:
    FIRST_ALLOWED = 8               # before it is known how long handlers take
    # Where messages may be packs, at most this many are under way: after many small messages, large ones may come.
    MAX_UNDER_WAY = 256
    N_RECENT = 64                   # messages, or packs; a later one counts more


@cython.final
cdef class Credit:
    """The pulls under way, and a limit for the events that are held or under way.

    A pull asks for messages. The held events and those of `n_messages`, each with `per_message` events, are together at
    most `allowed`. They can be more if packs are larger than the recent ones were, or if a pull was counted as lost and
    the server delivers its messages nevertheless. One message is always admitted, however many events it has.

    The server counts the bytes that it sends. A pack that is not compressed any more has `growth` times as many, so a
    pull asks for as many bytes less. They can be more if packs are compressed better than the recent ones were.
    `source.pull(n, n_bytes)` is called to ask the server for more.
    """

    def __init__(
        self, Ledger ledger not None, object source, *, int64_t limit, int64_t limit_bytes, int n_workers,
        int64_t least, bint is_measured
    ):
        self.ledger = ledger
        self.source = source
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.n_workers = n_workers
        self.least = min(max(least, n_workers), limit)
        self.is_measured = is_measured
        self.max_pulls = MAX_PULLS
        self.per_message = 1
        self.growth = 1.0
        self.allow(min(limit, max(self.least, FIRST_ALLOWED)) if is_measured else limit)

    # --- how much may be held ------------------------------------------------------------------------------------

    cdef int allow(self, int64_t n) noexcept:
        self.allowed = n
        self.min_room = max(1, n // 4)
        return 0

    cdef int measure(self) noexcept:
        """Shared: allow about as many events as the workers handle in a second, and leave the rest to other members."""
        cdef double rate
        if not self.is_measured or self.n_timed == 0 or self.is_restricted:
            return 0
        rate = <double>self.n_timed * self.n_workers * 1e9 / <double>(self.busy_ns + 1)
        self.allow(
            self.limit if rate >= <double>self.limit else min(self.limit, max(self.least, <int64_t>rate, 2))
        )
        if self.n_timed >= 16:              # recent events count more
            self.n_timed //= 2
            self.busy_ns //= 2
        return 0

    cdef int restrict(self, int64_t n) except -1:
        """Allow `n` events until `lift`, however fast the handlers are."""
        self.is_restricted = True
        self.allow(n)
        return self.refill()

    cdef int lift(self) except -1:
        """End the effect of `restrict`."""
        self.is_restricted = False
        self.allow(min(self.limit, max(self.least, FIRST_ALLOWED)) if self.is_measured else self.limit)
        self.measure()
        return self.refill()

    cdef int close(self) noexcept:
        """Pull nothing more."""
        self.is_closed = True
        return 0

    cpdef int refill(self) except -1:
        """Have the source pull if enough room is free."""
        cdef int64_t room, room_bytes, share
        if self.allowed - self.ledger.n_held - self.n_messages * self.per_message < self.min_room or self.is_closed:
            return 0
        self.measure()
        room = self.allowed - self.ledger.n_held - self.n_messages * self.per_message
        if room < self.min_room or self.n_pulls >= self.max_pulls:
            return 0
        if self.has_packs:
            if self.n_messages > MAX_UNDER_WAY - MAX_UNDER_WAY // 4:
                return 0
            room = min(room // self.per_message, MAX_UNDER_WAY - self.n_messages)
            if room == 0:
                if self.n_messages > 0:
                    return 0
                room = 1
        room_bytes = self.sent_for(self.limit_bytes - <int64_t>self.ledger.n_bytes)
        for i in range(self.n_pulls):
            room_bytes -= self.pulls[i].n_bytes
        # One pull must not take all the bytes: the next pull should be at the server before this one is used up.
        share = max(self.sent_for(self.limit_bytes // 4), 1)
        if room_bytes < share and (self.n_messages > 0 or (self.ledger.n_held > 0 and room_bytes <= 0)):
            return 0
        self.source.pull(room, max(min(room_bytes, share), 1))
        return 0

    # --- how many events a message has ---------------------------------------------------------------------------

    def expect_packs(self):
        """Note that the stream has packs. Until the first message has come, only one is pulled at a time."""
        if not self.has_packs:
            self.has_packs = True
            self.n_counted = self.n_in_counted = 0
            self.per_message = self.limit

    cdef int note_pack(self, int64_t n, int64_t n_bytes) noexcept:
        """Note that the delivery that was counted last is a pack: `n` events are held, and its bytes are `n_bytes`."""
        cdef double growth = <double>n_bytes / <double>max(self.size, 1)
        if not self.has_packs:
            self.has_packs = True
            self.n_counted = self.n_in_counted = 1
        self.n_in_counted += max(n - 1, 0)
        # The largest growth is forgotten slowly, because packs that are compressed well are the dangerous ones.
        self.growth = max(growth, self.growth - (self.growth - growth) / N_RECENT, 1.0)
        return self.estimate()

    cdef int64_t sent_for(self, int64_t n_bytes) noexcept:
        """Return how many bytes the server may send so that about `n_bytes` are held."""
        return n_bytes if self.growth == 1.0 else <int64_t>(<double>n_bytes / self.growth)

    cdef int estimate(self) noexcept:
        self.per_message = max((self.n_in_counted + self.n_counted - 1) // max(self.n_counted, 1), 1)
        return 0

    # --- pulls ---------------------------------------------------------------------------------------------------

    @property
    def n_bytes(self):
        """Return the bytes that the pulls under way may still bring."""
        return sum([self.pulls[i].n_bytes for i in range(self.n_pulls)])

    cdef int note_delivery(self, int64_t size) noexcept:
        """Count a delivery of `size` bytes against the oldest pull."""
        cdef Pull* pull = &self.pulls[0]
        self.size = size
        if self.has_packs:
            if self.n_counted >= N_RECENT:
                self.n_counted //= 2
                self.n_in_counted //= 2
            self.n_counted += 1
            self.n_in_counted += 1
            self.estimate()
        if self.n_pulls == 0:
            return 0
        self.n_messages -= 1
        pull.n -= 1
        pull.n_bytes = max(pull.n_bytes - size, 0)
        if pull.n <= 0:
            self.forget_pull(0)
        return 0

    cdef int forget_pull(self, int index) noexcept:
        self.n_pulls -= 1
        memmove(&self.pulls[index], &self.pulls[index + 1], (self.n_pulls - index) * sizeof(Pull))
        return 0

    def set_max_pulls(self, int64_t n):
        """Send at most `n` pulls at a time, because the consumer accepts no more; 0: the consumer sets no limit."""
        self.max_pulls = <int>min(n, MAX_PULLS) if n > 0 else MAX_PULLS

    def grant(self, uint64_t number, int64_t n, int64_t n_bytes):
        """Note that a pull was sent: the server may send `n` messages and `n_bytes` bytes more."""
        if self.n_pulls == MAX_PULLS or n <= 0:
            raise ValueError("more pulls than there is room for")
        self.pulls[self.n_pulls].number = number
        self.pulls[self.n_pulls].n = n
        self.pulls[self.n_pulls].n_bytes = n_bytes
        self.n_pulls += 1
        self.n_messages += n

    def revoke(self, uint64_t number, int64_t n):
        """Note that the server has ended a pull, with `n` of its messages not sent (negative: `n` is not known).

        The server may serve several pulls in turn, but we count each delivery against the oldest pull. So `n` may
        differ from our count for this pull. The difference is moved to the other pulls.
        """
        cdef int i
        cdef int64_t rest
        for i in range(self.n_pulls):
            if self.pulls[i].number == number:
                n = n - self.pulls[i].n if n >= 0 else 0
                self.n_messages -= self.pulls[i].n
                if n < 0 and self.n_pulls == 1:
                    # Deliveries of this pull were counted against older pulls. So those were forgotten too early, and
                    # may still bring messages. From now on this entry counts these messages.
                    self.pulls[0].number = 0
                    self.pulls[0].n = 0
                    break
                self.forget_pull(i)
                break
        else:
            n = max(n, 0)
        if n < 0:
            self.pulls[0].n -= n
            self.n_messages -= n
        while n > 0 and self.n_pulls:
            rest = min(n, self.pulls[0].n)
            n -= rest
            self.n_messages -= rest
            self.pulls[0].n -= rest
            if self.pulls[0].n == 0:
                self.forget_pull(0)

    def revoke_all(self):
        """Note that all pulls are lost, because the connection or the consumer's leader has changed."""
        self.n_messages = 0
        self.n_pulls = 0
