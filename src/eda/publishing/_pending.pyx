"""The events of a publisher that are accepted and not settled: what is asked about them, event by event or in sum."""

from libc.stdint cimport uint64_t

from eda.publishing._window cimport Place
from eda._bytes cimport monotonic_ns
from eda._codec cimport id_in
from eda.transport._frame cimport Sink
from eda.transport._outbound cimport Chunk
from eda.publishing._stream_sender cimport Target

__all__ = ["Pending"]


cdef class Pending(Sink):
    """What `Ingest` keeps of its events; it alone changes that, but for the target."""

    def use_target(self, Target target not None):
        """Publish to this from now on; returns the (sequence, bytes) of pending events that are too large for it."""
        cdef list result = []
        cdef uint64_t seq
        cdef Py_ssize_t n
        self.target = target
        self.by_end = len(target.domain) > 0
        for seq in self.window.pending():
            frame = self.frame_at(seq)
            n = len(frame) - frame.index(b"\n") - 3     # what follows the first line, less the last line end
            if n > target.max_payload:
                result.append((seq, n))
        return result

    @property
    def n_waiting(self):
        """Accepted events that are not written yet (upper bound: settled ones among them count)."""
        return self.window.next_seq - self.cursor

    @property
    def is_out(self):
        """Whether an event that was written is unsettled."""
        return self.window.base < self.cursor

    @property
    def awaits_verdict(self):
        """Fast ingest: whether the oldest unsettled event is the first of the batch."""
        cdef Place* place = self.window.find(self.window.base)
        return place is not NULL and place.batch_seq == 1

    @property
    def n_pending(self):
        """Accepted events that are not settled."""
        return self.window.n_pending

    @property
    def n_bytes(self):
        """The bytes of their frames."""
        return self.window.n_bytes

    @property
    def oldest(self):
        """The sequence of the oldest unsettled event; the next one's where there is none."""
        return self.window.base

    @property
    def newest(self):
        """The sequence that the next event will get."""
        return self.window.next_seq

    def waited_s(self):
        """How long the oldest unsettled event has waited for its answer since it was last written; 0 if it was not."""
        if not self.window.base < self.cursor:
            return 0.0
        return (monotonic_ns() - self.window.find(self.window.base).sent_ns) / 1e9

    def relied_s(self):
        """How long ago the oldest event was accepted; 0 if it was not written.

        To write it again relies on the stream's memory of ids.
        """
        cdef Place* place = self.window.find(self.window.base)
        if place is NULL or place.n_tries == 0:
            return 0.0
        return (monotonic_ns() - place.resend_ns) / 1e9

    def give_up_after(self, double give_up_s):
        """Have events fail so long after they were accepted, pending ones too."""
        cdef Place* place
        self.give_up_ns = <uint64_t>(give_up_s * 1e9)
        for seq in self.window.pending():
            place = self.window.find(seq)
            place.give_up_ns = place.resend_ns + self.give_up_ns

    @property
    def domain(self):
        """The domain of the stream; empty where there is none."""
        return self.target.domain.decode()

    cdef const char* written_at(self, Place* place) except NULL:
        """Where the frame of a pending event is as it was first written; the place keeps it."""
        cdef Chunk chunk = <Chunk>place.chunk
        if chunk.data is NULL:
            self.out.flush()
        return chunk.data + place.start

    cdef bytes frame_at(self, uint64_t seq):
        """The frame of a pending event as it was first written; empty when it is settled."""
        cdef Place* place = self.window.find(seq)
        return b"" if place is NULL else self.written_at(place)[:place.n]

    def id_at(self, uint64_t seq):
        """The id that a pending event goes under."""
        cdef Place* place = self.window.find(seq)
        if place is NULL:
            return ""
        return id_in(<const unsigned char*>self.written_at(place) + place.n - 2 - place.n_envelope)

    def pending_to(self, bytes subject not None):
        """Return the sequences of the pending events that go to this subject."""
        return [seq for seq in self.window.pending() if self.frame_at(seq).split(b" ", 2)[1] == subject]
