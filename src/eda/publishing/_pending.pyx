"""The unsettled events of a publisher, and queries about them."""

from libc.stdint cimport uint64_t

from eda.publishing._window cimport Slot
from eda._clock cimport monotonic_ns
from eda._codec cimport id_in
from eda.transport._frame cimport Sink
from eda.transport._outbound cimport Chunk
from eda.publishing._stream_sender cimport Destination

from eda.errors import ConfigError

__all__ = ["OTHER_LOOP", "Pending"]

cdef enum:
    SLOW_ACK_NS = 250_000_000       # slower acknowledgements make the window smaller
    QUICK_ACK_NS = 60_000_000       # faster acknowledgements make it larger

OTHER_LOOP = (
    "a publisher can be used only in the event loop, and the thread, that opened its connection: use it there, for "
    "instance with asyncio.run_coroutine_threadsafe(publisher.send(event), loop), or open a connection in this loop"
)


cdef class Pending(Sink):
    """The pending events of a publisher; the subclass `PublisherCore` adds, writes and settles them."""

    def use_destination(self, Destination destination not None):
        """Publish to this destination. Return (sequence, bytes) of each pending event that is too large for it."""
        cdef list result = []
        cdef uint64_t seq
        cdef Py_ssize_t n
        self.destination = destination
        self.settles_at_end = len(destination.domain) > 0
        for seq in self.window.pending():
            frame = self.frame_at(seq)
            n = len(frame) - frame.index(b"\n") - 3     # without the first line and the line end at the end
            if n > destination.max_payload:
                result.append((seq, n))
        return result

    cdef int check_caller(self) except -1:
        """Raise ConfigError if the caller is in another event loop or thread, because futures could not wake it."""
        if self.running_loop is not None and self.running_loop() is not self.loop:
            raise ConfigError(OTHER_LOOP, argument="loop")
        return 0

    @property
    def n_waiting(self):
        """Return how many accepted events are not written, or a few more: settled events among them are counted too."""
        return self.window.next_seq - self.next_unwritten

    @property
    def oldest_is_written(self):
        """Return whether the oldest unsettled event is written."""
        return self.window.base < self.next_unwritten

    @property
    def oldest_opened_batch(self):
        """Return whether the oldest unsettled event is the first event of the batch (fast mode)."""
        cdef Slot* slot = self.window.find(self.window.base)
        return slot is not NULL and slot.batch_seq == 1

    @property
    def n_pending(self):
        """Return how many accepted events are not settled."""
        return self.window.n_pending

    @property
    def n_bytes(self):
        """Return the bytes of the frames of all pending events."""
        return self.window.n_bytes

    @property
    def oldest(self):
        """Return the sequence of the oldest unsettled event; if all are settled, the sequence of the next event."""
        return self.window.base

    @property
    def next_seq(self):
        """Return the sequence that the next event gets."""
        return self.window.next_seq

    def oldest_waited_s(self):
        """Return the seconds since the oldest unsettled event was last written; 0 if it is not written."""
        if not self.window.base < self.next_unwritten:
            return 0.0
        return (monotonic_ns() - self.window.find(self.window.base).sent_ns) / 1e9

    def oldest_written_age_s(self):
        """Return the seconds since the oldest unsettled event was accepted; 0 if it was never written.

        The event can be written again safely only if the stream's duplicate window is longer than this.
        """
        cdef Slot* slot = self.window.find(self.window.base)
        if slot is NULL or slot.n_tries == 0:
            return 0.0
        return (monotonic_ns() - slot.resend_ns) / 1e9

    cpdef double oldest_age_s(self):
        """Return the seconds since the oldest unsettled event was accepted; 0 if all events are settled."""
        cdef Slot* slot = self.window.find(self.window.base)
        return 0.0 if slot is NULL else (monotonic_ns() - slot.resend_ns) / 1e9

    cdef int adapt_limit(self) noexcept:
        """Adapt `limit` to the time that acknowledgements take. A limit too high for the server makes them slow."""
        if self.sum_ns // self.n_timed > SLOW_ACK_NS:
            self.limit = max(<uint64_t>MIN_WINDOW, self.limit // 2)
        elif self.sum_ns // self.n_timed < QUICK_ACK_NS:
            self.limit = self.limit * 2
        self.limit = min(self.limit, self.max_pending)
        self.n_timed = self.sum_ns = 0
        return 0

    def set_give_up(self, double give_up_s):
        """Let all events, also those already pending, fail `give_up_s` after they were accepted."""
        cdef Slot* slot
        self.give_up_ns = <uint64_t>(give_up_s * 1e9)
        for seq in self.window.pending():
            slot = self.window.find(seq)
            slot.give_up_ns = slot.resend_ns + self.give_up_ns

    @property
    def give_up_s(self):
        """Return the seconds after which an event fails, counted from when it was accepted."""
        return self.give_up_ns / 1e9

    def unwritten(self):
        """Return the sequences of the pending events that are not written."""
        return [seq for seq in self.window.pending() if seq >= self.next_unwritten]

    @property
    def domain(self):
        """Return the domain of the stream; an empty string if it has none."""
        return self.destination.domain.decode()

    cdef const char* written_at(self, Slot* slot) except NULL:
        """Return the frame of a pending event as it was first written; the slot keeps it alive."""
        cdef Chunk chunk = <Chunk>slot.chunk
        if chunk.data is NULL:
            self.out.flush()
        return chunk.data + slot.start

    cdef bytes frame_at(self, uint64_t seq):
        """Return the frame of a pending event as it was first written; empty if the event is settled."""
        cdef Slot* slot = self.window.find(seq)
        return b"" if slot is NULL else self.written_at(slot)[:slot.n]

    def id_at(self, uint64_t seq):
        """Return the id under which a pending event is published; empty if the event is settled."""
        cdef Slot* slot = self.window.find(seq)
        if slot is NULL:
            return ""
        return id_in(<const unsigned char*>self.written_at(slot) + slot.n - 2 - slot.n_envelope)

    cdef object take_out(self, uint64_t seq):
        """Free a pending message's slot and return its waiter; None if it is settled."""
        waiter = self.window.settle(seq)
        if self.next_unwritten < self.window.base:
            self.next_unwritten = self.window.base
        return waiter

    def close_pack(self, bint write=True):
        """Do nothing: each event is a message of its own, and waits for no others."""

    @property
    def needs_turn(self):
        """Return whether the next sender has to let the event loop run. With packs, it has to now and then."""
        return False

    def note_turn(self):
        """Note that the event loop has run."""

    @property
    def n_open(self):
        """Return how many accepted events are in no message yet."""
        return 0

    @property
    def n_packs(self):
        """Return how many packs were closed."""
        return 0

    def drop_receipt(self, uint64_t seq, Py_ssize_t index):
        """Forget a receipt for which nobody waits any more."""
        self.receipts.pop(seq, None)

    def pending_to(self, bytes subject not None):
        """Return the sequences of the pending events that go to this subject."""
        return [seq for seq in self.window.pending() if self.frame_at(seq).split(b" ", 2)[1] == subject]
