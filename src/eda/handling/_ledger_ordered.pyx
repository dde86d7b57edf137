"""The ledger of an ordered subscription: the events in order, a lane for each key, and the position."""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from eda._event cimport Event, size_held
from eda.handling._ledger cimport DONE, FREE, ORPHAN, RUNNING, WAITING, Held, Ledger

__all__ = ["OrderedLedger"]


@cython.final
@cython.freelist(256)
cdef class Lane:
    """The events of one key that are held, in order."""


@cython.final
cdef class OrderedLedger(Ledger):
    """The events that an ordered subscription holds, beginning with the first that is not done.

    With `serial`, an event is ready when all events before it are done. Without, an event with a key is ready when no
    earlier event of its key is held, and an event without a key is ready at once.

    With neither, `take_next` takes the events as lists, in order: the next list only when all events of the list before
    are done.
    """

    def __cinit__(self, *, bint serial=False):
        self.order = <int32_t*>malloc(self.n_slots * sizeof(int32_t))
        if self.order is NULL:
            raise MemoryError
        self.lanes = {}
        self.open_pack = -1
        if serial:
            self.only = Lane.__new__(Lane)
            self.only.head = self.only.tail = -1

    def __dealloc__(self):
        free(self.order)

    cdef int grow(self) except -1:
        cdef int32_t n = self.n_slots
        cdef int32_t* order = <int32_t*>malloc(n * 2 * sizeof(int32_t))
        cdef uint64_t i
        if order is NULL:
            raise MemoryError
        try:
            self.make_room(n * 2)
        except MemoryError:
            free(order)
            raise
        for i in range(self.order_tail - self.order_head):
            order[i] = self.order[(self.order_head + i) & <uint64_t>(n - 1)]
        self.order_tail -= self.order_head
        self.order_head = 0
        free(self.order)
        self.order = order
        return 0

    cdef int append(self, int32_t slot, bint is_last) except -1:
        self.order[self.order_tail & <uint64_t>(self.n_slots - 1)] = slot
        self.order_tail += 1
        self.highest = self.held[slot].seq
        self.held[slot].stored_ns = self.highest_ns
        self.held[slot].is_last = is_last
        if self.open_pack >= 0 and self.held[slot].event is not NULL:
            self.held[slot].bytes_of = self.open_pack
            self.packs.entries[self.open_pack].n_left += 1
        return 0

    cpdef int begin_pack(self, uint64_t seq, uint64_t n_bytes) except -1:
        """Begin to add the events of a pack, which share `n_bytes` bytes. `end_pack` must follow the last one."""
        self.open_pack = self.packs.take(seq, b"", 0, n_bytes, 0)
        self.n_bytes += n_bytes
        return 0

    cpdef int end_pack(self) except -1:
        """Note that the pack gets no more events. Its bytes count until all of those that were added are done."""
        cdef int32_t pack = self.open_pack
        self.open_pack = -1
        return self.release_bytes(pack)

    cpdef int32_t add(self, Event event, uint64_t seq, uint64_t now_ns, bint is_last=True) except -2:
        """Hold the next event, which has no key; returns its slot. `seq` is higher than all sequences before.

        Events of a pack are added in order under the same `seq`. Only the last one `is_last`.
        """
        cdef int32_t slot = self.hold(event, seq, now_ns)
        self.append(slot, is_last)
        if self.only is None:
            self.put_ready(slot)
        else:
            self.held[slot].lane = <PyObject*>self.only
            Py_INCREF(self.only)
            if self.only.head < 0:
                self.only.head = slot
                self.put_ready(slot)
            else:
                self.held[self.only.tail].next = slot
            self.only.tail = slot
        return slot

    cpdef int32_t add_keyed(self, Event event, uint64_t seq, uint64_t now_ns, object key, bint is_last=True) except -2:
        """Hold the next event, which must wait for earlier events of its key; returns its slot.

        If hashing or comparing the key raises an error, the error is raised here, and the event is not held.
        """
        cdef Lane lane = self.lane_of(key)
        cdef int32_t slot = self.hold(event, seq, now_ns)
        self.append(slot, is_last)
        if self.enter_lane(lane, slot):
            self.put_ready(slot)
        return slot

    cdef Lane lane_of(self, object key):
        cdef Lane lane = self.lanes.get(key)
        if lane is None:
            lane = Lane.__new__(Lane)
            lane.key = key
            lane.head = lane.tail = -1
            self.lanes[key] = lane
        return lane

    cdef bint enter_lane(self, Lane lane, int32_t slot) noexcept:
        """Put an event at the end of a lane; returns whether it is the first in the lane."""
        cdef bint first = lane.head < 0
        self.held[slot].lane = <PyObject*>lane
        Py_INCREF(lane)
        if first:
            lane.head = slot
        else:
            self.held[lane.tail].next = slot
        lane.tail = slot
        return first

    cpdef bint awaits_rest(self) except -1:
        """Return whether events of the list taken last are not done yet, so that no new list may begin."""
        return self.n_running or self.n_retrying or (self.n_ready() and self.is_of_list(self.first_ready()))

    cdef bint is_of_list(self, Held* entry) noexcept:
        """Return whether the event is one of the list taken last, or before it."""
        return entry.seq < self.list_end or (entry.seq == self.list_end and entry.index <= self.list_end_index)

    cdef Held* first_ready(self) noexcept:
        return &self.held[self.ready[self.ready_head & <uint64_t>(self.n_slots - 1)]]

    def take_list(self, Py_ssize_t most):
        """Take the next list as `take_next` does; returns the slots of its events."""
        cdef int32_t* slots = <int32_t*>malloc(max(most, 1) * sizeof(int32_t))
        if slots is NULL:
            raise MemoryError
        try:
            return [slots[i] for i in range(self.take_next(slots, most))]
        finally:
            free(slots)

    cdef Py_ssize_t take_next(self, int32_t* slots, Py_ssize_t most) except -1:
        """Take the next list of up to `most` events in order, and mark them as running; returns how many there are.

        There is none while an event of the list before runs or waits for a retry. If events of that list are ready
        again, the new list has no other events. An event with a verdict is in a list of its own.
        """
        cdef Py_ssize_t n = 0
        cdef Held* entry
        cdef bint is_rest = False
        if self.n_running or self.n_retrying:
            return 0
        if self.n_ready() and self.is_of_list(self.first_ready()):
            is_rest = True
            self.sort_rest()
        while n < most and self.n_ready():
            entry = self.first_ready()
            if is_rest and not self.is_of_list(entry):
                break
            if n and entry.is_judged:
                break
            if not is_rest:
                self.list_end = entry.seq
                self.list_end_index = entry.index
            slots[n] = self.take_ready()
            n += 1
            if entry.is_judged:
                break
        return n

    cdef int sort_rest(self) except -1:
        """Put the ready events of the list taken last in order: they come back one by one, each before all others."""
        cdef int32_t slot
        cdef list rest = []
        while self.n_ready() and self.is_of_list(self.first_ready()):
            slot = self.ready[self.ready_head & <uint64_t>(self.n_slots - 1)]
            rest.append((self.held[slot].seq, self.held[slot].index, slot))
            self.ready_head += 1
        rest.sort(reverse=True)
        for _, _, slot in rest:
            self.put_first(slot)
        return 0

    cpdef bint admit(self, int32_t slot, object key) except -1:
        """Give a running event its key, because the key function failed before; returns whether the event may go on.

        If not, the event waits behind all held events of its key, even behind later ones, which may run already.
        """
        cdef Lane lane = self.lane_of(key)
        self.held[slot].is_judged = False
        self.verdicts.pop(slot, None)
        self.held[slot].next = -1
        if self.enter_lane(lane, slot):
            return True
        self.held[slot].state = WAITING
        self.n_running -= 1
        self.n_waiting += 1
        return False

    cpdef int pass_over(self, uint64_t seq, uint32_t index=0, bint is_last=True) except -1:
        """Note an event that no handler gets: a whole message, or the event of a pack at this place."""
        cdef int32_t slot
        cdef Held passed
        cdef Held* entry = &passed
        if self.order_head != self.order_tail:
            slot = self.done_before(0)
            if slot >= 0 and is_last and self.done_before(1) >= 0:
                # The position moves over both at once, so what the last slot says is not needed any more.
                self.order_tail -= 1
                self.free_empty_slot(slot)
                slot = self.done_before(0)
            elif slot < 0 or (self.held[slot].is_last and not is_last):     # else the end of that message were lost
                slot = self.hold(None, seq, 0)
                self.append(slot, is_last)
            entry = &self.held[slot]        # consecutive ones share a slot
        entry.seq = seq
        entry.index = index
        entry.is_last = is_last
        entry.stored_ns = self.highest_ns
        self.highest = seq
        return self.move_to(entry) if self.order_head == self.order_tail else 0

    cdef int32_t done_before(self, uint64_t n) noexcept:
        """Return the slot that has `n` others behind it, or -1 if there is none or its event is not done."""
        cdef int32_t slot
        if self.order_tail - self.order_head <= n:
            return -1
        slot = self.order[(self.order_tail - 1 - n) & <uint64_t>(self.n_slots - 1)]
        return slot if self.held[slot].state == DONE else -1

    cdef int move_to(self, Held* entry) noexcept:
        """Move the position over this event, which is done, as are all events before it."""
        if entry.is_last:
            self.position = entry.seq
            self.position_ns = entry.stored_ns
            if self.part <= self.position:
                self.forget_part()
        elif entry.seq >= self.part:        # else `part` is an event where reading began, and others come before it
            self.idx = entry.index + 1
            self.part = entry.seq
            self.part_ns = entry.stored_ns
        return 0

    cdef int leave_lane(self, int32_t slot) except -1:
        """Take an event out of its lane, and make the next event of the lane ready."""
        cdef Held* entry = &self.held[slot]
        cdef Lane lane
        if entry.lane is NULL:
            return 0
        lane = <Lane>entry.lane
        entry.lane = NULL
        lane.head = entry.next
        if entry.next >= 0:
            self.put_ready(entry.next)
        else:
            lane.tail = -1
            if lane is not self.only:
                try:
                    # A text is always found. The hash of another key may have changed, so that it finds another lane.
                    if type(lane.key) is str or self.lanes.get(lane.key) is lane:
                        del self.lanes[lane.key]
                except Exception:
                    pass                # the key can't be hashed any more: its empty lane stays
        Py_XDECREF(<PyObject*>lane)
        return 0

    cpdef int finish(self, int32_t slot) except -1:
        """Note that a running event is done."""
        cdef Held* entry = &self.held[slot]
        self.n_running -= 1
        if entry.lane is not NULL:
            self.leave_lane(slot)
        if entry.state == ORPHAN:
            self.n_held += 1            # drop() has taken it off the count already
            return self.free_slot(slot)
        entry.state = DONE
        self.drop_event(slot)
        return self.advance()

    cdef int advance(self) except -1:
        """Move the position over the events that are done, and free their slots."""
        cdef int32_t slot
        while self.order_head != self.order_tail:
            slot = self.order[self.order_head & <uint64_t>(self.n_slots - 1)]
            if self.held[slot].state != DONE:
                break
            self.order_head += 1
            self.move_to(&self.held[slot])
            self.free_empty_slot(slot)
        return 0

    cpdef list stored_times(self, list events):
        """Return when the stream stored each of these running events, in their order; 0: not known."""
        cdef list times = []
        cdef uint64_t at = self.order_head
        cdef int64_t stored_ns
        cdef int32_t slot
        cdef Event event
        for event in events:
            stored_ns = 0
            while at != self.order_tail and stored_ns == 0:
                slot = self.order[at & <uint64_t>(self.n_slots - 1)]
                if self.held[slot].seq > event.sequence_:
                    break
                if self.held[slot].seq == event.sequence_:
                    stored_ns = self.held[slot].stored_ns
                at += 1
            times.append(stored_ns)
        return times

    cpdef bint ends_message(self, Event event) except -1:
        """Return whether this running event is the last one of its message, also of those that no handler gets."""
        cdef uint64_t at
        cdef Held* entry
        for at in range(self.order_head, self.order_tail):
            entry = &self.held[self.order[at & <uint64_t>(self.n_slots - 1)]]
            if entry.seq == event.sequence_ and entry.index == event.index_:
                return entry.is_last
        return True

    cpdef uint64_t size_of(self, list events):
        """Return how many bytes these events keep. Those of a pack follow each other, and keep the same bytes."""
        cdef uint64_t n = 0
        cdef Event event
        cdef bytes counted = None
        for event in events:
            if event.raw is not counted:
                n += size_held(event)
                counted = event.raw
        return n

    cdef int forget_part(self) noexcept:
        """Note that no message is partly done."""
        self.idx = 0
        self.part = 0
        self.part_ns = 0
        return 0

    cpdef int drop(
        self, uint64_t position, int64_t stored_ns=0, uint32_t idx=0, uint64_t part=0, int64_t part_ns=0
    ) except -1:
        """Forget all events, and continue after `position`. `stored_ns`: when the stream stored the message there.

        The first `idx` events of the pack `part`, which was stored at `part_ns`, are done.

        The outcomes of handlers that still run have no effect. Until they end, new events of their keys wait.
        """
        cdef int32_t slot
        cdef Lane lane
        cdef PyObject* left
        lanes = {}
        for key, value in self.lanes.items():
            lane = <Lane>value
            if self.clear_lane(lane):
                try:
                    lanes[key] = lane
                except Exception:
                    pass                # as in leave_lane()
        self.lanes = lanes
        if self.only is not None:
            self.clear_lane(self.only)
        self.ready_head = self.ready_tail = 0
        self.order_head = self.order_tail = 0
        self.n_waiting = self.n_retrying = 0
        self.next_due_ns = 0
        self.list_end = self.list_end_index = 0
        for slot in range(self.n_slots):
            if self.held[slot].state == RUNNING:
                self.held[slot].state = ORPHAN
                self.n_held -= 1
            elif self.held[slot].state not in (FREE, ORPHAN):
                left = self.held[slot].lane
                self.held[slot].lane = NULL
                Py_XDECREF(left)
                self.free_slot(slot)
        self.position = self.highest = position
        self.position_ns = self.highest_ns = stored_ns
        self.forget_part()
        if idx and part > position:
            self.idx, self.part, self.part_ns = idx, part, part_ns
        return 0

    cdef bint clear_lane(self, Lane lane) noexcept:
        """Remove all events from a lane except a running one; returns whether one runs."""
        if lane.head >= 0 and self.held[lane.head].state in (RUNNING, ORPHAN):
            lane.tail = lane.head
            self.held[lane.head].next = -1
            return True
        lane.head = lane.tail = -1
        return False
