"""Turns the frame of a delivery into its event, or into the events of its pack."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from eda._codec cimport Refusal, read_envelope, refusal_error
from eda._event cimport F_ID, Event, new_event
from eda._pack cimport Pack, next_envelope, place_event, read_pack
from eda.transport._frame cimport Delivery, Frame, Sink
from eda.handling._foreign cimport is_ours

from eda.errors import ConfigError, DecodeError
from eda.handling.verdicts import Undecodable
from eda.headers import id_in_headers

__all__ = ["EventReader"]


cdef class EventReader(Sink):
    """The part of an intake that reads events. What can't be read becomes an event with the verdict Undecodable."""

    cdef Event read_event(self, Frame* frame, Delivery* delivery, Py_ssize_t n_reply):
        """Return the event of a delivery, and set `verdict`: None, or why the message is not an event."""
        cdef Refusal refusal
        cdef Event event = new_event()
        cdef bytes raw = PyBytes_FromStringAndSize(NULL, n_reply + frame.n_payload)
        if n_reply:
            memcpy(PyBytes_AS_STRING(raw), frame.reply, n_reply)
        if frame.n_payload:
            memcpy(PyBytes_AS_STRING(raw) + n_reply, frame.payload, frame.n_payload)
        self.verdict = None
        if frame.n_payload == 0 or read_envelope(event, raw, n_reply, n_reply + frame.n_payload, &refusal) < 0:
            if self.fault is None:
                self.fault = refusal_error(&refusal) if frame.n_payload else DecodeError(
                    "envelope", "the message has no body", offset=0
                )
            event = self.undecodable(n_reply, frame.n_payload)
            self.keep_message(event, raw, frame)
        elif not is_ours(
            frame, <const unsigned char*>PyBytes_AS_STRING(raw), event,
            <const unsigned char*>PyBytes_AS_STRING(self.stream_utf8), PyBytes_GET_SIZE(self.stream_utf8)
        ):
            self.keep_message(event, raw, frame)
        event.reply.n = <unsigned int>n_reply
        event._stream = self.stream
        event.sequence_ = delivery.stream_seq
        if event.ack_time_ns_ == 0:
            event.ack_time_ns_ = delivery.time_ns
        return event

    cdef Event undecodable(self, Py_ssize_t start, Py_ssize_t n):
        """Return an event for an envelope that can't be read, and set `verdict`. `fault` says why it can't be read."""
        cdef Event event = new_event()
        event.envelope.start = <uint32_t>start
        event.envelope.n = <uint32_t>n
        self.n_undecodable += 1
        self.verdict = Undecodable()
        self.verdict.__cause__ = self.fault
        self.fault = None
        return event

    cdef Pack open_pack(self, Frame* frame):
        """Return the pack that a message holds.

        Return None if it can't be read. Then read_event() makes an event for the whole message, unless `fault` is None:
        then nothing is taken any more. Sets `verdict` to None: that of the message before says nothing about this one.
        """
        self.verdict = None
        try:
            return read_pack(
                frame.payload, frame.n_payload, frame.headers, frame.n_headers, frame.subject, frame.n_subject
            )
        except DecodeError as error:
            self.fault = error
        except ConfigError as error:
            self.consumer_utf8 = b""            # what decompresses it is not installed: the subscription ends
            self.source.on_unreadable(error)
        return None

    cdef Event read_packed(self, Pack pack, uint32_t index, Delivery* delivery):
        """Return the next event of a pack, and set `verdict` as read_event() does."""
        cdef Refusal refusal
        cdef Py_ssize_t n = 0
        cdef Py_ssize_t start = next_envelope(pack, &n)
        cdef Event event = new_event()
        self.verdict = None
        if read_envelope(event, pack.raw, start, start + n, &refusal) < 0:
            self.fault = refusal_error(&refusal)
            event = self.undecodable(start, n)
            event.raw = pack.raw
        place_event(event, pack, index, self.stream, delivery.stream_seq, delivery.time_ns)
        return event

    cdef int keep_message(self, Event event, bytes raw, Frame* frame) except -1:
        """Have the event keep the headers and the subject of its message."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(raw)
        cdef bytes all = PyBytes_FromStringAndSize(NULL, n + frame.n_headers + frame.n_subject)
        cdef char* to = PyBytes_AS_STRING(all)
        memcpy(to, PyBytes_AS_STRING(raw), n)
        memcpy(to + n, frame.headers, frame.n_headers)
        memcpy(to + n + frame.n_headers, frame.subject, frame.n_subject)
        event.keep(all, n, frame.n_headers, frame.n_subject)
        if event.spans[F_ID].n == 0:
            event.take_id(id_in_headers(frame.headers[:frame.n_headers]))
        return 0
