"""A call of `EventStore.execute` or `append` as a coroutine, from the first step to the result.

Most calls decide on the cached state, send one event, and wait once. A coroutine of Python would cost such a call two
frames, which are entered and left with each step. Everything unusual is left to a coroutine of the store.
"""

cimport cython
from cpython.exc cimport PyErr_SetObject
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t

from eda.store._single cimport Single
from eda.transport._waits cimport Wait

from warnings import warn

from eda.handling.running_handler import WORKERS, handled_event

__all__ = ["Call", "StoreCalls"]

cdef dict workers = WORKERS             # empty while no handler runs


cdef extern from *:
    """
    static inline void eda_set_next(PyTypeObject* type, void* next) {
        type->tp_iternext = (iternextfunc)next;
    }
    """
    void set_next "eda_set_next"(PyTypeObject* type, void* next) noexcept


@cython.final
@cython.auto_pickle(False)
cdef class Call:
    """A coroutine that executes a command, or appends events. Nothing happens before it is awaited.

    `store` is its event store, and `given` are the command or the events. `handled`: the event that the caller handles.
    """

    def __init__(self):
        raise TypeError("StoreCalls makes it")

    @property
    def __name__(self):
        """The name of the method that was called, as of a coroutine. asyncio shows it."""
        return "append" if self.is_append else "execute"

    @property
    def __qualname__(self):
        """The same with the name of its class."""
        return f"EventStore.{self.__name__}"

    def __repr__(self):
        return f"<coroutine {self.__qualname__} of {self.store!r}>"

    def __await__(self):
        return self

    def __next__(self):
        return self.go_on()

    def send(self, value):
        """Go on until the next wait, and return it. Raises StopIteration with the result."""
        cdef object reached
        if self.state == LEFT:
            return self.advanced(value)
        reached = <object>next_of(<PyObject*>self)
        Py_DECREF(reached)              # `next_of` has given a reference of its own
        return reached

    def throw(self, typ, val=None, tb=None):
        """Raise an error where the call waits."""
        error = typ
        if not isinstance(typ, BaseException):
            error = val if isinstance(val, BaseException) else typ() if val is None else typ(val)
        if tb is not None:
            error = error.with_traceback(tb)
        if self.state == WAITING and self.wait.is_done and self.wait.error is error:
            self.leave()            # the wait raises the error again
            return self.advanced(None)
        if self.state == LEFT:
            try:
                return self.rest.throw(error)
            except BaseException:
                self.state = ENDED
                self.rest = None
                raise
        if self.state == RUNNING:
            raise ValueError("coroutine already executing")
        if self.state == ENDED:
            raise RuntimeError("cannot reuse already awaited coroutine")
        self.give_up()
        raise error

    def close(self):
        """End the call where it waits. An event that was sent may be stored or not."""
        if self.state == RUNNING:
            raise ValueError("coroutine already executing")
        self.give_up()

    def __del__(self):
        if self.state == NEW and self.store is not None:
            warn(f"coroutine '{self.__qualname__}' was never awaited", RuntimeWarning, source=self)
        elif self.state in (WAITING, LEFT):
            self.give_up()

    cdef int give_up(self) except -1:
        cdef State state = self.state
        cdef object rest = self.rest
        self.state = ENDED
        self.rest = None
        if state == WAITING:
            self.singles.give(self.single.aggregate)
        elif state == LEFT:
            rest.close()
        return 0

    cdef int begin(self) except -1:
        """Send the event if the aggregate is in the cache; otherwise leave everything to the store."""
        cdef Single single = None
        if self.store is None:
            raise TypeError("a Call was made without its store")
        self.state = RUNNING
        try:
            self.singles = self.store._singles
            if self.singles is not None:
                if self.is_append:
                    single = self.singles.append(
                        self.aggregate, self.given, self.expected, self.command_id, self.handled
                    )
                else:
                    single = self.singles.execute(self.aggregate, self.given, self.command_id, self.handled)
            self.single = single
            if single is not None and single.waiter is not None:
                self.wait = <Wait?>single.waiter
                self.state = WAITING
            else:
                self.leave()
        except BaseException:
            self.state = ENDED
            raise
        return 0

    cdef int leave(self) except -1:
        """Leave the rest of the call to a coroutine of the store. It gives the turn back."""
        cdef Single single = self.single
        self.single = None
        self.wait = None
        if self.is_append:
            self.rest = self.store._rest_of_append(
                single, self.aggregate, self.given, self.expected, self.command_id, self.handled
            )
        else:
            self.rest = self.store._rest_of_execute(
                single, self.aggregate, self.given, self.command_id, self.handled
            )
        self.state = LEFT
        return 0

    def advanced(self, value):
        """Have the rest of the call go on."""
        try:
            return self.rest.send(value)
        except BaseException:
            self.state = ENDED
            self.rest = None
            raise

    cdef object go_on(self):
        if self.state == NEW:
            self.begin()
        elif self.state == RUNNING:
            raise ValueError("coroutine already executing")
        elif self.state == ENDED:
            raise RuntimeError("cannot reuse already awaited coroutine")
        elif self.state == WAITING and self.wait.is_done:
            self.leave()
        if self.state == WAITING:
            return next(self.wait)
        return self.advanced(None)


cdef PyObject* next_of(PyObject* it) except NULL:
    """Do what `__next__` does. The result of a stored event is passed on without making an exception."""
    cdef Call call = <Call>it
    cdef Wait wait = call.wait
    cdef Single single
    cdef object given
    if call.state == WAITING and wait.is_done and wait.error is None:
        if type(wait.value) is int and wait.value > 0:
            single = call.single
            call.state = ENDED
            call.wait = None
            call.single = None
            try:
                given = single.stored_at(<int64_t>wait.value)
                if call.singles.on_stored is not None:
                    call.singles.on_stored(single.aggregate, single.after)
            finally:
                call.singles.give(single.aggregate)
            PyErr_SetObject(StopIteration, given)
            return NULL
    given = call.go_on()
    Py_INCREF(given)
    return <PyObject*>given


set_next(<PyTypeObject*>Call, <void*>next_of)


cdef class StoreCalls:
    """The base class of an event store: its two methods that append, which are called for each command.

    `_singles`: sends single events. It is None until the store is open, and if hooks run around each append.
    """

    @classmethod
    def __class_getitem__(cls, types):
        """Return the class: for type checkers, it has the types of the state and of the commands."""
        return cls

    def execute(self, aggregate, command, *, command_id=None):
        """Have the decider decide on a command, append the events that it returns, and return where they are stored.

        If another process has appended meanwhile, its events are folded, and the decider decides again, up to the
        store's `attempts`. If it decides on no event, nothing is appended, and the result has no receipts. If it raises
        or decides on no event, and its state came from the cache, the aggregate's new events are read first. If there
        are any, the decider decides again.

        `command_id` (1 to 100 printable ASCII characters, or the id of an event that a store has appended) makes the
        command idempotent: if it was executed before, the stored result is returned, and the decider is not asked. This
        holds for the 256 latest commands of the aggregate, and for all commands within the stream's duplicate window. A
        command that decided on no event is decided again.

        Raises unchanged what `decide` raises; then nothing is appended. Raises VersionConflict after the last attempt,
        AggregateForgotten, HistoryIncomplete, and ConfigError for events that can't be appended. After a Timeout,
        Closed or a cancellation the events may be stored or not: execute the command again with the same `command_id`.
        """
        return new_call(self, aggregate, command, command_id, None, False)

    def append(self, aggregate, events, *, expected, command_id=None):
        """Append events to the aggregate, all or none, and return where they are stored.

        `events` are 1 to 1,000 Events or instances of payload classes. Several at once need nats-server 2.12.1; on a
        stream with several replicas 2.12.14, or 2.14.4.
        `expected` is the version that the aggregate must have: a number, the result of `load` or of an earlier append,
        "new" (no events), "exists" (at least one event), or "any". `command_id` is as in `execute`: if an append with
        the same id and as many events is stored, its result is returned.

        Raises VersionConflict if the aggregate has another version; nothing is stored then. Raises AggregateForgotten,
        HistoryIncomplete, and ConfigError before anything is sent. After a Timeout, Closed or a cancellation the events
        may be stored or not.
        """
        return new_call(self, aggregate, events, command_id, expected, True)


cdef Call new_call(StoreCalls store, object aggregate, object given, object command_id, object expected,
                   bint is_append):
    cdef Call call = Call.__new__(Call)
    call.store = store
    call.aggregate = aggregate
    call.given = given
    call.command_id = command_id
    call.expected = expected
    call.is_append = is_append
    # The handled event is asked for now, because gather() and wait_for() run coroutines in tasks of their own.
    if len(workers):
        call.handled = handled_event()
    return call
