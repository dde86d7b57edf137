from cpython.object cimport PyObject

from eda._event cimport N_GIVEN, Event


# The arguments of one `send_columns`: columns, and values that all rows have.
cdef class Columns:
    cdef tuple columns                      # of tuples, all of one length
    cdef int fields[N_GIVEN]                # which argument of Event each column is
    cdef PyObject** items[N_GIVEN]          # the values of each column, which `columns` keeps alive
    cdef int n_columns
    cdef Py_ssize_t n_rows
    # The arguments of Event that all rows have, and what keeps them alive. Time and meta are ready for the event.
    cdef PyObject* shared[N_GIVEN]
    cdef Event of_all
    cdef object data

    cdef int take_columns(self, dict given, dict values) except -1
    cdef int take_values(self, dict values) except -1
    cdef Event event_at(self, Py_ssize_t row)
