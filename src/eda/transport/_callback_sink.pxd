from eda.transport._frame cimport Frame, Sink


cdef class CallbackSink(Sink):
    cdef Py_ssize_t n_prefix        # bytes at the begin of each subject that are not passed on
    cdef object callback            # callable(rest of the subject, headers, payload)
