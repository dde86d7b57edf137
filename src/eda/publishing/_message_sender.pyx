"""Publishes for `conn.publish` and for event stores, whose messages have their subject, headers and envelope ready.

It also decides whether a publish is written at once or shares a write with others.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from eda._bytes cimport Writer, put_byte, put_bytes, put_decimal, reserve, size_of_decimal
from eda._clock cimport monotonic_ns
from eda._event cimport Event
from eda.publishing._stream_sender cimport Destination, Reply, StreamSender, put_reply, size_of_reply
from eda.publishing._window cimport Slot
from eda.transport._frame cimport MAX_CONTROL_LINE
from eda.transport._outbound cimport Chunk, write_soon
from eda.transport._waits cimport Wait, Waits

from eda.errors import ConfigError

__all__ = ["LastSender", "MessageSender"]


cdef enum:
    # So many bytes are written before the end of the loop's turn. The server works on them while the tasks that have
    # got their outcomes in this turn send further events. With 64 KiB, client and server would wait for each other.
    EARLY_SIZE = 16 * 1024


@cython.final
cdef class LastSender:
    """Which sender of a connection has sent the latest event."""


@cython.final
cdef class MessageSender(StreamSender):
    """A StreamSender that also publishes messages with headers of the caller's choice.

    Each try is sent again after `resend_s` seconds. `arm(delay_s)` makes the host check the window after that time, and
    sets `timer_runs`. `last` is the same for all senders of a connection. If neither this sender nor the last one has a
    pending publish, no other publish shares the write, so it need not wait for the end of the turn.
    """

    def __init__(self, object window not None, object out not None, bytes inbox not None, str client not None,
                 object on_answer, Waits waits=None, object arm=None, double resend_s=5.0, LastSender last=None):
        StreamSender.__init__(self, window, out, inbox, client, on_answer)
        self.waits = waits
        self.arm = arm
        self.resend_s = resend_s
        self.last = LastSender() if last is None else last

    @property
    def is_ready(self):
        """Return whether an event may be sent now: the connection and the window have room, and nothing is closed."""
        return self.takes_more()

    cdef bint takes_more(self) noexcept:
        return not (self.out.paused or self.out.closing or self.is_closed or self.window.is_full())

    cdef bint shares_no_write(self) except -1:
        """Note that this sender sends now, and return whether its publish is written at once."""
        cdef MessageSender before = self.last.sender
        if before is not self:
            self.last.sender = self
        return self.window.n_pending == 0 and (before is None or before.window.n_pending == 0)

    def send(self, Destination destination not None, Event event not None, double give_up_s):
        """Publish an event as `publish` does, at once or with others. Return its id, and the wait for its outcome."""
        cdef Wait waiter = self.waits.make()
        cdef str id
        self.out.at_once = self.shares_no_write()
        try:
            id = self.publish(destination, event, waiter, self.resend_s, give_up_s)
        finally:
            self.out.at_once = False
        self.after_send(give_up_s)
        return id, waiter

    cpdef object send_message(self, Destination destination, bytes subject, bytes headers, bytes envelope,
                              double give_up_s):
        """Publish a message as `publish_message` does, at once or with others. Return the wait for its outcome."""
        cdef Wait waiter = self.waits.make()
        self.out.at_once = self.shares_no_write()
        try:
            self.publish_message(destination, subject, headers, envelope, waiter, self.resend_s, give_up_s)
        finally:
            self.out.at_once = False
        self.after_send(give_up_s)
        return waiter

    cdef int after_send(self, double give_up_s) except -1:
        if self.out.publishes.pos >= EARLY_SIZE:
            self.out.flush()
        if not self.timer_runs or give_up_s < self.resend_s:
            self.arm(min(self.resend_s, give_up_s))
        return 0

    cpdef int publish_message(self, Destination destination, bytes subject, bytes headers, bytes envelope,
                              object waiter, double resend_s, double give_up_s) except -1:
        """Publish a message, whose outcome `waiter` gets later.

        `headers` is the whole header block, with a `Nats-Msg-Id`. The subject begins with the stream's name and a dot.
        Nothing is escaped here. The destination's check is not called. The caller has checked `has_room`. Raises
        ConfigError if the server would not take the message. Then nothing is published.
        """
        cdef Writer* w = &self.out.publishes
        cdef Py_ssize_t start = w.pos
        cdef Py_ssize_t n_headers = PyBytes_GET_SIZE(headers)
        cdef Py_ssize_t n_envelope = PyBytes_GET_SIZE(envelope)
        cdef Py_ssize_t n_total = n_headers + n_envelope
        cdef Py_ssize_t n_line
        cdef uint64_t now = monotonic_ns()
        cdef Reply reply
        reply.prefix = PyBytes_AS_STRING(self.inbox)
        reply.n_prefix = PyBytes_GET_SIZE(self.inbox)
        reply.number = self.window.next_seq
        reply.n_suffix = 0
        # HPUB <subject> <reply> <header bytes> <total bytes>
        n_line = 5 + PyBytes_GET_SIZE(subject) + 1 + size_of_reply(&reply) + 1
        n_line += size_of_decimal(<uint64_t>n_headers) + 1 + size_of_decimal(<uint64_t>n_total)
        if n_line > MAX_CONTROL_LINE:
            raise ConfigError(
                f"type and aggregate make a subject of {len(subject)} bytes, too long for the server's protocol line "
                f"of {MAX_CONTROL_LINE}",
                argument="aggregate",
            )
        if n_total > destination.max_payload:
            of = "stream's max_msg_size" if destination.max_payload == destination.limit else "server's max_payload"
            raise ConfigError(
                f"an event of {n_total} bytes is over the {of} of {destination.max_payload}: stream "
                f"{destination.stream!r}",
                argument="data",
            )
        if reserve(w, n_line + 2 + n_total + 2) < 0:
            raise MemoryError
        try:
            put_bytes(w, b"HPUB ", 5)
            put_bytes(w, PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject))
            put_byte(w, 32)
            put_reply(w, &reply)
            put_byte(w, 32)
            put_decimal(w, <uint64_t>n_headers)
            put_byte(w, 32)
            put_decimal(w, <uint64_t>n_total)
            put_bytes(w, b"\r\n", 2)
            put_bytes(w, PyBytes_AS_STRING(headers), n_headers)
            put_bytes(w, PyBytes_AS_STRING(envelope), n_envelope)
            put_bytes(w, b"\r\n", 2)
            self.window.open(
                waiter, self.out.current_chunk(), start, w.pos - start, now, now + <uint64_t>(resend_s * 1e9),
                now + <uint64_t>(give_up_s * 1e9),
            )
        except BaseException:
            w.pos = start               # drop the bytes of the message
            raise
        if self.domain is not destination.domain:
            self.domain = destination.domain     # the same for all streams of a connection
        write_soon(self.out)
        return 0

    def is_of_store(self, uint64_t seq):
        """Return whether a pending message states an expectation, as all messages of event stores do."""
        cdef Slot* slot = self.window.find(seq)
        cdef Chunk chunk
        if slot is NULL:
            return False
        chunk = <Chunk>slot.chunk
        if chunk.data is NULL:
            return False
        headers, _, _ = chunk.data[slot.start:slot.start + slot.n].partition(b"\r\n\r\n")
        return b"\r\nNats-Expected-Last-Subject-Sequence: " in headers
