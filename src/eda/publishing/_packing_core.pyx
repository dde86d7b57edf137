"""A publisher's core that puts many events into each message: a pack (docs/wire.md).

An event is encoded once, straight into the open pack. When the pack is closed, it gets a slot in the window, as a
message of its own has. From then on all is done for packs as for messages: written, acknowledged, written again.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pystate cimport PyThreadState_Get
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp

from eda._bytes cimport Writer, copy_length, release, reserve, size_of_length
from eda._clock cimport HAS_TICKS, monotonic_ns, wall_ns, wall_tick_ns
from eda._codec cimport Plan, Text, copy_envelope, plan_envelope
from eda._durations cimport note_duration
from eda._event cimport F_AGGREGATE, F_ID, F_TYPE, Event
from eda._nuid cimport new_nuid
from eda._pack cimport MAX_UNPACKED, TAG_OF_EVENT
from eda.publishing._pack_frame cimport (
    SentPack, can_be_read_back, compressed_pack, events_of, headers_of, keep_event, kept_id, put_message,
)
from eda.publishing._pending cimport Pending
from eda.publishing._publisher_core cimport PublisherCore
from eda.publishing._stream_sender cimport Destination, Reply, check_id, id_of, put_frame
from eda.publishing._window cimport Slot, PublishWindow, fill_slot, has_slot
from eda.transport._frame cimport MAX_CONTROL_LINE
from eda.transport._outbound cimport Chunk, write_soon_at

__all__ = ["PackingCore"]

cdef enum:
    MAX_HEADERS = 128               # bytes: more than the headers of a pack need
    MAX_LINE_REST = 256             # bytes of the protocol line besides stream, type and aggregate, with some to spare
    OWN_SIZE = 4096                 # from this size onwards, a pack that has to wait owns its buffer
    KEPT_SIZE = 256 * 1024          # a buffer that grew beyond this, and beyond what packs need, is freed
    # Events that are accepted one by one before the event loop runs. The packs that it settles then are still in the
    # processor's caches, and so are the places in memory that the next events get.
    MAX_IN_TURN = 2048
    # Packs are written at this size, not at CHUNK_SIZE: often the server waits for the next bytes, and then each write
    # has to wake it up, which costs this process more than the copy of the bytes into the socket.
    WRITE_SIZE = 240 * 1024
    OP_APPEND = 1


cdef inline bint differs(Text* first, Text* text) noexcept:
    # The `data` of an empty text is not set.
    return first.n != text.n or (
        text.n != 0 and first.data != text.data and memcmp(first.data, text.data, text.n) != 0
    )


@cython.final
cdef class PackingCore(PublisherCore):
    """The packs of one publisher on their way to one stream, and the events in them, in the order of `accept`.

    All events of a pack have one outcome. The numbers of events (`n_accepted`, `max_pending` and so on) count events;
    the window and its sequences count packs. The open pack has no sequence yet.

    The host's `on_pack_opened()` starts a timer that calls `close_pack` in time. `on_pack_closed()` is called if the
    host must do something for the pack to be written.
    """

    def __init__(
        self, object host, object out, Destination destination not None, bytes inbox, str client, *,
        uint64_t max_events, Py_ssize_t max_pack_bytes, object compress=None, uint64_t max_pending, **options
    ):
        PublisherCore.__init__(self, host, out, destination, inbox, client, max_pending=max_pending, **options)
        self.max_events = max_events
        self.max_pack_bytes = min(max_pack_bytes, <Py_ssize_t>MAX_UNPACKED)
        self.compress = compress
        self.max_messages = max(<uint64_t>1, max_pending // max_events)
        self.fit_into(destination)
        self.checked = self.out.n_flushes - 1

    def __dealloc__(self):
        release(&self.buffer)

    cdef int fit_into(self, Destination destination) except -1:
        self.most_bytes = min(self.max_pack_bytes, destination.max_payload - MAX_HEADERS)
        return 0

    def use_destination(self, Destination destination not None):
        """Do what `Pending.use_destination` does, for the packs. The open pack is closed first."""
        self.close(True)
        self.fit_into(destination)
        return Pending.use_destination(self, destination)

    # --- accepting -----------------------------------------------------------------------------------------------

    cdef bint at_limit(self) noexcept:
        cdef uint64_t n = self.n_accepted - self.n_acknowledged - self.n_failed
        return n >= self.max_pending or (
            n > 0 and self.window.n_bytes + <uint64_t>self.buffer.pos >= self.max_bytes
        )

    @property
    def room(self):
        """Return how many more events fit, if they are as large as the pending events."""
        cdef uint64_t n = self.n_accepted - self.n_acknowledged - self.n_failed
        cdef uint64_t n_bytes = self.window.n_bytes + <uint64_t>self.buffer.pos
        cdef uint64_t room = self.max_pending - n if self.max_pending > n else 0
        if n_bytes and room:
            room = min(room, (self.max_bytes - n_bytes if self.max_bytes > n_bytes else 0) * n // n_bytes)
        return room

    @property
    def n_bytes(self):
        """Return the bytes of the frames of all pending packs, and of the open pack."""
        return self.window.n_bytes + <uint64_t>self.buffer.pos

    @property
    def n_open(self):
        """Return how many events are in the open pack."""
        return self.pack.n if self.pack is not None else 0

    def accept_with_receipt(self, Event event not None, object receipt not None):
        """Accept an event whose sender waits for a receipt. Return its pack's sequence, its index there, and its id.

        In fast mode the pack gets a batch of its own, so that the answer is about this pack alone. `receipt` stays in
        `receipts`, by sequence and index, until the core passes it to `on_receipt`, or the event fails.
        """
        self.check_caller()
        self.time_ns = wall_ns()
        id = self.put_packed(event, receipt)
        return self.receipt_seq, self.receipt_index, id

    def drop_receipt(self, uint64_t seq, Py_ssize_t index):
        """Forget a receipt for which nobody waits any more."""
        cdef dict of_pack = self.receipts.get(seq)
        if of_pack is not None:
            of_pack.pop(index, None)
            if not of_pack:
                del self.receipts[seq]

    cdef str take_if_flowing(self, object event):
        cdef int64_t tick_ns
        if type(event) is not Event or self.out.paused or self.at_limit() or self.n_in_turn >= MAX_IN_TURN:
            return None
        # In a wrong loop or thread, the sender calls `accept` next, which raises. One check of the loop per turn is
        # enough, because no other loop can run in this thread before the turn ends. A flush is scheduled for then, even
        # if there is nothing to write.
        if self.thread != PyThreadState_Get():
            return None
        if self.checked != self.out.n_flushes:
            if self.running_loop is not None and self.running_loop() is not self.loop:
                return None
            self.checked = self.out.n_flushes
            self.out.write_or_schedule()
            self.tick_ns = 0
        self.n_in_turn += 1
        # To read the clock takes longer than to write the envelope. So it is read once for each turn and each tick.
        tick_ns = wall_tick_ns()
        if tick_ns != self.tick_ns:
            self.tick_ns = tick_ns
            self.time_ns = wall_ns() if HAS_TICKS else tick_ns
        return self.put_packed(<Event>event, None)

    @property
    def needs_turn(self):
        """Return whether the next sender has to let the event loop run."""
        return self.n_in_turn >= MAX_IN_TURN

    def note_turn(self):
        """Note that the event loop has run."""
        self.n_in_turn = 0

    cdef str put(self, Event event, uint64_t now, int64_t time_ns, bint at_once):
        self.time_ns = time_ns
        return self.put_packed(event, None)

    cdef str put_packed(self, Event event, object receipt):
        """Put an event into the open pack, with `time_ns` as its time, and return its id."""
        cdef Plan plan
        cdef bint is_new = (
            len(<str>event.texts[F_ID]) == 0 if event.texts[F_ID] is not NULL else event.spans[F_ID].n == 0
        )
        cdef str id = new_nuid() if is_new else id_of(event)
        cdef Writer* w = &self.buffer
        cdef Py_ssize_t n
        cdef bint is_kept, is_odd
        cdef SentPack pack
        cdef unsigned char* to
        # Encoding may run code of the user, which may change the state. So the state is read after encoding.
        plan_envelope(event, id, self.client, self.time_ns, &plan)
        n = 1 + size_of_length(plan.size) + plan.size
        # All steps that may fail come first, so that no event is in a pack that is not accepted.
        if not is_new:
            check_id(plan.text[F_ID].data, plan.text[F_ID].n)
        if self.destination.check is not None:
            self.destination.check(event)
        is_odd = (
            n > self.most_bytes
            # Each byte of a text has at most three bytes in the subject.
            or 3 * (plan.text[F_TYPE].n + plan.text[F_AGGREGATE].n) + PyBytes_GET_SIZE(self.destination.head)
            + PyBytes_GET_SIZE(self.inbox) > MAX_CONTROL_LINE - MAX_LINE_REST
        ) and self.check_odd(event, &plan)
        # A pack without events is one whose first event found no memory. A pack that is whole could not be closed.
        if self.pack is None or self.pack.n == 0 or self.is_whole or is_odd or w.pos + n > self.most_bytes:
            self.begin(event, &plan)
        pack = self.pack
        is_kept = self.wants_acks or not is_new or not can_be_read_back(event)
        if is_kept:
            pack.make_room()
        if reserve(w, n) < 0:
            raise MemoryError
        if receipt is not None:
            self.receipt_seq = self.window.next_seq
            self.receipt_index = pack.n
            self.receipts.setdefault(self.receipt_seq, {})[self.receipt_index] = receipt
        if is_new and pack.new_id is None:
            pack.new_id = id
        if is_kept:
            keep_event(pack, event, id)
        pack.n += 1
        to = w.buf + w.pos
        to[0] = TAG_OF_EVENT
        to = copy_length(to + 1, plan.size)
        to = copy_envelope(to, event, &plan)
        w.pos = to - w.buf
        if self.type.data is not NULL and differs(&self.type, &plan.text[F_TYPE]):
            self.type.data = NULL
        if self.aggregate.data is not NULL and differs(&self.aggregate, &plan.text[F_AGGREGATE]):
            self.aggregate.data = NULL
        self.n_accepted += 1
        if pack.n >= self.max_events or is_odd or w.pos >= self.most_bytes:
            self.is_whole = True
            self.close_whole()
        return id

    cdef int close_whole(self) except -1:
        """Close the open pack, which takes no more events. If that fails, leave it to the host's timer.

        The events in the pack are accepted. A caller that got an error would send the last one again.
        """
        try:
            self.close(True)
        except Exception:
            if self.pack is None:       # the pack is closed, so the error is not about it
                raise
        return 0

    cdef bint check_odd(self, Event event, Plan* plan) except -1:
        """Return True for an event that must be alone in its message. Raise ConfigError if the server won't take it."""
        cdef Reply reply
        self.fill_reply(&reply, self.window.next_seq, OP_APPEND)
        self.scratch.pos = 0
        put_frame(&self.scratch, self.destination, event, plan, &reply, self.dedup)
        self.shrink(&self.scratch)
        return True

    cdef int begin(self, Event event, Plan* plan) except -1:
        """Close the open pack, and open the next one, which begins with this event."""
        self.close(True)
        self.pack = SentPack.__new__(SentPack)
        self.opened_ns = monotonic_ns()
        self.envelope_start = 1 + size_of_length(plan.size)
        self.type = plan.text[F_TYPE]
        self.type_owner = <object>event.texts[F_TYPE] if event.texts[F_TYPE] is not NULL else event.raw
        self.aggregate = plan.text[F_AGGREGATE]
        self.aggregate_owner = (
            <object>event.texts[F_AGGREGATE] if event.texts[F_AGGREGATE] is not NULL else event.raw
        )
        if self.type.n == 0:
            self.type.data = b""
        if self.aggregate.n == 0:
            self.aggregate.data = b""
        if not self.linger_runs:
            self.host.on_pack_opened()
        return 0

    # --- closing -------------------------------------------------------------------------------------------------

    def close_pack(self, bint write=True):
        """Close the open pack, if there is one, so that it is written soon. Without `write`, the caller fails it."""
        self.close(write)

    def open_s(self):
        """Return for how many seconds the open pack has been open; -1 if none is open."""
        return (monotonic_ns() - self.opened_ns) / 1e9 if self.pack is not None else -1.0

    cpdef double oldest_age_s(self):
        """Return the seconds since the oldest unsettled event was accepted; 0 if all events are settled."""
        cdef Slot* slot = self.window.find(self.window.base)
        if slot is not NULL:
            return (monotonic_ns() - slot.resend_ns) / 1e9
        return max(self.open_s(), 0.0)

    cdef int close(self, bint write) except -1:
        cdef SentPack pack = self.pack
        cdef PublishWindow window = self.window
        cdef uint64_t seq
        cdef bytes packed = None
        cdef bytes headers
        cdef bint is_pack, has_receipt, direct
        cdef const unsigned char* payload = self.buffer.buf
        cdef Py_ssize_t n_payload = self.buffer.pos
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t n_frame
        cdef Writer* w
        cdef Writer own
        cdef Chunk chunk
        cdef Reply reply
        cdef Slot* slot
        if pack is None:
            return 0
        if pack.n == 0:                 # there was no memory for its first event
            self.forget_pack()
            return 0
        # All steps that may fail come first. Then the pack is open as before.
        if write and self.compress is not None and n_payload <= MAX_UNPACKED:
            packed = compressed_pack(
                self.compress, payload, n_payload, n_payload if pack.n > 1 else n_payload - MAX_HEADERS
            )
        is_pack = pack.n > 1 or packed is not None
        if packed is not None:
            payload = <const unsigned char*>PyBytes_AS_STRING(packed)
            n_payload = PyBytes_GET_SIZE(packed)
        elif not is_pack:
            payload += self.envelope_start
            n_payload -= self.envelope_start
        headers = headers_of(pack, is_pack, self.dedup)
        if not has_slot(window):
            window.grow()
        seq = window.next_seq
        has_receipt = len(self.receipts) > 0 and seq in self.receipts
        direct = (
            write and self.writing and self.next_unwritten == seq and seq - window.base < self.limit
            and not (self.fast and has_receipt)     # it needs a batch of its own
        )
        self.fill_reply(&reply, seq, OP_APPEND)
        if direct:
            chunk = self.out.current_chunk()
            w = &self.out.publishes
            start = w.pos
            put_message(w, self.destination, &self.type, &self.aggregate, &reply, headers, payload, n_payload)
            n_frame = w.pos - start
        else:
            chunk = Chunk.__new__(Chunk)
            own.buf = NULL
            own.pos = own.cap = 0
            self.scratch.pos = 0
            w = &own if n_payload >= OWN_SIZE else &self.scratch
            put_message(w, self.destination, &self.type, &self.aggregate, &reply, headers, payload, n_payload)
            n_frame = w.pos
            if w is &own:
                chunk.take(w)
            else:
                chunk.keep(PyBytes_FromStringAndSize(<char*>w.buf, n_frame))
        # An event may not wait longer because its pack was open for a while, so times count from its opening.
        slot = fill_slot(
            window, pack, chunk, start, n_frame, monotonic_ns(), self.opened_ns, self.opened_ns + self.give_up_ns
        )
        slot.n_envelope = <unsigned int>n_payload
        self.forget_pack()
        self.n_packs += 1
        if direct:
            self.next_unwritten = seq + 1
            if self.fast:
                self.n_in_batch += 1
                slot.batch_seq = self.n_in_batch
            write_soon_at(self.out, WRITE_SIZE)
        else:
            slot.n_tries = 0
        if write and (has_receipt or not (self.timer_runs and self.writing)):
            self.host.on_pack_closed()
        return 0

    cdef void forget_pack(self) noexcept:
        self.pack = None
        self.is_whole = False
        self.buffer.pos = 0
        self.type_owner = self.aggregate_owner = None
        self.shrink(&self.buffer)

    cdef void shrink(self, Writer* w) noexcept:
        """Free a buffer that has grown for a single large event."""
        if w.cap > KEPT_SIZE and w.cap > 4 * self.max_pack_bytes:
            release(w)

    cdef uint64_t n_events_of(self, Slot* slot) noexcept:
        return (<SentPack>slot.waiter).n

    # --- outcomes ------------------------------------------------------------------------------------------------

    @property
    def needs_batch_end(self):
        """Return whether only the end of the batch can make room (fast mode)."""
        cdef uint64_t n = self.n_accepted - self.n_acknowledged - self.n_failed
        return self.settles_at_end and (
            n > self.max_pending // 4 * 3 or self.window.n_bytes > self.max_bytes // 4 * 3
            or self.limit >= self.max_pending
        )

    cdef int tell_host(self) except -1:
        """Call `on_room` if it is wanted and a quarter of the room is free, and `on_flushed` if a flush has ended."""
        cdef uint64_t n = self.n_accepted - self.n_acknowledged - self.n_failed
        if (
            self.room_wanted and n <= self.max_pending - (self.max_pending + 3) // 4
            and self.window.n_bytes + <uint64_t>self.buffer.pos <= self.max_bytes - self.max_bytes // 4
        ):
            self.room_wanted = False
            self.host.on_room()
        if self.flush_to and self.window.base >= self.flush_to:
            self.flush_to = 0
            self.host.on_flushed()
        return 0

    cdef int settle_one(self, uint64_t seq, Slot* slot, int64_t stream_seq) except -1:
        cdef SentPack pack = <SentPack>slot.waiter
        cdef uint64_t sequence = 0 if self.fast else abs(stream_seq)
        cdef uint64_t i
        note_duration(self.durations, self.now_ns - slot.resend_ns, pack.n)
        self.take_out(seq)
        self.n_acknowledged += pack.n
        self.n_in_turn = 0
        if len(self.receipts) and seq in self.receipts:
            for receipt in self.receipts.pop(seq).values():
                self.host.on_receipt(receipt, stream_seq)
        if self.wants_acks:
            for i in range(pack.n):
                self.host.on_acknowledged(<str>kept_id(pack, i), sequence)
        return 0

    cdef int settle_batch(self, uint64_t n, int64_t stream_seq) except -1:
        """Settle the first `n` packs of the batch. `stream_seq` is the sequence of its only pack, or 0."""
        cdef PublishWindow window = self.window
        cdef Slot* slot
        if n <= self.n_batch_settled:
            return 0
        self.n_batch_settled = n
        while window.base < self.next_unwritten:
            slot = &window.slots[window.base & window.mask]
            if slot.batch_seq == 0 or slot.batch_seq > n:
                break
            self.settle_one(window.base, slot, stream_seq)
        return 0

    def fail(self, uint64_t seq):
        """Remove a pending pack that has failed. Return (event with its id, id, receipt or None) of each event."""
        cdef Slot* slot = self.window.find(seq)
        cdef SentPack pack
        cdef dict receipts
        cdef Event event
        cdef list events
        cdef list failed = []
        cdef Py_ssize_t i
        if slot is NULL:
            return failed
        pack = <SentPack>slot.waiter
        events = events_of(pack, self.payload_of(slot), slot.n_envelope)
        self.take_out(seq)
        self.n_failed += pack.n
        self.tell_host()
        receipts = self.receipts.pop(seq, {})
        for i, event in enumerate(events):
            id = <str>kept_id(pack, i) if kept_id(pack, i) is not NULL else event.id
            failed.append((event if event.id else event.replace(id=id), id, receipts.get(i)))
        return failed

    cdef const unsigned char* payload_of(self, Slot* slot) except NULL:
        """Return the payload of a pending message; the slot keeps it alive."""
        return <const unsigned char*>self.written_at(slot) + slot.n - 2 - slot.n_envelope

    def id_at(self, uint64_t seq):
        """Return the id of the first event of a pending pack; empty if the pack is settled."""
        cdef Slot* slot = self.window.find(seq)
        cdef SentPack pack
        if slot is NULL:
            return ""
        pack = <SentPack>slot.waiter
        # An event that is not kept had no id of its own. If it is the first one, `new_id` is its id.
        return <str>kept_id(pack, 0) if kept_id(pack, 0) is not NULL else pack.new_id
