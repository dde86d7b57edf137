"""The ledger: which deliveries are held, and which event may be handled next.

Each kind of subscription has its own. `SharedLedger` finds a delivery by its sequence, and forgets it when it is
answered. `OrderedLedger`, in `_ledger_ordered`, keeps the events in order, and knows the position.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc

from eda._event cimport Event, size_held
from eda.handling._held_packs cimport HeldPack, HeldPacks

__all__ = ["Ledger", "SharedLedger"]

cdef enum:
    FIRST_SLOTS = 256


cdef class Ledger:
    """Slots of held deliveries, the queue of those that are ready, and those that wait for a retry.

    It grows as needed. The credit that a subscription gives the server bounds it.
    """

    def __cinit__(self, *_, **__):
        self.free_list = -1
        self.held = NULL
        self.ready = NULL
        self.verdicts = {}
        self.packs = HeldPacks()
        self.make_room(FIRST_SLOTS)

    def __dealloc__(self):
        cdef int32_t i
        if self.held is not NULL:
            for i in range(self.n_slots):
                if self.held[i].state != FREE:
                    Py_XDECREF(self.held[i].event)
                    Py_XDECREF(self.held[i].renewed)
                    Py_XDECREF(self.held[i].lane)
        free(self.held)
        free(self.ready)

    cdef int grow(self) except -1:
        """Double the number of slots. Each kind of ledger also grows its own arrays."""
        return self.make_room(self.n_slots * 2)

    cdef int make_room(self, int32_t n) except -1:
        cdef Held* held
        cdef int32_t* ready = <int32_t*>malloc(n * sizeof(int32_t))
        cdef uint64_t i
        cdef int32_t slot
        held = <Held*>realloc(self.held, n * sizeof(Held)) if ready is not NULL else NULL
        if held is NULL:
            free(ready)
            raise MemoryError
        self.held = held
        for i in range(self.ready_tail - self.ready_head):
            ready[i] = self.ready[(self.ready_head + i) & <uint64_t>(self.n_slots - 1)]
        self.ready_tail -= self.ready_head
        self.ready_head = 0
        free(self.ready)
        self.ready = ready
        for slot in range(n - 1, self.n_slots - 1, -1):
            held[slot].state = FREE
            held[slot].next = self.free_list
            self.free_list = slot
        self.n_slots = n
        return 0

    cdef int32_t take_slot(self, Event event, uint64_t seq, uint64_t now_ns) except -2:
        """Take a slot for an event that waits; returns the slot. `event` is None if the event is done already."""
        cdef int32_t slot
        cdef Held* entry
        if self.free_list < 0:
            self.grow()
        slot = self.free_list
        entry = &self.held[slot]
        self.free_list = entry.next
        entry.seq = seq
        entry.lease_ns = now_ns
        entry.event = entry.renewed = entry.lane = NULL
        entry.is_judged = entry.is_dead = False
        entry.index = 0
        entry.is_last = True
        entry.next = entry.pack = entry.bytes_of = -1
        self.n_held += 1
        if event is None:
            entry.state = DONE
            return slot
        entry.state = WAITING
        entry.index = event.index_
        Py_INCREF(event)
        entry.event = <PyObject*>event
        self.n_waiting += 1
        return slot

    cdef int32_t hold(self, Event event, uint64_t seq, uint64_t now_ns) except -2:
        """Take a slot for an event, and count its bytes unless it came out of a pack; returns the slot."""
        cdef int32_t slot = self.take_slot(event, seq, now_ns)
        if event is not None and not event.is_packed:
            self.n_bytes += size_held(event)
        return slot

    cdef int drop_event(self, int32_t slot) except -1:
        """Release the event of a slot, and its verdict."""
        cdef Held* entry = &self.held[slot]
        cdef PyObject* event = entry.event
        cdef PyObject* renewed = entry.renewed
        cdef object _verdict = self.verdicts.pop(slot) if entry.is_judged else None
        cdef int32_t bytes_of = entry.bytes_of
        if event is not NULL:
            if not (<Event>event).is_packed:
                self.n_bytes -= size_held(<Event>event)
            entry.event = NULL
        entry.renewed = NULL
        entry.is_judged = False
        entry.bytes_of = -1
        if bytes_of >= 0:
            self.release_bytes(bytes_of)
        # A destructor may run code that calls this ledger, so the slot is in order before anything is released. The
        # verdict is released on return.
        Py_XDECREF(event)
        Py_XDECREF(renewed)
        return 0

    cdef int release_bytes(self, int32_t pack) except -1:
        """Count the bytes of a pack no longer if this was its last event."""
        cdef HeldPack* entry = &self.packs.entries[pack]
        entry.n_left -= 1
        if entry.n_left == 0:
            self.n_bytes -= entry.size
            self.packs.free_entry(pack)
        return 0

    cdef int free_slot(self, int32_t slot) except -1:
        """Free the slot."""
        self.drop_event(slot)
        self.free_empty_slot(slot)
        return 0

    cdef void put_ready(self, int32_t slot) noexcept:
        self.ready[self.ready_tail & <uint64_t>(self.n_slots - 1)] = slot
        self.ready_tail += 1

    cdef void put_first(self, int32_t slot) noexcept:
        self.ready_head -= 1
        self.ready[self.ready_head & <uint64_t>(self.n_slots - 1)] = slot

    cpdef Py_ssize_t n_ready(self):
        """Return how many events are ready."""
        return <Py_ssize_t>(self.ready_tail - self.ready_head)

    cpdef int32_t take_ready(self):
        """Take the first ready event and mark it as running; returns its slot, or -1 if none is ready."""
        cdef int32_t slot
        if self.ready_head == self.ready_tail:
            return -1
        slot = self.ready[self.ready_head & <uint64_t>(self.n_slots - 1)]
        self.ready_head += 1
        self.held[slot].state = RUNNING
        self.n_waiting -= 1
        self.n_running += 1
        return slot

    cpdef int put_back(self, int32_t slot) except -1:
        """Make a running event ready again, before all others."""
        if self.held[slot].state == ORPHAN:
            return self.finish(slot)
        self.held[slot].state = WAITING
        self.n_running -= 1
        self.n_waiting += 1
        self.put_first(slot)
        return 0

    cpdef int retry(self, int32_t slot, uint64_t due_ns, Event event, object verdict) except -1:
        """Make a running event ready again at `due_ns`, and hold the object `event` for it.

        If `verdict` is not None, the event is dead: only its dead letter is still to be stored.
        """
        cdef Held* entry = &self.held[slot]
        if entry.state == ORPHAN:
            return self.finish(slot)
        entry.state = RETRYING
        entry.due_ns = due_ns
        self.n_running -= 1
        self.n_retrying += 1
        if self.next_due_ns == 0 or due_ns < self.next_due_ns:
            self.next_due_ns = due_ns
        if verdict is not None:
            entry.is_dead = True
            self.set_verdict(slot, verdict)
        return self.replace(slot, event)

    cdef int replace(self, int32_t slot, Event event) except -1:
        """Hold another object of the same event."""
        cdef PyObject* old = self.held[slot].event
        if <PyObject*>event != old:
            Py_INCREF(event)
            self.held[slot].event = <PyObject*>event
            Py_XDECREF(old)
        return 0

    cdef int set_verdict(self, int32_t slot, object verdict) except -1:
        """Note why no handler may have the event."""
        self.held[slot].is_judged = True
        self.verdicts[slot] = verdict
        return 0

    cdef object verdict_of(self, int32_t slot):
        """Return the verdict on an event, or None."""
        return self.verdicts[slot] if self.held[slot].is_judged else None

    cpdef int take_due(self, uint64_t now_ns) except -1:
        """Make the events ready whose retry is due, in order and before all others; returns how many."""
        cdef int32_t slot
        cdef int n = 0
        cdef uint64_t next_ns = 0
        if self.n_retrying == 0:
            self.next_due_ns = 0
            return 0
        if now_ns < self.next_due_ns:
            return 0
        due = []
        for slot in range(self.n_slots):
            if self.held[slot].state == RETRYING:
                if self.held[slot].due_ns <= now_ns:
                    due.append((self.held[slot].seq, self.held[slot].index, slot))
                elif next_ns == 0 or self.held[slot].due_ns < next_ns:
                    next_ns = self.held[slot].due_ns
        due.sort(reverse=True)
        for _, _, slot in due:
            self.held[slot].state = WAITING
            self.n_retrying -= 1
            self.n_waiting += 1
            self.put_first(slot)
            n += 1
        self.next_due_ns = next_ns
        return n

    cpdef int finish(self, int32_t slot) except -1:
        """Note that a running event is done."""
        raise NotImplementedError

    def running_since(self):
        """Return (place, time received) of the oldest event that runs or waits for a retry, or None."""
        cdef int32_t slot
        cdef int32_t found = -1
        for slot in range(self.n_slots):
            if self.held[slot].state in (RUNNING, RETRYING, ORPHAN):
                if found < 0 or is_before(&self.held[slot], &self.held[found]):
                    found = slot
        if found < 0:
            return None
        place = f"{self.held[found].seq}"
        if (<Event>self.held[found].event).is_packed:
            place += f".{self.held[found].index}"
        return place, self.held[found].lease_ns


@cython.final
cdef class SharedLedger(Ledger):
    """The deliveries that a shared subscription holds. If one is redelivered, only its lease begins again.

    A pack has an entry in `packs`, and each of its events a slot. The entry stays until all of these events are done,
    because only the whole message can be acknowledged.
    """

    def __cinit__(self):
        self.table_mask = FIRST_SLOTS * 4 - 1
        self.table = <int32_t*>calloc(self.table_mask + 1, sizeof(int32_t))
        if self.table is NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.table)

    cdef int grow(self) except -1:
        """Double the slots. The table has four entries for each slot, so a search is short."""
        cdef uint64_t old_mask = self.table_mask
        cdef uint64_t mask = <uint64_t>self.n_slots * 8 - 1
        cdef int32_t* old = self.table
        cdef int32_t* table = <int32_t*>calloc(mask + 1, sizeof(int32_t))
        cdef uint64_t at
        if table is NULL:
            raise MemoryError
        try:
            self.make_room(self.n_slots * 2)
        except MemoryError:
            free(table)
            raise
        self.table = table
        self.table_mask = mask
        for at in range(old_mask + 1):
            if old[at]:
                self.enter(self.seq_of(old[at]), old[at])
        free(old)
        return 0

    # --- the table -----------------------------------------------------------------------------------------------

    cdef uint64_t seq_of(self, int32_t code) noexcept:
        """Return the sequence of an entry of the table."""
        return self.held[code - 1].seq if code > 0 else self.packs.entries[-1 - code].seq

    cdef int enter(self, uint64_t seq, int32_t code) noexcept:
        cdef uint64_t at = (seq * 0x9E3779B97F4A7C15ULL >> 20) & self.table_mask
        while self.table[at]:
            at = (at + 1) & self.table_mask
        self.table[at] = code
        return 0

    cdef int leave(self, uint64_t seq, int32_t code) noexcept:
        cdef uint64_t ideal, hole
        cdef uint64_t at = (seq * 0x9E3779B97F4A7C15ULL >> 20) & self.table_mask
        while self.table[at] != code:
            at = (at + 1) & self.table_mask
        # Close the gap, because a search stops at an empty entry: move back the entries that it could not reach.
        hole = at
        self.table[hole] = 0
        while True:
            at = (at + 1) & self.table_mask
            if self.table[at] == 0:
                return 0
            ideal = (self.seq_of(self.table[at]) * 0x9E3779B97F4A7C15ULL >> 20) & self.table_mask
            if ((at - ideal) & self.table_mask) >= ((at - hole) & self.table_mask):
                self.table[hole] = self.table[at]
                self.table[at] = 0
                hole = at

    cdef int32_t find(self, uint64_t seq) noexcept:
        """Return what the table has for this sequence; 0: it is not held."""
        cdef uint64_t at = (seq * 0x9E3779B97F4A7C15ULL >> 20) & self.table_mask
        while self.table[at]:
            if self.seq_of(self.table[at]) == seq:
                return self.table[at]
            at = (at + 1) & self.table_mask
        return 0

    cpdef int32_t lookup(self, uint64_t seq):
        """Return the slot that holds the event of this message, or -1."""
        return max(self.find(seq) - 1, -1)

    cpdef int32_t lookup_pack(self, uint64_t seq):
        """Return the entry that holds the pack with this sequence, or -1."""
        return max(-1 - self.find(seq), -1)

    # --- what is held --------------------------------------------------------------------------------------------

    cpdef int32_t add(self, Event event, uint64_t seq, uint64_t now_ns) except -2:
        """Hold a delivery that is not held yet, ready; returns its slot."""
        cdef int32_t slot = self.hold(event, seq, now_ns)
        self.enter(seq, slot + 1)
        self.put_ready(slot)
        return slot

    cpdef int32_t add_pack(
        self, uint64_t seq, bytes reply, uint32_t n_delivered, uint64_t size, uint64_t now_ns
    ) except -2:
        """Hold a pack that is not held yet, without events; returns its entry. `let_go` is called after the last."""
        cdef int32_t pack
        if self.packs.n_held >= self.n_slots:       # the table has room for one pack for each slot
            self.grow()
        pack = self.packs.take(seq, reply, n_delivered, size, now_ns)
        self.enter(seq, -1 - pack)
        self.n_bytes += size
        return pack

    cpdef int32_t add_of_pack(self, int32_t pack, Event event, uint64_t now_ns) except -2:
        """Hold an event of a pack, ready; returns its slot."""
        cdef int32_t slot = self.take_slot(event, self.packs.entries[pack].seq, now_ns)
        self.held[slot].pack = pack
        self.packs.entries[pack].n_events += 1
        self.packs.entries[pack].n_left += 1
        self.put_ready(slot)
        return slot

    cpdef bint let_go(self, int32_t pack) except -1:
        """Note that the pack gets no more events, or that one is done; returns whether the pack can be answered."""
        self.packs.entries[pack].n_left -= 1
        return self.packs.entries[pack].n_left == 0

    cpdef int forget_pack(self, int32_t pack) except -1:
        """Forget a pack that is answered."""
        self.leave(self.packs.entries[pack].seq, -1 - pack)
        self.n_bytes -= self.packs.entries[pack].size
        return self.packs.free_entry(pack)

    cpdef int mark_given_back(self, int32_t pack) except -1:
        """Note that a pack is given back to the server, once no handler has an event of it."""
        self.packs.entries[pack].is_given_back = True
        return 0

    cpdef int drop_waiting(self) except -1:
        """Forget the events that no handler has and whose packs are given back to the server."""
        cdef int32_t slot, pack
        cdef uint64_t at
        cdef uint64_t to = self.ready_head
        for at in range(self.ready_head, self.ready_tail):
            slot = self.ready[at & <uint64_t>(self.n_slots - 1)]
            pack = self.held[slot].pack
            if pack < 0 or not self.packs.entries[pack].is_given_back:
                self.ready[to & <uint64_t>(self.n_slots - 1)] = slot
                to += 1
        self.ready_tail = to
        for slot in range(self.n_slots):
            pack = self.held[slot].pack
            if self.held[slot].state not in (WAITING, RETRYING) or pack < 0:
                continue
            if self.packs.entries[pack].is_given_back:
                if self.held[slot].state == WAITING:
                    self.n_waiting -= 1
                else:
                    self.n_retrying -= 1
                self.packs.entries[pack].n_left -= 1
                self.free_slot(slot)
        return 0

    cpdef bint renew(self, uint64_t seq, bytes reply, uint64_t now_ns) except -1:
        """Note that a message was redelivered; returns whether it is held."""
        cdef int32_t code = self.find(seq)
        cdef PyObject* old
        if code < 0:
            self.packs.renew(-1 - code, reply, now_ns)
        elif code > 0:
            old = self.held[code - 1].renewed
            Py_INCREF(reply)
            self.held[code - 1].renewed = <PyObject*>reply
            self.held[code - 1].lease_ns = now_ns
            Py_XDECREF(old)
        return code != 0

    cdef bytes reply_of(self, int32_t slot):
        """Return the acknowledgement subject of the latest delivery of an event whose message is no pack."""
        cdef Held* entry = &self.held[slot]
        cdef Event event
        if entry.renewed is not NULL:
            return <bytes>entry.renewed
        event = <Event>entry.event
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(event.raw) + event.reply.start, event.reply.n)

    cpdef int finish(self, int32_t slot) except -1:
        """Forget a running event. If its message is no pack, the delivery is forgotten with it."""
        cdef int32_t pack = self.held[slot].pack
        if pack >= 0:
            self.let_go(pack)
        else:
            self.leave(self.held[slot].seq, slot + 1)
        self.n_running -= 1
        return self.free_slot(slot)

    def held_packs(self):
        """Return the entries of all packs that are held, in the order of their sequences."""
        cdef int32_t pack
        found = []
        for pack in range(self.packs.n_entries):
            if self.packs.entries[pack].reply is not NULL:
                found.append((self.packs.entries[pack].seq, pack))
        return [each for _, each in sorted(found)]
