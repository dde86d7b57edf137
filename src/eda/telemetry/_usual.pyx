"""The usual cases of the hooks that run for each event, compiled: all that changes the state of telemetry is Python.

Most events that a publisher sends are sent in the context of the event before. Most events that are handled come from
the same context as the event before, and most of these contexts are not sampled.
"""

from cpython.contextvars cimport PyContextVar_CheckExact, PyContextVar_Reset, PyContextVar_Set, get_value
from libc.stdint cimport uint64_t

cimport cython

from eda._clock cimport coarse_ns
from eda._event cimport Event
from eda._stamp cimport SameMeta, Stamp
from eda.middleware._observed cimport AttemptEnd, Observer
from eda.publishing._sending cimport Marker

__all__ = ["Current", "Entering", "Marking"]


@cython.final
cdef class Current:
    """Current(get_current, attach, detach)\n--\n
    The current context of OpenTelemetry, by the three functions of `opentelemetry.context`.

    If contexts are kept in a context variable, which the token of `attach` names, the variable is used directly: for
    each event the functions would take four times as long.
    """

    def __init__(self, get_current, attach, detach):
        self.get_current = get_current
        self.attach_by = attach
        self.detach_by = detach
        token = attach(get_current())
        var = getattr(token, "var", None)
        detach(token)
        if PyContextVar_CheckExact(var) and get_value(var, self) is get_current():
            self.var = var

    cpdef object get(self):
        """Return the current context."""
        return self.get_current() if self.var is None else get_value(self.var)

    cpdef object attach(self, context):
        """Make a context the current one, and return the token for `detach`."""
        return self.attach_by(context) if self.var is None else PyContextVar_Set(self.var, context)

    cpdef object detach(self, token):
        """Make the context current that was so before `attach`."""
        if self.var is None:
            self.detach_by(token)
        else:
            PyContextVar_Reset(self.var, token)


@cython.final
cdef class Marking(Marker):
    """Marking(current, begin)\n--\n
    The hook `mark`. It stamps events of one publisher that are sent in one context, and counts them.

    For the first event, and in any other case, `begin(event, publisher)` returns the event.
    """

    def __init__(self, Current current, begin):
        self.current = current
        self.begin = begin

    cdef Event mark(self, Event event, object publisher):
        if (
            publisher is not self.publisher
            or self.current.get() is not self.context
            or coarse_ns() >= self.until_ns
        ):
            return self.begin(event, publisher)
        self.n += 1
        return self.stamp.on(event)

    def use(self, publisher, context, Stamp stamp, uint64_t until_ns):
        """Stamp the events that this publisher sends in this context until this time."""
        self.until_ns = until_ns
        self.publisher = publisher
        self.context = context
        self.stamp = stamp

    def take_count(self):
        """Stop stamping, and return how many events were stamped since `use`."""
        cdef Py_ssize_t n = self.n
        self.n = 0
        self.publisher = self.context = self.stamp = None
        return n


@cython.final
cdef class Within(AttemptEnd):
    """The end of an attempt that has a context of its own."""

    cdef int end_attempt(self, object error) except -1:
        if not isinstance(error, GeneratorExit):
            self.current.detach(self.token)
        elif self.current.get() is self.context:
            # A coroutine that is closed may be in any context.
            try:
                self.current.detach(self.token)
            except (RuntimeError, ValueError):
                pass
        return 0


@cython.final
cdef class Entering(Observer):
    """Entering(current, begin)\n--\n
    The hook `observe`. It makes a context the current one for events that have this context, and no span.

    In any other case `begin(given, subscription)` is the hook. It sets a whole context as well, so in the task of a
    worker the context of an event may stay current until the next event begins.
    """

    def __init__(self, Current current, begin):
        self.current = current
        self.begin = begin
        self.same = SameMeta()

    cdef object enter_attempt(self, object given, object subscription, bint is_outermost):
        if not self.same.is_in(given):
            return self.begin(given, subscription)
        if not is_outermost or self.current.var is None:
            return self.enter(self.context)
        if get_value(self.current.var) is not self.context:
            PyContextVar_Set(self.current.var, self.context)
        return None

    def use(self, Event event, context):
        """Make this context current for all events that have the metadata of this one."""
        self.same.note(event)
        self.context = context

    cpdef object enter(self, context):
        """Make a context current, and return the function that ends this."""
        cdef Within within = Within.__new__(Within)
        within.current = self.current
        within.context = context
        within.token = self.current.attach(context)
        return within
