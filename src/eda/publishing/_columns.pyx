"""The rows of a table on their way to a publisher's core, as events that no program has made: `send_columns`."""

cimport cython
from cpython.object cimport PyObject
from cpython.sequence cimport PySequence_Fast_ITEMS
from cpython.unicode cimport PyUnicode_GET_LENGTH
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from eda._clock cimport monotonic_ns, wall_ns
from eda._data cimport Data, make_data
from eda._event cimport (
    F_AGGREGATE, F_CAUSE, F_CLIENT, F_ID, F_SCHEMA, F_TYPE, G_DATA, G_META, G_TIME, N_GIVEN, N_TEXT, Event, new_event,
)
from eda.publishing._publisher_core cimport MAX_AT_ONCE, PublisherCore
from eda.publishing._sending cimport Sender, marked

from collections.abc import Iterable

from eda.errors import ConfigError

__all__ = ["Columns"]

# The arguments of `send_columns`, and which argument of Event each of them is.
cdef tuple FIELDS = (
    ("type", F_TYPE), ("data", G_DATA), ("id", F_ID), ("time", G_TIME), ("schema", F_SCHEMA), ("cause", F_CAUSE),
    ("client", F_CLIENT), ("aggregate", F_AGGREGATE), ("meta", G_META),
)


@cython.final
cdef class Columns:
    """The events of a table: each argument is a column, which is a list or tuple, or one value for all rows.

    Columns are copied, so that a program may change its lists meanwhile. The event of a row is made when it is the
    row's turn.
    """

    def __init__(self, dict given not None):
        """Take the arguments of `send_columns`. Raises ConfigError for those that are wrong for all rows."""
        cdef dict values = {}
        self.take_columns(given, values)
        self.take_values(values)
        if self.n_columns == 0:
            raise ConfigError("one argument at least must be a column: a list or a tuple with a value for each event")

    cdef int take_columns(self, dict given, dict values) except -1:
        """Copy the columns, and put the other arguments into `values`."""
        cdef list columns = []
        cdef tuple column = ()
        cdef dict lengths = {}
        for name, field in FIELDS:
            value = given[name]
            if not isinstance(value, (list, tuple)):
                values[name] = value
                continue
            column = tuple(value)
            self.fields[len(columns)] = field
            columns.append(column)
            lengths[name] = len(column)
        if len(set(lengths.values())) > 1:
            each = ", ".join([f"{name} has {n}" for name, n in lengths.items()])
            raise ConfigError(f"all columns must have the same length: {each}")
        self.columns = tuple(columns)
        self.n_columns = <int>len(columns)
        self.n_rows = len(column)
        cdef int i
        for i in range(self.n_columns):
            self.items[i] = PySequence_Fast_ITEMS(self.columns[i])
        return 0

    cdef int take_values(self, dict values) except -1:
        """Check the values that all rows have, by an event that is made of them alone."""
        cdef PyObject* given[N_GIVEN]
        cdef int i
        self.of_all = new_event()
        self.data = values.get("data")
        if isinstance(self.data, bytes):
            self.data = values["data"] = make_data("bytes", self.data)
        memset(given, 0, sizeof(given))
        for name, field in FIELDS:
            if name in values:
                given[<int>field] = <PyObject*>values[name]
        try:
            self.of_all.fill(given)
        except ConfigError as error:
            value = values.get(error.argument)
            if isinstance(value, Iterable) and not isinstance(value, str):
                error.message += ". A column must be a list or a tuple"
            raise
        if self.of_all.get_text(F_ID):
            raise ConfigError("id must be a column: events with the same id are duplicates", argument="id")
        for i in range(N_TEXT):
            if self.of_all.texts[i] is not NULL and PyUnicode_GET_LENGTH(<str>self.of_all.texts[i]):
                self.shared[i] = self.of_all.texts[i]
        # The data of a payload is made anew for each event, because it has to fit the type of each row.
        self.shared[G_DATA] = <PyObject*>self.data
        return 0

    def __len__(self):
        return self.n_rows

    cdef Event event_at(self, Py_ssize_t row):
        """Make the event of a row. The caller has checked the bounds."""
        cdef PyObject* given[N_GIVEN]
        cdef Event event = new_event()
        cdef Data data
        cdef int i
        memcpy(given, self.shared, sizeof(given))
        for i in range(self.n_columns):
            given[self.fields[i]] = self.items[i][row]
        if isinstance(<object>given[G_DATA], bytes):
            data = make_data("bytes", <object>given[G_DATA])
            given[G_DATA] = <PyObject*>data
        event.fill(given)
        if self.of_all.time_ns_:
            event.time_ns_ = self.of_all.time_ns_
        if self.of_all._meta is not None:
            event._meta = self.of_all._meta
        return event

    def event(self, Py_ssize_t row):
        """Return the event of a row. Raises ConfigError, naming the row and the column, for a wrong value."""
        if not 0 <= row < self.n_rows:
            raise IndexError(row)
        try:
            return self.event_at(row)
        except Exception as error:
            name_row(error, row)
            raise

    def accept(self, Sender publisher not None, Py_ssize_t begin, list ids not None):
        """Let the core accept the events of the rows from `begin`, as `accept_many`; return the next row.

        It runs the publisher's `_mark` for each event. Errors name the row.
        """
        cdef PublisherCore core = publisher._core
        cdef object mark = publisher._mark
        cdef Py_ssize_t row = begin
        cdef Py_ssize_t end = min(self.n_rows, begin + MAX_AT_ONCE)
        cdef uint64_t now = monotonic_ns()      # for all of them: they are accepted within milliseconds
        cdef int64_t time_ns = wall_ns()
        cdef Event event
        core.check_caller()
        try:
            while row < end and not (core.out.paused or core.at_limit()):
                event = self.event_at(row)
                if mark is not None:
                    event = <Event?>marked(mark, event, publisher)
                ids.append(core.put(event, now, time_ns, True))
                row += 1
        except Exception as error:
            name_row(error, row)
            raise
        return row


cdef int name_row(object error, Py_ssize_t row) except -1:
    """Add the row to an error. The text of a ConfigError names the argument of Event, which is the column."""
    if type(error) is ConfigError:
        error.message = f"row {row}: {error.message}"
    else:
        error.add_note(f"row {row}")
    return 0
