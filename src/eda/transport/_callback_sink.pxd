from eda.transport._frame cimport Frame, Sink


cdef class CallbackSink(Sink):
    cdef Py_ssize_t n_prefix        # bytes of the subject that every message has
    cdef object callback            # callable(rest of the subject, headers, payload)
