from eda.transport._frame cimport Frame, Sink


cdef class CallbackSink(Sink):
    cdef Py_ssize_t n_prefix        # the first bytes of each subject, which the callback does not get
    cdef object callback            # callable(rest of the subject, headers, payload)
