"""Futures that resume their task within the read that completes them, not a turn of the event loop later.

A task that awaits an asyncio future resumes in the loop's next turn, after another poll of the sockets. That takes some
microseconds, and a whole round trip takes a hundred. A task accepts any object as a future that has
`_asyncio_future_blocking`, `get_loop` and `add_done_callback` (asyncio/tasks.py, Task.__step). It resumes when its
callback is called. The callback asks its argument only whether there was an error, and asyncio's own futures are asked
without a method call. So it gets one of them that is over, and the wait itself gives the task its result or raises its
error.
"""

cimport cython
from cpython.exc cimport PyErr_SetObject
from cpython.object cimport PyObject, PyObject_GenericGetAttr, PyObject_GenericSetAttr, PyTypeObject

from contextvars import copy_context

__all__ = ["Wait", "Waits"]


cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1


cdef extern from *:
    """
    static inline iternextfunc eda_replace_next(PyTypeObject* type, void* next) {
        iternextfunc old = type->tp_iternext;
        type->tp_iternext = (iternextfunc)next;
        return old;
    }
    """
    ctypedef PyObject* (*Next "iternextfunc")(PyObject*)
    Next replace_next "eda_replace_next"(PyTypeObject* type, void* next) noexcept


@cython.final
@cython.auto_pickle(False)
cdef class Waits:
    """The waits of one connection. `current_task`: asyncio.current_task. `cancelled_error`: asyncio.CancelledError."""

    def __init__(self, object loop not None, object current_task not None, object cancelled_error not None):
        self.loop = loop
        self.current_task = current_task
        self.cancelled_error = cancelled_error
        self.ended = []
        self.over = loop.create_future()
        self.over.set_result(None)
        self.give_loop = self.over.get_loop     # a method of the loop's own future: no cycle leads back to this object

    def new(self):
        """Return a new wait for one task."""
        return self.make()

    cdef Wait make(self):
        cdef Wait wait = Wait.__new__(Wait)
        wait.waits = self
        return wait

    def begin_read(self):
        """Note that a read begins. Tasks whose waits end during the read resume in `end_read`."""
        self.is_reading = True

    def end_read(self):
        """Resume the tasks whose waits have ended since `begin_read`, in that order."""
        self.is_reading = False
        if self.ended:
            self.resume_tasks()

    cdef int resume_tasks(self) except -1:
        cdef list ended = self.ended
        cdef Wait wait
        cdef Py_ssize_t i = 0
        # If this read is processed inside a running task, no other task may run. Then the tasks resume in the loop's
        # next turn.
        cdef bint at_once = self.current_task(self.loop) is None
        self.ended = []
        try:
            while at_once and i < len(ended):
                wait = ended[i]
                i += 1
                wait.resume()
        finally:
            for wait in ended[i:]:
                wait.call_soon()
        return 0


@cython.final
@cython.freelist(256)
@cython.auto_pickle(False)
cdef class Wait:
    """A future for one task that awaits it."""

    # A task asks each future for these two, and sets the first one. They are found without a look-up in the type.
    # Names in code are interned; others are found by the properties below.

    def __getattribute__(self, name):
        if name is "_asyncio_future_blocking":
            return self.is_awaited
        if name is "get_loop" and self.waits is not None:
            return self.waits.give_loop
        return PyObject_GenericGetAttr(self, name)

    def __setattr__(self, name, value):
        if name is "_asyncio_future_blocking":
            self.is_awaited = value
        else:
            PyObject_GenericSetAttr(self, name, value)

    @property
    def _asyncio_future_blocking(self):
        """Whether a task is about to wait: a flag between asyncio's task and its future."""
        return self.is_awaited

    @property
    def get_loop(self):
        """A function that returns the event loop."""
        if self.waits is None:
            raise AttributeError("a wait that was made without its Waits has no event loop")
        return self.waits.give_loop

    def add_done_callback(self, callback, *, context=None):
        """Set the callback of the task, called when the wait ends with a future that is over and has no result."""
        if self.callback is not None:
            raise RuntimeError("another task waits already")
        self.callback = callback
        self.context = copy_context() if context is None else context
        if self.is_done:
            self.call_soon()

    def done(self):
        """Return whether the wait is over."""
        return self.is_done

    def set_result(self, value):
        """End the wait with a result."""
        self.finish(value, None, self.owner().is_reading)

    def set_exception(self, error):
        """End the wait with an error."""
        self.finish(None, error, self.owner().is_reading)

    def cancel(self, msg=None):
        """End the wait with CancelledError. Return False if the wait was over already."""
        if self.is_done:
            return False
        cancelled_error = self.owner().cancelled_error
        self.finish(None, cancelled_error() if msg is None else cancelled_error(msg), False)
        return True

    cdef int end_with(self, object value) except -1:
        """End the wait with a result, unless it is over."""
        return 0 if self.is_done else self.finish(value, None, self.owner().is_reading)

    cdef Waits owner(self):
        """Return the Waits that has made it. Raises TypeError if it was made by its type alone."""
        if self.waits is None:
            raise TypeError("Waits makes it")
        return self.waits

    cdef int finish(self, object value, object error, bint within_a_read) except -1:
        if self.is_done:
            raise RuntimeError("the wait is over")
        self.is_done = True
        self.value = value
        self.error = error
        if self.callback is None:
            return 0
        if within_a_read:
            self.waits.ended.append(self)
        else:
            self.call_soon()
        return 0

    cdef tuple take_callback(self):
        """Return callback and context, and drop them here, because they keep the task and everything in it alive."""
        cdef tuple taken = (self.callback, self.context)
        self.callback = self.context = None
        return taken

    cdef int resume(self) except -1:
        """Call the callback now, in its context."""
        callback, context = self.callback, self.context
        self.callback = self.context = None
        PyContext_Enter(context)
        try:
            callback(self.waits.over)
        finally:
            PyContext_Exit(context)
        return 0

    cdef int call_soon(self) except -1:
        callback, context = self.take_callback()
        self.waits.loop.call_soon(callback, self.waits.over, context=context)
        return 0

    def result(self):
        """Return the result, or raise the error."""
        if not self.is_done:
            raise RuntimeError("the wait is not over")
        if self.error is not None:
            raise self.error
        return self.value

    def __await__(self):
        return self

    def __next__(self):
        if self.is_done:
            raise StopIteration(self.result())
        if self.callback is not None:
            raise RuntimeError("another task waits already")
        self.is_awaited = True
        return self


cdef Next slow_next


cdef PyObject* quick_next(PyObject* it) noexcept:
    """Do what `__next__` does. A result is passed on without making an exception and its traceback."""
    cdef Wait wait = <Wait>it
    if wait.is_done and wait.error is None and type(wait.value) is int:
        PyErr_SetObject(StopIteration, wait.value)
        return NULL
    return slow_next(it)


slow_next = replace_next(<PyTypeObject*>Wait, <void*>quick_next)
