"""Messages > a Python callback, without nats-py's queue and task between them: for answers that somebody waits for."""

cimport cython
from cpython.exc cimport PyErr_WriteUnraisable

from eda.transport._frame cimport Frame, Sink

__all__ = ["CallbackSink"]


@cython.final
cdef class CallbackSink(Sink):
    """Gives each message to `callback(tail, headers, payload)`, all bytes.

    `tail` is the subject without its first `n_prefix` bytes. What the callback raises is reported as unraisable: an
    exception here would end the connection.
    """

    def __cinit__(self, Py_ssize_t n_prefix, object callback):
        if n_prefix < 0:
            raise ValueError(f"a prefix of {n_prefix} bytes")
        self.n_prefix = n_prefix
        self.callback = callback

    cdef int take_frame(self, Frame* frame) except -1:
        cdef Py_ssize_t n = min(self.n_prefix, frame.n_subject)
        try:
            self.callback(
                frame.subject[n:frame.n_subject], frame.headers[:frame.n_headers], frame.payload[:frame.n_payload]
            )
        except Exception:
            PyErr_WriteUnraisable(self.callback)
        return 0
