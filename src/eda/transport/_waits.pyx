"""Waits that end within the read that ends them, not a turn of the event loop later.

A task that waits for an asyncio future goes on in the loop's next turn, after another look at the sockets: that takes
some microseconds, where a whole round trip takes a hundred. A task takes anything for a future that has
`_asyncio_future_blocking` and `add_done_callback` (asyncio/tasks.py, Task.__step), and goes on when it is called back.
"""

cimport cython

from contextvars import copy_context

__all__ = ["Wait", "Waits"]


@cython.final
@cython.auto_pickle(False)
cdef class Waits:
    """The waits of one connection. `current_task` and `cancelled_error` are asyncio's."""

    def __init__(self, object loop not None, object current_task not None, object cancelled_error not None):
        self.loop = loop
        self.current_task = current_task
        self.cancelled_error = cancelled_error
        self.ended = []

    def new(self):
        """Return a wait, for one task."""
        cdef Wait wait = Wait.__new__(Wait)
        wait.waits = self
        return wait

    def begin_read(self):
        """Note that bytes are being read: tasks whose waits end go on when all of them are understood."""
        self.is_reading = True

    def end_read(self):
        """Let the tasks go on whose waits have ended since `begin_read`, in that order."""
        self.is_reading = False
        if self.ended:
            self.go_on()

    cdef int go_on(self) except -1:
        cdef list ended = self.ended
        cdef Wait wait
        cdef Py_ssize_t i = 0
        # Within a task no other one can take a step.
        cdef bint at_once = self.current_task(self.loop) is None
        self.ended = []
        try:
            while at_once and i < len(ended):
                wait = ended[i]
                i += 1
                callback, context = wait.take_callback()
                context.run(callback, wait)
        finally:
            for wait in ended[i:]:
                wait.call_soon()
        return 0


@cython.final
@cython.auto_pickle(False)
cdef class Wait:
    """Stands for an asyncio future, for one task that awaits it."""

    def get_loop(self):
        """Return the event loop."""
        return self.waits.loop

    def add_done_callback(self, callback, *, context=None):
        """Call the task back at the end."""
        if self.callback is not None:
            raise RuntimeError("somebody waits already")
        self.callback = callback
        self.context = copy_context() if context is None else context
        if self.is_done:
            self.call_soon()

    def done(self):
        """Whether the wait is over."""
        return self.is_done

    def set_result(self, value):
        """End the wait."""
        self.finish(value, None, self.waits.is_reading)

    def set_exception(self, error):
        """End the wait with an error."""
        self.finish(None, error, self.waits.is_reading)

    def cancel(self, msg=None):
        """End the wait with a CancelledError; returns whether it was not over."""
        if self.is_done:
            return False
        self.finish(None, self.waits.cancelled_error() if msg is None else self.waits.cancelled_error(msg), False)
        return True

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
        """Return callback and context, which end with the wait: they hold the task and all that it has."""
        cdef tuple taken = (self.callback, self.context)
        self.callback = self.context = None
        return taken

    cdef int call_soon(self) except -1:
        callback, context = self.take_callback()
        self.waits.loop.call_soon(callback, self, context=context)
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
            raise RuntimeError("somebody waits already")
        self._asyncio_future_blocking = True
        return self
