"""A handler with the hook `observe` of one middleware around it.

It is compiled, because it runs for each event: in Python it would take as long as the whole dispatch of an event.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF as release

cimport cython

from eda._steps cimport (
    PYGEN_ERROR, PYGEN_RETURN, AwaitedType, PyIter_Send, PySendResult, taken_step, use_for_send,
)

from eda.handlers import refuse_result

__all__ = ["AttemptEnd", "Observed", "Observer"]

cdef extern from "Python.h":
    bint is_coroutine "PyCoro_CheckExact"(object it)


cdef class Observer:
    """A compiled hook `observe`. It is called without the tuple and the look-ups that a call of an object takes."""

    def __call__(self, given, subscription):
        return self.enter_attempt(given, subscription, False)

    cdef object enter_attempt(self, object given, object subscription, bint is_outermost):
        """Do what `observe` does. `is_outermost`: no other hook is around it, so nobody but the worker sees what it
        leaves behind in the worker's task."""
        raise NotImplementedError


cdef class AttemptEnd:
    """A compiled function for the end of an attempt."""

    def __call__(self, error):
        self.end_attempt(error)

    cdef int end_attempt(self, object error) except -1:
        """Do what the function that `observe` returns does."""
        raise NotImplementedError


@cython.final
cdef class Observed:
    """Observed(observe, handler)\n--\n
    A handler with one hook `observe` around it, called as the handler is.

    For a plain function it returns no awaitable, so the worker measures how long the function takes. The owner sets
    `subscription` before the first event is handled, and `is_outermost`.
    """

    def __init__(self, observe, handler):
        self.observe = observe
        self.observer = observe if isinstance(observe, Observer) else None
        self.handler = handler

    def __call__(self, given):
        cdef Attempt attempt
        if self.observer is not None:
            end = self.observer.enter_attempt(given, self.subscription, self.is_outermost)
        else:
            end = self.observe(given, self.subscription)
        if end is None:
            return self.handler(given)
        try:
            result = self.handler(given)
            if result is not None:
                if is_coroutine(result):
                    attempt = Attempt.__new__(Attempt)
                    attempt.inner = result
                    attempt.end = end
                    return attempt
                if hasattr(result, "__await__"):
                    attempt = Attempt.__new__(Attempt)
                    attempt.inner = result.__await__()
                    attempt.end = end
                    return attempt
                refused = refuse_result(result)
                if refused is not None:
                    raise refused
        except BaseException as error:
            end(error)
            raise
        end(None)
        return result


@cython.final
@cython.freelist(64)
cdef class Attempt:
    """An awaitable that awaits a handler's, and tells the hook how that has ended.

    It is an iterator as `__await__` returns them: with `send`, `throw` and `close`. A coroutine would take three times
    as long to make and to run.
    """

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value, /):
        """Go on, as a coroutine does."""
        cdef PyObject* result = NULL
        cdef PySendResult how = send_to(<PyObject*>self, <PyObject*>value, &result)
        return taken_step(how, result)

    def throw(self, *arguments):
        """Raise an exception where the handler waits, as a coroutine does."""
        try:
            return self.inner.throw(*arguments)
        except StopIteration:
            self.finish(None)
            raise
        except BaseException as error:
            self.finish(error)
            raise

    def close(self):
        """End the handler where it waits, as a coroutine does."""
        try:
            close = getattr(self.inner, "close", None)
            if close is not None:
                close()
        finally:
            self.finish(GeneratorExit())

    cdef int finish(self, object error) except -1:
        """Tell the hook how the handler has ended, once."""
        end = self.end
        if end is not None:
            self.end = None
            if isinstance(end, AttemptEnd):
                (<AttemptEnd>end).end_attempt(error)
            else:
                end(error)
        return 0


cdef PySendResult send_to(PyObject* it, PyObject* value, PyObject** result) except PYGEN_ERROR:
    """Do what `send` of a coroutine does. The caller owns the result."""
    cdef Attempt self = <Attempt>it
    cdef PySendResult how
    try:
        how = PyIter_Send(<PyObject*>self.inner, value, result)
    except BaseException as error:
        self.finish(error)
        raise
    if how == PYGEN_RETURN:
        try:
            self.finish(None)
        except BaseException:
            release(<object>result[0])
            result[0] = NULL
            raise
    return how


use_for_send(<AwaitedType*>Attempt, send_to)
