"""Publishes messages whose subject, headers and envelope are ready: those of an event store."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from eda._bytes cimport Writer, put_byte, put_bytes, put_decimal, reserve, size_of_decimal
from eda._clock cimport monotonic_ns
from eda.publishing._stream_sender cimport Destination, Reply, StreamSender, put_reply, size_of_reply
from eda.publishing._window cimport Slot
from eda.transport._frame cimport MAX_CONTROL_LINE
from eda.transport._outbound cimport Chunk, write_soon

from eda.errors import ConfigError

__all__ = ["MessageSender"]


@cython.final
cdef class MessageSender(StreamSender):
    """A StreamSender that also publishes messages with headers of the caller's choice."""

    def publish_message(self, Destination destination not None, bytes subject not None, bytes headers not None,
                        bytes envelope not None, object waiter, double resend_s, double give_up_s):
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
