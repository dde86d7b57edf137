"""A sink that calls a Python function with each message, without the queue and task of a subscription of nats-py."""

cimport cython
from cpython.exc cimport PyErr_WriteUnraisable

from eda.transport._frame cimport Frame, Sink

__all__ = ["CallbackSink"]


@cython.final
cdef class CallbackSink(Sink):
    """A sink that calls `callback(tail, headers, payload)` with each message; all arguments are bytes.

    `tail` is the subject without its first `n_prefix` bytes. An exception of the callback is reported as unraisable,
    because an exception of a sink would end the connection.
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
